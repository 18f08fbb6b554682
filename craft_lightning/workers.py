"""Processes that compute the jobs of a table: warm ones on this machine, or one in each job of a cluster.

They are started by name, spoken to in JSON lines, and killed at any time.
"""

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
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from craft_lightning.errors import CraftError

WORKER = (sys.executable, "-m", "craft_lightning.worker")
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
SAME_KERNELS = {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}
"""Instructions that x86 processors of ten years have in common. Left to themselves, torch and oneDNN take the widest
that a processor has, and round sums in another order: a distance that is nearly even then goes to another code, and a
training another way. Pocket models train as fast with these. Matrix products are MKL's, which chooses by the processor
unless it is told to be alike everywhere (``MKL_CBWR=COMPATIBLE``): a training then takes 1.7 times as long."""
HINTS = {"SIGKILL": " (out of memory?)", "SIGILL": " (no AVX2 here? set ATEN_CPU_CAPABILITY=default)"}
POLL_SECONDS = 0.5
LAST = ("done", "failed")
"""Events after which a worker has done with a job."""

Event = tuple["Worker", dict[str, Any]]
Launcher = Callable[[Sequence[str], queue.Queue[Event], str | None], "Worker"]
"""Starts a worker, given the command of a worker process, the queue for its events, and the GPU of this machine that is
its own, if any."""


def surroundings() -> dict[str, str]:
    """The environment of a worker: one thread, and kernels that do not hang on the processor unless it names others."""
    alike = SAME_KERNELS if platform.machine().lower() in ("x86_64", "amd64") else {}
    return {**alike, **os.environ, **ONE_THREAD}


def last_line(text: str) -> str:
    """The last line that is not empty, or an empty text."""
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "")


class LocalWorker:
    """One process, in a session of its own, so that Ctrl-C reaches the runner alone. It sees the GPU ``gpu`` alone, or
    all there are.

    It ends by itself when its standard input is closed, that is whenever the runner dies.
    """

    def __init__(self, command: Sequence[str], events: queue.Queue[Event], gpu: str | None = None) -> None:
        self.ready = False
        self._errors = tempfile.TemporaryFile()  # noqa: SIM115 - lives as long as the process
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            env=surroundings() | ({} if gpu is None else {"CUDA_VISIBLE_DEVICES": gpu}),
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
        assert self.process.stdin is not None
        try:
            self.process.stdin.write(json.dumps(message).encode() + b"\n")
            self.process.stdin.flush()
        except BrokenPipeError:  # a process that is already dead says so by its exit event
            pass

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()

    def how_it_ended(self) -> str:
        code = self.process.returncode
        if code is not None and code < 0:
            name = signal.Signals(-code).name
            return f"killed by {name}{HINTS.get(name, '')}"
        return f"exit code {code}"

    def last_words(self) -> str:
        self._errors.seek(0)
        return last_line(self._errors.read().decode(errors="replace"))


def cluster_launcher(folder: Path, cluster: str = "slurm", settings: Sequence[str] = ()) -> Launcher:
    """A launcher whose workers submit each job of the table as a job of a cluster, through submitit.

    Args:
        folder: where submitit keeps its files and the jobs' answers; every machine must see it.
        cluster: ``slurm``, or ``local`` for processes on this machine (what the test uses).
        settings: ``KEY=VALUE`` of submitit's executor, for example ``timeout_min=120`` or ``slurm_partition=gpu``.

    Raises:
        CraftError: submitit is not installed, there is no cluster, or it does not know a setting.
    """
    try:
        import submitit
    except ImportError:
        raise CraftError("--launcher slurm needs submitit: pip install -e '.[slurm]' in the checkout") from None
    values = {}
    for setting in settings:
        key, equals, value = setting.partition("=")
        if not equals:
            raise CraftError(f"--slurm takes KEY=VALUE, got {setting!r}; for example --slurm timeout_min=120")
        values[key] = yaml.safe_load(value)
    try:
        executor = submitit.AutoExecutor(folder, cluster=cluster)
        executor.update_parameters(name="craft", **values)
    except (AssertionError, NameError, RuntimeError) as error:
        raise CraftError(f"{cluster}: {' '.join(str(error).split())}") from error
    return lambda command, events, _gpu: SubmittedWorker(command, events, executor, folder)


class SubmittedWorker:
    """Submits each job that it is sent to a cluster; there it starts a process whose answers a file brings back."""

    def __init__(self, command: Sequence[str], events: queue.Queue[Event], executor: Any, folder: Path) -> None:
        self.ready = True
        self.command, self.events, self.executor, self.folder = list(command), events, executor, folder
        self.job: Any = None

    def send(self, message: Mapping[str, Any]) -> None:
        answers = self.folder / f"{message['key'][:16]}.{time.time_ns()}.jsonl"
        answers.parent.mkdir(parents=True, exist_ok=True)
        answers.touch()
        self.job = self.executor.submit(answer_one, self.command, dict(message), str(answers))
        threading.Thread(target=self._follow, args=(self.job, answers), daemon=True).start()

    def _follow(self, job: Any, answers: Path) -> None:
        with answers.open("rb") as file:
            while True:
                ended = job.done()  # asked first, so that what a job said at its end is still read
                while (line := file.readline()).endswith(b"\n"):
                    event = json.loads(line)
                    self.events.put((self, event))
                    if event["event"] in LAST:
                        answers.unlink()
                        return
                file.seek(-len(line), 1)  # half a line is read again when it is whole
                if ended:
                    self.events.put((self, {"event": "exit"}))
                    return
                time.sleep(POLL_SECONDS)

    def kill(self) -> None:
        if self.job is not None and not self.job.done():
            self.job.cancel(check=False)

    def how_it_ended(self) -> str:
        return f"job {self.job.job_id} {self.job.state}" if self.job is not None else "no job"

    def last_words(self) -> str:
        return last_line(self.job.stderr() or "") if self.job is not None else ""


Worker = LocalWorker | SubmittedWorker
"""What computes one job after the other, wherever it runs. Its events arrive in the queue it was started with as
(worker, mapping); the last one is ``{"event": "exit"}``. ``ready`` says that it has started well."""


def answer_one(command: Sequence[str], message: Mapping[str, Any], answers: str) -> None:
    """In the cluster's job: start a worker process, hand it one message and copy its answers until it has done."""
    worker = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=surroundings())
    assert worker.stdin is not None
    assert worker.stdout is not None
    with Path(answers).open("a", encoding="utf-8") as file:
        worker.stdin.write(json.dumps(message) + "\n")
        worker.stdin.flush()
        for line in worker.stdout:
            file.write(line)
            file.flush()
            if json.loads(line).get("event") in LAST:
                break
    worker.stdin.close()  # the worker ends with its standard input, as it does when this job is cancelled
    worker.wait()
