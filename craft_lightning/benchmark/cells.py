"""What the results say about each cell of a table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev
from typing import Any

from craft_lightning.benchmark import result_store as store
from craft_lightning.benchmark.plan import Line, Node, Plan
from craft_lightning.benchmark.spec import Metric

PAPER_MEAN = "avg_printed"
KEPT_DIGITS = 4
"""Decimals of a number in printed units. A table is stored with all of them, so it is rendered again as before."""

Place = tuple[int, int]
"""Line number, column number."""


@dataclass(frozen=True)
class Score:
    """Values by seed, in printed units; at least one."""

    by_seed: Mapping[int, float]

    @property
    def mean(self) -> float:
        """Over the seeds."""
        return fmean(self.by_seed.values())

    @property
    def std(self) -> float | None:
        """Standard deviation over the seeds; None for one."""
        return stdev(self.by_seed.values()) if len(self.by_seed) > 1 else None


@dataclass(frozen=True)
class Cost:
    """What a training took, mean over seeds: trained parameters, seconds of its steps, peak memory in MB."""

    parameters: float
    seconds: float
    memory: float


@dataclass(frozen=True)
class Cell:
    """A line at a column.

    Attributes:
        score, seen, unseen: over the finished seeds; None where there is no result (or no such label).
        items, items_unseen: number of test items of one seed, all and with held-out labels.
        majority: per cent of the items that have the most frequent answer; None where there is no result.
        wanted: planned seeds.
        error: last error line of a seed that failed.
        cost: of the training behind it; None without one.
    """

    score: Score | None = None
    seen: Score | None = None
    unseen: Score | None = None
    items: int = 0
    items_unseen: int = 0
    majority: float | None = None
    wanted: int = 1
    error: str | None = None
    cost: Cost | None = None

    @property
    def seeds(self) -> int:
        """Finished seeds."""
        return len(self.score.by_seed) if self.score else 0


def collect(plan: Plan) -> dict[Place, Cell]:
    """Every cell of the plan, from the results that belong to the present settings, code and weights."""
    metric = plan.spec.metric
    return {(n, c): _cell(metric.at(plan.lines[n].row.keep), nodes) for (n, c), nodes in plan.cells.items()}


def by_seed(nodes: Sequence[Node]) -> dict[int, list[Node]]:
    """The nodes behind a cell, by seed: one for a plain column, else one for each dataset."""
    found: dict[int, list[Node]] = {}
    for node in nodes:
        found.setdefault(int(node.facts["seed"]), []).append(node)
    return found


def _cell(metric: Metric, nodes: Sequence[Node]) -> Cell:
    groups = by_seed(nodes)
    results = {seed: [r for r in map(store.result, group) if r is not None] for seed, group in groups.items()}
    # A mean over fewer datasets is another number, so a seed counts when all of them are there.
    whole = {seed: found for seed, found in results.items() if len(found) == len(groups[seed])}
    first = next(iter(whole.values()), [])
    items = [r.get("items", {}) for r in first]
    unseen = int(items[0].get("unseen", 0)) if len(items) == 1 and metric.by_labels else 0

    def score(suffix: str) -> Score | None:
        values = {seed: [r["metrics"].get(metric.name + suffix) for r in found] for seed, found in whole.items()}
        there = {seed: found for seed, found in values.items() if None not in found}
        return Score({s: round(fmean(v) * metric.scale, KEPT_DIGITS) for s, v in there.items()}) if there else None

    # A cell fails with its training as well as with its test.
    asked = [n for node in nodes if store.result(node) is None for n in (node.parent, node) if n is not None]
    errors = [e for e in map(store.failure, asked) if e is not None]
    total, frequent = (sum(int(i.get(name) or 0) for i in items) for name in ("all", "majority"))
    return Cell(
        score=score(""),
        seen=score("_seen") if unseen else None,
        unseen=score("_unseen") if unseen else None,
        items=total,
        items_unseen=unseen,
        majority=round(100 * frequent / total, KEPT_DIGITS) if frequent else None,
        wanted=len(groups),
        error=errors[-1] if errors else None,
        cost=_cost(nodes),
    )


def _cost(nodes: Sequence[Node]) -> Cost | None:
    trainings = {n.name: n for node in nodes if (n := node.parent or node).kind == "train"}
    found: list[Mapping[str, Any]] = [r["cost"] for r in map(store.result, trainings.values()) if r and "cost" in r]
    if not found:
        return None
    parameters, seconds, memory = (fmean(c[name] for c in found) for name in ("parameters", "seconds", "memory"))
    return Cost(round(parameters), round(seconds, 1), round(memory / 1e6))


def mean_of(scores: Sequence[Score | None]) -> Score | None:
    """The mean over columns, of the seeds that all of them have; None while a column is missing, because a mean over
    fewer columns is another number.
    """
    present = [s for s in scores if s is not None]
    if not present or len(present) < len(scores):
        return None
    shared = [seed for seed in present[0].by_seed if all(seed in s.by_seed for s in present)]
    return Score({seed: fmean(s.by_seed[seed] for s in present) for seed in shared}) if shared else None


def baseline_of(plan: Plan, line: Line) -> int | None:
    """The number of the line that this line's gain is counted from: the baseline row on the same backbone.

    A baseline that is trained itself has to be trained with the same surrogate.
    """
    if line.row.id == plan.spec.baseline:
        return None
    for number, other in enumerate(plan.lines):
        here = other.backbone == line.backbone and other.surrogate in (None, line.surrogate)
        if here and other.row.id == plan.spec.baseline:
            return number
    return None


def difference(one: Score | None, other: Score | None) -> Score | None:
    """The gain of ``one`` over ``other``, seed by seed, at the seeds that both have; None without any."""
    if one is None or other is None:
        return None
    shared = one.by_seed.keys() & other.by_seed.keys()
    return Score({seed: one.by_seed[seed] - other.by_seed[seed] for seed in sorted(shared)}) if shared else None


def gains(plan: Plan, cells: Mapping[Place, Cell], number: int, part: str = "score") -> list[Score | None]:
    """A line's gain over its baseline line at each column; empty for a line without one.

    Args:
        plan: the table. cells: its cells. number: of the line.
        part: what is compared: ``score``, ``seen`` or ``unseen``.
    """
    base = baseline_of(plan, plan.lines[number])
    if base is None:
        return []
    found = []
    for c in range(len(plan.columns)):
        mine, before = (getattr(cells[n, c], part) for n in (number, base))
        if mine is not None and before is not None and plan.lines[base].surrogate is None:
            # What trains nothing, by the plan and not by the results that are there, has one value for every seed.
            before = Score(dict.fromkeys(mine.by_seed, before.mean))
        found.append(difference(mine, before))
    return found


def paper_scores(plan: Plan, line: Line) -> list[Score | None]:
    """The paper's values for a line at each column, and its printed mean at last."""
    surrogate = line.surrogate.paper if line.surrogate else "none"
    # The printed mean is that of all the paper's columns, so it stands beside a whole table only.
    whole = len(plan.columns) == len(plan.spec.columns)
    names = [*(c.paper for c in plan.columns), PAPER_MEAN if whole else ""]
    values = [plan.spec.paper.get((line.row.paper, surrogate, line.backbone.paper, name)) for name in names]
    return [None if value is None else Score({0: value}) for value in values]


def paper_gains(plan: Plan, line: Line) -> list[Score | None]:
    """The paper's gain of a line over its baseline line, as :func:`paper_scores`; empty without a baseline."""
    base = baseline_of(plan, line)
    if base is None:
        return []
    ours, theirs = paper_scores(plan, line), paper_scores(plan, plan.lines[base])
    return [difference(a, b) for a, b in zip(ours, theirs, strict=True)]
