"""What a table is asked to decide, and how: paired differences of stored replies, with a bootstrap interval.

A claim compares gains over the own baseline row: that of some lines with nothing, or with that of others.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from craft_lightning.benchmark import store
from craft_lightning.benchmark.judged import Judged
from craft_lightning.benchmark.plan import Plan, baseline_of
from craft_lightning.benchmark.table_parts import Claim
from craft_lightning.errors import CraftError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Outcomes = NDArray[np.float64]

DRAWS = 10_000
LEVEL = 0.95
LEAST_SEEDS = 3
"""Fewer runs of a method than this decide nothing, however far their interval is from 0."""
WIDE = 3.0
"""Points of spread over the seeds beyond which the interval is too short: resampling three seeds knows nothing of what
others would do. A test counts how often it holds a planted difference."""

HOLDS, FAILS, UNDECIDED = "holds", "does not hold", "undecided"
NO_ANSWER = "cannot be judged"
LEFT_OUT = "the others are not finished in all of its cells"
PAIRS = {"any": "", "same": " behind its own surrogate", "different": " behind other models"}


@dataclass(frozen=True)
class Verdict:
    """What the predictions say of a claim.

    Attributes:
        word: one of :data:`HOLDS`, :data:`FAILS`, :data:`UNDECIDED`, :data:`NO_ANSWER`.
        estimate, low, high: mean difference and its 95 % interval, in printed units; None if nothing can be said.
        detail: columns on either side of 0, or what is missing.
        spread: standard deviation of the difference over the seeds, in printed units; None for fewer than two.
    """

    id: str
    text: str
    word: str
    estimate: float | None
    low: float | None
    high: float | None
    detail: str
    spread: float | None = None

    @property
    def warning(self) -> str:
        """What to know beside the interval; empty where there is nothing."""
        if self.spread is None or self.spread <= WIDE:
            return ""
        return (
            f"Its seeds spread by {self.spread:.2f} points: beyond {WIDE:g}, an interval over three seeds holds the "
            f"true difference less often than {LEVEL:.0%} says (83% of the time at 4 points); more seeds mend that"
        )


def interval(
    strata: Sequence[Outcomes], draws: int = DRAWS, seed: int = 0, images: Sequence[Sequence[str]] | None = None
) -> tuple[float, float, float]:
    """Mean over datasets of the mean difference, and its interval by the bootstrap.

    A draw resamples images within each dataset, with all that is asked about them (the same ones for all seeds), and
    seeds jointly for all datasets. Images whose outcomes are equal in all seeds are interchangeable, so a draw of n
    images is a multinomial draw of outcomes.

    Args:
        strata: for each dataset the paired differences ``[seeds, items]``. draws: number of resamples.
        images: for each dataset the name of each item's image; None: each item has an image of its own.

    Returns:
        Estimate, lower and upper end of the interval of :data:`LEVEL`.
    """
    import numpy as np

    rng = np.random.default_rng(seed)
    seeds = len(strata[0])
    chosen = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=draws) / seeds
    total = np.zeros(draws)
    for number, outcomes in enumerate(strata):
        index = np.arange(outcomes.shape[1]) if images is None else np.unique(images[number], return_inverse=True)[1]
        sums = [np.bincount(index, row) for row in (*outcomes, np.ones(outcomes.shape[1]))]
        patterns, counts = np.unique(sums, axis=1, return_counts=True)
        drawn = rng.multinomial(counts.sum(), counts / counts.sum(), size=draws) @ patterns.T
        total += (drawn[:, :-1] * chosen).sum(axis=1) / drawn[:, -1]
    low, high = np.quantile(total / len(strata), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(np.mean([outcomes.mean() for outcomes in strata])), float(low), float(high)


def spread(strata: Sequence[Outcomes]) -> float:
    """Standard deviation over the seeds, at least two, of the mean over datasets of the mean difference; ``strata`` are
    those of :func:`interval`."""
    import numpy as np

    return float(np.std(np.mean([outcomes.mean(axis=1) for outcomes in strata], axis=0), ddof=1))


def decide(low: float, high: float, seeds: int) -> str:
    """The word for an interval: it has to exclude 0, and enough seeds have to stand behind it."""
    if seeds < LEAST_SEEDS or low <= 0 <= high:
        return UNDECIDED
    return HOLDS if low > 0 else FAILS


def judge(plan: Plan) -> tuple[Verdict, ...]:
    """A verdict on each claim of the table."""
    replies = _Replies(plan)
    return tuple(_judge(plan, claim, replies) for claim in plan.spec.claims)


def _judge(plan: Plan, claim: Claim, replies: _Replies) -> Verdict:
    try:
        columns = [c for c in plan.counted if not claim.columns or plan.columns[c].id in claim.columns]
        sides, seeds, wanted = _compared(plan, claim, columns)
        number, base = next(iter(sides[0].items()))
        reference = number if base is None else base
        gains = [[replies.gain(side, c, seeds, reference) for c in columns] for side in sides]
        images = [replies.images(reference, c, seeds[0]) for c in columns]
    except CraftError as error:
        return Verdict(claim.id, claim.text, NO_ANSWER, None, None, None, str(error))
    strata = [one - other for one, other in zip(*gains, strict=True)] if len(gains) > 1 else gains[0]
    scale = plan.spec.metric.scale
    estimate, low, high = (round(value * scale, 4) for value in interval(strata, images=images))
    labels = {row.id: row.label for row in plan.spec.rows}
    parts = []
    for lines, gained in zip((claim.gain, claim.above), gains, strict=False):
        name = labels[lines.row] + PAIRS[lines.pairs] if lines else ""
        shown = sum(outcomes.mean() for outcomes in gained) / len(gained) * scale
        own = f"{name} gains over its own {labels[plan.spec.baseline]} row {_on_sets(gained, images)}"
        parts.append(own if claim.over_own else f"{name} {shown:.2f}")
    parts += [f"It may fall short by {claim.margin:g} points"] if claim.margin else []
    whole = f"{wanted} seed{'s' if wanted > 1 else ''}"
    parts.append(whole if len(seeds) == wanted else f"{len(seeds)} of {wanted} seeds, {LEFT_OUT}")
    luck = round(spread(strata) * scale, 4) if len(seeds) > 1 else None
    word = decide(low + claim.margin, high + claim.margin, len(seeds))
    return Verdict(claim.id, claim.text, word, estimate, low, high, "; ".join(parts), luck)


def _on_sets(gained: Sequence[Outcomes], images: Sequence[Sequence[str]]) -> str:
    """On how many sets an interval says that a mean is above 0, and on how many the mean is below."""
    below = sum(bool(outcomes.mean() < 0) for outcomes in gained)
    beyond = sum(interval([each], images=[names])[1] > 0 for each, names in zip(gained, images, strict=True))
    return f"beyond chance on {beyond} of {len(gained)} sets, and loses on {below}"


def _compared(plan: Plan, claim: Claim, columns: Sequence[int]) -> tuple[list[dict[int, int | None]], list[int], int]:
    """The lines of each side of a claim with their baseline lines (None: the lines themselves are compared), the seeds
    that all of them have at the ``columns``, and the number of planned seeds. Raises CraftError: the results do not
    allow a verdict; says why."""
    wanted = [claim.gain] if claim.above is None else [claim.gain, claim.above]
    sides = [[number for number, line in enumerate(plan.lines) if lines.mean(line)] for lines in wanted]
    if not all(sides) or not columns:
        raise CraftError("Its lines or columns are not part of this cut of the table")
    based = [{n: baseline_of(plan, plan.lines[n]) if claim.over_own else None for n in side} for side in sides]
    if claim.over_own and any(base is None for side in based for base in side.values()):
        raise CraftError("One of its lines has no baseline row on its backbone")
    lines = {number for side in based for pair in side.items() for number in pair if number is not None}
    places = [(number, c) for number in lines for c in columns]
    if missing := sum(not any(map(store.result, plan.cells[place])) for place in places):
        raise CraftError(f"{missing} of {len(places)} cells are missing")
    # What trains nothing has one seed, whatever the others have.
    trained = [place for place in places if plan.lines[place[0]].surrogate] or places
    finished = [{int(j.facts["seed"]) for j in plan.cells[p] if store.result(j) is not None} for p in trained]
    seeds = sorted(set.intersection(*finished))
    if not seeds:
        raise CraftError("No seed is finished in all of its cells")
    return based, seeds, max(len(plan.cells[place]) for place in trained)


class _Replies:
    """The replies behind printed lines; each file is read once, and all are checked to answer the same items."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self.read, self.judged = plan, cache(store.read_replies), Judged(plan)

    def gain(self, bases: Mapping[int, int | None], column: int, seeds: Sequence[int], reference: int) -> Outcomes:
        """Mean gain of some lines over their own baselines (``bases``; None: over 0) at a column, item by item:
        ``[seeds, items]``. Raises CraftError: a job was asked other items than the ``reference`` line, is not judged
        where the table's metric is a judge's, or its file of replies is not there or not whole."""
        import numpy as np

        asked = self._file(reference, column, seeds[0])

        def found(number: int | None) -> Outcomes:
            if number is None:
                return np.zeros(())
            return np.array([self._outcomes(self._file(number, column, seed), asked, column) for seed in seeds])

        return np.mean([found(n) - found(base) for n, base in bases.items()], axis=0)

    def images(self, number: int, column: int, seed: int) -> list[str]:
        """The image of each item of a line that counts at a column; of replies that do not tell it, its own."""
        file = self._file(number, column, seed)
        judged = self.judged.of(file, column) if self.plan.spec.metric.judged else None
        return [row.get("image") or key for key, row in self.read(file).items() if judged is None or key in judged]

    def _file(self, number: int, column: int, seed: int) -> Path:
        """Of a line at a column; what trains nothing has the same file for every seed."""
        line, jobs = self.plan.lines[number], self.plan.cells[number, column]
        job = next(j for j in jobs if j.facts["seed"] == seed) if line.surrogate else jobs[0]
        return store.predictions(job, line.row.keep_ratio)

    def _outcomes(self, file: Path, reference: Path, column: int) -> list[float]:
        """For each of the reference's items, in their order, 1 if the reply is right, or what the judge says of it."""
        mine, theirs = self.read(file), self.read(reference)
        asked = [{key: row["item"] for key, row in rows.items()} for rows in (theirs, mine)]
        odd = next((key for key in (theirs | mine) if asked[0].get(key, 0) != asked[1].get(key, 0)), None)
        if odd is not None:
            names = [path.parent.relative_to(self.plan.root).as_posix() for path in (file, reference)]
            raise CraftError(f"item {odd} was asked differently in {names[0]} and in {names[1]}")
        dimension = self.plan.spec.metric.judged
        if not dimension:
            return [float(mine[key]["correct"]) for key in theirs]
        judged = self.judged.of(file, column)
        if not judged:
            raise CraftError(f"{file.parent.relative_to(self.plan.root).as_posix()} is not judged")
        return [float(getattr(judged[key], dimension)) for key in theirs if key in judged]
