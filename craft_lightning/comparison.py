"""Runs beside each other: tests of the same items one by one, or all those of a table."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from math import sqrt
from pathlib import Path
from statistics import NormalDist
from typing import TYPE_CHECKING, overload

from craft_lightning.benchmark.claims import LEVEL
from craft_lightning.benchmark.stored_run import Answered, StoredRun, read_runs
from craft_lightning.errors import CraftError
from craft_lightning.text.scoring import answer_kind, normalise

if TYPE_CHECKING:
    from pandas import DataFrame

Z = NormalDist().inv_cdf((1 + LEVEL) / 2)
OPENINGS, LEAST = 8, 5
"""Kinds of question that are told one by one, and how many items make one; rarer ones are ``other``."""


@dataclass(frozen=True)
class Part:
    """Some items as two runs answer them.

    Attributes:
        name: of the class, the kind of question..., or of the second run. items: number of them.
        before, after: share that each run answers right. difference: after - before.
        low, high: its 95 % interval for paired shares (Agresti and Min 2005: Wald's with half an item more in each of
            the four outcomes), which keeps its promise for few items, too; wider by as much as items of one image flip
            together (Kish's design effect).
        better, worse: number of items that only the second, or only the first, answers right.
        flips: their difference within each image where it is not 0; None: no two items share an image.
    """

    name: str
    items: int
    before: float
    after: float
    difference: float
    low: float
    high: float
    better: int
    worse: int
    flips: tuple[int, ...] | None

    @property
    def p_value(self) -> float:
        """McNemar's exact test, two-sided: how often chance alone flips the items at least this unevenly. Items that
        share an image flip together: its sign is drawn, which for single items is the same."""
        from scipy.stats import binomtest

        if self.flips is None:
            flips = self.better + self.worse
            return float(binomtest(self.better, flips).pvalue) if flips else 1.0
        import numpy as np

        most = sum(map(abs, self.flips))
        chances = np.zeros(2 * most + 1)  # of every sum from -most to most
        chances[most] = 1.0
        for flip in self.flips:
            chances = (np.roll(chances, flip) + np.roll(chances, -flip)) / 2
        far = np.abs(np.arange(-most, most + 1)) >= abs(self.better - self.worse)
        return min(1.0, float(chances[far].sum()))


@dataclass(frozen=True)
class Flip:
    """An item that one of two runs answers right: the texts of ``before`` and ``after`` are their replies, ``gained``
    says whether it is the second's."""

    key: str
    question: str
    options: tuple[str, ...]
    answer: str
    seen: bool
    before: str
    after: str
    gained: bool


@dataclass(frozen=True)
class Confusion:
    """A wrong reply to an answer, and how often each of two runs gives it."""

    answer: str
    reply: str
    before: int
    after: int


@dataclass(frozen=True)
class Comparison(Part):
    """What two runs made of the same items; as a :class:`Part` it is that of all items.

    Attributes:
        runs: the two, whose ``items`` hold every reply.
        parts: the items by what they are, each with the same numbers: ``labels`` (seen and unseen), ``class`` where all
            items ask the same, else ``question`` (how it begins) and ``answer``
            (see :func:`.scoring.answer_kind`). What would have one part alone is left out.
        flipped: items that one of the two answers right. confused: wrong replies, the most frequent first.
    """

    runs: tuple[StoredRun, StoredRun] = field(repr=False)
    parts: Mapping[str, tuple[Part, ...]] = field(repr=False)
    flipped: tuple[Flip, ...] = field(repr=False)
    confused: tuple[Confusion, ...] = field(repr=False)

    @property
    def gained(self) -> tuple[str, ...]:
        """Keys of the items that only the second run answers right."""
        return tuple(flip.key for flip in self.flipped if flip.gained)

    @property
    def lost(self) -> tuple[str, ...]:
        """Keys of the items that only the first run answers right."""
        return tuple(flip.key for flip in self.flipped if not flip.gained)

    @property
    def verdict(self) -> str:
        """``better``, ``worse``, or ``no difference beyond chance`` where McNemar's test does not exclude that at 5 %
        (where it does, the interval excludes 0, too)."""
        if self.p_value >= 1 - LEVEL:
            return "no difference beyond chance"
        return "better" if self.difference > 0 else "worse"

    def __str__(self) -> str:
        points = f"{100 * self.difference:+z.2f} points [{100 * self.low:+z.2f}, {100 * self.high:+z.2f}]"
        told = f"{self.before:.2%} -> {self.after:.2%} of {self.items} items, {points} ({LEVEL:.0%} interval)"
        return f"{told}; {self.better} gained, {self.worse} lost (McNemar {p_text(self.p_value)}): {self.verdict}"


def p_text(p: float) -> str:
    """``p = 0.031``, or ``p < 0.001``."""
    return "p < 0.001" if p < 0.001 else f"p = {p:.2g}"


@overload
def compare(base: str | Path, run: str | Path, /) -> Comparison: ...
@overload
def compare(base: str | Path, run: str | Path, /, *others: str | Path) -> tuple[Comparison, ...]: ...
def compare(base: str | Path, /, *runs: str | Path) -> Comparison | tuple[Comparison, ...]:
    """Tests of the same items: each of ``runs`` minus ``base``.

    ``found = compare("runs/before", "runs/after")`` has the gain (``found.difference``, ``found.low``, ``found.high``,
    ``found.p_value``, ``found.verdict``, or all in a line: ``str(found)``), the same by parts
    (``found.parts["class"]``, ``found.parts["labels"]``), and the items that flipped (``found.flipped``: key, question,
    options, answer, both replies).

    Args:
        base, runs: folders of runs, or files of replies (``predictions*.jsonl``).

    Returns:
        A comparison, or with several ``runs`` one of each.

    Raises:
        CraftError: no replies there, or replies to different items.
    """
    read = read_runs((base, *runs))
    found = tuple(compared(read[0], run) for run in read[1:])
    return found[0] if len(found) == 1 else found


def compared(base: StoredRun, run: StoredRun) -> Comparison:
    """One run minus another, whose items are the same."""
    rows = [(item, run.items[key]) for key, item in base.items.items()]
    flipped = tuple(
        Flip(a.key, a.question, a.options, a.answer, a.seen, a.reply, b.reply, b.correct)
        for a, b in rows
        if a.correct != b.correct
    )
    confused = tuple(Confusion(*pair, *counts) for pair, counts in wrong_replies((base, run)))
    parts = {
        kind: tuple(_part(name, [(base.items[key], run.items[key]) for key in keys]) for name, keys in groups.items())
        for kind, groups in grouped(base).items()
    }
    return Comparison(**vars(_part(run.name, rows)), runs=(base, run), parts=parts, flipped=flipped, confused=confused)


def wrong_replies(runs: Sequence[StoredRun]) -> list[tuple[tuple[str, str], list[int]]]:
    """Pairs of an answer and a wrong reply, and how often each run gives it; the most frequent first."""
    wrong = [Counter(item.said for item in run.items.values() if not item.correct) for run in runs]
    found = [(pair, [counts[pair] for counts in wrong]) for pair in {pair for counts in wrong for pair in counts}]
    return sorted(found, key=lambda each: (-max(each[1]), -each[1][-1], each[0]))


def _part(name: str, rows: Iterable[tuple[Answered, Answered]]) -> Part:
    pairs, images = list(rows), dict[str, list[int]]()
    for before, after in pairs:
        images.setdefault(before.image or before.key, []).append(after.correct - before.correct)
    shared = images.values() if len(images) < len(pairs) else ()
    return part_of(name, Counter((before.correct, after.correct) for before, after in pairs), shared)


def part_of(name: str, outcomes: Mapping[tuple[bool, bool], int], images: Iterable[Sequence[int]] = ()) -> Part:
    """A part from the number of items by whether the first and whether the second run answers them right; where some
    share an image, ``images`` has 1, 0 or -1 for each of an image's items: what the second run gains."""
    both, better, worse = (outcomes.get(kind, 0) for kind in ((True, True), (False, True), (True, False)))
    n = sum(outcomes.values())
    # With half an item more in each of the four outcomes.
    centre = (better - worse) / (n + 2)
    half = Z * sqrt(better + worse + 1 - (n + 2) * centre**2) / (n + 2)
    mean, sums = (better - worse) / n, [(sum(items), len(items)) for items in images]
    alone = better + worse - n * mean**2
    if sums and alone:
        half *= sqrt(max(1.0, sum((total - count * mean) ** 2 for total, count in sums) / alone))
    low, high = max(-1.0, centre - half), min(1.0, centre + half)
    flips = tuple(total for total, _ in sums if total) if sums else None
    return Part(name, n, (both + worse) / n, (both + better) / n, mean, low, high, better, worse, flips)


def grouped(run: StoredRun) -> dict[str, dict[str, list[str]]]:
    """Keys of a run's items by what they are, see :class:`Comparison`."""
    items = list(run.items.values())
    openings = Counter(_opening(item.question) for item in items)
    common = {name for name, count in openings.most_common(OPENINGS) if count >= LEAST}

    def opening(item: Answered) -> str:
        found = _opening(item.question)
        return found if found in common else "other"

    kinds: dict[str, Callable[[Answered], str]] = {"labels": lambda item: "seen" if item.seen else "unseen"}
    asked = {item.question for item in items} - {""}
    if len(asked) == 1:
        kinds["class"] = lambda item: item.answer
    elif asked:
        kinds |= {"question": opening, "answer": lambda item: answer_kind(item.answer, item.options)}
    found = {kind: _by(items, name) for kind, name in kinds.items()}
    return {kind: groups for kind, groups in found.items() if len(groups) > 1}


def _by(items: Iterable[Answered], name: Callable[[Answered], str]) -> dict[str, list[str]]:
    groups: dict[str, list[str]] = {}
    for item in items:
        groups.setdefault(name(item), []).append(item.key)
    return {name: groups[name] for name in sorted(groups, key=lambda name: (name == "other", name))}


def _opening(question: str) -> str:
    """How a question begins: its first word, two after ``how``.

    >>> _opening("How many shapes are there?"), _opening("Is this an axial image?")
    ('how many ...', 'is ...')
    """
    words = normalise(question).split()[:2]
    return " ".join(words if words[:1] == ["how"] else words[:1]) + " ..."


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
        jobs: worker processes, None for one a GPU or core. runs: where results go.
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
