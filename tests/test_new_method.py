"""The recipe for a method in docs/extend.md, followed to the letter in a copy: one file, one fragment, one row."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

ROOT = Path(__file__).resolve().parent.parent
SECTION = (ROOT / "docs" / "extend.md").read_text(encoding="utf-8")

QUICK = ["--trainer.max_steps=3", "--trainer.val_check_interval=3", "--trainer.enable_progress_bar=false"]
QUICK += ["--data.batch_size=6", "--data.train_size=24", "--data.val_size=6", "--data.test_size=6"]


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```$", SECTION, flags=re.MULTILINE | re.DOTALL)


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory, checkpoints: Path) -> Path:
    """The code and the experiments, with the recipe's method in them, and a small table of it on a tiny model."""
    root = tmp_path_factory.mktemp("house")
    for folder in ("craft_lightning", "data_modules", "callbacks", "experiments"):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("pocket", "__pycache__"))
    (source,), (fragment, row) = blocks("python"), blocks("yaml")
    places = re.findall(r"`((?:craft_lightning|experiments)/[\w/]+\.(?:py|yaml))`", SECTION)
    file, settings, registry = (root / place for place in places[:3])
    assert not file.exists()
    assert not settings.exists()
    file.write_text(source)
    settings.write_text(fragment)
    (entry,) = re.findall(r"`(\"norm_ft\": .+?)`", SECTION)
    last = '        "craft": "craft_lightning.methods.craft:Craft",\n'
    registry.write_text(registry.read_text().replace(last, f"{last}        {entry},\n"))
    table = yaml.safe_load((root / "experiments/tables/table1.yaml").read_text())
    for part in ("paper", "claims"):
        del table[part]
    table |= {"name": "small", "backbones": table["backbones"][:1], "columns": table["columns"][4:5]}
    table["backbones"][0] |= {"name": str(checkpoints / "host")}
    table["rows"] = [table["rows"][0] | {"eval_on": ["pocket-vila-u"]}, *yaml.safe_load(row)]
    for part in ("backbones", "columns", "rows"):
        table[part] = [{k: v for k, v in item.items() if k != "paper"} for item in table[part]]
    (root / "experiments/tables/small.yaml").write_text(yaml.safe_dump(table))
    return root


def run(house: Path, *commands: list[str]) -> str:
    """Verbs of the copy, one after the other in one process."""
    code = "import json, sys\nfrom craft_lightning.__main__ import main\nfor argv in json.loads(sys.argv[1]):\n"
    code += "    assert main(argv) == 0, argv\n"
    environment = {**os.environ, "PYTHONPATH": str(house), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", code, json.dumps(commands)]
    done = subprocess.run(command, cwd=house, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_it_is_listed_trained_and_tested(house: Path, checkpoints: Path) -> None:
    settings = [flag for part in ("base", "methods/norm_ft") for flag in ("--config", f"experiments/{part}.yaml")]
    settings += ["--model.backbone.name", str(checkpoints / "host")]
    first = [*settings, *QUICK, "--trainer.default_root_dir=runs/first"]
    text = run(
        house,
        ["list", "methods"],
        ["fit", *first],
        ["test", *settings, *QUICK, "--encoder=runs/first/encoder", "--trainer.default_root_dir=runs/first/test"],
    )
    assert "norm_ft       Norm FT: the encoder's layer norms learn, everything else is frozen" in text
    trained = json.loads((house / "runs/first/result.json").read_text())["trained"]["names"]
    assert len(trained) == 2 * 2 * 2, "two blocks that run, two norms each, weight and bias"
    assert all("layer_norm" in name for name in trained)
    stored = torch.load(house / "runs/first/checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert set(stored) == set(trained)
    found = json.loads((house / "runs/first/test/result.json").read_text())
    assert found["rows"] == 6
    assert found["encoder"]["method"] == "norm_ft"


def test_it_is_a_row_of_a_table(house: Path) -> None:
    text = run(house, ["table", "run", "small", "--limit", "1", "--jobs", "1"])
    assert "3 of 3 jobs done" in text
    assert "missing" not in text
    assert "Norm FT" in (house / "runs/pocket-limit1/tables/small.md").read_text()
    jobs = {json.loads(p.read_text())["job"]["method"] for p in (house / "runs").rglob("job.json")}
    assert jobs == {"zero_shot", "norm_ft"}
