"""Compute the nodes of a plan in a pool of worker processes; what is done stays done, whatever dies."""

from __future__ import annotations

import os
import queue
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import suppress
from typing import Any

from filelock import BaseFileLock

from craft_lightning.benchmark import result_store as store
from craft_lightning.benchmark.cache_key import NO_WEIGHTS
from craft_lightning.benchmark.plan import Node, Plan, metrics_read
from craft_lightning.benchmark.progress_estimate import Progress, Running
from craft_lightning.benchmark.spec import Backbone
from craft_lightning.errors import CraftError
from craft_lightning.workers.pool import WORKER, Event, Launcher, LocalWorker, Worker, last_line

POLL_SECONDS = 0.2
FAILURES_IN_A_ROW = 3


class View:
    """Told of every change; the silent one."""

    def start(self, progress: Progress, stale: list[str]) -> None:
        """Before the first node; ``stale`` says which results are computed anew, and why."""

    def update(self, progress: Progress) -> None:
        """Several times a second."""

    def finished(self, node: Node, progress: Progress, seconds: float, error: str | None) -> None:
        """A node is done, or has failed with this error."""

    def stop(self, progress: Progress) -> None:
        """After the last node, or when interrupted."""


def run_plan(
    plan: Plan,
    jobs: int,
    view: View | None = None,
    keep_going: bool = False,
    worker: Sequence[str] = WORKER,
    launcher: Launcher = LocalWorker,
) -> Progress:
    """Compute every node that has no result of the same key.

    A node that fails, or whose backbone has no weights here, is noted with its last error line, the nodes that need it
    with it, and the others go on. After three failures in a row nothing new is started, unless ``keep_going``.

    Args:
        plan: what to compute.
        jobs: number of worker processes.
        view: what shows the progress.
        keep_going: never stop early.
        worker: the command of a worker process.
        launcher: starts a worker: here, or as jobs of a cluster (:mod:`.slurm`).

    Raises:
        CraftError: if the workers cannot start.
        KeyboardInterrupt: on Ctrl-C, after every worker has been killed.
    """
    return _Runner(plan, jobs, view or View(), keep_going, lambda events: launcher(worker, events)).run()


class _Runner:
    def __init__(
        self, plan: Plan, jobs: int, view: View, keep_going: bool, start: Callable[[queue.Queue[Event]], Worker]
    ) -> None:
        self.plan, self.view, self.keep_going, self.start = plan, view, keep_going, start
        self.events: queue.Queue[Event] = queue.Queue()
        self.progress = Progress(total=len(plan.nodes), jobs=jobs)
        self.idle: list[Worker] = []
        self.busy: dict[Worker, Running] = {}
        self.in_a_row = 0
        self.left_out: dict[str, tuple[Node, str]] = {}
        self.metrics = metrics_read(plan)

    def run(self) -> Progress:
        """Compute what is not done, in as many workers as jobs; Ctrl-C ends them and passes on."""
        stale = self._look()
        self.view.start(self.progress, stale)
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
            self.view.stop(self.progress)
        return self.progress

    def _look(self) -> list[str]:
        stale = []
        for node in self.plan.nodes:
            found = store.result(node)
            if found is not None:
                self.progress.note(node, float(found.get("seconds", 0.0)))
                continue
            if store.state(node) == "stale":
                stale.append(f"{node.name} (changed: {store.why_stale(node)})")
            self.progress.waiting.append(node)
        self.progress.already = len(self.progress.done)
        return stale

    def _leave_out(self) -> None:
        """What needs weights that are not there fails at once, for no fault of its own; the rest is computed."""
        for node in [n for n in self.progress.waiting if n.facts["weights"] == NO_WEIGHTS]:
            if node in self.progress.waiting:  # not the test of a training that has just been left out
                self.progress.waiting.remove(node)
                error = no_weights(self.plan.spec.backbone(node.facts["backbone"]))
                self.left_out[node.name] = node, error
                self._failed(node, error)
        self.in_a_row = 0

    def _hand_out(self) -> None:
        while len(self.busy) < self.progress.jobs:
            if self.in_a_row >= FAILURES_IN_A_ROW and not self.keep_going:
                for node in self.progress.waiting:
                    self.progress.failed[node.name] = "not started, the last three nodes failed (--keep-going)"
                self.progress.waiting.clear()
            picked = self._pick()
            if picked is None:
                return
            node, lock = picked
            resuming = store.prepare(node)
            for test, error in self.left_out.values():
                if test.parent is not None and test.parent.name == node.name:  # it went with the training's old files
                    store.write_failure(test, error)
            process = self.idle.pop() if self.idle else self.start(self.events)
            self.busy[process] = Running(node, lock, time.monotonic())
            self.progress.running = list(self.busy.values())
            process.send(message(node, resuming, self.metrics.get(node.name, ())))

    def _pick(self) -> tuple[Node, BaseFileLock] | None:
        """The first node that can start, locked and taken from the waiting ones."""
        waiting = self.progress.waiting
        for node in list(waiting):
            if node.parent is not None and node.parent.name not in self.progress.done:
                continue
            lock = store.try_lock(self.plan.root, node)
            if lock is None:
                self.progress.elsewhere.add(node.name)
                continue
            waiting.remove(node)
            self.progress.elsewhere.discard(node.name)
            found = store.result(node)
            if found is None:
                return node, lock
            lock.release()
            self._done(node, float(found.get("seconds", 0.0)))
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
                if store.result(running.node) is None:
                    self._failed(running.node, "the worker wrote no result")
                else:
                    self._done(running.node, float(event["seconds"]))
            case "failed" if running:
                self._release(process)
                self._failed(running.node, str(event["error"]))
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
        log = running.node.folder / "log.txt"
        words = last_line(log.read_text(encoding="utf-8", errors="replace")) if log.is_file() else ""
        self._failed(running.node, f"worker {process.how_it_ended()}" + (f"; last line: {words}" if words else ""))

    def _release(self, process: Worker, again: bool = True) -> None:
        self.busy.pop(process).lock.release()
        self.progress.running = list(self.busy.values())
        if again:
            self.idle.append(process)

    def _done(self, node: Node, seconds: float) -> None:
        self.in_a_row = 0
        self.progress.note(node, seconds)
        self.view.finished(node, self.progress, seconds, None)

    def _failed(self, node: Node, error: str) -> None:
        self.in_a_row += 1
        store.write_failure(node, error)
        self.progress.failed[node.name] = error
        self.view.finished(node, self.progress, 0.0, error)
        for child in [n for n in self.progress.waiting if n.parent is not None and n.parent.name == node.name]:
            self.progress.waiting.remove(child)
            self.progress.failed[child.name] = "its training failed"


def no_weights(backbone: Backbone) -> str:
    """That a checkpoint is not there, and how to get it."""
    return f"the weights of backbone {backbone.id!r} are not there; {backbone.origin}"


def message(node: Node, resuming: bool = False, metrics: Sequence[str] = ()) -> dict[str, Any]:
    """What a worker is told about a node.

    Args:
        node: to compute. resuming: go on from the last checkpoint in its folder.
        metrics: that its result must hold, because the table reads them.
    """
    flags = ["--trainer.enable_progress_bar=false", *(["--ckpt_path=last"] if resuming else [])]
    # A job that a cluster starts again finds files of its own.
    flags += ["--overwrite=true"] if node.kind == "eval" else []
    return {
        "kind": node.kind,
        "name": node.name,
        "folder": str(node.folder),
        "arguments": [*node.arguments, *flags],
        "key": node.key,
        "node": dict(node.facts),
        "metrics": list(metrics),
    }


def default_jobs(nodes: Iterable[Node], jobs: int | None) -> int:
    """The number of cores this process may use, or ``jobs``; never more than there are nodes."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(jobs or cores, len(list(nodes))))
