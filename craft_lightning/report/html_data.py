"""What the HTML report's panel shows of a cell, read from the run folders: curves, replies, questions, pictures."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from craft_lightning.benchmark import result_store as store
from craft_lightning.benchmark.cells import baseline_of, by_seed, gains, paper_scores
from craft_lightning.benchmark.plan import Node, Plan
from craft_lightning.benchmark.results import Results
from craft_lightning.benchmark.spec import Row
from craft_lightning.report.sections import MISSING, line_label, score_text

POINTS = 50
"""Points kept of a curve: means over equal stretches of steps."""

CURVES = ("train/", "val/accuracy")

Reply = tuple[str, bool]


def page_data(plan: Plan, results: Results) -> dict[str, Any]:
    """Plain values: ``pictures`` (data addresses), ``examples`` by column, ``cells`` by ``"line,column"``."""
    pictures: list[str] = []
    columns = [examples(plan, c, pictures) for c in range(len(plan.columns))]
    read = _Replies()
    cells = {
        f"{n},{c}": _cell(plan, results, n, c, columns[c], read)
        for (n, c), cell in results.cells.items()
        if cell.score is not None
    }
    shown = {str(c): [{k: v for k, v in e.items() if k != "key"} for e in found] for c, found in enumerate(columns)}
    return {"pictures": pictures, "examples": shown, "cells": cells}


def examples(plan: Plan, column: int, pictures: list[str]) -> list[dict[str, Any]]:
    """The items of a column whose pictures an untouched model's test kept; their pictures are added to ``pictures``."""
    for number in range(len(plan.lines)):
        nodes = plan.cells[number, column]
        files = sorted((nodes[0].folder / "examples").glob("*.png")) if len(nodes) == 1 else []
        if not files:
            continue
        lines = _lines(nodes[0].folder / "items.jsonl")
        found = []
        for file in files:
            item = lines[int(file.stem)]
            pictures.append(f"data:image/png;base64,{base64.b64encode(file.read_bytes()).decode()}")
            names = ("key", "question", "options", "answer", "seen")
            found.append({**{name: item[name] for name in names}, "picture": len(pictures) - 1})
        return found
    return []


class _Replies:
    """Replies by key, each file read once."""

    def __init__(self) -> None:
        self.known: dict[Path, dict[str, Reply]] = {}

    def of(self, node: Node, row: Row) -> dict[str, Reply]:
        path = store.predictions(node, row.keep)
        if path not in self.known:
            replies = {line["key"]: (line["prediction"], bool(line["correct"])) for line in _lines(path)}
            self.known[path] = replies
        return self.known[path]


def _lines(path: Path) -> list[dict[str, Any]]:
    if not path.is_file():
        return []
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _cell(
    plan: Plan, results: Results, number: int, column: int, asked: Sequence[Mapping[str, Any]], read: _Replies
) -> dict[str, Any]:
    line, nodes = plan.lines[number], plan.cells[number, column]
    done = _done(nodes)
    base = baseline_of(plan, line)
    lines = [(plan.lines[n].row, _done(plan.cells[n, column])) for n in (base,) if n is not None] + [(line.row, done)]
    replies = []
    if len(by_seed(nodes)) == len(nodes):  # a plain column: one node a seed
        for row, tests in lines:
            known = [read.of(test, row) for test in tests]
            replies.append((row.label, [[found[e["key"]] for found in known if e["key"] in found] for e in asked]))
    header, rows = _figures(plan, results, number, column)
    trained = {int(n.facts["seed"]): n.parent or n for n in done if n.parent or n.kind == "train"}
    return {
        "title": f"{line_label(line)} on {line.backbone.label}: {plan.columns[column].label}",
        "column": str(column),
        "header": header,
        "rows": rows,
        "parts": _parts(plan, line.row, done) if not replies else [],
        "trained": bool(trained),
        "curves": [{"seed": s, "points": found} for s, node in trained.items() if (found := curves(node.folder))]
        if replies
        else [],
        "replies": replies,
    }


def _done(nodes: Sequence[Node]) -> list[Node]:
    """Those with a result of the present settings, code and weights."""
    return [node for node in nodes if store.result(node) is not None]


def _figures(plan: Plan, results: Results, number: int, column: int) -> tuple[list[str], list[list[str]]]:
    """The small table of a panel: all, seen and unseen labels with n, gain and the paper's value."""
    line, cell, digits = plan.lines[number], results.cells[number, column], plan.spec.metric.digits
    base, paper = baseline_of(plan, line), paper_scores(plan, line)[column]
    parts = [("All items", cell.items, "score")]
    if cell.items_unseen:
        parts.append(("Seen labels", cell.items - cell.items_unseen, "seen"))
        parts.append(("Unseen labels", cell.items_unseen, "unseen"))
    name = next((row.label for row in plan.spec.rows if row.id == plan.spec.baseline), "")
    header = ["", "Items", "Exact match", *([name, "Gain"] if base is not None else []), *(["Paper"] if paper else [])]
    rows = []
    for name, items, part in parts:
        texts = [name, str(items), score_text(getattr(cell, part), digits)]
        if base is not None:
            gain = gains(plan, results.cells, number, part)[column]
            old = getattr(results.cells[base, column], part)
            texts += [score_text(old, digits), score_text(gain, digits, signed=True)]
        if paper:
            texts.append(score_text(paper, digits) if name == "All items" else MISSING)
        rows.append(texts)
    return header, rows


def _parts(plan: Plan, row: Row, nodes: Sequence[Node]) -> list[list[str]]:
    """For a column over several datasets: the mean for each set adapted to (or tested, where nothing adapted)."""
    found: dict[str, list[float]] = {}
    metric = plan.spec.metric.at(row.keep)
    for node in nodes:
        value = (store.result(node) or {})["metrics"].get(metric.name)
        if value is not None:
            found.setdefault(str((node.parent or node).facts["dataset"]), []).append(value * metric.scale)
    return [[name, f"{fmean(values):.{metric.digits}f}"] for name, values in found.items()]


def curves(folder: Path) -> dict[str, list[list[float]]]:
    """Scalars of a training by name, as at most :data:`POINTS` pairs of step and value."""
    found: dict[str, list[tuple[int, float]]] = {}
    for row in _lines(folder / "curves.jsonl"):
        for name, value in row.items():
            if name.startswith(CURVES[0]) or name == CURVES[1]:
                found.setdefault(name, []).append((int(row["step"]), float(value)))
    return {name: _thinned(points) for name, points in found.items()}


def _thinned(points: Sequence[tuple[int, float]]) -> list[list[float]]:
    size = -(-len(points) // POINTS)
    parts = [points[i : i + size] for i in range(0, len(points), size)]
    return [[part[-1][0], round(fmean(value for _, value in part), 4)] for part in parts]
