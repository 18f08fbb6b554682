"""A report as Markdown, as LaTeX, in the terminal and as files, and the block of it that the README carries."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from craft_lightning.benchmark.plan import Plan
from craft_lightning.benchmark.results import Cell, Place, Results, gather
from craft_lightning.benchmark.table_files import read, stored_seeds, stored_table, to_csv, to_json
from craft_lightning.environment import in_checkout
from craft_lightning.errors import CraftError
from craft_lightning.io import write_text
from craft_lightning.report import figure
from craft_lightning.report.page import to_html
from craft_lightning.report.report import MISSING, Report, Section, TableReport
from craft_lightning.report.sections import build_report
from craft_lightning.report.templates import fill

if TYPE_CHECKING:
    from matplotlib.figure import Figure

README_ROWS = 8


def to_markdown(report: Report) -> str:
    """The report as Markdown; rows of the paper in italics."""
    return fill("table.md", report=report)


def to_latex(report: Report) -> str:
    r"""A ``tabular`` a section, for ``booktabs``; the paper's rows in italics."""
    return fill("table.tex", report=report)


def to_readme(plan: Plan, results: Results) -> str:
    """The short block: mean accuracy and gain of a few rows, claims, holes, and where the rest is."""
    report = build_report(plan, results)
    return fill(
        "readme.md",
        report=report,
        short=_short(report) if report.summary.rows and not report.pairs.rows else None,
        spread=any(cell.seeds > 1 for cell in results.cells.values()),
        table=plan.spec.name,
        numbers=stored_table(plan).relative_to(_root(plan)).as_posix(),
    )


def _short(report: TableReport) -> list[list[str]]:
    """A header and the first rows that the paper has (all, if it has none): their mean over the sets, and gains."""
    means = {row[:2]: row[-1] for row in report.scores[0].rows}
    gains = [name for name in ("Mean gain", "Paper's gain") if name in report.summary.header]
    places = [report.summary.header.index(name) for name in gains]
    kept = [row for row in report.summary.rows if row[places[-1]] != MISSING] or report.summary.rows
    shown = [[f"{r[1]}, on {r[0]}", means[r[:2]], *(r[place] for place in places)] for r in kept[:README_ROWS]]
    return [["Method", "Mean of the sets", *gains], *shown]


FORMATS: dict[str, Callable[[Plan, Results], str]] = {
    "markdown": lambda plan, results: to_markdown(build_report(plan, results)),
    "readme": to_readme,
    "latex": lambda plan, results: to_latex(build_report(plan, results)),
    "csv": to_csv,
}
"""What ``table render --format`` prints, beside the terminal's own."""


def show_report(report: Report) -> None:
    """Print the report to standard output; where no terminal ends its lines, as wide as its grids are."""
    console = Console()
    if not console.is_terminal:
        console.width = max(console.width, printed_width(report))
    print_report(report, console)


def print_report(report: Report, console: Console) -> None:
    """The report in the terminal; a grid that is wider than it goes on below. Numbers and names are never cut: a
    terminal that has no room for two names and a number breaks their lines."""
    widths = [_widths(section) for section in report.sections]
    console.width = max([console.width, *(sum(each[:2]) + max(each[2:]) for each in widths)])
    console.print(f"\n{report.title}", style="bold", markup=False, highlight=False)
    console.print(report.note, markup=False, highlight=False)
    for section in report.sections:
        for block in _blocks(section, console.width):
            console.print()
            console.print(_printed(section, [0, 1, *block]))
    for lines, style in ((report.claims, "bold"), (report.remarks, None), (report.problems, "yellow")):
        if lines:
            console.print()
        for line in lines:
            console.print(line, style=style, markup=False, highlight=False, soft_wrap=True)


def printed_width(report: Report) -> int:
    """Characters of the widest line of the grids."""
    return max((sum(_widths(section)) for section in report.sections), default=0)


def _widths(section: Section) -> list[int]:
    columns = zip(*[map(_broken, section.header), *section.rows], strict=True)
    return [max(len(part) for text in column for part in text.split("\n")) + 1 for column in columns]


def _blocks(section: Section, width: int) -> Iterator[list[int]]:
    """Columns of numbers that stand side by side in so many characters, behind the two names; never none."""
    widths = _widths(section)
    block: list[int] = []
    for number in range(2, len(widths)):
        if block and sum(widths[n] for n in (0, 1, *block, number)) > width:
            yield block
            block = []
        block.append(number)
    yield block


def _broken(name: str) -> str:
    """A column's name with what stands in brackets on a line of its own."""
    return name.replace(" (", "\n(")


def _printed(section: Section, columns: Sequence[int]) -> Table:
    # As texts: what people and models write may hold the signs of rich's markup.
    table = Table(title=Text(section.title), title_justify="left", box=None, padding=(0, 1, 0, 0), header_style="bold")
    for number in columns:
        table.add_column(Text(_broken(section.header[number])), justify="left" if number < 2 else "right", no_wrap=True)
    for row, quoted in zip(section.rows, section.paper, strict=True):
        table.add_row(*(Text(row[number]) for number in columns), style="dim italic" if quoted else None)
    return table


def drawn(plan: Plan, results: Results) -> tuple[TableReport, Figure | None]:
    """The report of a table and its figure; without one, because there is nothing to draw yet, it names none."""
    picture, report = figure.draw(plan, results), build_report(plan, results)
    return (report if picture else replace(report, picture="")), picture


def save(plan: Plan, results: Results) -> list[Path]:
    """Write ``<name>.md``, ``.csv``, ``.tex`` and ``.html`` into the plan's output folder; their paths are returned.

    A table with curves has a ``.png``, too.
    """
    report, picture = drawn(plan, results)
    texts = {
        ".md": to_markdown(report),
        ".csv": to_csv(plan, results),
        ".tex": to_latex(report),
        ".html": to_html(plan, results, report, picture),
    }
    written = [write_text(plan.output / f"{plan.spec.name}{suffix}", text) for suffix, text in texts.items()]
    return written + ([] if picture is None else [figure.write_png(plan.output / report.picture, picture)])


def _root(plan: Plan) -> Path:
    """The project's folder, two above ``experiments/tables``."""
    return plan.spec.path.parent.parent.parent


def publish(plan: Plan, stored: Path | None = None) -> list[Path]:
    """Store the table's results beside its spec, and write what the project's pages show of them.

    These are ``experiments/tables/results/<name>.csv`` and ``.json``, ``docs/<name>.md``, and in the README whatever
    stands between ``<!-- <name>:begin -->`` and ``<!-- <name>:end -->``, if it has these marks. The pages are rendered
    from the stored files, so that anyone can repeat it.

    Args:
        plan: the table. stored: write only the pages, from this CSV file.

    Raises:
        CraftError: there is no result at all, or the code runs from no checkout.
    """
    if not in_checkout():
        raise CraftError("--publish writes into docs/ and README.md of a checkout, and this code is an installed one")
    written = [] if stored else _store(plan)
    results = read(plan, stored or written[0])
    docs = _root(plan) / "docs" / f"{plan.spec.name}.md"
    report = build_report(plan, results)
    written.append(write_text(docs, to_markdown(report)))
    if (picture := figure.draw(plan, results)) is not None:
        written.append(figure.write_png(docs.with_name(report.picture), picture))
    return written + fill_block(_root(plan) / "README.md", plan.spec.name, to_readme(plan, results))


def _store(plan: Plan) -> list[Path]:
    results, path = gather(plan), stored_table(plan)
    if not any(cell.seeds for cell in results.cells.values()):
        raise CraftError(f"nothing to publish: no cell of {plan.spec.name} is computed (table run {plan.spec.name})")
    known = path.is_file() and path.with_suffix(".json").is_file()
    before = stored_seeds(path) or () if known else ()
    if not set(before) <= {seed for cell in results.cells.values() if cell.score for seed in cell.score.by_seed}:
        seeds = " ".join(map(str, before))
        raise CraftError(
            f"{path.name} holds seeds {seeds}, some would be lost; run and publish --seeds {seeds}, or remove the file"
        )
    lost = sum(not _seeds(cell) <= _seeds(results.cells[place]) for place, cell in _published(plan, path).items())
    if lost:
        raise CraftError(
            f"{path.name} holds {lost} cells that are not computed here, or of fewer seeds: they would be lost; "
            f"table run {plan.spec.name} computes them, or remove the file"
        )
    return [write_text(path, to_csv(plan, results)), write_text(path.with_suffix(".json"), to_json(results))]


def _seeds(cell: Cell) -> set[int]:
    return set(cell.score.by_seed) if cell.score else set()


def _published(plan: Plan, path: Path) -> Mapping[Place, Cell]:
    """Published cells of a table; none if it was published with other rows or columns."""
    try:
        return read(plan, path).cells
    except CraftError:
        return {}


def fill_block(page: Path, name: str, block: str) -> list[Path]:
    """Put a block between a table's marks on a page; the page's path is returned where it is there and has them."""
    changed = replace_block(page.read_text(encoding="utf-8"), name, block) if page.is_file() else None
    return [] if changed is None else [write_text(page, changed)]


def replace_block(text: str, name: str, block: str) -> str | None:
    """The text with what stands between a table's marks replaced; None if it has no such marks."""
    marks = f"<!-- {name}:begin -->\n", f"<!-- {name}:end -->"
    if any(text.count(mark) != 1 for mark in marks):
        return None
    before, rest = text.split(marks[0])
    return before + marks[0] + block + marks[1] + rest.split(marks[1])[1]
