"""A table as one HTML file that needs no network: click a cell for its curves, its labels and a dozen questions.

The page is whole without its script, which only fills the panel. Data travel as JSON in a block that is not executed,
escaped so that no text can end it; the script puts texts on the page as texts. A content security policy allows that
one script, by its hash, and pictures that are part of the file.
"""

from __future__ import annotations

import base64
import hashlib
import itertools
import json
import re
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from craft_lightning.benchmark.cells import Score, gains
from craft_lightning.benchmark.plan import Plan
from craft_lightning.benchmark.results import Results
from craft_lightning.benchmark.statistics import FAILS, HOLDS
from craft_lightning.report.figure import to_section
from craft_lightning.report.html_data import page_data
from craft_lightning.report.sections import MISSING, Report, Section, line_label, made_text, score_text

if TYPE_CHECKING:
    from matplotlib.figure import Figure

ASSETS = Path(__file__).with_name("assets")
TINTS = (1.0, 5.0, 10.0, 20.0)
"""Points of gain or loss from which a cell has the next deeper colour."""


def to_html(plan: Plan, results: Results, report: Report, picture: Figure | None = None) -> str:
    """The whole file."""
    script = (ASSETS / "report.js").read_text(encoding="utf-8")
    parts = {
        "title": escape(report.title),
        "note": escape(report.note),
        "made": escape(made_text(results.made)).replace("`", "") if results.made else "",
        "style": (ASSETS / "report.css").read_text(encoding="utf-8"),
        "body": "\n".join([to_section(plan, picture), *_body(plan, results, report)]),
        "data": _json(page_data(plan, results)),
        "script": script,
        "script_hash": f"sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}",
    }
    template = (ASSETS / "report.html").read_text(encoding="utf-8")
    return re.sub(r"%(\w+)%", lambda found: parts[found.group(1)], template)


def _json(value: object) -> str:
    """JSON that cannot end the block it stands in."""
    text = json.dumps(value, ensure_ascii=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _body(plan: Plan, results: Results, report: Report) -> list[str]:
    parts = [f'<section id="accuracy"><h2>{escape(report.accuracy.title)}</h2>', _controls(report)]
    parts += [_accuracy(plan, results, report.accuracy), "</section>"]
    if results.verdicts:
        words = {HOLDS: "holds", FAILS: "fails"}
        items = [
            f'<li><span class="word {words.get(v.word, "")}">Claim {escape(v.id)}: {escape(v.word)}</span>'
            f"{escape(line.split(f': {v.word}. ', 1)[1])}</li>"
            for v, line in zip(results.verdicts, report.claims, strict=False)
        ]
        parts.append(f'<section id="claims"><h2>What the table decides</h2><ul class="claims">{"".join(items)}</ul>')
        parts.append(f'<p class="hint">{escape(report.claims[-1])}</p></section>')
    parts += [_section(section) for section in report.sections if section is not report.accuracy]
    parts.append(
        f"<section><h2>Notes</h2>{_list('problems', report.problems)}{_list('remarks', report.remarks)}</section>"
    )
    return parts


def _controls(report: Report) -> str:
    parts = []
    if any(report.accuracy.paper):
        parts.append('<label><input type="checkbox" id="paper" checked> the paper’s rows</label>')
    if report.gain.rows:
        depths = range(1, len(TINTS) + 1)
        names = [*(f"down{n}" for n in reversed(depths)), "", *(f"up{n}" for n in depths)]
        swatches = "".join(f'<i class="{name}"></i>' for name in names)
        limits = ", ".join(f"{limit:g}" for limit in TINTS)
        parts.append(f'<span class="legend">loss&nbsp;{swatches}&nbsp;gain, deeper from {limits} points</span>')
    hint = "Choose a cell to see what is behind it: learning curves, seen and unseen labels, example questions."
    return f'<p class="hint">{hint}</p><div class="controls">{"".join(parts)}</div>'


def _accuracy(plan: Plan, results: Results, section: Section) -> str:
    """The main grid, a button a cell; the paper's rows and the means are the section's texts."""
    _, *names = section.header
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in names)
    rows: list[str] = []
    number = -1
    # Headings for backbones whose lines stand together; otherwise each line names its own.
    runs = [key for key, _ in itertools.groupby(line.backbone.id for line in plan.lines)]
    grouped = len(runs) == len(set(runs))
    for (backbone, label, *texts), quoted in zip(section.rows, section.paper, strict=True):
        if quoted:
            cells = "".join(f"<td>{escape(text)}</td>" for text in texts)
            rows.append(f'<tr class="paper">{_name(label, backbone, grouped)}{cells}</tr>')
            continue
        number += 1
        line = plan.lines[number]
        if grouped and (number == 0 or line.backbone != plan.lines[number - 1].backbone):
            title = line.backbone.label + (f", beside {line.backbone.paper}" if line.backbone.paper else "")
            span = f'<th scope="rowgroup" colspan="{len(names)}"><span>{escape(title)}</span></th>'
            rows.append(f"<tr>{span}</tr>")
        gained = gains(plan, results.cells, number) or [None] * len(plan.columns)
        cells = "".join(_cell(plan, results, number, c, gain) for c, gain in enumerate(gained))
        means = "".join(f'<td class="mean">{escape(text)}</td>' for text in texts[len(plan.columns) :])
        rows.append(f"<tr>{_name(label, backbone, grouped)}{cells}{means}</tr>")
    return f'<div class="wide"><table><thead><tr>{head}</tr></thead><tbody>{"".join(rows)}</tbody></table></div>'


def _name(label: str, backbone: str, grouped: bool) -> str:
    where = "" if grouped else f"<small>on {escape(backbone)}</small>"
    return f'<th scope="row">{escape(label)}{where}</th>'


def _cell(plan: Plan, results: Results, number: int, column: int, gain: Score | None) -> str:
    cell, digits = results.cells[number, column], plan.spec.metric.digits
    if cell.score is None:
        word = "failed" if cell.error else MISSING
        return f'<td class="missing" title="{escape(cell.error or "not computed")}">{word}</td>'
    line = plan.lines[number]
    name = f"{line_label(line)} on {line.backbone.label}, {plan.columns[column].label}"
    score, gained = score_text(cell.score, digits), score_text(gain, digits, signed=True, spread=False)
    tint = "" if gain is None else tint_of(gain.mean)
    more = "" if gain is None else f"<small>{escape(gained)}</small>"
    said = f"{name}: {score}" + ("" if gain is None else f", gain {gained}")
    key = f'data-cell="{number},{column}" aria-label="{escape(said)}" aria-haspopup="dialog"'
    return f'<td class="held"><button type="button" class="cell {tint}" {key}>{escape(score)}{more}</button></td>'


def tint_of(gain: float) -> str:
    """The class of a cell's colour: ``up1`` to ``up4``, ``down1`` to ``down4``, or none around 0."""
    depth = sum(abs(gain) >= limit for limit in TINTS)
    return "" if depth == 0 else f"{'up' if gain > 0 else 'down'}{depth}"


def _section(section: Section) -> str:
    backbone, method, *columns = section.header
    head = f'<th scope="col">{escape(method)}</th><th scope="col" class="name">{escape(backbone)}</th>'
    head += "".join(f'<th scope="col">{escape(name).replace(" (", "<br>(")}</th>' for name in columns)
    rows = []
    for (backbone, label, *texts), quoted in zip(section.rows, section.paper, strict=True):
        cells = f'<td class="name">{escape(backbone)}</td>' + "".join(f"<td>{escape(text)}</td>" for text in texts)
        rows.append(f'<tr{" class=paper" if quoted else ""}><th scope="row">{escape(label)}</th>{cells}</tr>')
    grid = f"<table><thead><tr>{head}</tr></thead><tbody>{''.join(rows)}</tbody></table>"
    return f'<section><h2>{escape(section.title)}</h2><div class="wide">{grid}</div></section>'


def _list(name: str, lines: Sequence[str]) -> str:
    items = "".join(f"<li>{escape(line).replace('`', '')}</li>" for line in lines)
    return f'<ul class="{name}">{items}</ul>' if lines else ""
