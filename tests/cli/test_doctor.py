"""``doctor``: what is wrong is a numbered cross with a command, and nothing is run or told that must not be."""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from craft_lightning import __main__ as entry
from craft_lightning.cli import doctor

ROOT = Path(__file__).resolve().parents[2]
NAMES = [
    *("python", "packages", "shadows", "source", "memory", "devices", "disk", "folders", "models", "hub token"),
]


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder, searched for modules as ``python -m`` does, and a home of its own."""
    folder = tmp_path / "here"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.syspath_prepend(folder)
    for name in (*doctor.FOLDERS, "HF_TOKEN", "HUGGING_FACE_HUB_TOKEN", "HF_TOKEN_PATH"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HF_HOME", str(folder))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr(doctor, "MEMORY_GIB", 0.0)
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda place: SimpleNamespace(free=70 * 2**30))
    monkeypatch.setattr(doctor.shutil, "which", lambda name: None)
    return folder


def crosses(scale: str = "pocket") -> dict[str, doctor.CheckResult]:
    return {name: found for name, found in doctor.examine(scale).items() if not found.ok}


def test_a_healthy_machine_is_ticks_and_exit_0(capsys: Any) -> None:
    assert entry.main(["doctor"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == [str(n) for n in range(1, 11)]
    assert all(line[3:].startswith(f"✓ {name}") for line, name in zip(lines, NAMES, strict=True))
    assert f"torch {metadata.version('torch')}" in lines[1]
    assert "GiB" in lines[4]
    assert "CPU with" in lines[5] or "GiB free" in lines[5]
    assert entry.main(["doctor", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ok"]
    assert [check["name"] for check in report["checks"]] == NAMES
    assert [check["number"] for check in report["checks"]] == list(range(1, 11))


def test_a_cross_comes_with_its_command_and_exit_1(here: Path, monkeypatch: Any, capsys: Any) -> None:
    monkeypatch.setenv("CRAFT_REAL_DATA", str(here / "absent"))
    assert entry.main(["doctor"]) == 1
    lines = capsys.readouterr().out.splitlines()
    at = next(i for i, line in enumerate(lines) if "✗" in line)
    assert lines[at].startswith(" 8 ✗ folders   $CRAFT_REAL_DATA names")
    assert lines[at + 1].split() == ["mend", "it:", "mkdir", "-p", str(here / "absent")]
    assert entry.main(["doctor", "--json"]) == 1
    report = json.loads(capsys.readouterr().out)
    assert not report["ok"]
    assert [check["mend"] for check in report["checks"] if not check["ok"]] == [f"mkdir -p {here / 'absent'}"]
    (here / "absent").mkdir()
    assert crosses() == {}


def test_what_hides_a_module_is_named_and_not_run(here: Path) -> None:
    (here / "random.py").write_text("raise SystemExit('run')")
    (here / "torch").mkdir()
    (here / "torch" / "__init__.py").write_text("raise SystemExit('run')")
    (here / "numpy").mkdir()  # without __init__.py it hides nothing
    for harmless in ("mine.py", "test.py"):
        (here / harmless).touch()
    found = crosses()
    assert set(found) == {"shadows", "devices"}
    assert found["shadows"].text.startswith("random.py, torch in ")
    subprocess.run(["bash", "-c", found["shadows"].mend], check=True)
    assert crosses() == {}


def test_a_file_in_the_way_does_not_stop_the_doctor(here: Path) -> None:
    (here / "torch.py").write_text("raise SystemExit('run')")
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONIOENCODING": "ascii"}
    command = [sys.executable, "-m", "craft_lightning", "doctor"]
    done = subprocess.run(command, cwd=here, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 1, done.stderr
    assert " 3 NO shadows   torch.py in" in done.stdout, "marks that the terminal cannot show are words"


def test_old_and_missing_packages(monkeypatch: Any) -> None:
    real = metadata.version

    def version(name: str) -> str:
        if name == "timm":
            raise metadata.PackageNotFoundError(name)
        return {"torch": "2.9.9+cu128", "peft": "1.0rc1"}.get(name) or real(name)

    monkeypatch.setattr(doctor.metadata, "version", version)
    found = crosses()["packages"]
    wanted = {requirement.name: requirement for requirement in doctor.requirements()}
    assert found.text == f"torch 2.9.9+cu128 is not {wanted['torch'].specifier}; timm is missing"
    assert found.mend.endswith(f"-m pip install --upgrade '{wanted['torch']}' '{wanted['timm']}'")
    assert {"torch", "jsonargparse", "pyyaml"} <= set(wanted)
    assert "submitit" not in wanted
    assert wanted["transformers"].specifier.contains("5.24.0"), "the newest that will do counts, too"
    assert not wanted["transformers"].specifier.contains("5.40.0")


FORMS = [
    ("torch~=2.9", {"torch": "2.14.1+cu128"}, ""),
    ("torch~=2.9", {"torch": "3.0"}, "torch 3.0 is not ~=2.9"),
    ("torch===2.9+custom", {"torch": "2.9"}, "torch 2.9 is not ===2.9+custom"),
    ("torch!=2.9,<3", {"torch": "2.9"}, "torch 2.9 is not !=2.9,<3"),
    ("torch>=2.9", {"torch": "3.0.dev20260101"}, ""),
    ("torch[extra]>=2.9", {}, "torch is missing"),
    ("torch @ https://example.org/torch.whl", {"torch": "1"}, ""),
    ("torch @ https://example.org/torch.whl", {}, "torch is missing"),
    ("torch; python_version < '3'", {}, ""),
    ("torch>=2.9; python_version >= '3'", {"torch": "2.8"}, "torch 2.8 is not >=2.9"),
    ("torch; extra == 'gpu'", {}, ""),
]


@pytest.mark.parametrize(("lines", "have", "wrong"), FORMS, ids=[form[0] for form in FORMS])
def test_every_form_of_a_requirement_is_read(lines: str, have: dict[str, str], wrong: str, monkeypatch: Any) -> None:
    def version(name: str) -> str:
        if name == "torch" and name not in have:
            raise metadata.PackageNotFoundError(name)
        return have.get(name, "1")

    monkeypatch.setattr(doctor, "declared", lambda: lines.split("|"))
    monkeypatch.setattr(doctor.metadata, "version", version)
    found = doctor.packages()
    assert (found.ok, found.text if wrong else "") == (not wrong, wrong)
    if wrong:
        assert found.mend.endswith(f"--upgrade '{lines.split('|')[-1].partition(';')[0].strip()}'")


def test_the_token_is_never_told(here: Path, monkeypatch: Any, capsys: Any) -> None:
    assert "hub token" in crosses("paper")
    assert doctor.hub_token("pocket").ok
    (here / "token").write_text("hf_in_the_file")
    assert doctor.hub_token("paper").text == f"there is one ({here / 'token'})"
    monkeypatch.setenv("HF_TOKEN", "hf_in_the_environment")
    assert entry.main(["doctor"]) == 0
    assert entry.main(["doctor", "--json"]) == 0
    told = capsys.readouterr()
    assert "$HF_TOKEN" in told.out
    assert "hf_in" not in told.out + told.err


def test_a_table_of_the_paper_takes_more(here: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("CRAFT_MODELS", str(here / "models"))
    (here / "models").mkdir()
    monkeypatch.setattr(doctor.shutil, "disk_usage", lambda place: SimpleNamespace(free=2 * 2**30))
    assert crosses() == {}
    found = crosses("paper")
    assert "hf download mit-han-lab/vila-u-7b-256" in found["models"].mend
    assert "2.0 GiB free" in found["disk"].text
    assert found["hub token"].mend == "hf auth login"
    (here / "models" / "vila-u-7b-256").mkdir()
    assert "models" not in crosses("paper")


def test_a_check_that_breaks_is_a_cross(monkeypatch: Any) -> None:
    monkeypatch.setattr(doctor, "memory", lambda: 1 / 0)
    monkeypatch.setattr(doctor.shutil, "which", lambda name: "/usr/bin/nvidia-smi")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    found = crosses()
    assert found["memory"].text == "the check itself failed: division by zero"
    assert "sees none of the machine's GPUs" in found["devices"].text
    assert all(one.mend for one in found.values())


@pytest.mark.parametrize("foreign", ["callbacks/__init__.py", "data_modules.py"])
def test_what_hides_our_packages_is_told_once_as_every_verb_tells_it(
    foreign: str, here: Path, monkeypatch: Any, capsys: Any
) -> None:
    file = here / foreign
    file.parent.mkdir(exist_ok=True)
    file.write_text("raise SystemExit('run')")
    for name in list(sys.modules):
        if name.partition(".")[0] in ("callbacks", "data_modules"):
            monkeypatch.delitem(sys.modules, name)
    importlib.invalidate_caches()
    other = here / foreign.removesuffix("/__init__.py")
    found = doctor.CheckResult(False, f"{other} hides {ROOT / other.stem}", "rename it, or work in another folder")
    assert crosses() == {"shadows": found}
    assert entry.main(["fit"]) == 2
    assert capsys.readouterr().err == f"craft_lightning: {found.text}: {found.mend}\n"
