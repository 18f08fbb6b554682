"""What a table is asked to decide, and how: paired differences with a bootstrap interval.

A claim compares gains over the own baseline row: that of some lines with nothing, or with that of others. The pure part
is here; where the predictions come from is :mod:`.evidence`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from craft_lightning.benchmark.yaml_values import Reader, check_known

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DRAWS = 10_000
LEVEL = 0.95
LEAST_SEEDS = 3
"""Fewer runs of a method than this decide nothing, however far their interval is from 0."""

HOLDS, FAILS, UNDECIDED = "holds", "does not hold", "undecided at this number of seeds"
NO_ANSWER = "cannot be judged"

WIDE = 3.0
"""Points of spread over the seeds beyond which the interval is too short: resampling three seeds knows nothing of what
others would do. A test counts how often it holds a planted difference."""


@dataclass(frozen=True)
class Lines:
    """Printed rows of a table: all of a row of the spec, or those of one surrogate or backbone (empty: any)."""

    row: str
    surrogate: str = ""
    backbone: str = ""


@dataclass(frozen=True)
class Claim:
    """``gain``: lines whose mean gain over their own baseline is claimed to be above 0, or above that of ``above``."""

    id: str
    text: str
    gain: Lines
    above: Lines | None = None


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


def read_claims(top: Reader, rows: Sequence[str], backbones: Sequence[str]) -> tuple[Claim, ...]:
    """The claims of a spec; mistakes are noted in the reader."""
    found = []
    for number, value in enumerate(top.take("claims", list, [])):
        item = Reader(value, f"claims[{number}]", top.folder, top.errors)
        name = str(item.take("id", (str, int)) or "")
        above = _lines(item, "above", rows, backbones) if "above" in item.value else None
        found.append(Claim(name, str(item.take("text", str) or ""), _lines(item, "gain", rows, backbones), above))
        item.done()
    if found and not top.value.get("baseline"):
        top.fail("compare gains, so the table needs a baseline", "claims")
    return tuple(found)


def _lines(item: Reader, key: str, rows: Iterable[str], backbones: Iterable[str]) -> Lines:
    inner = Reader(item.take(key, dict), f"{item.where}.{key}", item.folder, item.errors)
    backbones = list(backbones)
    values = {}
    for name, known in (("row", rows), ("surrogate", backbones), ("backbone", backbones)):
        values[name] = str(inner.take(name, str, None if name == "row" else "") or "")
        if values[name]:
            check_known(inner, name, values[name], known)
    inner.done()
    return Lines(**values)


def interval(strata: Sequence[NDArray[np.float64]], draws: int = DRAWS, seed: int = 0) -> tuple[float, float, float]:
    """Mean over datasets of the mean difference, and its interval by the bootstrap.

    A draw resamples items within each dataset (the same ones for all seeds) and seeds jointly for all datasets. Items
    whose outcomes are equal in all seeds are interchangeable, so a draw of n items is a multinomial draw of outcomes.

    Args:
        strata: for each dataset the paired differences ``[seeds, items]``.
        draws: number of resamples.
        seed: of the random numbers.

    Returns:
        Estimate, lower and upper end of the interval of :data:`LEVEL`.
    """
    import numpy as np

    rng = np.random.default_rng(seed)
    seeds = len(strata[0])
    chosen = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=draws) / seeds
    total = np.zeros(draws)
    for outcomes in strata:
        patterns, counts = np.unique(outcomes, axis=1, return_counts=True)
        items = counts.sum()
        drawn = rng.multinomial(items, counts / items, size=draws) / items
        total += (drawn @ patterns.T * chosen).sum(axis=1)
    low, high = np.quantile(total / len(strata), [(1 - LEVEL) / 2, (1 + LEVEL) / 2])
    return float(np.mean([outcomes.mean() for outcomes in strata])), float(low), float(high)


def spread(strata: Sequence[NDArray[np.float64]]) -> float:
    """Standard deviation over the seeds, at least two, of the mean over datasets of the mean difference.

    Args:
        strata: as for :func:`interval`.
    """
    import numpy as np

    return float(np.std(np.mean([outcomes.mean(axis=1) for outcomes in strata], axis=0), ddof=1))


def decide(low: float, high: float, seeds: int) -> str:
    """The word for an interval: it has to exclude 0, and enough seeds have to stand behind it."""
    if seeds < LEAST_SEEDS or low <= 0 <= high:
        return UNDECIDED
    return HOLDS if low > 0 else FAILS
