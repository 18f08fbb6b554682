"""What the results say about each cell of a table."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from craft_lightning.tables import store
from craft_lightning.tables.plan import Line, Plan

PAPER_MEAN = "avg_printed"


@dataclass(frozen=True)
class Score:
    """A mean over seeds, in printed units; ``std`` is None for one seed."""

    mean: float
    std: float | None = None


@dataclass(frozen=True)
class Cell:
    """A line at a column.

    Attributes:
        score, seen, unseen: over the finished seeds; None where there is no result (or no such label).
        items, items_unseen: number of test items of one seed, all and with held-out labels.
        majority: per cent of the items that have the most frequent answer; None where there is no result.
        seeds, wanted: finished and planned seeds.
        error: last error line of a seed that failed.
    """

    score: Score | None
    seen: Score | None
    unseen: Score | None
    items: int
    items_unseen: int
    majority: float | None
    seeds: int
    wanted: int
    error: str | None


def collect(plan: Plan) -> dict[tuple[int, int], Cell]:
    """Every cell of the plan, from the results that belong to the present settings, code and weights."""
    return {place: _cell(plan, place) for place in plan.cells}


def _cell(plan: Plan, place: tuple[int, int]) -> Cell:
    nodes = plan.cells[place]
    found = [r for r in map(store.result, nodes) if r is not None]
    metric = plan.spec.metric

    def score(suffix: str) -> Score | None:
        values = [r["metrics"].get(metric.name + suffix) for r in found]
        numbers = [v * metric.scale for v in values if v is not None]
        if not numbers:
            return None
        return Score(fmean(numbers), stdev(numbers) if len(numbers) > 1 else None)

    # A cell fails with its training as well as with its test.
    asked = [n for node in nodes if store.result(node) is None for n in (node.parent, node) if n is not None]
    errors = [e for e in map(store.failure, asked) if e is not None]
    items = found[0].get("items", {}) if found else {}
    unseen = int(items.get("unseen", 0)) if metric.by_labels else 0
    return Cell(
        score=score(""),
        seen=score("_seen") if unseen else None,
        unseen=score("_unseen") if unseen else None,
        items=int(items.get("all", 0)),
        items_unseen=unseen,
        majority=100 * items["majority"] / items["all"] if items.get("majority") else None,
        seeds=len(found),
        wanted=len(nodes),
        error=errors[-1] if errors else None,
    )


def mean_of(scores: Sequence[Score | None]) -> Score | None:
    """The mean over columns; None while one is missing, because a mean over fewer columns is another number."""
    present = [s.mean for s in scores if s is not None]
    return Score(fmean(present)) if present and len(present) == len(scores) else None


def baseline_of(plan: Plan, line: Line) -> int | None:
    """The number of the line that this line's gain is counted from: the baseline row on the same backbone."""
    for number, other in enumerate(plan.lines):
        if other.row.id == plan.spec.baseline and other.backbone == line.backbone and line.row.id != plan.spec.baseline:
            return number
    return None


def difference(one: Score | None, other: Score | None) -> Score | None:
    """The gain of ``one`` over ``other``, where both exist."""
    return None if one is None or other is None else Score(one.mean - other.mean)


def paper_score(plan: Plan, line: Line, column: str) -> Score | None:
    """The paper's value for a line at one of the paper's column names."""
    surrogate = line.surrogate.paper if line.surrogate else "none"
    value = plan.spec.paper.get((line.row.paper, surrogate, line.backbone.paper, column))
    return None if value is None else Score(value)
