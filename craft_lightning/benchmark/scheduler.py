"""Compute the jobs of a plan in a pool of worker processes; what is done stays done, whatever dies."""

from __future__ import annotations

import os
import queue
import time
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from functools import partial
from itertools import pairwise
from pathlib import Path
from typing import Any

from filelock import BaseFileLock
from rich.console import Console

from craft_lightning.benchmark import store
from craft_lightning.benchmark.cache_key import NO_WEIGHTS
from craft_lightning.benchmark.estimate import Running, TableProgress, View
from craft_lightning.benchmark.plan import STAGE2, Job, Plan, metrics_read
from craft_lightning.benchmark.table_rows import Backbone
from craft_lightning.errors import CraftError
from craft_lightning.workers import WORKER, Event, Launcher, LocalWorker, Worker, last_line

POLL_SECONDS = 0.2
FAILURES_IN_A_ROW = 3
DRIVERS = ("/dev/nvidiactl", "/dev/kfd", "/dev/dxg")
"""Without one of these (Nvidia's, AMD's, WSL's) there is no GPU, and torch, which takes seconds, need not count."""


def run_plan(
    plan: Plan,
    workers: int,
    view: View | None = None,
    keep_going: bool = False,
    worker: Sequence[str] = WORKER,
    launcher: Launcher = LocalWorker,
) -> TableProgress:
    """Compute every job that has no result of the same key.

    A job that fails, or whose backbone has no weights here, is noted with its last error line, the jobs that need it
    with it, and the others go on. After three failures in a row nothing new is started, unless ``keep_going``.

    Args:
        plan: what to compute. workers: number of worker processes. keep_going: never stop early.
        view: what shows the progress; None for nothing.
        worker: the command of a worker process.
        launcher: starts one: here, or as jobs of a cluster (:func:`.cluster_launcher`).

    Raises:
        CraftError: if the workers cannot start.
        KeyboardInterrupt: on Ctrl-C, after every worker has been killed.
    """
    return _Runner(plan, workers, view or View(Console(quiet=True)), keep_going, partial(launcher, worker)).run()


class _Runner:
    def __init__(
        self,
        plan: Plan,
        workers: int,
        view: View,
        keep_going: bool,
        start: Callable[[queue.Queue[Event], str | None], Worker],
    ) -> None:
        self.plan, self.view, self.keep_going, self.start = plan, view, keep_going, start
        self.events: queue.Queue[Event] = queue.Queue()
        self.progress = TableProgress(total=len(plan.jobs), workers=workers)
        self.idle: list[Worker] = []
        self.busy: dict[Worker, Running] = {}
        self.gpus = own_gpus(plan.jobs)
        self.gpu: dict[Worker, str | None] = {}
        self.in_a_row = 0
        self.left_out: dict[str, tuple[Job, str]] = {}
        self.metrics = metrics_read(plan)

    def run(self) -> TableProgress:
        """Compute what is not done, in as many workers as wanted; Ctrl-C ends them and passes on."""
        self._look()
        self._leave_out()
        try:
            while self.progress.waiting or self.busy:
                self._hand_out()
                with suppress(queue.Empty):
                    self._handle(*self.events.get(timeout=POLL_SECONDS))
                self.view.update(self.progress)
        finally:
            for process in (*self.idle, *self.busy):
                process.kill()
            for running in self.busy.values():
                running.lock.release()
            self.view.stop()
        return self.progress

    def _look(self) -> None:
        for job in self.plan.jobs:
            if (found := store.result(job)) is not None:
                self.progress.note(job, float(found.get("seconds", 0.0)))
            else:
                self.progress.waiting.append(job)
        self.progress.already = len(self.progress.done)
        stale = [job for job in self.progress.waiting if store.state(job) == "stale"]
        self.view.start(self.progress, [f"{job.name} (changed: {store.why_stale(job)})" for job in stale])

    def _leave_out(self) -> None:
        """What needs weights that are not there fails at once, for no fault of its own, and is told in one line for
        each backbone; the rest is computed."""
        without = [job for job in self.progress.waiting if job.facts["weights"] == NO_WEIGHTS]
        for name, count in Counter(job.facts["backbone"] for job in without).items():
            self.view.line(f"FAILED: {no_weights(self.plan.spec.backbone(name))} ({count} jobs wait for them)")
        for job in without:
            if job in self.progress.waiting:  # not the test of a training that has just been left out
                self.progress.waiting.remove(job)
                error = no_weights(self.plan.spec.backbone(job.facts["backbone"]))
                self.left_out[job.name] = job, error
                self._failed(job, error, tell=False)
        self.in_a_row = 0

    def _hand_out(self) -> None:
        while len(self.busy) < self.progress.workers:
            if self.in_a_row >= FAILURES_IN_A_ROW and not self.keep_going:
                for job in self.progress.waiting:
                    self.progress.failed[job.name] = "not started, the last three jobs failed (--keep_going)"
                self.progress.waiting.clear()
            picked = self._pick()
            if picked is None:
                return
            job, lock = picked
            resuming = store.prepare(job)
            for test, error in self.left_out.values():
                if test.parent is not None and test.parent.name == job.name:  # it went with the training's old files
                    store.write_failure(test, error)
            process = self.idle.pop() if self.idle else self._start()
            self.busy[process] = Running(job, lock, time.monotonic())
            self.progress.running = list(self.busy.values())
            process.send(message(job, resuming, self.metrics.get(job.name, ())))

    def _start(self) -> Worker:
        """A worker, on the GPU that the fewest of the others have (all of them are busy)."""
        taken = Counter(self.gpu[other] for other in self.busy)
        gpu = min(self.gpus, key=lambda each: taken[each], default=None)
        process = self.start(self.events, gpu)
        self.gpu[process] = gpu
        return process

    def _pick(self) -> tuple[Job, BaseFileLock] | None:
        """The first job that can start, locked and taken from the waiting ones."""
        waiting = self.progress.waiting
        for job in list(waiting):
            if job.parent is not None and job.parent.name not in self.progress.done:
                continue
            lock = store.try_lock(self.plan.root, job)
            if lock is None:
                self.progress.elsewhere.add(job.name)
                continue
            waiting.remove(job)
            self.progress.elsewhere.discard(job.name)
            found = store.result(job)
            if found is None:
                return job, lock
            lock.release()
            self._done(job, float(found.get("seconds", 0.0)))
        return None

    def _handle(self, process: Worker, event: dict[str, Any]) -> None:
        running = self.busy.get(process)
        match event.get("event"):
            case "ready":
                process.ready = True
            case "step" if running:
                if running.step is None:  # a resumed training does not begin at 0
                    running.before = event["step"] - 1
                running.step, running.steps, running.loss = event["step"], event.get("steps"), event.get("loss")
            case "done" if running:
                self._release(process)
                if store.result(running.job) is None:
                    self._failed(running.job, "the worker wrote no result")
                elif edited := _edited(running.job, self.plan.began):
                    (running.job.folder / store.RESULT).unlink()
                    self._failed(
                        running.job, f"{edited} was edited after the jobs were planned; the same command computes it"
                    )
                else:
                    self._done(running.job, float(event["seconds"]))
            case "failed" if running:
                self._release(process)
                self._failed(running.job, str(event["error"]))
            case "exit":
                self._exited(process)

    def _exited(self, process: Worker) -> None:
        if process in self.idle:
            self.idle.remove(process)
        running = self.busy.get(process)
        if running is None:
            return
        if not process.ready:
            raise CraftError(f"the worker processes cannot start ({process.how_it_ended()}): {process.last_words()}")
        self._release(process, again=False)
        log = running.job.folder / "log.txt"
        words = last_line(log.read_text(encoding="utf-8", errors="replace")) if log.is_file() else ""
        self._failed(running.job, f"worker {process.how_it_ended()}" + (f"; last line: {words}" if words else ""))

    def _release(self, process: Worker, again: bool = True) -> None:
        self.busy.pop(process).lock.release()
        self.progress.running = list(self.busy.values())
        if again:
            self.idle.append(process)

    def _done(self, job: Job, seconds: float) -> None:
        self.in_a_row = 0
        self.progress.note(job, seconds)
        self.view.finished(job, self.progress, seconds, None)

    def _failed(self, job: Job, error: str, tell: bool = True) -> None:
        self.in_a_row += 1
        store.write_failure(job, error)
        self.progress.failed[job.name] = error
        if tell:
            self.view.finished(job, self.progress, 0.0, error)
        for child in [j for j in self.progress.waiting if any(needed.name == job.name for needed in j.lineage)]:
            self.progress.waiting.remove(child)
            self.progress.failed[child.name] = "its training failed"


def _edited(job: Job, planned: float) -> str | None:
    """A config file of a job that was changed after it was planned: the result would be stored as that of the plan."""
    files = (Path(value) for flag, value in pairwise(job.arguments) if flag == "--config")
    return next((str(file) for file in files if not file.is_file() or file.stat().st_mtime > planned), None)


def no_weights(backbone: Backbone) -> str:
    """That a checkpoint is not there, and how to get it."""
    return f"the weights of backbone {backbone.id!r} are not there; {backbone.origin}"


def message(job: Job, resuming: bool = False, metrics: Sequence[str] = ()) -> dict[str, Any]:
    """What a worker is told about a job: whether it goes on from the last checkpoint in its folder (``resuming``), and
    the metrics that its result must hold, because the table reads them."""
    flags = ["--trainer.enable_progress_bar=false", *(["--ckpt_path=last"] if resuming else [])]
    # A job that a cluster starts again finds files of its own.
    flags += ["--overwrite=true"] if job.kind == "eval" else []
    flags = [] if job.kind == STAGE2 else flags  # which goes on by itself
    return {
        "kind": job.kind,
        "name": job.name,
        "folder": str(job.folder),
        "arguments": [*job.arguments, *flags],
        "key": job.key,
        "job": dict(job.facts),
        "metrics": list(metrics),
    }


def own_gpus(jobs: Iterable[Job]) -> list[str]:
    """The GPUs that workers divide among themselves: those of this machine, where every job takes one device."""
    if not any(map(os.path.exists, DRIVERS)) or any(str(job.devices) != "1" for job in jobs):
        return []
    from craft_lightning.run_facts import gpus

    return gpus()


def worker_count(jobs: Sequence[Job], wanted: int | None) -> int:
    """One for each GPU that is a worker's own, else for each core that this process may use; or ``wanted``; never more
    than there are jobs."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(wanted or len(own_gpus(jobs)) or cores, len(jobs)))
