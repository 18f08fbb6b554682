"""A table as Markdown, CSV and in the terminal; a missing cell is shown as missing."""

from __future__ import annotations

import csv
import io
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rich.console import Console
from rich.table import Table

from craft_lightning.tables.cells import (
    PAPER_MEAN,
    Cell,
    Score,
    baseline_of,
    collect,
    difference,
    mean_of,
    paper_score,
)
from craft_lightning.tables.plan import Line, Plan

MISSING = "-"


@dataclass(frozen=True)
class Section:
    """One grid of texts; ``paper`` marks the rows that are quoted from the paper."""

    title: str
    header: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    paper: tuple[bool, ...]


@dataclass(frozen=True)
class Report:
    """All that is printed, before any format."""

    title: str
    note: str
    sections: tuple[Section, ...]
    remarks: tuple[str, ...]


def build_report(plan: Plan) -> Report:
    """Accuracy beside the paper's, gain over the own baseline row, seen and unseen labels, remarks."""
    cells = collect(plan)
    sections = [_accuracy(plan, cells), _gain(plan, cells), _labels(plan, cells)]
    title = plan.spec.title or plan.spec.name
    return Report(title, plan.spec.note, tuple(s for s in sections if s.rows), tuple(_remarks(plan, cells)))


def line_label(line: Line) -> str:
    """``"CRAFT, trained with pocket-qwen2-xs"``, or the row's label alone."""
    return f"{line.row.label}, trained with {line.surrogate.label}" if line.surrogate else line.row.label


def _section(
    plan: Plan, title: str, make: Callable[[int, Line], list[Score | None]], quote: Callable[[Line], list[Score | None]]
) -> Section:
    digits = plan.spec.metric.digits
    signed = title.startswith("Gain")
    rows, paper = [], []
    for number, line in enumerate(plan.lines):
        scores = make(number, line)
        if not scores:
            continue
        rows.append((line.backbone.label, line_label(line), *(_text(s, digits, signed) for s in scores)))
        paper.append(False)
        quoted = quote(line)
        if any(quoted):
            surrogate = f", trained with {line.surrogate.paper}" if line.surrogate else ""
            label = f"paper: {line.row.paper}{surrogate}"
            rows.append((line.backbone.paper, label, *(_text(s, digits, signed) for s in quoted)))
            paper.append(True)
    header = ("Backbone", "Method", *(c.label for c in plan.columns), "Mean")
    return Section(title, header, tuple(rows), tuple(paper))


def _accuracy(plan: Plan, cells: dict[tuple[int, int], Cell]) -> Section:
    return _section(
        plan, "Exact match, per cent", lambda n, _: _with_mean(_scores(plan, cells, n)), lambda line: _paper(plan, line)
    )


def _gain(plan: Plan, cells: dict[tuple[int, int], Cell]) -> Section:
    def ours(number: int, line: Line) -> list[Score | None]:
        base = baseline_of(plan, line)
        if base is None:
            return []
        own, other = _scores(plan, cells, number), _scores(plan, cells, base)
        return _with_mean([difference(a, b) for a, b in zip(own, other, strict=True)])

    def quoted(line: Line) -> list[Score | None]:
        base = baseline_of(plan, line)
        if base is None:
            return []
        return [difference(a, b) for a, b in zip(_paper(plan, line), _paper(plan, plan.lines[base]), strict=True)]

    label = next((r.label for r in plan.spec.rows if r.id == plan.spec.baseline), "")
    return _section(plan, f"Gain over {label} on the same backbone, points", ours, quoted)


def _labels(plan: Plan, cells: dict[tuple[int, int], Cell]) -> Section:
    digits = plan.spec.metric.digits
    rows = []
    for number, line in enumerate(plan.lines):
        own = [cells[number, c] for c in range(len(plan.columns))]
        if any(cell.items_unseen for cell in own):
            texts = [f"{_text(x.seen, digits)} / {_text(x.unseen, digits)}" if x.items_unseen else MISSING for x in own]
            rows.append((line.backbone.label, line_label(line), *texts))
    header = ("Backbone", "Method", *(c.label for c in plan.columns))
    return Section("Seen / unseen labels, exact match, per cent", header, tuple(rows), (False,) * len(rows))


def _scores(plan: Plan, cells: dict[tuple[int, int], Cell], number: int) -> list[Score | None]:
    return [cells[number, c].score for c in range(len(plan.columns))]


def _with_mean(scores: list[Score | None]) -> list[Score | None]:
    return [*scores, mean_of(scores)]


def _paper(plan: Plan, line: Line) -> list[Score | None]:
    scores = [paper_score(plan, line, c.paper) for c in plan.columns]
    # The printed average is that of all the paper's columns, so it stands beside a whole table only.
    whole = len(plan.columns) == len(plan.spec.columns)
    return [*scores, paper_score(plan, line, PAPER_MEAN) if whole else None]


def _text(score: Score | None, digits: int, signed: bool = False) -> str:
    if score is None:
        return MISSING
    text = f"{score.mean:{'+' if signed else ''}.{digits}f}"
    return text if score.std is None else f"{text} ± {score.std:.{digits}f}"


def _remarks(plan: Plan, cells: dict[tuple[int, int], Cell]) -> list[str]:
    remarks = []
    counts, frequent = [], []
    for c, column in enumerate(plan.columns):
        column_cells = [cells[n, c] for n in range(len(plan.lines))]
        items = max(cell.items for cell in column_cells)
        unseen = max(cell.items_unseen for cell in column_cells)
        counts.append(f"{column.label} {items}" + (f" ({unseen} unseen)" if unseen else ""))
        majority = [cell.majority for cell in column_cells if cell.majority is not None]
        frequent += [f"{column.label} {max(majority):.0f}"] if majority else []
    kind = "Validation" if plan.spec.metric.of_validation else "Test"
    remarks.append(f"{kind} items: {', '.join(counts)}.")
    if frequent:
        remarks.append(f"Share of the most frequent answer, per cent: {', '.join(frequent)}.")
    wanted = max(cell.wanted for cell in cells.values())
    remarks.append(f"Seeds: {wanted}." + ("" if wanted == 1 else " ± is the standard deviation over them."))
    remarks += _best_of_sweeps(plan, cells)
    if plan.spec.paper_source:
        remarks.append(f"Paper: {plan.spec.paper_source}.")
    for (n, c), cell in cells.items():
        where = f"{line_label(plan.lines[n])} on {plan.lines[n].backbone.label}, {plan.columns[c].label}"
        if cell.error:
            remarks.append(f"Failed: {where}: {cell.error}")
        elif 0 < cell.seeds < cell.wanted:
            remarks.append(f"Partial: {where}: {cell.seeds} of {cell.wanted} seeds.")
        if cell.score is not None and cell.score.std == 0:
            remarks.append(f"Standard deviation of exactly 0: {where}: did the seed reach anything?")
    missing = sum(cell.seeds == 0 for cell in cells.values())
    if missing:
        remarks.append(f"{missing} of {len(cells)} cells are missing ({MISSING}).")
    return remarks


def _best_of_sweeps(plan: Plan, cells: dict[tuple[int, int], Cell]) -> list[str]:
    """For each swept row on each backbone, the setting with the best mean; an optimum at an edge is named as such."""
    sweeps: dict[tuple[str, str], list[tuple[Line, Score]]] = {}
    for number, line in enumerate(plan.lines):
        mean = mean_of(_scores(plan, cells, number))
        if line.row.swept and mean is not None:
            sweeps.setdefault((line.row.swept, line.backbone.id), []).append((line, mean))
    remarks = []
    for found in sweeps.values():
        line, best = max(found, key=lambda pair: pair[1].mean)
        edge = " (at the edge of the grid)" if line in (found[0][0], found[-1][0]) and len(found) > 1 else ""
        remarks.append(f"Best: {line_label(line)}: {_text(best, plan.spec.metric.digits)}{edge}.")
    return remarks


def to_markdown(report: Report) -> str:
    """The report as Markdown; rows of the paper in italics."""
    parts = [f"# {report.title}", *([report.note] if report.note else [])]
    for section in report.sections:
        lines = [_row(section.header), _row(["---", "---"] + ["---:"] * (len(section.header) - 2))]
        for row, quoted in zip(section.rows, section.paper, strict=True):
            lines.append(_row([f"*{text}*" for text in row] if quoted else list(row)))
        parts.append(f"## {section.title}\n\n" + "\n".join(lines))
    parts.append("\n".join(f"- {remark}" for remark in report.remarks))
    return "\n\n".join(parts) + "\n"


def _row(texts: tuple[str, ...] | list[str]) -> str:
    return f"| {' | '.join(texts)} |"


def to_csv(plan: Plan) -> str:
    """One row a cell: who, what, mean, spread, gain, seen and unseen labels, counts, the paper's value."""
    cells = collect(plan)
    digits = plan.spec.metric.digits
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    who = ("row", "surrogate", "backbone", "column")
    numbers = ("mean", "std", "gain", "seen", "unseen", "items", "items_unseen", "seeds", "paper", "paper_gain")
    writer.writerow([*who, *numbers])
    for (n, c), cell in sorted(cells.items()):
        line, column = plan.lines[n], plan.columns[c]
        base = baseline_of(plan, line)
        gain = paper_gain = None
        paper = paper_score(plan, line, column.paper)
        if base is not None:
            gain = difference(cell.score, cells[base, c].score)
            paper_gain = difference(paper, paper_score(plan, plan.lines[base], column.paper))
        spread = Score(cell.score.std) if cell.score is not None and cell.score.std is not None else None
        scores = [cell.score, spread, gain, cell.seen, cell.unseen]
        texts = ["" if s is None else f"{s.mean:.{digits}f}" for s in (*scores, paper, paper_gain)]
        ids = [line.row.id, line.surrogate.id if line.surrogate else "none", line.backbone.id, column.id]
        writer.writerow([*ids, *texts[:5], cell.items, cell.items_unseen, cell.seeds, *texts[5:]])
    return out.getvalue()


def print_report(report: Report, console: Console) -> None:
    """The report in the terminal."""
    console.print(f"\n{report.title}", style="bold", markup=False, highlight=False)
    console.print(report.note, markup=False, highlight=False)
    for section in report.sections:
        table = Table(title=section.title, title_justify="left", box=None, padding=(0, 1, 0, 0), header_style="bold")
        for number, name in enumerate(section.header):
            table.add_column(name, justify="left" if number < 2 else "right", no_wrap=number >= 2)
        for row, quoted in zip(section.rows, section.paper, strict=True):
            table.add_row(*row, style="dim italic" if quoted else None)
        console.print()
        console.print(table)
    console.print()
    for remark in report.remarks:
        console.print(remark, markup=False, highlight=False, soft_wrap=True)


def save(plan: Plan) -> tuple[Path, Path]:
    """Write ``<name>.md`` and ``<name>.csv`` into the plan's output folder; their paths are returned."""
    plan.output.mkdir(parents=True, exist_ok=True)
    written = []
    for suffix, text in ((".md", to_markdown(build_report(plan))), (".csv", to_csv(plan))):
        path = plan.output / f"{plan.spec.name}{suffix}"
        temporary = path.with_name(f".{path.name}.tmp")
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
        written.append(path)
    return written[0], written[1]
