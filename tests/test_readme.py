"""The README is run: every command of its bash blocks, its links and what it names.

Commands go through the same code as a user's, in a folder of their own, with few steps and few items. They use the
shipped models: without those this file fails.
"""

from __future__ import annotations

import os
import re
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from craft_lightning import __main__ as entry
from craft_lightning.benchmark.spec import find_table
from craft_lightning.cli import verbs
from craft_lightning.io import read_settings
from craft_lightning.models.vlm_spec import BACKBONES, POCKET
from craft_lightning.pretraining.family_report import weights
from data_modules.datamodule import VqaDataModule

ROOT = Path(__file__).resolve().parent.parent
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
PACKAGES = ("craft_lightning", "data_modules", "callbacks")

QUICK = [
    *("--trainer.max_steps=2", "--trainer.val_check_interval=2", "--trainer.enable_progress_bar=false"),
    *("--data.batch_size=4", "--data.train_size=16", "--data.val_size=4", "--data.test_size=4"),
]
"""Added to every fit, test and adapt: the same run, only shorter."""

RUNS = ("fit", "validate", "test", "adapt")
EXEMPT = ("make test",)
"""Only looked at with ``make -n``: it is what runs this file."""


def blocks(language: str, text: str = TEXT) -> list[str]:
    """What stands in the fenced blocks of one language."""
    return re.findall(rf"^```{language}\n(.*?)^```$", text, flags=re.MULTILINE | re.DOTALL)


def commands_in(text: str) -> list[str]:
    """Those of its bash blocks, each on one line."""
    lines = "".join(blocks("bash", text)).replace("\\\n", "").splitlines()
    return [" ".join(line.split()) for line in lines if line.strip() and not line.startswith("#")]


def sections() -> dict[str, list[str]]:
    """The bash commands under each heading, in order."""
    parts = re.split(r"^## ", TEXT, flags=re.MULTILINE)
    return {part.splitlines()[0]: commands for part in parts if (commands := commands_in(part))}


COMMANDS = sections()


@pytest.fixture(scope="module")
def workplace(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that looks like a checkout, with the images that the README speaks of."""
    folder = tmp_path_factory.mktemp("readme")
    for name in ("experiments", *PACKAGES):
        (folder / name).symlink_to(ROOT / name)
    rng = np.random.default_rng(0)
    for label in ("brick", "cork", "felt", "slate", "straw"):
        (folder / "my_pictures" / label).mkdir(parents=True)
        for i in range(8):
            pixels = rng.integers(0, 256, size=(40, 48, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / "my_pictures" / label / f"{i}.jpg")
    Image.fromarray(pixels).save(folder / "photo.jpg")
    return folder


def dry_run(command: str) -> str:
    """The last line that make would run."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("MAKE", "MFLAGS"))}
    argv = ["make", "--no-print-directory", "-n", *shlex.split(command)[1:]]
    done = subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip().splitlines()[-1]


def arguments(command: str) -> list[str]:
    """What follows ``python -m craft_lightning`` when a command of the README is run, made short."""
    if command.startswith("make "):
        command = dry_run(f"{command} LIMIT=1 JOBS=1")
    command = command.replace("$CRAFT_REAL_DATA", os.environ.get("CRAFT_REAL_DATA", ""))
    python, *argv = shlex.split(command)
    assert Path(python).name == "python", command
    assert argv[:2] == ["-m", "craft_lightning"], command
    return argv[2:] + (QUICK if argv[2] in RUNS else [])


@pytest.fixture
def run(workplace: Path, monkeypatch: Any, capfd: Any) -> Callable[[list[str]], None]:
    """Runs commands there, one after the other; each of them has to succeed."""

    def run(commands: list[str]) -> None:
        if any("$CRAFT_REAL_DATA" in c for c in commands) and not os.environ.get("CRAFT_REAL_DATA"):
            pytest.skip("CRAFT_REAL_DATA names no folder with real images")
        monkeypatch.chdir(workplace)
        monkeypatch.setenv("PYTHONPATH", str(ROOT))
        for command in commands:
            capfd.readouterr()
            with torch.random.fork_rng(devices=[]):
                code = entry.main(arguments(command))
            said = capfd.readouterr()
            assert code == 0, f"{command}\n{said.out[-2000:]}{said.err}"

    return run


@pytest.mark.parametrize("section", COMMANDS)
def test_the_commands_of_a_section_run(section: str, run: Callable[[list[str]], None]) -> None:
    run([c for c in COMMANDS[section] if c not in EXEMPT])


@pytest.mark.parametrize("dataset", ["plantvillage", "stanford_cars", "vqa_rad", "iconqa"])
def test_the_commands_for_real_pictures_run(dataset: str, run: Callable[[list[str]], None]) -> None:
    text = (ROOT / "docs" / "real_data.md").read_text(encoding="utf-8")
    commands = commands_in(text)
    assert len(commands) == 5
    assert f"`{dataset}`" in text
    run([c.replace("$SET", dataset) for c in commands])


def test_the_commands_for_shipping_run(run: Callable[[list[str]], None], workplace: Path) -> None:
    text = (ROOT / "docs" / "ship.md").read_text(encoding="utf-8")
    run(commands_in(text))
    card = (workplace / "runs/ship/encoder/README.md").read_text(encoding="utf-8")
    assert "| `pocket-qwen2-xs` | 4 of EuroSAT, drawn |" in card
    (python,) = blocks("python", text)
    exec(python, {})


def test_the_commands_for_judging_run(run: Callable[[list[str]], None], workplace: Path) -> None:
    run(commands_in((ROOT / "docs" / "judge.md").read_text(encoding="utf-8")))
    assert (workplace / "runs/justified/judgements.offline.jsonl").read_text().count("\n") == 4


def test_every_exempt_command_is_there_and_make_knows_it() -> None:
    commands = [c for listed in COMMANDS.values() for c in listed]
    for command in EXEMPT:
        assert command in commands
        assert "pytest" in dry_run(command)


def test_the_commands_cover_the_verbs() -> None:
    used = {arguments(c)[0] for listed in COMMANDS.values() for c in listed if c not in EXEMPT}
    assert {
        "adapt",
        "fit",
        "test",
        "compare",
        "predict",
        "list",
        "table",
        "tokenize",
        "tokens",
        "export",
        "doctor",
    } <= used
    assert set(re.findall(r"python -m craft_lightning ([a-z]+)", TEXT)) <= set(entry.VERBS)


def test_the_targets_and_files_named_in_the_text_exist() -> None:
    targets = set(re.findall(r"^([a-z0-9-]+):", (ROOT / "Makefile").read_text(encoding="utf-8"), flags=re.MULTILINE))
    named = set(re.findall(r"`make ([a-z0-9-]+)", TEXT)) | {c.split()[1] for c in COMMANDS["Two commands"]}
    assert named
    assert named <= targets
    links = [link for link in re.findall(r"\]\(([^)]+)\)", TEXT) if "://" not in link]
    assert len(links) >= 4
    assert [link for link in links if not (ROOT / link.split("#")[0]).exists()] == []
    files = set(re.findall(r"experiments/[\w/-]+\.yaml", TEXT))
    assert [f for f in files if not (ROOT / f).is_file()] == []


def test_the_flags_named_in_the_text_exist() -> None:
    sizes = VqaDataModule.__init__.__code__.co_varnames
    assert {f for f in re.findall(r"--data\.(\w+)", TEXT) if f not in sizes} == set()
    command = shlex.split(dry_run('make reproduce-table1 SEEDS="0 1 2" LIMIT=1'))
    given = verbs.table().parse_args(command[command.index("table") + 1 :])
    assert (given.table, given.seeds, given.limit) == ("table1", [0, 1, 2], 1)


def test_it_is_short() -> None:
    assert len(TEXT.splitlines()) <= 180
    head = TEXT.split("\n## ")
    assert head[0].count("![") == 1
    assert head[1].startswith("Two commands")
    rows = [line for line in TEXT.splitlines() if line.startswith("| ")]
    assert len(rows) <= 2 * (2 + 8)
    assert all(line.count("|") == 5 for line in rows)


def test_the_steps_to_paper_scale_name_what_there_is() -> None:
    page = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8").split("\n## ")[0]
    fetched = set(re.findall(r"`hf download (\S+/[^\s`]+)", page))
    models = {b.source for b in BACKBONES.values() if "/" in b.source} - {"mit-han-lab/vila-u-7b-384"}
    files = (ROOT / "experiments" / "surrogates").glob("qwen*.yaml")
    paper = [read_settings(file) for file in files if not file.stem.endswith("langbridge")]
    assert models | {settings["language_model"] for settings in paper} <= fetched
    assert set(re.findall(r"BACKBONE=(\S+)`", page)) == {str(settings["name"]) for settings in paper}
    names = [f"table{number}" for number in (1, 2, 3, 5, 6, 7)]
    assert [find_table(name, "paper").name for name in names] == [f"{name}-paper.yaml" for name in names]
    for command in re.findall(r"`python -m craft_lightning table (run \S+ --scale paper[^`]*)`", page):
        assert verbs.table().parse_args(command.split()).scale == "paper"


def test_the_picture_is_small_and_the_blocks_to_fill_are_marked() -> None:
    picture = ROOT / "docs" / "worlds.png"
    assert 100_000 < picture.stat().st_size < 1_500_000
    assert TEXT.count("<!-- table1:begin -->") == TEXT.count("<!-- table1:end -->") == 1
    family = (ROOT / "docs" / "pocket_family.md").read_text(encoding="utf-8")
    assert family.count("<!-- figures:begin -->") == family.count("<!-- figures:end -->") == 1


def test_the_family_s_card_is_of_the_shipped_weights() -> None:
    card = (ROOT / "docs" / "pocket_family.md").read_text(encoding="utf-8")
    shipped = sorted(path.parent for path in POCKET.glob("*/config.json"))
    assert len(shipped) == 7
    for folder in shipped:
        own = weights(folder)
        assert f"`{folder.name}` {own['megabytes']:.1f} MB, `{own['sha256']}`" in card
