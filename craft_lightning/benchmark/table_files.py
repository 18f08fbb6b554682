"""A table's stored form: a CSV file with a JSON file beside it, as committed in ``experiments/tables/results``.

The runner never looks there.
"""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from craft_lightning.benchmark.claims import Verdict
from craft_lightning.benchmark.plan import Plan
from craft_lightning.benchmark.results import (
    KEPT_DIGITS,
    Cell,
    Cost,
    Made,
    Results,
    Score,
    There,
    by_seed,
    gains,
    paper_gains,
    paper_scores,
)
from craft_lightning.benchmark.table_parts import Line
from craft_lightning.errors import CraftError
from craft_lightning.io import read_json

RESULTS = "results"
"""Folder of stored tables, beside the specs."""

WHO = ("row", "surrogate", "backbone", "column")
COST = ("parameters", "seconds", "memory_mb")
THERE = ("steps_there", "seconds_there", "parameters_there")
"""Columns of a table with receivers."""
LEFT_OUT = ("left_out",)
"""Column of a table whose metrics a judge says."""
TRACE = "trace"
"""Column of a table with a trace: ``step:value``, one after the other."""
PARTS = {"values": "score", "seen_values": "seen", "unseen_values": "unseen"}
"""Columns of values by seed, and what they are of a cell."""
HEADER = (
    *WHO,
    *("seeds", "mean", "std", "gain", "paper", "paper_gain", "items", "majority"),
    *("seen", "unseen", "seen_gain", "unseen_gain", "items_unseen"),
    *COST,
    *PARTS,
    "error",
)
"""Columns of every CSV file. The table is read back from the values by seed; means and gains stand there for people."""


def to_csv(plan: Plan, results: Results) -> str:
    """One row a cell: :data:`HEADER`."""
    out = io.StringIO()
    more = (*(LEFT_OUT if _judged(plan) else ()), *((TRACE,) if plan.spec.trace else ()))
    header = (*HEADER, *(THERE if plan.spec.receivers else ()), *more)
    writer = csv.DictWriter(out, header, lineterminator="\n", restval="", extrasaction="ignore")
    writer.writeheader()
    for number, line in enumerate(plan.lines):
        parts = {"gain": "score", "seen_gain": "seen", "unseen_gain": "unseen"}
        scores = {name: gains(plan, results.cells, number, part) for name, part in parts.items()}
        scores |= {"paper": paper_scores(plan, line), "paper_gain": paper_gains(plan, line)}
        for c, column in enumerate(plan.columns):
            here = {name: found[c] for name, found in scores.items() if found}
            who = dict(zip(WHO, (*_ids(line), column.id), strict=True))
            writer.writerow({**who, **_cell_texts(results.cells[number, c], here)})
    return out.getvalue()


def _cell_texts(cell: Cell, more: Mapping[str, Score | None]) -> dict[str, Any]:
    scores = {"mean": cell.score, "seen": cell.seen, "unseen": cell.unseen, **more}
    numbers = {name: score.mean for name, score in scores.items() if score is not None}
    numbers |= {"items": cell.items, "items_unseen": cell.items_unseen, "left_out": cell.left_out}
    if cell.majority is not None:
        numbers["majority"] = cell.majority
    if cell.cost is not None:
        numbers |= zip(COST, asdict(cell.cost).values(), strict=True)
    if cell.there is not None:
        numbers |= zip(THERE, asdict(cell.there).values(), strict=True)
    if cell.score is not None and cell.score.std is not None:
        numbers["std"] = cell.score.std
    by_part = {name: getattr(cell, part).by_seed if getattr(cell, part) else {} for name, part in PARTS.items()}
    texts = {name: " ".join(map(_number, values.values())) for name, values in by_part.items()}
    texts |= {"error": cell.error or "", "seeds": " ".join(map(str, by_part["values"]))}
    texts[TRACE] = " ".join(f"{step}:{value:g}" for step, value in cell.trace.items())
    return {**texts, **{name: _number(value) for name, value in numbers.items()}}


def _judged(plan: Plan) -> bool:
    return any(column.metric.judged for column in plan.columns)


def _ids(line: Line) -> tuple[str, str, str]:
    return line.row.id, line.surrogate.id if line.surrogate else "none", line.backbone.id


def _number(value: float) -> str:
    rounded = round(value, KEPT_DIGITS)
    return str(int(rounded)) if rounded == int(rounded) else repr(rounded)


def to_json(results: Results) -> str:
    """What the CSV file does not hold: verdicts and origin."""
    made = None if results.made is None else asdict(results.made)
    value = {"made": made, "claims": [asdict(v) for v in results.verdicts]}
    return json.dumps(value, indent=1, ensure_ascii=False) + "\n"


def stored_table(plan: Plan) -> Path:
    """The CSV file of a table's published results, which need not be there."""
    return plan.spec.path.parent / RESULTS / f"{plan.spec.name}.csv"


def stored_seeds(path: Path) -> tuple[int, ...] | None:
    """The seeds of a stored table, None if it does not say. Raises CraftError: there is no such table."""
    made = _beside(path).get("made")
    return None if made is None else tuple(made["seeds"])


def _beside(path: Path) -> dict[str, Any]:
    other = path.with_suffix(".json")
    for file in (path, other):
        if not file.is_file():
            raise CraftError(f"no stored table {file}; table render NAME --publish writes one")
    return read_json(other)


def read(plan: Plan, path: Path) -> Results:
    """A stored table. Raises CraftError: there is none, or it is not one of this table's cells."""
    beside = _beside(path)
    places = {(*_ids(line), c.id): (n, k) for n, line in enumerate(plan.lines) for k, c in enumerate(plan.columns)}
    cells = dict.fromkeys(places.values(), Cell())
    with path.open(encoding="utf-8", newline="") as file:
        for row in csv.DictReader(file):
            try:
                place = places[row["row"], row["surrogate"], row["backbone"], row["column"]]
                cells[place] = _read_cell(row, wanted=len(by_seed(plan.cells[place])))
            except (KeyError, ValueError, TypeError) as error:
                named = ", ".join(str(row.get(name)) for name in WHO)
                raise CraftError(f"{path}: {named} is no cell of table {plan.spec.name} ({error})") from error
    verdicts = TypeAdapter(tuple[Verdict, ...]).validate_python(beside.get("claims", ()))
    return Results(cells, verdicts, TypeAdapter(Made | None).validate_python(beside.get("made") or None))


def _read_cell(row: Mapping[str, str], wanted: int) -> Cell:
    seeds = [int(seed) for seed in row["seeds"].split()]

    def score(name: str) -> Score | None:
        values = [float(value) for value in row[name].split()]
        return Score(dict(zip(seeds, values, strict=True))) if values else None

    return Cell(
        score=score("values"),
        seen=score("seen_values"),
        unseen=score("unseen_values"),
        items=int(row["items"]),
        items_unseen=int(row["items_unseen"]),
        majority=float(row["majority"]) if row["majority"] else None,
        wanted=wanted,
        error=row["error"] or None,
        cost=Cost(*(float(row[name]) for name in COST)) if row["parameters"] else None,
        there=There(*(float(row[name]) for name in THERE)) if row.get(THERE[0]) else None,
        left_out=int(row.get("left_out") or 0),
        trace={int(step): float(value) for step, value in (pair.split(":") for pair in row.get(TRACE, "").split())},
    )
