"""How far a run of a table is and how long it still takes, as lines of text or as a live table in a terminal."""

from __future__ import annotations

import heapq
import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from statistics import fmean

from filelock import BaseFileLock
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from craft_lightning.benchmark.plan import Job

TELLING = 0.1
"""A running job foretells its own duration after this share of its steps."""
LIVE_INTERVAL = 0.5
"""Seconds between two drawings of the live table."""

Alike = tuple[str, ...]


@dataclass
class Running:
    """A job at work: its lock, when it was handed over, the last step it told, and the steps that it began with."""

    job: Job
    lock: BaseFileLock
    since: float
    step: int | None = None
    steps: int | None = None
    loss: float | None = None
    before: int = 0

    def spent(self) -> float:
        """Seconds since it was handed over."""
        return time.monotonic() - self.since

    def foretold(self) -> float | None:
        """Its whole duration if the steps to come take as long as those done; None before there are enough."""
        if not self.step or not self.steps or self.step - self.before < TELLING * (self.steps - self.before):
            return None
        return self.spent() * (1 + (self.steps - self.step) / (self.step - self.before))


@dataclass
class TableProgress:
    """The state of a run.

    Attributes:
        total: jobs of the plan. workers: how many compute at a time. already: how many jobs were done before.
        done: seconds by name of job, those of earlier runs included. failed: last error line by name of job.
        waiting: jobs to come. elsewhere: names of jobs that another runner computes.
    """

    total: int
    workers: int
    already: int = 0
    done: dict[str, float] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)
    waiting: list[Job] = field(default_factory=list)
    running: list[Running] = field(default_factory=list)
    elsewhere: set[str] = field(default_factory=set)
    _seconds: dict[Alike, list[float]] = field(default_factory=dict)

    def note(self, job: Job, seconds: float) -> None:
        """A job is done."""
        self.done[job.name] = seconds
        for alike in _alike(job):
            self._seconds.setdefault(alike, []).append(seconds)

    def expected(self, job: Job) -> float | None:
        """Mean seconds of the jobs most like this one, finished ones or else running ones; None without any."""
        for alike in _alike(job):
            running = [r.foretold() for r in self.running if alike in _alike(r.job)]
            if known := self._seconds.get(alike) or [seconds for seconds in running if seconds is not None]:
                return fmean(known)
        return None

    def seconds_left(self) -> float | None:
        """Estimate of the time to the end; None while nothing is known of a kind of job that is to come.

        The rest of the run is played through with the expected durations: each worker takes the next job whose
        training is done, as the runner does.
        """
        to_come = [*(r.job for r in self.running), *self.waiting]
        expected = {kind: self.expected(job) for kind, job in {_alike(job)[0]: job for job in to_come}.items()}
        durations = {j.name: seconds for j in to_come if (seconds := expected[_alike(j)[0]]) is not None}
        if len(durations) < len(to_come):
            return None
        # What runs knows best how long it takes.
        durations |= {r.job.name: foretold for r in self.running if (foretold := r.foretold()) is not None}
        busy = [(max(durations[r.job.name] - r.spent(), 0.0), r.job.name) for r in self.running]
        heapq.heapify(busy)
        now, waiting, pending = 0.0, list(self.waiting), set(durations)
        while waiting:
            startable = (i for i, job in enumerate(waiting) if job.parent is None or job.parent.name not in pending)
            index = next(startable, None) if len(busy) < self.workers else None
            if index is None and busy:
                now, finished = heapq.heappop(busy)
                pending.discard(finished)
            else:
                name = waiting.pop(index or 0).name
                heapq.heappush(busy, (now + durations[name], name))
        return max((end for end, _ in busy), default=0.0)

    def summary(self) -> str:
        """One line: done, running, failed, time left."""
        counts = {"running": self.running, "computed by another run": self.elsewhere, "failed": self.failed}
        parts = [f"{len(self.done)} of {self.total} jobs done"]
        parts += [f"{len(jobs)} {word}" for word, jobs in counts.items() if jobs]
        if self.waiting or self.running:
            parts.append(f"about {duration(self.seconds_left())} left")
        return ", ".join(parts)


def _alike(job: Job) -> list[Alike]:
    """The kinds of jobs whose duration a job's is like, the most alike first."""
    kind, method, backbone = job.kind, str(job.facts["method"]), str(job.facts["backbone"])
    return [(kind, method, backbone), (kind, "", backbone), (kind, method), (kind,)]


def duration(seconds: float | None) -> str:
    """``"45 s"``, ``"3 min 05 s"``, ``"2 h 10 min"``, or ``"?"`` for None."""
    if seconds is None:
        return "?"
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class View:
    """Told of every change of a run: a line for each finished job, for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def line(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def start(self, progress: TableProgress, stale: Iterable[str]) -> None:
        """Before the first job; ``stale`` says which results are computed anew, and why."""
        self.line(f"{progress.already} of {progress.total} jobs were already done")
        for text in stale:
            self.line(f"stale, computed again: {text}")

    def update(self, progress: TableProgress) -> None:
        """Several times a second."""

    def finished(self, job: Job, progress: TableProgress, seconds: float, error: str | None) -> None:
        """A job is done, or has failed with this error."""
        said = f"done in {seconds:.1f} s" if error is None else f"FAILED: {error}"
        self.line(f"[{len(progress.done)}/{progress.total}] {job.kind} {job.name} {said}; {progress.summary()}")

    def stop(self) -> None:
        """After the last job, or when interrupted."""


class LiveView(View):
    """A table that is redrawn in place; failures stay above it."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self.live = Live(console=console, auto_refresh=False, transient=True)
        self.drawn = 0.0

    def start(self, progress: TableProgress, stale: Iterable[str]) -> None:
        super().start(progress, stale)
        if progress.waiting:
            self.live.start()

    def update(self, progress: TableProgress) -> None:
        if time.monotonic() - self.drawn < LIVE_INTERVAL:
            return
        self.drawn = time.monotonic()
        table = Table(box=None, padding=(0, 2, 0, 0))
        for name in ("running", "step", "loss", "time"):
            table.add_column(name, justify="left" if name == "running" else "right", no_wrap=True)
        for one in progress.running:
            step = "" if one.step is None else f"{one.step}/{one.steps or '?'}"
            loss = "" if one.loss is None else f"{one.loss:.3f}"
            table.add_row(f"{one.job.kind} {one.job.name}", step, loss, duration(one.spent()))
        self.live.update(Group(Text(progress.summary(), style="bold"), table), refresh=True)

    def finished(self, job: Job, progress: TableProgress, seconds: float, error: str | None) -> None:
        if error is not None:
            self.line(f"FAILED {job.kind} {job.name}: {error}")

    def stop(self) -> None:
        self.live.stop()


def make_view(console: Console) -> View:
    """The view that suits the console."""
    return LiveView(console) if console.is_terminal else View(console)
