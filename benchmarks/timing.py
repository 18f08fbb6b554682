"""What the measuring programs share: runs that take turns, exact peaks of memory, and the rows they end in.

A program is a module with ``rows(quick) -> list[Row]``, run by :func:`program`; ``benchmarks/all.py`` runs several.
In a row two figures of the same machine, process and minute stand side by side, so the ratio means something where the
figures do not.
"""

from __future__ import annotations

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from craft_lightning.io import write_json


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        goal: number of the goal it belongs to. figure: what is measured.
        against: the peer or the bound. bound: it is a bound, which nothing can beat, and no peer.
        theirs, ours: in ``unit``. most: what ours / theirs may be. least: what theirs / ours must be. At most one of
            the two is given; without either the ratio is ours / theirs and there is no goal.
    """

    goal: int
    figure: str
    against: str
    theirs: float
    ours: float
    unit: str
    most: float | None = None
    least: float | None = None
    bound: bool = False

    @property
    def ratio(self) -> float:
        """How much of theirs ours takes; where ``least`` is given, how many times faster ours is."""
        return self.theirs / self.ours if self.least is not None else self.ours / self.theirs

    @property
    def met(self) -> bool | None:
        """Whether the goal is reached; None without one."""
        if self.least is not None:
            return self.ratio >= self.least
        return None if self.most is None else self.ratio <= self.most

    def line(self) -> str:
        """One line of a Markdown table."""
        wanted = "" if self.met is None else f"≤ {self.most:g}" if self.least is None else f"≥ {self.least:g}"
        verdict = {None: "", True: "yes", False: "**no**"}[self.met]
        against = f"*{self.against}*" if self.bound else self.against
        theirs, ours = (f"{figure:,.3g}" if figure < 1000 else f"{figure:,.0f}" for figure in (self.theirs, self.ours))
        return (
            f"| {self.goal} | {self.figure} | {against} | {theirs} {self.unit} | {ours} {self.unit} "
            f"| {self.ratio:.2f} | {wanted} | {verdict} |"
        )


HEAD = (
    "| Goal | Figure | Against (*bound*) | Theirs | Ours | Ratio | Wanted | Met |",
    "| ---: | --- | --- | ---: | ---: | ---: | ---: | --- |",
)


def table(rows: Sequence[Row]) -> str:
    """All rows in Markdown."""
    return "\n".join([*HEAD, *(row.line() for row in rows)])


def alternate(runs: Sequence[Callable[[], object]], rounds: int, warm_up: int) -> list[float]:
    """Median seconds of each run.

    They take turns, forwards and backwards, so that whatever else the machine does meets all alike and none is always
    the one behind the same other.
    """
    found: list[list[float]] = [[] for _ in runs]
    for number in range(warm_up + rounds):
        order = range(len(runs)) if number % 2 == 0 else reversed(range(len(runs)))
        for place in order:
            synchronise()
            began = time.perf_counter()
            runs[place]()
            synchronise()
            if number >= warm_up:
                found[place].append(time.perf_counter() - began)
    return [statistics.median(times) for times in found]


def synchronise() -> None:
    """Wait for the GPU, if there is one."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


@dataclass
class Peak:
    """What tensors held beyond what they held at first; known when the block of :func:`memory` has ended.

    Attributes:
        bytes: the most at a time. kept: at the end: results, if the block keeps them.
    """

    bytes: int = 0
    kept: int = 0


@contextmanager
def memory() -> Iterator[Peak]:
    """Counts every allocation of a tensor on the CPU and its release: exact, whatever else the process does.

    Scratch space of the matrix library is not seen.
    """
    peak = Peak()
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU], profile_memory=True) as profiler:
        yield peak
    results: Any = profiler.profiler.kineto_results  # type: ignore[union-attr]
    for event in sorted((e for e in results.events() if e.name() == "[memory]"), key=lambda e: e.start_ns()):
        peak.kept += event.nbytes()
        peak.bytes = max(peak.bytes, peak.kept)


def processor() -> str:
    """Name of the processor and number of cores."""
    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").is_file() else []
    named = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return f"{named[0] if named else platform.machine()}, {os.cpu_count()} cores"


def where() -> str:
    """Date, machine, threads and version, in one line."""
    device = torch.cuda.get_device_name() if torch.cuda.is_available() else processor()
    threads = torch.get_num_threads()
    computing = f"computed with {threads} thread{'s' if threads > 1 else ''}"
    return f"{time.strftime('%d %B %Y')}, {device}, {computing}, torch {torch.__version__}"


def program(doc: str | None, rows: Callable[[bool], Sequence[Row]]) -> int:
    """The command line of a measuring program: measure, print, and write if a file is given."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="small sizes and few rounds: to see that it works")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    args = parser.parse_args()
    began = time.perf_counter()
    found = list(rows(args.quick))
    seconds = time.perf_counter() - began
    print(f"{table(found)}\n\n{seconds:.0f} s ({where()})", flush=True)
    if args.output is not None:
        told = [asdict(row) for row in found]
        write_json(args.output, {"where": where(), "seconds": round(seconds, 1), "quick": args.quick, "rows": told})
    return 0
