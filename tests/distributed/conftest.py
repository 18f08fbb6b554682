"""Process groups that several tests share."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

sys.path.insert(0, str(Path(__file__).parent))

from scenarios import ROOT, Scenario, command

LIMIT = 300
"""Seconds after which a group has hung."""

Run = dict[str, Any]


def read(folder: Path) -> Run:
    """What a run left: ``terms`` by step, ``result``, ``keys`` of the predictions, and the ``checkpoint``."""
    lines = (folder / "predictions.jsonl").read_text(encoding="utf-8").splitlines()
    return {
        "terms": json.loads((folder / "terms.json").read_text(encoding="utf-8")),
        "result": json.loads((folder / "result.json").read_text(encoding="utf-8")),
        "predictions": {row["key"]: row["prediction"] for row in map(json.loads, lines)},
        "lines": len(lines),
        "checkpoint": torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True),
    }


def together(checkpoints: Path, folder: Path, scenarios: Sequence[Scenario], processes: int) -> None:
    """Run scenarios in several processes of one group (gloo), whose output goes into files of ``folder``.

    Raises:
        AssertionError: one of them failed (with what it said), or none ended in time.
    """
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "WORLD_SIZE": str(processes), "NODE_RANK": "0"}
    shared |= {"PROCESSES": str(processes), "OMP_NUM_THREADS": "1"}
    logs = [folder / f"rank{rank}.log" for rank in range(processes)]
    running = []
    for rank, log in enumerate(logs):
        with log.open("w", encoding="utf-8") as file:
            where = {**os.environ, **shared, "LOCAL_RANK": str(rank)}
            argv = command(checkpoints, scenarios)
            running.append(subprocess.Popen(argv, cwd=ROOT, env=where, stdout=file, stderr=subprocess.STDOUT))
    try:
        codes = [process.wait(timeout=LIMIT) for process in running]
    finally:
        for process in running:
            process.kill()
    assert not any(codes), "\n".join(log.read_text(encoding="utf-8")[-3000:] for log in logs)


@pytest.fixture(scope="session")
def alone(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Folder of a scenario run in this process; each is run once."""
    base, done = tmp_path_factory.mktemp("alone"), {}

    def run(**options: Any) -> Path:
        key = json.dumps(options)
        if key not in done:
            done[key] = base / str(len(done))
            Scenario(str(done[key]), strategy="auto", **options).run(checkpoints)
        return done[key]

    return run


@pytest.fixture(scope="session")
def group(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., dict[str, Path]]:
    """Folders by name of scenarios that a group of processes runs, one after the other."""

    def run(processes: int, scenarios: dict[str, dict[str, Any]]) -> dict[str, Path]:
        base = tmp_path_factory.mktemp(f"group{processes}")
        made = [Scenario(str(base / name), **options) for name, options in scenarios.items()]
        together(checkpoints, base, made, processes)
        return {name: base / name for name in scenarios}

    return run
