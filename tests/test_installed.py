"""The wheel, installed into an environment of its own and used from a folder of its own."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import venv
from dataclasses import dataclass
from pathlib import Path
from zipfile import ZipFile

import pytest

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ("craft_lightning", "data_modules", "callbacks", "experiments", "pyproject.toml", "README.md", "LICENSE")


@dataclass
class Installed:
    """An environment with the wheel in it, and a working folder that has nothing to do with the checkout."""

    packages: Path
    python: Path
    folder: Path

    def run(self, *arguments: str, code: int = 0) -> str:
        """What a verb prints; standard error if it has to be a user's mistake."""
        return self.interpret("-m", "craft_lightning", *arguments, code=code)

    def interpret(self, *arguments: str, code: int = 0) -> str:
        """The same of any call of Python."""
        environment = {k: v for k, v in os.environ.items() if not k.startswith("PYTHON")}
        command = [str(self.python), *arguments]
        done = subprocess.run(command, cwd=self.folder, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == code, done.stderr
        return done.stderr if code == 2 else done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("setuptools")
    source, target = (tmp_path_factory.mktemp(name) for name in ("source", "wheel"))
    for name in SOURCES:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copyfile(ROOT / name, source / name)
    flags = ["--quiet", "--no-build-isolation", "--no-deps", "--no-index", "--disable-pip-version-check"]
    subprocess.run([sys.executable, "-m", "pip", "wheel", *flags, "--wheel-dir", target, source], check=True)
    return next(target.glob("*.whl"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    home = tmp_path_factory.mktemp("installed")
    venv.create(home / "env", with_pip=False)
    packages = Path(sysconfig.get_path("purelib", "venv", {"base": str(home / "env"), "platbase": str(home / "env")}))
    with ZipFile(wheel) as file:
        file.extractall(packages)
    # The packages that it needs, but not what their own .pth files name, such as this checkout.
    (packages / "theirs.pth").write_text(f"{sysconfig.get_path('purelib')}\n")
    folder = home / "work"
    folder.mkdir()
    return Installed(packages, home / "env" / "bin" / "python", folder)


def test_the_wheel_has_every_shipped_file(installed: Installed) -> None:
    for table in ("datasets/labels.json", "sources/llava_conversations.json"):
        assert (installed.packages / "data_modules" / table).is_file()
    assert (installed.packages / "craft_lightning/checkpoints/encoder_card.md").is_file()
    for name in ("experiments", "craft_lightning/pocket", "craft_lightning/report/assets"):
        place = installed.packages / ("craft_lightning/experiments" if name == "experiments" else name)
        wanted = {p.relative_to(ROOT / name) for p in (ROOT / name).rglob("*") if p.is_file()}
        assert {p.relative_to(place) for p in place.rglob("*") if p.is_file()} >= wanted
    assert not (installed.packages / "experiments").exists(), "no package of so common a name"


def test_lists_tables_and_examples_work_from_any_folder(installed: Installed) -> None:
    assert "table1" in installed.run("list", "tables")
    planned = installed.run("table", "plan", "table1")
    configs = set(re.findall(r"--config (\S+)", planned))
    assert {Path(config).name for config in configs} >= {"base.yaml", "craft.yaml", "ldifs.yaml"}
    assert all((installed.folder / config).is_file() for config in configs)
    assert all((installed.folder / config).resolve().is_relative_to(installed.packages) for config in configs)


def test_a_run_from_the_wheel_uses_the_wheel(installed: Installed) -> None:
    run = ("--trainer.default_root_dir", "run", "--trainer.enable_progress_bar", "false")
    installed.run("fit", "--config", "experiments/smoke.yaml", *run)
    result = json.loads((installed.folder / "run" / "result.json").read_text())
    assert result["git"] == {}, "an installed copy has no commit, whatever repository it lies in"
    assert (installed.folder / "run" / "encoder" / "encoder.safetensors").is_file()
    where = "import craft_lightning, data_modules, callbacks as c; print(craft_lightning.__file__, c.__file__)"
    assert all(Path(place).is_relative_to(installed.packages) for place in installed.interpret("-c", where).split())


def test_without_its_packages_every_verb_is_one_line(installed: Installed) -> None:
    theirs = installed.packages / "theirs.pth"
    kept = theirs.rename(theirs.with_suffix(".off"))
    try:
        for verb in ("fit", "tokenize", "table"):
            arguments = ("plan", "table1") if verb == "table" else ()
            (line,) = installed.run(verb, *arguments, code=2).splitlines()
            assert re.search(r"has no package \w+: `python -m craft_lightning doctor` lists what is missing", line)
        told = installed.run("doctor", code=1)
        assert re.search(r"packages  packaging is missing.*\n +mend it: \S+ -m pip install packaging", told)
    finally:
        kept.rename(theirs)
