"""Nodes as jobs of a cluster, through submitit: only the place where a worker computes its node is another.

A job starts a worker process, hands it one message and copies its answers to a file, which the runner reads.
"""

from __future__ import annotations

import json
import queue
import subprocess
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from craft_lightning.errors import CraftError
from craft_lightning.workers.pool import Event, Launcher, last_line, surroundings

POLL_SECONDS = 0.5
LAST = ("done", "failed")


def cluster_launcher(folder: Path, cluster: str = "slurm", settings: Sequence[str] = ()) -> Launcher:
    """A launcher whose workers submit each node as a job.

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
        raise CraftError("--launcher slurm needs submitit: pip install 'craft-lightning[slurm]'") from None
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
    return lambda command, events: SubmittedWorker(command, events, executor, folder)


class SubmittedWorker:
    """Computes each node it is sent in a job of its own; speaks to the runner as a local process does."""

    def __init__(self, command: Sequence[str], events: queue.Queue[Event], executor: Any, folder: Path) -> None:
        self.ready = True
        self.command, self.events, self.executor, self.folder = list(command), events, executor, folder
        self.job: Any = None

    def send(self, message: Mapping[str, Any]) -> None:
        """Submit the node."""
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
        """Cancel the job, if there is one at work."""
        if self.job is not None and not self.job.done():
            self.job.cancel(check=False)

    def how_it_ended(self) -> str:
        """The job's number and the cluster's word for its end."""
        return f"job {self.job.job_id} {self.job.state}" if self.job is not None else "no job"

    def last_words(self) -> str:
        """The last line of the job's standard error."""
        return last_line(self.job.stderr() or "") if self.job is not None else ""


def answer_one(command: Sequence[str], message: Mapping[str, Any], answers: str) -> None:
    """In the job: start a worker process, hand it one message and copy its answers to a file until it has done."""
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
