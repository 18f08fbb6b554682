"""docs/extend.md, followed to the letter: by import path, as an installed package, and in a copy of this repository."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "docs/extend.md").read_text(encoding="utf-8")
FILES = dict(re.findall(r"^`([\w./]+)`:\n\n```\w+\n(.*?)^```$", TEXT, flags=re.MULTILINE | re.DOTALL))
COMMANDS = [
    line.split()[3:]
    for block in re.findall(r"^```bash\n(.*?)^```$", TEXT, flags=re.MULTILINE | re.DOTALL)
    for line in block.splitlines()
]
QUICK = ["--trainer.max_steps=3", "--trainer.val_check_interval=3", "--trainer.enable_progress_bar=false"]
QUICK += ["--data.batch_size=6", "--data.train_size=24", "--data.val_size=6", "--data.test_size=6"]
LEFT_OUT = shutil.ignore_patterns("pocket", "__pycache__", "*.png")
LABELS = ("Parus_major", "Cyanistes_caeruleus", "Erithacus_rubecula", "Fringilla_coelebs")


def python(folder: Path, arguments: Sequence[str], path: str) -> str:
    """The output of a Python process in a folder."""
    environment = {**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def verbs(folder: Path, *commands: Sequence[str]) -> str:
    """Verbs, one after the other in one process."""
    code = "import json, sys\nfrom craft_lightning.__main__ import main\nfor argv in json.loads(sys.argv[1]):\n"
    code += "    assert main(argv) == 0, argv\n"
    return python(folder, ["-c", code, json.dumps(commands)], f"{folder}{os.pathsep}{ROOT}")


@pytest.fixture(scope="module")
def own(tmp_path_factory: pytest.TempPathFactory, checkpoints: Path) -> Path:
    """The page's files and images of birds, for a tiny model."""
    root = tmp_path_factory.mktemp("own")
    assert set(FILES) == {"my_pkg/norm_ft.py", "norm_ft.yaml", "my_pkg/birds.py", "mine.yaml", "pyproject.toml"}
    (root / "my_pkg").mkdir()
    for name, text in FILES.items():
        tiny = f"{{id: pocket-vila-u, name: {checkpoints}/host}}"
        (root / name).write_text(text.replace("{id: pocket-vila-u}", tiny))
    for split, count in (("train", 20), ("test", 3)):
        for shade, label in enumerate(LABELS):
            (root / "birds" / split / label).mkdir(parents=True)
            for number in range(count):
                colour = (60 * shade, 5 * number, 40 * (split == "test"))
                Image.new("RGB", (20, 20), colour).save(root / "birds" / split / label / f"{number}.png")
    return root


def result(folder: Path) -> Any:
    return json.loads((folder / "result.json").read_text())


def test_by_import_path(own: Path, checkpoints: Path) -> None:
    """The commands of the page: a method, its encoder, its checkpoint, and a dataset; and one image is asked about."""
    fit, tested, validated, birds = COMMANDS[:4]
    small = [*QUICK, f"--model.backbone.name={checkpoints}/host"]
    asked = ["predict", "--model=my_pkg.norm_ft.NormFineTuning", *small, "--ckpt_path=runs/norm/checkpoints/last.ckpt"]
    asked += ["--image=birds/test/Parus_major/0.png", "--question=Which bird?"]
    verbs(
        own,
        [*fit, *small],
        [*tested, *small, "--trainer.default_root_dir=runs/tested"],
        [*validated, *small, "--trainer.default_root_dir=runs/validated"],
        [*birds, *small],
        asked,
    )
    trained = result(own / "runs/norm")["trained"]["names"]
    assert len(trained) == 2 * 2 * 2, "two blocks that run, two norms each, weight and bias"
    assert all("layer_norm" in name for name in trained)
    stored = torch.load(own / "runs/norm/checkpoints/last.ckpt", weights_only=True)
    assert set(stored["state_dict"]) == set(trained)
    assert stored["craft_lightning"]["method"] == "norm_ft"
    assert result(own / "runs/tested")["encoder"]["method"] == "norm_ft"
    (folder,) = (own / "runs/birds").rglob("result.json")
    assert "norm_ft" in folder.parts
    data = json.loads(folder.read_text())["data"]
    assert (data["dataset"], data["classes"]) == ("birds", 4)
    items = [json.loads(line) for line in (folder.parent / "items.jsonl").read_text().splitlines()]
    assert {"Which bird is shown in the image?"} == {item["question"] for item in items}


def test_as_a_package(own: Path, tmp_path: Path) -> None:
    """What ``pip install .`` leaves: the entry points of the project file, beside the modules."""
    info = own / "my_pkg-0.1.dist-info"
    info.mkdir()
    project = tomllib.loads(FILES["pyproject.toml"])["project"]
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {project['name']}\nVersion: {project['version']}\n")
    groups = [
        f"[{group}]\n" + "".join(f"{name} = {value}\n" for name, value in entries.items())
        for group, entries in project["entry-points"].items()
    ]
    (info / "entry_points.txt").write_text("\n".join(groups))
    table = own / "mine.yaml"
    table.write_text(table.read_text().replace("dataset: my_pkg.birds.FACTS", "dataset: birds"))
    short = own / "norm_ft.yaml"
    short.write_text(short.read_text().replace("my_pkg.norm_ft.", ""))
    text = verbs(own, ["list", "methods"], ["list", "datasets"], [*COMMANDS[4], "--limit", "1", "--jobs", "1"])
    assert "norm_ft       my_pkg.norm_ft.NormFineTuning of the package my-pkg" in text
    assert "birds          my_pkg.birds.FACTS of the package my-pkg" in text
    assert "8 of 8" in text
    assert "missing" not in text
    shown = (own / "runs/pocket-limit1/tables/mine.md").read_text()
    assert "Norm FT" in shown
    assert "Birds" in shown
    before = keys(own)
    method = own / "my_pkg/norm_ft.py"
    method.write_text(method.read_text().replace('"norm" in name', '"layer_norm" in name'))
    after = keys(own)
    assert {name for name in before if before[name] != after[name]} == {name for name in before if "norm_ft" in name}
    assert verbs(own, ["list", "methods"]).count("norm_ft") == 2


def keys(own: Path) -> dict[str, str]:
    code = "import json\nfrom pathlib import Path\nfrom craft_lightning.benchmark.plan import make_plan\n"
    code += "from craft_lightning.benchmark.spec import load_spec\nplan = make_plan(load_spec(Path('mine.yaml')))\n"
    code += "print(json.dumps({job.name: job.key for job in plan.jobs}))"
    found: dict[str, str] = json.loads(python(own, ["-c", code], f"{own}{os.pathsep}{ROOT}"))
    return found


def test_in_this_repository(tmp_path: Path) -> None:
    """Both recipes in a copy of the house, whose own tests then run over the new names."""
    for folder in ("craft_lightning", "data_modules", "callbacks", "experiments", "tests", "benchmarks", "docs"):
        shutil.copytree(ROOT / folder, tmp_path / folder, ignore=LEFT_OUT)
    (tmp_path / "craft_lightning/pocket").symlink_to(ROOT / "craft_lightning/pocket")
    for name in ("pyproject.toml", "README.md", "Makefile"):
        shutil.copy(ROOT / name, tmp_path)
    rows = re.findall(r"^\| \w+ \| `([\w/.]+)` \| in `([\w/.]+)`: `(.+?)` \|(.*)\|$", TEXT, flags=re.MULTILINE)
    assert [Path(row[0]).stem for row in rows] == ["norm_ft", "birds"]
    for place, registry, row, config in rows:
        (tmp_path / place).write_text(FILES[f"my_pkg/{Path(place).name}"])
        lines = (tmp_path / registry).read_text().splitlines(keepends=True)
        last = max(number for number, line in enumerate(lines) if re.match(r'    +"\w+": ".+",$', line))
        lines.insert(last + 1, f"{lines[last][: -len(lines[last].lstrip())]}{row}\n")
        (tmp_path / registry).write_text("".join(lines))
        for named, short in re.findall(r"`(experiments/[\w/.]+)`, with `class_path: (\w+)`", config):
            (tmp_path / named).write_text(FILES["norm_ft.yaml"].replace(f"my_pkg.norm_ft.{short}", short))
    listed = python(tmp_path, ["-m", "craft_lightning", "list", "datasets"], str(tmp_path))
    assert "birds          Birds at the feeder: 4 species" in listed
    tests = ["tests/methods/test_contract.py", "tests/test_experiments.py", "tests/test_architecture.py"]
    tests += ["tests/cli/test_run.py", "tests/benchmark/test_table_code.py", "tests/data_modules"]
    names = "norm_ft or birds or names or left_out or test_list or every_module or forgotten or no_torch or paper_scale"
    told = python(tmp_path, ["-m", "pytest", "-x", "-p", "no:cacheprovider", *tests, "-k", names], str(tmp_path))
    assert int(re.findall(r"(\d+) passed", told)[-1]) > 20
