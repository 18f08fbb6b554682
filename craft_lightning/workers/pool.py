"""Worker processes: started by name, spoken to in JSON lines, killed at any time."""

from __future__ import annotations

import json
import os
import platform
import queue
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

WORKER = (sys.executable, "-m", "craft_lightning.worker")
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
SAME_KERNELS = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
"""Instructions that x86 processors of ten years have in common. Left to themselves, torch and oneDNN take the widest
that a processor has, and round sums in another order: a distance that is nearly even then goes to another code, and a
training another way. Pocket models train as fast with these. Matrix products are MKL's, which chooses by the processor
unless it is told to be alike everywhere (``MKL_CBWR=COMPATIBLE``): a training then takes 1.7 times as long."""

Event = tuple["Worker", dict[str, Any]]


def surroundings() -> dict[str, str]:
    """The environment of a worker: one thread, and kernels that do not hang on the processor unless it names others."""
    alike = SAME_KERNELS if platform.machine().lower() in ("x86_64", "amd64") else {}
    return {**alike, **os.environ, **ONE_THREAD}


class Worker(Protocol):
    """What computes one node after the other, wherever it runs.

    Its events arrive in the queue it was started with as (worker, mapping); the last one is ``{"event": "exit"}``.

    Attributes:
        ready: it has started well.
    """

    ready: bool

    def send(self, message: Mapping[str, Any]) -> None:
        """Hand over one node."""

    def kill(self) -> None:
        """End it now."""

    def how_it_ended(self) -> str:
        """The end in words."""

    def last_words(self) -> str:
        """The last line that it said outside of any node."""


Launcher = Callable[[Sequence[str], queue.Queue[Event]], Worker]
"""Starts a worker, given the command of a worker process and the queue for its events."""


class LocalWorker:
    """One process. Its events arrive in ``events`` as (worker, mapping); the last one is ``{"event": "exit"}``.

    The process has its own session, so that Ctrl-C reaches the runner alone, and it ends by itself when its standard
    input is closed, that is whenever the runner dies.
    """

    def __init__(self, command: Sequence[str], events: queue.Queue[Event]) -> None:
        self.ready = False
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=surroundings(),
            start_new_session=True,
        )
        threading.Thread(target=self._read, args=(events,), daemon=True).start()

    def _read(self, events: queue.Queue[Event]) -> None:
        assert self.process.stdout is not None
        for line in self.process.stdout:
            try:
                event = json.loads(line)
            except ValueError:
                continue
            if isinstance(event, dict):
                events.put((self, event))
        self.process.wait()
        events.put((self, {"event": "exit"}))

    def send(self, message: Mapping[str, Any]) -> None:
        """Hand over one node. A process that is already dead says so by its exit event."""
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(message).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:
            pass

    def kill(self) -> None:
        """End the process now."""
        self.process.kill()
        self.process.wait()

    def how_it_ended(self) -> str:
        """The exit status in words."""
        code = self.process.returncode
        if code is not None and code < 0:
            name = signal.Signals(-code).name
            hints = {"SIGKILL": " (out of memory?)", "SIGILL": " (no AVX2 here? set ATEN_CPU_CAPABILITY=default)"}
            return f"killed by {name}{hints.get(name, '')}"
        return f"exit code {code}"

    def last_words(self) -> str:
        """The last line that the process wrote to standard error outside of any node."""
        self._errors.seek(0)
        return last_line(self._errors.read().decode(errors="replace"))


def last_line(text: str) -> str:
    """The last line that is not empty, or an empty text."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1] if lines else ""
