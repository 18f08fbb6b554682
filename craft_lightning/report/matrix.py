"""What the work of every surrogate gains behind every backbone (the paper's Table 7), ours beside the paper's."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

from craft_lightning.benchmark.plan import Plan
from craft_lightning.benchmark.results import Results, Score, gains, mean_of, paper_gains

Text = Callable[[Score | None], str]
Grid = tuple[tuple[str, ...], tuple[tuple[str, ...], ...], tuple[bool, ...]]
"""Header and rows of texts, and which rows are the paper's."""


@dataclass(frozen=True)
class Matrix:
    """Mean gains of one row over its baseline.

    Attributes:
        label: the row's, with ``paper: `` before it where the numbers are the paper's.
        surrogates, backbones: names of columns and rows.
        gains: by (surrogate, backbone), a value for each set.
    """

    label: str
    surrogates: tuple[str, ...]
    backbones: tuple[str, ...]
    gains: Mapping[tuple[str, str], list[Score | None]]

    def pairs(self, same: bool) -> list[tuple[str, str]]:
        """Those of a model with itself, or of two different ones."""
        return [pair for pair in self.gains if (pair[0] == pair[1]) == same]

    def mean(self, pairs: Iterable[tuple[str, str]]) -> Score | None:
        """Of some pairs; None without any, or while one of them is not whole."""
        return mean_of([mean_of(self.gains[pair]) for pair in pairs])

    @property
    def below(self) -> tuple[int, int]:
        """Number of mean gains of single sets that are below 0, and of all that are there."""
        found = [score.mean for scores in self.gains.values() for score in scores if score is not None]
        return sum(mean < 0 for mean in found), len(found)


def matrices(plan: Plan, results: Results) -> list[list[Matrix]]:
    """For each row that at least two backbones test with at least two surrogates each: ours, and the paper's where all
    of its numbers are there."""
    found = []
    names = {backbone.id: backbone for backbone in plan.spec.backbones}
    for row in plan.spec.rows if plan.spec.averaged else ():
        mine = [(n, line) for n, line in enumerate(plan.lines) if line.row.id == row.id]
        lines = {(line.surrogate.id, line.backbone.id): n for n, line in mine if line.surrogate}
        tested = {backbone for _, backbone in lines}
        # In the surrogates' order, so that what is a model with itself lies on the diagonal.
        order = [*row.train_on, *(name for name in names if name not in row.train_on)]
        pairs = [(names[s], names[b]) for b in order if b in tested for s in row.train_on]
        if min(len(tested), len(row.train_on)) < 2 or len(pairs) > len(lines):
            continue
        numbers = [lines[s.id, b.id] for s, b in pairs]
        ours = [gains(plan, results.cells, n) for n in numbers]
        if not all(ours):
            continue
        quoted = [paper_gains(plan, plan.lines[n]) for n in numbers]
        counted = [[[scores[c] for c in plan.counted] for scores in each] for each in (ours, quoted)]
        found.append([_matrix(row.label, counted[0], [(s.label, b.label) for s, b in pairs])])
        if all(map(all, counted[1])):
            found[-1].append(_matrix(f"paper: {row.paper}", counted[1], [(s.paper, b.paper) for s, b in pairs]))
    return found


def _matrix(label: str, values: list[list[Score | None]], pairs: list[tuple[str, str]]) -> Matrix:
    surrogates, backbones = (tuple(dict.fromkeys(side)) for side in zip(*pairs, strict=True))
    return Matrix(label, surrogates, backbones, dict(zip(pairs, values, strict=True)))


def matrix_grid(group: Sequence[Matrix], text: Text) -> Grid:
    """A row a backbone, a column a surrogate; the paper's below ours."""
    rows = [
        (backbone, each.label, *(text(each.mean([(surrogate, backbone)])) for surrogate in each.surrogates))
        for backbones in zip(*(each.backbones for each in group), strict=True)
        for each, backbone in zip(group, backbones, strict=True)
    ]
    paper = (False, True)[: len(group)] * len(group[0].backbones)
    return ("Backbone", "Method", *group[0].surrogates), tuple(rows), paper


def pair_grid(groups: Sequence[Sequence[Matrix]], text: Text) -> Grid:
    """A row a matrix: means over all of its pairs, those of one model and of two, and what is below 0."""
    rows = []
    for each in [each for group in groups for each in group]:
        parts = [list(each.gains), each.pairs(same=True), each.pairs(same=False)]
        size = f"{len(each.surrogates)} x {len(each.backbones)}"
        rows.append((each.label, size, *(text(each.mean(pairs)) for pairs in parts), "{} of {}".format(*each.below)))
    paper = tuple(number > 0 for group in groups for number, _ in enumerate(group))
    return ("Method", "Pairs", "All pairs", "Same model", "Different models", "Sets below 0"), tuple(rows), paper
