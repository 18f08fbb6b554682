"""All that a rendered table says, from the runs: cells, means and gains over seeds, the paper's numbers beside them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from math import sqrt
from statistics import fmean, stdev
from typing import Any

from craft_lightning.benchmark import store
from craft_lightning.benchmark.claims import Verdict, judge
from craft_lightning.benchmark.judged import Judged
from craft_lightning.benchmark.plan import Job, Plan, baseline_of
from craft_lightning.benchmark.table_parts import Line
from craft_lightning.benchmark.table_values import Metric

PAPER_MEANS = ("avg_printed", "avg_recomputed")
"""The paper's mean over its columns, and ours of its numbers where it prints none (Table 7)."""
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
class There:
    """What had to be trained on the tested backbone itself, mean over seeds: optimiser steps, their seconds, trained
    parameters. All are 0 of what was only plugged in."""

    steps: float
    seconds: float
    parameters: float


@dataclass(frozen=True)
class Cell:
    """A line at a column.

    Attributes:
        score, seen, unseen: over the finished seeds; None where there is no result (or no such label).
        items, items_unseen: number of test items of one seed, all and with held-out labels.
        majority: per cent of the items that have the most frequent answer; None where there is no result.
        wanted: planned seeds. error: last error line of a seed that failed.
        cost: of the training behind it; None without one. there: see the class; None where it is not known,
            or the table has no receivers. left_out: items that a judge has not judged for all rows.
        trace: the table's scalar of the training behind it by step, mean over seeds; empty without one.
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
    there: There | None = None
    left_out: int = 0
    trace: Mapping[int, float] = field(default_factory=dict)

    @property
    def seeds(self) -> int:
        """Finished seeds."""
        return len(self.score.by_seed) if self.score else 0


@dataclass(frozen=True)
class Made:
    """How the numbers came about.

    Attributes:
        date: of the last result, ``YYYY-MM-DD``. machines, commits: of all results; a changed tree has a ``+``.
        nodes: number of jobs, by its name in stored files. seconds: the sum of theirs. seeds: planned.
        arithmetic: what the sums of all results hang on, in words; empty where they do not say.
    """

    date: str
    machines: tuple[str, ...]
    commits: tuple[str, ...]
    nodes: int
    seconds: float
    seeds: tuple[int, ...]
    arithmetic: tuple[str, ...] = ()


@dataclass(frozen=True)
class Results:
    """A table's numbers. ``made`` is None if no result says where it comes from."""

    cells: Mapping[Place, Cell]
    verdicts: tuple[Verdict, ...] = ()
    made: Made | None = None


def gather(plan: Plan) -> Results:
    """From the runs: cells, verdicts on the claims, and where the numbers come from."""
    return Results(collect(plan), judge(plan), _made(plan))


def collect(plan: Plan) -> dict[Place, Cell]:
    """Every cell of the plan, from the results that belong to the present settings, code and weights."""
    judged, cells = Judged(plan), {}
    for (number, column), jobs in plan.cells.items():
        metric, keep_ratio = plan.columns[column].metric, plan.lines[number].row.keep_ratio
        own = partial(judged.result, keep_ratio=keep_ratio, column=column) if metric.judged else store.result
        cell = _cell(metric, keep_ratio, jobs, own)
        there = _there(jobs) if plan.spec.receivers else None
        left_out = judged.dropped(column) if metric.judged else 0
        cells[number, column] = replace(cell, there=there, left_out=left_out, trace=_trace(plan.spec.trace, jobs))
    return cells


def by_seed(jobs: Sequence[Job]) -> dict[int, list[Job]]:
    """The jobs behind a cell, by seed: one for a plain column, else one for each dataset."""
    found: dict[int, list[Job]] = {}
    for job in jobs:
        found.setdefault(int(job.facts["seed"]), []).append(job)
    return found


def _cell(
    metric: Metric, keep_ratio: float | None, jobs: Sequence[Job], result: Callable[[Job], dict[str, Any] | None]
) -> Cell:
    groups = by_seed(jobs)
    results = {seed: [r for r in map(result, group) if r is not None] for seed, group in groups.items()}
    # A mean over fewer datasets is another number, so a seed counts when all of them are there.
    whole = {seed: found for seed, found in results.items() if len(found) == len(groups[seed])}
    items = [r.get("items", {}) for r in next(iter(whole.values()), [])]
    unseen = int(items[0].get("unseen", 0)) if len(items) == 1 and metric.by_labels else 0

    def score(suffix: str) -> Score | None:
        name = metric.at(keep_ratio) + suffix
        values = {seed: [r["metrics"].get(name) for r in found] for seed, found in whole.items()}
        there = {seed: found for seed, found in values.items() if None not in found}
        return Score({s: round(fmean(v) * metric.scale, KEPT_DIGITS) for s, v in there.items()}) if there else None

    # A cell fails with its training as well as with its test.
    asked = [j for job in jobs if store.result(job) is None for j in job.lineage]
    errors = [error for error in map(store.failure, asked) if error is not None]
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
        cost=_cost(jobs),
    )


def _cost(jobs: Sequence[Job]) -> Cost | None:
    trainings = {training.name: training for job in jobs if (training := job.training) is not None}
    found: list[Mapping[str, Any]] = [r["cost"] for r in map(store.result, trainings.values()) if r and "cost" in r]
    if not found:
        return None
    parameters, seconds, memory = (fmean(c[name] for c in found) for name in ("parameters", "seconds", "memory"))
    return Cost(round(parameters), round(seconds, 1), round(memory / 1e6))


def _there(jobs: Sequence[Job]) -> There | None:
    before = [job.parent if job.kind == "eval" else job for job in jobs]
    own = [b for job, b in zip(jobs, before, strict=True) if b and b.facts["backbone"] == job.facts["backbone"]]
    if not own:
        return There(0, 0, 0)
    found = [{"steps": r["steps"], **r["cost"]} for r in map(store.result, own) if r and "cost" in r]
    if len(found) < len(own):
        return None
    steps, seconds, parameters = (fmean(r[name] for r in found) for name in ("steps", "seconds", "parameters"))
    return There(round(steps), round(seconds, 1), round(parameters))


def _trace(name: str, jobs: Sequence[Job]) -> dict[int, float]:
    trainings = {training.name: training for job in jobs if name and (training := job.training) is not None}
    values: dict[int, list[float]] = {}
    for job in trainings.values():
        for line in store.curves(job):
            if name in line:
                values.setdefault(int(line["step"]), []).append(float(line[name]))
    return {step: float(f"{fmean(found):.5g}") for step, found in values.items()}


def _made(plan: Plan) -> Made | None:
    found = [r for r in map(store.result, plan.jobs) if r is not None]
    told: list[dict[str, Any]] = [r["made"] for r in found if "made" in r]
    if not told:
        return None
    commits = {str(m.get("commit", ""))[:10] + ("+" if m.get("changed") else "") for m in told} - {""}
    # What trains nothing has seed 0, whatever the others have.
    trained = [job for job in plan.jobs if job.kind == "train"]
    return Made(
        date=max(str(m["date"]) for m in told),
        machines=tuple(sorted({str(m["machine"]) for m in told})),
        commits=tuple(sorted(commits)),
        nodes=len(found),
        seconds=round(sum(float(r.get("seconds", 0.0)) for r in found), 1),
        seeds=tuple(sorted({int(job.facts["seed"]) for job in trained or plan.jobs})),
        arithmetic=store.arithmetic(plan.jobs),
    )


def mean_of(scores: Sequence[Score | None]) -> Score | None:
    """The mean over columns, of the seeds that all of them have; None while a column is missing, because a mean over
    fewer columns is another number.
    """
    present = [s for s in scores if s is not None]
    if not present or len(present) < len(scores):
        return None
    shared = [seed for seed in present[0].by_seed if all(seed in s.by_seed for s in present)]
    return Score({seed: fmean(s.by_seed[seed] for s in present) for seed in shared}) if shared else None


def difference(one: Score | None, other: Score | None) -> Score | None:
    """The gain of ``one`` over ``other``, seed by seed, at the seeds that both have; None without any."""
    if one is None or other is None:
        return None
    shared = one.by_seed.keys() & other.by_seed.keys()
    return Score({seed: one.by_seed[seed] - other.by_seed[seed] for seed in sorted(shared)}) if shared else None


def gains(plan: Plan, cells: Mapping[Place, Cell], number: int, part: str = "score") -> list[Score | None]:
    """A line's gain over its baseline line at each column, in one ``part`` (``score``, ``seen`` or ``unseen``); empty
    for a line without one."""
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
    """The paper's values for a line at each column, and its mean at last."""
    known, surrogate = plan.spec.paper.values, line.surrogate.paper if line.surrogate else "none"
    who = (line.row.paper, surrogate, line.backbone.paper)
    # The mean is that of all the paper's columns, so it stands beside a whole table only.
    means = PAPER_MEANS if len(plan.columns) == len(plan.spec.columns) else ()
    values = [known.get((*who, column.paper)) for column in plan.columns]
    values.append(next((known[*who, name] for name in means if (*who, name) in known), None))
    return [None if value is None else Score({0: value}) for value in values]


def paper_gains(plan: Plan, line: Line) -> list[Score | None]:
    """The paper's gain of a line over its baseline line, as :func:`paper_scores`; empty without a baseline."""
    base = baseline_of(plan, line)
    if base is None:
        return []
    return [*map(difference, paper_scores(plan, line), paper_scores(plan, plan.lines[base]))]


@dataclass(frozen=True)
class PublishedMatch:
    """Numbers of values (a cell at a seed) that are equal to the digit, or near; those that are neither, in words."""

    equal: int
    near: int
    outside: tuple[str, ...]

    def __str__(self) -> str:
        """What ``table status`` prints."""
        count = self.equal + self.near + len(self.outside)
        near = f"{self.near} within the spread of the seeds, {len(self.outside)} outside"
        return "\noutside ".join([f"of {count} values {self.equal} equal to the digit, {near}", *self.outside])


def beside(plan: Plan, cells: Mapping[Place, Cell], published: Mapping[Place, Cell]) -> PublishedMatch:
    """Each value beside the published one of its seed, or beside the published seeds where it is not among them.

    Two processors may round sums in different orders; a rounded distance flips a code, and a training goes another way.
    It is then as good as one of another seed, and has to be as near to the published seeds as such a one would be.
    """
    equal, near, outside = 0, 0, []
    for (number, column), cell in cells.items():
        old = published[number, column].score
        if cell.score is None or old is None:
            continue
        for seed, value in cell.score.by_seed.items():
            if seed in old.by_seed and round(value - old.by_seed[seed], KEPT_DIGITS) == 0:
                equal += 1
            elif abs(value - old.mean) <= reach(old):
                near += 1
            else:
                line, known = plan.lines[number], ", ".join(f"{old.by_seed[k]:.2f} (seed {k})" for k in old.by_seed)
                where = f"{line.label} on {line.backbone.label}, {plan.columns[column].label}, seed {seed}"
                outside.append(f"{where}: {value:.2f}, published {known}")
    return PublishedMatch(equal, near, tuple(outside))


def reach(score: Score) -> float:
    """How far from the mean of some seeds 95 of 100 other seeds lie; 0 for a single one, which says nothing of that."""
    if score.std is None:
        return 0.0
    from scipy.special import stdtrit  # numpy with it: `table status` starts without

    seeds = len(score.by_seed)
    return float(stdtrit(seeds - 1, 0.975)) * score.std * sqrt(1 + 1 / seeds)
