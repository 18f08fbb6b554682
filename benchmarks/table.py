"""Where the time of a table went: training, evaluation, and everything else.

    python benchmarks/table.py [RUNS] [--jobs 2]

Reads the results below a folder of runs (``runs/pocket``) that one ``table run`` computed from nothing. Outside of
training and evaluation are starting the workers and importing (before a job), reading weights, drawing images and
writing files (in a job), and workers without work (at the end).
"""

from __future__ import annotations

import argparse
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from craft_lightning.benchmark.store import RESULT, STARTED
from craft_lightning.errors import CraftError


@dataclass(frozen=True)
class Spent:
    """Seconds of a run: on the clock, in jobs, in training steps, in evaluations, of processors; jobs and workers."""

    clock: float
    inside: float
    training: float
    evaluation: float
    processor: float
    jobs: int
    workers: int

    @property
    def outside(self) -> float:
        """Share of the workers' time outside of training and evaluation."""
        return 1.0 - (self.training + self.evaluation) / (self.workers * self.clock)

    def report(self) -> str:
        """A Markdown table."""
        whole = self.workers * self.clock
        lines = {
            "training steps": self.training,
            "evaluations": self.evaluation,
            "in jobs, outside of both": self.inside - self.training - self.evaluation,
            "outside of jobs: starting, importing, waiting": whole - self.inside,
        }
        head = f"{self.jobs} jobs in {self.clock / 60:.1f} minutes, {self.workers} workers"
        return "\n".join(
            [
                f"| {head} | Seconds of workers | Share |",
                "| --- | ---: | ---: |",
                *(f"| {name} | {seconds:,.0f} | {seconds / whole:.1%} |" for name, seconds in lines.items()),
                f"| **outside of training and evaluation** (goal: below 10 %) | | **{self.outside:.1%}** |",
                f"| processors at work | {self.processor:,.0f} | {self.processor / whole:.1%} |",
            ]
        )


def spent(runs: Path, workers: int) -> Spent:
    """Of all jobs below a folder.

    Raises:
        CraftError: there are none, or they do not say where their time went.
    """
    files = sorted(runs.rglob(RESULT))
    if not files:
        raise CraftError(f"no results below {runs}; python -m craft_lightning table run table1 makes some")
    found: list[dict[str, Any]] = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    if old := [file for file, each in zip(files, found, strict=True) if "spent" not in each]:
        raise CraftError(f"{old[0]} and {len(old) - 1} more do not say where their time went: compute them anew")
    began = min(file.with_name(STARTED).stat().st_mtime for file in files)
    sums = {name: sum(each["spent"][name] for each in found) for name in ("training", "evaluation", "processor")}
    ended = max(file.stat().st_mtime for file in files)
    return Spent(ended - began, sum(each["seconds"] for each in found), **sums, jobs=len(found), workers=workers)


def main(argv: Sequence[str] | None = None) -> int:
    """Print it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="?", type=Path, default=Path("runs/pocket"), help="folder of results")
    parser.add_argument("--jobs", type=int, default=os.cpu_count(), help="workers of the run (default: one a core)")
    args = parser.parse_args(argv)
    print(spent(args.runs, args.jobs).report())
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
