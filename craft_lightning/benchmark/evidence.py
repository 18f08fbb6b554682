"""The stored predictions of a plan as paired differences, and the verdicts on its claims."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from craft_lightning.benchmark import result_store as store
from craft_lightning.benchmark.cells import baseline_of
from craft_lightning.benchmark.plan import Plan
from craft_lightning.benchmark.statistics import NO_ANSWER, Claim, Lines, Verdict, decide, interval, spread
from craft_lightning.errors import CraftError

Outcomes = NDArray[np.float64]
LEFT_OUT = "the others are not finished in all of its cells"


def judge(plan: Plan) -> tuple[Verdict, ...]:
    """A verdict on each claim of the table."""
    read = _Predictions(plan)
    return tuple(_judge(plan, claim, read) for claim in plan.spec.claims)


class _Predictions:
    """The replies behind a printed line; each file is read once, and all are checked to answer the same items."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.known: dict[Path, dict[str, tuple[str | None, bool]]] = {}

    def file(self, number: int, column: int, seed: int) -> Path:
        """Of a line at a column; what trains nothing has the same file for every seed."""
        line, nodes = self.plan.lines[number], self.plan.cells[number, column]
        node = next(n for n in nodes if n.facts["seed"] == seed) if line.surrogate else nodes[0]
        return store.predictions(node, line.row.keep)

    def correct(self, file: Path, reference: Path) -> Outcomes:
        """1 for each right reply, in the order of the reference's items.

        Raises:
            CraftError: the two were asked different items.
        """
        for path in (file, reference):
            if path not in self.known:
                self.known[path] = read_predictions(path)
        mine, theirs = self.known[file], self.known[reference]
        odd = next((key for key in (theirs | mine) if mine.get(key, (0,))[0] != theirs.get(key, (0,))[0]), None)
        if odd is not None:
            names = [path.parent.relative_to(self.plan.root).as_posix() for path in (file, reference)]
            raise CraftError(f"item {odd} was asked differently in {names[0]} and in {names[1]}")
        return np.array([mine[key][1] for key in theirs], dtype=float)


def read_predictions(path: Path) -> dict[str, tuple[str | None, bool]]:
    """Item hash and correctness by key, in the order of the file.

    Raises:
        CraftError: the file is not there or not whole.
    """
    try:
        rows = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
        return {row["key"]: (row["item"], bool(row["correct"])) for row in rows}
    except (OSError, ValueError, KeyError) as error:
        raise CraftError(f"{path} cannot be read: {' '.join(str(error).split())}") from error


def _numbers(plan: Plan, wanted: Lines | None) -> list[int]:
    """The printed lines that are meant."""
    return [
        number
        for number, line in enumerate(plan.lines)
        if wanted is not None
        and line.row.id == wanted.row
        and wanted.backbone in ("", line.backbone.id)
        and wanted.surrogate in ("", line.surrogate.id if line.surrogate else "")
    ]


def _judge(plan: Plan, claim: Claim, read: _Predictions) -> Verdict:
    def unknown(word: str, detail: str) -> Verdict:
        return Verdict(claim.id, claim.text, word, None, None, None, detail)

    sides = [_numbers(plan, claim.gain), _numbers(plan, claim.above)]
    if not sides[0] or (claim.above is not None and not sides[1]):
        return unknown(NO_ANSWER, "its lines are not part of this cut of the table")
    lines = [*sides[0], *sides[1]]
    bases = {number: base for number in lines if (base := baseline_of(plan, plan.lines[number])) is not None}
    if len(bases) < len(lines):
        return unknown(NO_ANSWER, "one of its lines has no baseline row on its backbone")
    places = [(number, c) for number in {*lines, *bases.values()} for c in range(len(plan.columns))]
    if missing := sum(not any(map(store.result, plan.cells[place])) for place in places):
        return unknown(NO_ANSWER, f"{missing} of {len(places)} cells are missing")
    seeds, wanted = _whole_seeds(plan, [*lines, *bases.values()])
    if not seeds:
        return unknown(NO_ANSWER, "no seed is finished in all of its cells")
    try:
        columns = range(len(plan.columns))
        compared = [{number: bases[number] for number in side} for side in sides if side]
        gains = [[_gain(side, c, bases[lines[0]], seeds, read) for c in columns] for side in compared]
    except CraftError as error:
        return unknown(NO_ANSWER, str(error))
    strata = [one - other for one, other in zip(*gains, strict=True)] if len(gains) > 1 else gains[0]
    scale = plan.spec.metric.scale
    estimate, low, high = (round(value * scale, 4) for value in interval(strata))
    word = decide(low, high, len(seeds))
    detail = f"{_sides(plan, claim, gains)}; {len(seeds)}"
    detail += f" seed{'s' if wanted > 1 else ''}" if len(seeds) == wanted else f" of {wanted} seeds, {LEFT_OUT}"
    luck = round(spread(strata) * scale, 4) if len(seeds) > 1 else None
    return Verdict(claim.id, claim.text, word, estimate, low, high, detail, luck)


def _whole_seeds(plan: Plan, lines: Sequence[int]) -> tuple[list[int], int]:
    """Seeds that every one of the lines has at every column, those that train nothing left out, and how many are
    planned."""
    trained = [number for number in lines if plan.lines[number].surrogate] or lines
    cells = [plan.cells[number, c] for number in trained for c in range(len(plan.columns))]
    finished = [{int(n.facts["seed"]) for n in nodes if store.result(n) is not None} for nodes in cells]
    return sorted(set.intersection(*finished)), max(map(len, cells))


def _gain(bases: Mapping[int, int], column: int, reference: int, seeds: Sequence[int], read: _Predictions) -> Outcomes:
    """Mean gain of some lines over their own baselines, item by item: ``[seeds, items]``.

    Args:
        bases: line to baseline line. column: of the table. reference: line whose items all others must match.
        seeds, read: the runs to use and the replies.

    Raises:
        CraftError: two nodes were asked different items.
    """
    asked = read.file(reference, column, seeds[0])

    def correct(number: int, seed: int) -> Outcomes:
        return read.correct(read.file(number, column, seed), asked)

    total = [np.stack([correct(n, seed) - correct(base, seed) for seed in seeds]) for n, base in bases.items()]
    mean: Outcomes = np.mean(total, axis=0)
    return mean


def _sides(plan: Plan, claim: Claim, gains: Sequence[Sequence[Outcomes]]) -> str:
    """Columns on either side of 0."""
    columns = len(plan.columns)
    names = [claim.gain.row, claim.above.row if claim.above else ""]
    labels = {row.id: row.label for row in plan.spec.rows}
    parts = []
    for name, side in zip(names, gains, strict=False):
        below = sum(bool(outcomes.mean() < 0) for outcomes in side)
        parts.append(f"{labels[name]} is below its own {labels[plan.spec.baseline]} row on {below} of {columns} sets")
    return "; ".join(parts)
