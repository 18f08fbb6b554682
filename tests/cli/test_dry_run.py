"""``table run --dry_run``: what it comes to is said first, commands only when asked for."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from craft_lightning import __main__ as entry
from craft_lightning.benchmark.plan import make_plan
from craft_lightning.benchmark.spec import find_table, load_spec
from craft_lightning.cli import doctor
from craft_lightning.cli.dry_run import Rehearsal, cards, judged_items
from craft_lightning.errors import CraftError


@pytest.fixture
def dry_run(tmp_path: Path, monkeypatch: Any, capsys: Any) -> Any:
    """Runs it for a table's first seed at a scale, on a machine without weights; returns the code and the lines."""
    monkeypatch.setenv("CRAFT_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    monkeypatch.setattr(doctor, "examine", lambda scale: {"disk": doctor.CheckResult(scale == "pocket", "full", "du")})

    def run(scale: str, *flags: str) -> tuple[int, list[str]]:
        table = ["table1", "--scale", scale, "--seeds", "0", "--only", "eurosat/*craft*"]
        capsys.readouterr()
        code = entry.main(["table", "run", *table, "--runs", str(tmp_path / "runs"), "--dry_run", *flags])
        assert not (tmp_path / "runs").exists()
        return code, capsys.readouterr().out.splitlines()

    return run


def test_the_summary_comes_first_and_commands_on_request(dry_run: Any) -> None:
    code, lines = dry_run("paper", "--devices", "8x40gb")
    hours = re.fullmatch(
        r"in all    ([\d.]+) device hours, ([\d.]+) on 8 devices at once; would fail: nothing, missing: (\d+)", lines[0]
    )
    assert hours, lines[0]
    assert float(hours[1]) / 8 == pytest.approx(float(hours[2]), abs=0.1)
    assert float(hours[1]) > 1
    assert code == 1, "what is missing has to be brought first"
    assert "disk: full" in " ".join(lines)
    missing = lines.index(f"missing: {hours[3]}")
    assert sum(bool(re.match(r" *\d+ ", line)) for line in lines[missing + 1 :]) == int(hours[3]) + 1
    assert "--commands lists them" in lines[-1]
    assert not any("python -m craft_lightning" in line for line in lines)
    _, asked = dry_run("paper", "--devices", "8x40gb", "--commands")
    assert asked[: len(lines) - 1] == lines[:-1]
    count = int(lines[-1].split()[0])
    assert sum(line.startswith("        python -m craft_lightning ") for line in asked) == count > 0


def test_hours_are_those_of_the_devices_named(dry_run: Any) -> None:
    slow, fast = (float(dry_run("paper", "--devices", devices)[1][0].split()[5]) for devices in ("1x40gb", "2x8x40gb"))
    assert slow / 16 == pytest.approx(fast, abs=0.06)
    assert slow > 1


def test_at_pocket_scale_it_counts(dry_run: Any) -> None:
    code, lines = dry_run("pocket")
    assert code == 0
    assert len(lines) == 1
    assert re.match(r"\d+ jobs: \d+ train, \d+ eval; results below .*; --commands lists them$", lines[0])


@pytest.mark.parametrize("devices", ["8", "40gb", "8x40", "x8x40gb"])
def test_devices_that_say_nothing_are_one_line(devices: str) -> None:
    with pytest.raises(CraftError, match=rf"--devices {devices}: write COUNTxMEMORYgb, for example 8x40gb"):
        cards(devices)


def test_what_a_language_model_is_to_judge_is_counted() -> None:
    """Four sets: two untouched models, and three seeds of six trained rows, of which CRAFT replies twice."""
    paper, pocket = (make_plan(load_spec(find_table("table2", scale))) for scale in ("paper", "pocket"))
    found = Rehearsal(cards("8x40gb"), items={job.name: 350 for job in paper.jobs if job.kind == "eval"})
    assert judged_items(paper, found) == 350 * 4 * (2 + 6 * 3)
    assert judged_items(pocket, found) == 0, "rules judge these"
