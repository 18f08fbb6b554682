"""The progress of a run: a live table in a terminal, one plain line per finished node elsewhere."""

from __future__ import annotations

import time

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from craft_lightning.benchmark.plan import Node
from craft_lightning.benchmark.progress_estimate import Progress
from craft_lightning.benchmark.scheduler import View

LIVE_INTERVAL = 0.5


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


def summary(progress: Progress) -> str:
    """One line: done, running, failed, time left."""
    parts = [f"{len(progress.done)} of {progress.total} nodes done"]
    if progress.running:
        parts.append(f"{len(progress.running)} running")
    if progress.elsewhere:
        parts.append(f"{len(progress.elsewhere)} computed by another run")
    if progress.failed:
        parts.append(f"{len(progress.failed)} failed")
    if progress.waiting or progress.running:
        parts.append(f"about {duration(progress.seconds_left())} left")
    return ", ".join(parts)


def counted(progress: Progress) -> str:
    """The line that says what an earlier run left to reuse."""
    return f"{progress.already} of {progress.total} nodes were already done"


class PlainView(View):
    """Lines of text, for logs and pipes."""

    def __init__(self, console: Console) -> None:
        self.console = console

    def line(self, text: str) -> None:
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def start(self, progress: Progress, stale: list[str]) -> None:
        self.line(counted(progress))
        for text in stale:
            self.line(f"stale, computed anew: {text}")

    def finished(self, node: Node, progress: Progress, seconds: float, error: str | None) -> None:
        said = f"done in {seconds:.1f} s" if error is None else f"FAILED: {error}"
        self.line(f"[{len(progress.done)}/{progress.total}] {node.kind} {node.name} {said}; {summary(progress)}")


class LiveView(PlainView):
    """A table that is redrawn in place; failures stay above it."""

    def __init__(self, console: Console) -> None:
        super().__init__(console)
        self.live = Live(console=console, auto_refresh=False, transient=True)
        self.drawn = 0.0

    def start(self, progress: Progress, stale: list[str]) -> None:
        super().start(progress, stale)
        if progress.waiting:
            self.live.start()

    def update(self, progress: Progress) -> None:
        if time.monotonic() - self.drawn >= LIVE_INTERVAL:
            self.drawn = time.monotonic()
            self.live.update(Group(Text(summary(progress), style="bold"), _running(progress)), refresh=True)

    def finished(self, node: Node, progress: Progress, seconds: float, error: str | None) -> None:
        if error is not None:
            self.line(f"FAILED {node.kind} {node.name}: {error}")

    def stop(self, progress: Progress) -> None:
        self.live.stop()


def _running(progress: Progress) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0))
    for name, justify in (("running", "left"), ("step", "right"), ("loss", "right"), ("time", "right")):
        table.add_column(name, justify="right" if justify == "right" else "left", no_wrap=True)
    for running in progress.running:
        step = "" if running.step is None else f"{running.step}/{running.steps or '?'}"
        loss = "" if running.loss is None else f"{running.loss:.3f}"
        spent = duration(running.spent())
        table.add_row(f"{running.node.kind} {running.node.name}", step, loss, spent)
    return table


def make_view(console: Console) -> View:
    """The view that suits the console."""
    return LiveView(console) if console.is_terminal else PlainView(console)
