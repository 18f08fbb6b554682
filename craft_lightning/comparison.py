"""Runs beside each other: two of them item by item, or all those of a table."""

from __future__ import annotations

import io
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from craft_lightning.benchmark.claims import LEVEL, interval, read_predictions
from craft_lightning.errors import CraftError

if TYPE_CHECKING:
    from pandas import DataFrame

REPLIES = ("predictions.test.jsonl", "predictions.jsonl")
"""Where a run's folder holds its replies: those of a test in a training's folder, else its own."""


@dataclass(frozen=True)
class Comparison:
    """What two runs made of the same items.

    Attributes:
        items: number of them. before, after: share that each run answers right.
        difference: after - before. low, high: its 95 % interval by the bootstrap over the items.
        gained: keys of the items that only the second run answers right. lost: only the first.
    """

    items: int
    before: float
    after: float
    difference: float
    low: float
    high: float
    gained: tuple[str, ...]
    lost: tuple[str, ...]

    def __str__(self) -> str:
        points = f"{100 * self.difference:+.2f} points [{100 * self.low:+.2f}, {100 * self.high:+.2f}]"
        told = f"{self.before:.2%} -> {self.after:.2%} of {self.items} items, {points} ({LEVEL:.0%} interval)"
        return f"{told}; {len(self.gained)} gained, {len(self.lost)} lost"


def compare(run_a: str | Path, run_b: str | Path) -> Comparison:
    """The paired difference of two runs, the second minus the first.

    Args:
        run_a, run_b: folders of runs, or files of replies (``predictions*.jsonl``).

    Raises:
        CraftError: no replies there, or replies to different items.
    """
    files = [_replies(Path(run)) for run in (run_a, run_b)]
    before, after = map(read_predictions, files)
    asked = [{key: item for key, (item, _) in found.items()} for found in (before, after)]
    if other := sorted({key for key, _ in asked[0].items() ^ asked[1].items()}):
        raise CraftError(f"{files[0]} and {files[1]} answer different items: {len(other)}, {other[0]} for one")
    right = np.array([[before[key][1], after[key][1]] for key in before], dtype=float)
    if not len(right):
        raise CraftError(f"{files[0]} holds no replies")
    difference, low, high = interval([(right[:, 1] - right[:, 0])[None]])
    gained, lost = (tuple(k for k in before if (before[k][1], after[k][1]) == pair) for pair in ((0, 1), (1, 0)))
    share_before, share_after = right.mean(axis=0).tolist()
    return Comparison(len(right), share_before, share_after, difference, low, high, gained, lost)


def _replies(run: Path) -> Path:
    if run.is_file():
        return run
    found = next((run / name for name in REPLIES if (run / name).is_file()), None)
    if found is None:
        raise CraftError(f"no {' or '.join(REPLIES)} in {run}: name the folder of a run")
    return found


def run_table(
    table: str,
    *,
    only: str | None = None,
    limit: int | None = None,
    seeds: list[int] | None = None,
    jobs: int | None = None,
    runs: str | Path = "runs",
    budget: str = "short",
) -> DataFrame:
    """Compute what is missing of a table, in worker processes, and return all of it: a row a cell.

    Args:
        table: a file, or a name below ``experiments/tables``.
        only: compute only the jobs whose name holds or matches this. seeds: in place of the table's.
        limit: a trial of two rows and columns, 8 times as many items.
        jobs: worker processes, None for one a core. runs: where results go.
        budget: how long trainings are (``experiments/budgets``).

    Raises:
        CraftError: a mistake in the table, or a job that failed.
    """
    import pandas as pd
    from rich.console import Console

    from craft_lightning.benchmark.estimate import make_view
    from craft_lightning.benchmark.plan import make_plan, select
    from craft_lightning.benchmark.results import gather
    from craft_lightning.benchmark.scheduler import run_plan, worker_count
    from craft_lightning.benchmark.spec import find_table, load_spec
    from craft_lightning.benchmark.table_files import to_csv

    plan = make_plan(load_spec(find_table(table), budget=budget), Path(runs), seeds, limit)
    chosen = select(plan, only)
    progress = run_plan(chosen, worker_count(chosen.jobs, jobs), make_view(Console()))
    if progress.failed:
        raise CraftError(f"{len(progress.failed)} jobs failed: python -m craft_lightning table status {table}")
    return pd.read_csv(io.StringIO(to_csv(plan, gather(plan))))
