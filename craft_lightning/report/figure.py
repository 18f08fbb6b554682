"""Rows at several keep ratios as curves (the paper's figure 5): one picture, as PNG and inside the HTML report."""

from __future__ import annotations

import io
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from craft_lightning.benchmark.plan import Plan
from craft_lightning.benchmark.results import Results, Score, difference, mean_of
from craft_lightning.errors import CraftError
from craft_lightning.io import fresh_file
from craft_lightning.report.templates import ASSETS

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MARKERS = "osD^v<>PXp"
SIZE = (11.0, 4.4)
"""Inches of the two panels of a curve's row."""
STYLE = ASSETS / "curves.mplstyle"


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


def draw(plan: Plan, results: Results) -> Figure | None:
    """The picture: for each curve accuracy against keep ratio, and its change from keeping the most; a line a column.

    Bars are the standard deviation over seeds. None if the table has no curve, or nothing of it is computed. Raises
    CraftError: matplotlib is not installed."""
    lines = [numbers for numbers in curves(plan) if any(results.cells[n, 0].score for n in numbers)]
    if not lines:
        return None
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise CraftError("a picture of curves needs matplotlib: pip install 'craft-lightning[figures]'") from error
    from matplotlib import rc_context

    with rc_context(fname=STYLE):
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
    left.set_ylabel("Exact match, per cent" if plan.spec.metric.scale == 100.0 else plan.spec.metric.name)
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


def _line(axes: Axes, ratios: Sequence[float], scores: Sequence[Score | None], **look: Any) -> None:
    points = {ratio: score for ratio, score in zip(ratios, scores, strict=True) if score is not None}
    spread = [score.std or 0.0 for score in points.values()]
    means = [score.mean for score in points.values()]
    axes.errorbar(list(points), means, yerr=spread if any(spread) else None, capsize=2, elinewidth=0.8, **look)


def to_section(plan: Plan, figure: Figure | None) -> str:
    """The picture as a part of an HTML page; empty without one."""
    if figure is None:
        return ""
    from matplotlib import rc_context

    out = io.StringIO()
    with rc_context(fname=STYLE):
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    svg = out.getvalue()
    svg = svg[svg.index("<svg") :].replace("<svg ", f'<svg role="img" aria-label="{escape(plan.spec.title)}" ', 1)
    return f'<section id="figure"><h2>Curves</h2><div class="wide">{svg}</div></section>'


def write_png(path: Path, figure: Figure) -> Path:
    """The picture at 150 dots an inch, the same bytes for the same numbers."""
    with fresh_file(path) as temporary:
        figure.savefig(temporary, dpi=150, metadata={"Software": None})
    return path
