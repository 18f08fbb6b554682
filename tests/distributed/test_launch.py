"""Two processes as a user starts them: what they are laid out as, and how a run ends of which one dies."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from scenarios import ROOT, Scenario

FAULTS = [(rank, how) for rank in (0, 1) for how in ("error", "killed")]
BOUND = 180
"""Seconds that a run may take to end after a process died, on a busy machine; it takes about ten."""


def start(argv: list[str], log: Path) -> subprocess.Popen[bytes]:
    with log.open("w", encoding="utf-8") as file:
        where = {**os.environ, "OMP_NUM_THREADS": "1"}
        return subprocess.Popen(argv, cwd=ROOT, env=where, stdout=file, stderr=file, start_new_session=True)


@pytest.fixture(scope="module")
def runs(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[Any, Any]]:
    """A run that is well and four that lose a process, all at the same time; (exit code, seconds, output)."""
    base = tmp_path_factory.mktemp("launched")
    began, running = time.monotonic(), {}
    well = Scenario(str(base / "well"), strategy="auto").argv(checkpoints, 2)
    running["well"] = start([sys.executable, "-m", "craft_lightning", *well], base / "well.log")
    for rank, how in FAULTS:
        argv = Scenario(str(base / f"{rank}{how}"), strategy="ddp").argv(checkpoints, 2)
        script = [sys.executable, str(Path(__file__).parent / "dying.py"), str(rank), how]
        running[rank, how] = start([*script, *argv], base / f"{rank}{how}.log")
    found: dict[Any, Any] = {"folder": base}
    try:
        for name, process in running.items():
            code = process.wait(timeout=max(1.0, BOUND - (time.monotonic() - began)))
            log = base / ("well.log" if name == "well" else f"{name[0]}{name[1]}.log")
            found[name] = (code, process.pid, log)
        yield found
    finally:
        for process in running.values():
            if alive(process.pid):
                os.killpg(process.pid, signal.SIGKILL)


def alive(group: int) -> bool:
    """Whether a process of a group is left."""
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def test_auto_makes_copies_and_says_so(runs: Any) -> None:
    code, _, log = runs["well"]
    said = log.read_text(encoding="utf-8")
    assert code == 0, said[-3000:]
    assert "strategy  DDP, precision 32-true: 2 cpu devices (a copy on each of 2 devices fits, " in said
    assert said.count("method    craft") == 1
    result = json.loads((runs["folder"] / "well" / "result.json").read_text(encoding="utf-8"))
    assert result["rows"] == 7
    config = (runs["folder"] / "well" / "config.yaml").read_text(encoding="utf-8")
    assert "strategy: ddp" in config


@pytest.mark.parametrize(("rank", "how"), FAULTS)
def test_a_process_that_dies_ends_the_run(runs: Any, rank: int, how: str) -> None:
    code, group, log = runs[rank, how]
    said = log.read_text(encoding="utf-8")
    assert code != 0
    assert "Traceback" not in said, said[-3000:]
    if how == "error":
        assert f"craft_lightning: process {rank} found the fault" in said
    if rank == 1:
        ended = {
            "error": "ended with code 2; what it said stands above",
            "killed": "was ended by SIGKILL, as the system",
        }
        assert f"craft_lightning: process 1 of 2 {ended[how]}" in said
    deadline = time.monotonic() + BOUND
    while alive(group) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not alive(group), "a process was left behind"
