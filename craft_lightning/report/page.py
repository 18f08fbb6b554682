"""A table as one HTML file that needs no network: click a cell for its curves, its labels and a dozen questions.

The page is whole without its script, which only fills the panel. Data travel as JSON in a block that is not executed,
escaped so that no text can end it; the script puts texts on the page as texts. A content security policy allows that
one script, by its hash, and images that are part of the file.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from functools import cache
from statistics import fmean
from typing import TYPE_CHECKING, Any

from craft_lightning.benchmark import store
from craft_lightning.benchmark.claims import FAILS, HOLDS
from craft_lightning.benchmark.judged import Judged, reply_texts
from craft_lightning.benchmark.plan import Job, Plan, baseline_of
from craft_lightning.benchmark.results import Results, Score, by_seed, gains, paper_scores
from craft_lightning.benchmark.table_rows import Row
from craft_lightning.benchmark.table_values import Metric
from craft_lightning.io import read_lines
from craft_lightning.report.curves import curves
from craft_lightning.report.figure import to_section
from craft_lightning.report.report import DECIDED, MISSING, Section, TableReport, claim_texts, score_text
from craft_lightning.report.templates import png_address, to_page

if TYPE_CHECKING:
    from matplotlib.figure import Figure

TINTS = (1.0, 5.0, 10.0, 20.0)
"""Points of gain or loss from which a cell has the next deeper colour."""
WORDS = {HOLDS: "holds", FAILS: "fails"}


def to_html(plan: Plan, results: Results, report: TableReport, picture: Figure | None = None) -> str:
    """The whole file."""
    depths = range(1, len(TINTS) + 1)
    return to_page(
        "report.html",
        ("plots.js", "report.js"),
        report=report,
        figure=to_section(plan, picture),
        figure_last=plan.spec.replies is not None,
        grids=[(s, list(_lines(plan, results, s, m))) for s, m in zip(report.scores, plan.spec.metrics, strict=True)],
        claims=[(WORDS.get(v.word, ""), *claim_texts(v)) for v in results.verdicts],
        decided=DECIDED,
        tints=TINTS,
        swatches=[*(f"down{n}" for n in reversed(depths)), "", *(f"up{n}" for n in depths)],
        data=page_data(plan, results),
    )


def _lines(plan: Plan, results: Results, scores: Section, metric: Metric) -> Iterator[dict[str, Any]]:
    """Rows of the grid of a metric: headings, our lines with a button a cell, and the paper's texts.

    Headings are for backbones whose lines stand together; otherwise each line names its own.
    """
    runs = [key for key, _ in itertools.groupby(line.backbone.id for line in plan.lines)]
    grouped = len(runs) == len(set(runs))
    numbered = iter(enumerate(plan.lines))
    before = None
    columns = [c for c, column in enumerate(plan.columns) if column.metric == metric]
    for (backbone, label, *texts), quoted in zip(scores.rows, scores.paper, strict=True):
        name = {"label": label, "where": "" if grouped else backbone}
        if quoted:
            yield {**name, "quoted": texts}
            continue
        number, line = next(numbered)
        if grouped and line.backbone != before:
            yield {"heading": line.backbone.label + (f", beside {line.backbone.paper}" if line.backbone.paper else "")}
        before = line.backbone
        gained = gains(plan, results.cells, number) or [None] * len(plan.columns)
        cells = [_button(plan, results, number, c, gained[c]) for c in columns]
        yield {**name, "cells": cells, "means": texts[len(columns) :]}


def _button(plan: Plan, results: Results, number: int, column: int, gain: Score | None) -> dict[str, str]:
    cell, metric, line = results.cells[number, column], plan.columns[column].metric, plan.lines[number]
    digits = metric.digits
    if cell.score is None:
        return {"missing": "failed" if cell.error else MISSING, "why": cell.error or "not computed"}
    score = score_text(cell.score, digits)
    gained = "" if gain is None else score_text(gain, digits, signed=True, spread=False)
    said = f"{line.label} on {line.backbone.label}, {plan.columns[column].label}: {score}"
    return {
        "key": f"{number},{column}",
        "tint": "" if gain is None else tint_of(gain.mean * 100 / metric.most * (-1 if metric.falls else 1)),
        "said": said + (f", gain {gained}" if gained else ""),
        "score": score,
        "gain": gained,
    }


def tint_of(gain: float) -> str:
    """The class of a cell's colour: ``up1`` to ``up4``, ``down1`` to ``down4``, or none around 0."""
    depth = sum(abs(gain) >= limit for limit in TINTS)
    return "" if depth == 0 else f"{'up' if gain > 0 else 'down'}{depth}"


def page_data(plan: Plan, results: Results) -> dict[str, Any]:
    """What the panel shows, read from the run folders: ``pictures`` (data addresses of images), ``examples`` by
    column, ``cells`` by ``"line,column"``."""
    panels = _Panels(plan, results)
    cells = {f"{n},{c}": panels.cell(n, c) for (n, c), cell in results.cells.items() if cell.score is not None}
    shown = [[{k: v for k, v in e.items() if k != "key"} for e in found] for found in panels.examples]
    return {"pictures": panels.images, "examples": {str(c): found for c, found in enumerate(shown)}, "cells": cells}


class _Panels:
    """What the panels of a table's cells show; each file is read once."""

    def __init__(self, plan: Plan, results: Results) -> None:
        self.plan, self.results, self.replies, self.judged = plan, results, cache(read_lines), Judged(plan)
        self.images: list[str] = []
        self.examples = [self._examples(c) for c in range(len(plan.columns))]

    def metric(self, column: int) -> Metric:
        """What a column shows."""
        return self.plan.columns[column].metric

    def _examples(self, column: int) -> list[dict[str, Any]]:
        """The items of a column whose images an untouched model's test kept."""
        for number in range(len(self.plan.lines)):
            jobs = self.plan.cells[number, column]
            files = sorted((jobs[0].folder / "examples").glob("*.png")) if len(jobs) == 1 else []
            if not files:
                continue
            items, found = read_lines(jobs[0].folder / "items.jsonl"), []
            for file in files:
                item, place = items[int(file.stem)], len(self.images)
                self.images.append(png_address(file.read_bytes()))
                names = ("key", "question", "options", "answer", "seen")
                found.append({**{name: item[name] for name in names}, "picture": place})
            return found
        return []

    def cell(self, number: int, column: int) -> dict[str, Any]:
        """A cell with a result: its small table, learning curves and replies, or the sets that it is a mean of."""
        line, jobs = self.plan.lines[number], self.plan.cells[number, column]
        done = _done(jobs)
        plain = len(by_seed(jobs)) == len(jobs)  # one job a seed
        base = baseline_of(self.plan, line)
        compared = [n for n in (base, number) if n is not None] if plain else []
        trained = {int(job.facts["seed"]): training for job in done if (training := job.training) is not None}
        points = {seed: curves(job.folder) for seed, job in trained.items()} if plain else {}
        header, rows = self._figures(number, column)
        return {
            "title": f"{line.label} on {line.backbone.label}: {self.plan.columns[column].label}",
            "column": str(column),
            "header": header,
            "rows": rows,
            "metric": self.metric(column).label,
            "parts": [] if plain else self._parts(line.row, done, self.metric(column)),
            "trained": bool(trained),
            "curves": [{"name": f"seed {seed}", "points": found} for seed, found in points.items() if found],
            "replies": [(self.plan.lines[n].row.label, self._replies(n, column)) for n in compared],
        }

    def _figures(self, number: int, column: int) -> tuple[list[str], list[list[str]]]:
        """The small table of a panel: all, seen and unseen labels with n, gain and the paper's value."""
        line, cell, metric = self.plan.lines[number], self.results.cells[number, column], self.metric(column)
        digits = metric.digits
        base, paper = baseline_of(self.plan, line), paper_scores(self.plan, line)[column]
        parts = [("All items", cell.items, "score")]
        if cell.items_unseen:
            parts += [("Seen labels", cell.items - cell.items_unseen, "seen")]
            parts += [("Unseen labels", cell.items_unseen, "unseen")]
        header = ["", "Items", metric.label]
        header += [] if base is None else [self.plan.lines[base].row.label, "Gain"]
        rows = []
        for name, items, part in parts:
            texts = [name, str(items), score_text(getattr(cell, part), digits)]
            if base is not None:
                gain = gains(self.plan, self.results.cells, number, part)[column]
                before = getattr(self.results.cells[base, column], part)
                texts += [score_text(before, digits), score_text(gain, digits, signed=True)]
            if paper:
                texts.append(score_text(paper, digits) if name == "All items" else MISSING)
            rows.append(texts)
        return header + (["Paper"] if paper else []), rows

    def _replies(self, number: int, column: int) -> list[list[tuple[str, bool]]]:
        """For each example the replies of a line, seed by seed, and whether they are right: as its judge says, or by
        exact match."""
        jobs, keep_ratio = _done(self.plan.cells[number, column]), self.plan.lines[number].row.keep_ratio
        if self.metric(column).judged:
            places = [store.predictions(job, keep_ratio) for job in jobs]
            judged = [(reply_texts(file), self.judged.of(file, column)) for file in places]
            keys = [e["key"] for e in self.examples[column]]
            return [[(said[k], found[k].correctness) for said, found in judged if k in found] for k in keys]
        files = [self.replies(store.predictions(job, keep_ratio)) for job in jobs]
        found = [{row["key"]: (row["prediction"], bool(row["correct"])) for row in rows} for rows in files]
        return [[known[e["key"]] for known in found if e["key"] in known] for e in self.examples[column]]

    def _parts(self, row: Row, jobs: Sequence[Job], metric: Metric) -> list[list[str]]:
        """For a column over several datasets: the mean for each set adapted to (or tested, where nothing adapted)."""
        found: dict[str, list[float]] = {}
        for job in jobs:
            value = (store.result(job) or {})["metrics"].get(metric.at(row.keep_ratio))
            if value is not None:
                found.setdefault(str((job.training or job).facts["dataset"]), []).append(value * metric.scale)
        return [[name, f"{fmean(values):.{metric.digits}f}"] for name, values in found.items()]


def _done(jobs: Sequence[Job]) -> list[Job]:
    """Those with a result of the present settings, code and weights."""
    return [job for job in jobs if store.result(job) is not None]
