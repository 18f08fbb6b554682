"""Results beside the published ones of their table: equal, as near as another seed would be, or neither.

Two processors may round sums in different orders; a rounded distance flips a code, and a training goes another way. It
is then as good as one of another seed, and has to be as near to the published seeds as such a one would be.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import sqrt

from craft_lightning.benchmark.plan import Plan
from craft_lightning.benchmark.results import KEPT_DIGITS, Cell, Place, Score


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


def compare(plan: Plan, cells: Mapping[Place, Cell], published: Mapping[Place, Cell]) -> PublishedMatch:
    """Each value beside the published one of its seed, or beside the published seeds where it is not among them."""
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
