"""The figure of a table, as PNG and inside the HTML report: rows at several keep ratios as curves (the paper's
figure 5), what receivers gain from what was adapted elsewhere as bars, or gains by surrogate and backbone as a map."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from craft_lightning.benchmark.plan import Plan
from craft_lightning.benchmark.results import Results, Score, difference, gains, mean_of
from craft_lightning.errors import CraftError
from craft_lightning.io import fresh_file
from craft_lightning.report import before_after
from craft_lightning.report.matrix import Matrix, matrices
from craft_lightning.report.templates import ASSETS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKERS = "osD^v<>PXp"
SIZE = (11.0, 4.4)
"""Inches of the two panels of a curve's row."""
STYLE = ASSETS / "curves.mplstyle"


@dataclass(frozen=True)
class _Bar:
    """A line on a receiver: its name, whether anything was trained there, and its gains by column, the mean over those
    that count under None."""

    name: str
    trained: bool
    gains: Mapping[int | None, Score | None]


def curves(plan: Plan) -> list[list[int]]:
    """Numbers of the lines of each curve, by rising keep ratio: rows of one listing, one surrogate, one backbone.

    Two ratios make no curve: they stand better in the table alone.
    """
    found: dict[tuple[str, str, str], list[int]] = {}
    for number, line in enumerate(plan.lines):
        if line.row.curve and len(line.row.eval["prune.also"]) > 2:
            surrogate = line.surrogate.id if line.surrogate else ""
            found.setdefault((line.row.curve, surrogate, line.backbone.id), []).append(number)
    return [sorted(numbers, key=lambda n: plan.lines[n].row.keep_ratio or 0.0) for numbers in found.values()]


def traces(plan: Plan, results: Results) -> dict[int, list[Mapping[int, float]]]:
    """The table's scalar over the steps, a trace a column, by the number of the first line that tests its trainings."""
    found: dict[tuple[str, ...], int] = {}
    for number in range(len(plan.lines)):
        if any(results.cells[number, c].trace for c in plan.counted):
            found.setdefault(tuple(job.training.name for job in plan.cells[number, 0] if job.training), number)
    return {number: [results.cells[number, c].trace for c in plan.counted] for number in found.values()}


def draw(plan: Plan, results: Results) -> Figure | None:
    """The picture: for each curve accuracy against keep ratio, and its change from keeping the most, a line a
    column; or the bars of :func:`_bars`; or the maps of :func:`_map`, ours and the paper's; or a scalar over the steps,
    a panel a column and a line a training; or questions that became right or wrong (:mod:`.before_after`).

    Error bars are the standard deviation over seeds. None if the table has nothing to draw, or nothing of it is
    computed. Raises CraftError: matplotlib is not installed."""
    lines = [numbers for numbers in curves(plan) if any(results.cells[n, 0].score for n in numbers)]
    received = _received(plan, results)
    crossed = [group for group in matrices(plan, results) if group[0].below[1]]
    traced, turned = traces(plan, results), before_after.pick(plan)
    if not lines and not received and not crossed and not traced and not turned:
        return None
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise CraftError(
            "the figure of a table needs matplotlib: pip install -e '.[figures]' in the checkout"
        ) from error
    from matplotlib import rc_context

    with rc_context(fname=STYLE):
        if turned:
            return before_after.draw(turned)
        if received:
            titles = {c: "Mean of the sets" if c is None else plan.columns[c].label for c in received[0].gains}
            figure = Figure(figsize=(SIZE[0], 1.2 + 0.5 * len(received)), layout="constrained")
            panels = figure.subplots(1, len(titles), squeeze=False, sharey=True)[0]
            for axes, (column, title) in zip(panels, titles.items(), strict=True):
                _bars(received, axes, column, title)
            return figure
        if traced:
            figure = Figure(figsize=(SIZE[0], 3.4), layout="constrained")
            panels = figure.subplots(1, len(plan.counted), squeeze=False, sharey=True)[0]
            for place, (c, axes) in enumerate(zip(plan.counted, panels, strict=True)):
                for number, columns in traced.items():
                    points = columns[place]
                    axes.plot(list(points), list(points.values()), label=plan.lines[number].training_label)
                axes.set_title(plan.columns[c].label, loc="left")
                axes.set_xlabel("Step")
                axes.xaxis.get_major_locator().set_params(integer=True)
            panels[0].set_yscale("log")
            panels[0].set_ylabel(plan.spec.trace)
            figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=len(traced))
            return figure
        if not lines:
            shown = [each for group in crossed for each in group]
            figure = Figure(figsize=(SIZE[0], 0.2 + SIZE[0] / len(shown)), layout="constrained")
            found = [mean.mean for each in shown for pair in each.gains if (mean := each.mean([pair]))]
            for axes, each in zip(figure.subplots(1, len(shown), squeeze=False)[0], shown, strict=True):
                _map(each, axes, limit=max(map(abs, found), default=1.0))
            return figure
        figure = Figure(figsize=(SIZE[0], SIZE[1] * len(lines)), layout="constrained")
        for numbers, pair in zip(lines, figure.subplots(len(lines), 2, squeeze=False), strict=True):
            _curve(plan, results, numbers, pair[0], pair[1])
    return figure


def _curve(plan: Plan, results: Results, numbers: Sequence[int], left: Axes, right: Axes) -> None:
    columns = range(len(plan.columns))
    scores = [[results.cells[n, c].score for n in numbers] for c in columns]
    ratios = [plan.lines[n].row.keep_ratio or 0.0 for n in numbers]
    changes = [[difference(score, each[-1]) for score in each] for each in scores]
    for c in columns:
        look = {"color": f"C{c}", "marker": MARKERS[c % len(MARKERS)], "label": plan.columns[c].label}
        _line(left, ratios, scores[c], **look)
        _line(right, ratios, changes[c], **look, alpha=0.45)
    means = [mean_of(each) for each in zip(*changes, strict=True)]
    if len(columns) > 1:
        _line(right, ratios, means, color="black", linewidth=2.6, label="mean", zorder=5)
    line = plan.lines[numbers[0]]
    method = next(row.label.rsplit(", keep", 1)[0] for row in plan.spec.rows if row.id == line.row.id)
    trained = f", trained with {line.surrogate.label}" if line.surrogate else ""
    left.set_title(f"{method}{trained}, read by {line.backbone.label}", loc="left")
    left.set_ylabel(plan.spec.metric.title)
    right.set_title(f"Change from keep {ratios[-1]}, points", loc="left")
    right.axhline(0.0, color="#888888", linewidth=0.8, zorder=1)
    for axes in (left, right):
        axes.set_xlabel("Keep ratio")
        axes.set_xticks(ratios)
    # Named in the order in which the curves end, the highest first.
    handles, names = right.get_legend_handles_labels()
    last = {plan.columns[c].label: scores[c][-1] for c in columns}
    ends = [-1.0 if (score := last.get(name)) is None else score.mean for name in names]
    order = sorted(range(len(names)), key=lambda i: -ends[i])
    solid, _ = left.get_legend_handles_labels()
    shown = [*solid, *handles[len(solid) :]]
    right.legend([shown[i] for i in order], [names[i] for i in order], loc="center left", bbox_to_anchor=(1.0, 0.5))


def _received(plan: Plan, results: Results) -> list[_Bar]:
    """The lines on receivers that have a gain somewhere, from below."""
    bars = []
    for number, line in enumerate(plan.lines):
        gained = gains(plan, results.cells, number) if line.backbone.id in plan.spec.receivers else []
        if any(gained):
            there = [results.cells[number, c].there for c in plan.counted]
            trained = any(each is None or each.steps for each in there)
            name = f"{line.label}\non {line.backbone.label}, {'trained there' if trained else 'nothing trained there'}"
            mean = mean_of([gained[c] for c in plan.counted])
            shown: list[int | None] = [None, *(c for c in range(len(plan.columns)) if c not in plan.counted)]
            bars.append(_Bar(name, trained, {c: mean if c is None else gained[c] for c in shown}))
    return bars[::-1]


def _bars(bars: Sequence[_Bar], axes: Axes, column: int | None, title: str) -> None:
    """Gains at a column, or (None) the means over those that count."""
    for place, bar in enumerate(bars):
        if (score := bar.gains[column]) is not None:
            axes.barh(place, score.mean, xerr=score.std, color="C0", alpha=0.4 if bar.trained else 1.0, capsize=2)
    axes.set_yticks(range(len(bars)), [bar.name for bar in bars])
    axes.axvline(0.0, color="#888888", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.set_title(title, loc="left")
    axes.set_xlabel("Gain over the receiver's own baseline, points")


def _map(matrix: Matrix, axes: Axes, limit: float) -> None:
    """Mean gains by surrogate and backbone, coloured from ``-limit`` to ``limit``, white at 0; bold where a model reads
    the encoder that it has adapted itself."""
    means = {pair: matrix.mean([pair]) for pair in matrix.gains}
    grid = [[math.nan if (m := means[s, b]) is None else m.mean for s in matrix.surrogates] for b in matrix.backbones]
    axes.imshow(grid, cmap="BrBG", vmin=-limit, vmax=limit)
    for y, row in enumerate(grid):
        for x, value in enumerate(row):
            text = "-" if math.isnan(value) else f"{value:+z.1f}"
            colour = "white" if abs(value) > 0.7 * limit else "black"
            weight = "bold" if matrix.surrogates[x] == matrix.backbones[y] else "normal"
            axes.text(x, y, text, ha="center", va="center", color=colour, weight=weight)
    axes.set_xticks(range(len(matrix.surrogates)), matrix.surrogates, rotation=40, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(matrix.backbones)), matrix.backbones)
    axes.grid(visible=False)
    axes.spines[:].set_visible(False)
    axes.set_title(f"{matrix.label}\ngain (bold: own encoder)", loc="left")
    axes.set_xlabel("Surrogate")
    axes.set_ylabel("Backbone")


def _line(axes: Axes, ratios: Sequence[float], scores: Sequence[Score | None], **look: Any) -> None:
    points = {ratio: score for ratio, score in zip(ratios, scores, strict=True) if score is not None}
    spread = [score.std or 0.0 for score in points.values()]
    means = [score.mean for score in points.values()]
    axes.errorbar(list(points), means, yerr=spread if any(spread) else None, capsize=2, elinewidth=0.8, **look)


def to_section(plan: Plan, figure: Figure | None) -> str:
    """The picture as a part of an HTML page, whose ids begin with the table's name; empty without one."""
    if figure is None:
        return ""
    from matplotlib import rc_context

    out = io.StringIO()
    with rc_context(fname=STYLE):
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :].replace("<svg ", f'<svg role="img" aria-label="{escape(plan.spec.title)}" ', 1)
    svg = re.sub(r'\bid="|href="#|url\(#', rf"\g<0>{plan.spec.name}-", svg)
    heading = f"<h2>Figure: {escape(plan.spec.title)}</h2>"
    return f'<section id="{plan.spec.name}-figure">{heading}<div class="wide">{svg}</div></section>'


def write_png(path: Path, figure: Figure) -> Path:
    """The picture at 150 dots an inch, the same bytes for the same numbers."""
    with fresh_file(path) as temporary:
        figure.savefig(temporary, dpi=150, metadata={"Software": None})
    return path
