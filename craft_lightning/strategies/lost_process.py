"""One line for a run that lost one of its processes, in place of how the others noticed."""

from __future__ import annotations

import re
import signal
import time
from typing import Any

from lightning.pytorch import Trainer

from craft_lightning.errors import CraftError

NOTICED = re.compile(r"connection (closed|reset)|broken pipe|gloo|nccl", re.IGNORECASE)
"""What errors of collectives say when a peer is gone."""
WAIT = 2.0
"""Seconds for the system to tell that a process has ended."""


def lost_process(trainer: Trainer, error: RuntimeError) -> CraftError | None:
    """The error of a run whose processes lost each other; None if ``error`` is another one. The process that was
    started by the user knows which of those that it started ended, and how; on other machines the cluster's log
    does."""
    if trainer.world_size == 1 or not NOTICED.search(str(error)):
        return None
    started: list[Any] = getattr(trainer.strategy.launcher, "procs", [])
    deadline = time.monotonic() + WAIT
    while started and time.monotonic() < deadline:
        for rank, process in enumerate(started, start=1):
            if process.poll() not in (None, 0, -signal.SIGTERM):  # those that Lightning itself ended do not count
                return CraftError(f"process {rank} of {trainer.world_size} {_how(process.returncode)}")
        time.sleep(0.05)
    first = " ".join(str(error).split())
    return CraftError(f"process {trainer.global_rank} of {trainer.world_size} lost another one: {first[:200]}")


def _how(code: int) -> str:
    if code >= 0:
        return f"ended with code {code}; what it said stands above"
    name = signal.Signals(-code).name
    return f"was ended by {name}" + (", as the system does when memory is short" if -code == signal.SIGKILL else "")
