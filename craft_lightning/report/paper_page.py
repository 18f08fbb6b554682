"""The whole paper as one page: what our runs say of each of its claims, and its tables and figures beside ours."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import TypeAdapter

from craft_lightning.benchmark.budget import budgets
from craft_lightning.benchmark.claims import FAILS, HOLDS, NO_ANSWER, UNDECIDED, Verdict
from craft_lightning.benchmark.plan import Plan, make_plan
from craft_lightning.benchmark.results import Results, gather
from craft_lightning.benchmark.spec import load_spec
from craft_lightning.benchmark.table_files import RESULTS, read, stored_seeds, stored_table
from craft_lightning.benchmark.table_parts import Collection, PaperClaim, TableSpec
from craft_lightning.io import read_json, write_text
from craft_lightning.report import figure
from craft_lightning.report.page import WORDS
from craft_lightning.report.render import drawn, fill_block
from craft_lightning.report.report import DECIDED, Report, Section, claim_texts
from craft_lightning.report.sections import build_report
from craft_lightning.report.templates import fill, to_page

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NOTHING = "not computed"
OF_PARTS = (
    "A claim of several parts holds where all of them hold. What a program has measured has no interval: its page says "
    "what decides."
)
WORST_FIRST = (FAILS, NO_ANSWER, NOTHING, UNDECIDED, HOLDS)


@dataclass(frozen=True)
class ShownTable:
    """A table of the collection at a budget, or a page that a program measured, of no budget.

    Attributes:
        name: of its own page, without suffix. verdicts: on its claims.
        report: what is printed of it; the common page shows its first section.
        figure: as a part of an HTML page, empty without one.
    """

    name: str
    budget: str
    verdicts: tuple[Verdict, ...]
    report: Report
    figure: str = ""


@dataclass(frozen=True)
class Decision:
    """What is said of a claim of the paper at a budget: a verdict a part, with the name of its page; and the parts that
    are missing, with the name of the table that decides them."""

    claim: PaperClaim
    parts: tuple[tuple[str, Verdict], ...]
    missing: tuple[tuple[str, str], ...] = ()

    @property
    def word(self) -> str:
        """The worst of its parts': a claim holds where all of them hold, and none is missing."""
        found = {verdict.word for _, verdict in self.parts} | ({NOTHING} if self.missing else set())
        return next((word for word in WORST_FIRST if word in found), NOTHING)

    @property
    def short(self) -> str:
        """Its word, and the number of its first part; where not all of several hold, how many do."""
        verdicts = [verdict for _, verdict in self.parts]
        count = len(verdicts) + sum(len(parts.split(", ")) for parts, _ in self.missing)
        if count > 1 and verdicts and self.word != HOLDS:
            return f"{self.word}: {sum(v.word == HOLDS for v in verdicts)} of {count} parts hold"
        first = verdicts[0].estimate if verdicts else None
        return self.word if first is None else f"{self.word}, {first:+z.1f} points"

    @property
    def said(self) -> list[tuple[str, str, str, str]]:
        """Of each part its page, ``"Claim 3a: holds"``, what follows, and the class of its word."""
        return [(name, *claim_texts(verdict), WORDS.get(verdict.word, "")) for name, verdict in self.parts]


@dataclass(frozen=True)
class PaperPage:
    """The collection with its parts; tables are shown at the first of the ``budgets``, claims at all of them.

    Attributes:
        deciding: claims of the paper, or parts of them, with the name of the table that decides each.
    """

    collection: Collection
    parts: tuple[ShownTable, ...]
    budgets: tuple[str, ...]
    deciding: tuple[tuple[str, str], ...]

    def decide(self, claim: PaperClaim, budget: str) -> Decision:
        """What is said of a claim at a budget; what was measured counts at all of them."""
        counted = [part for part in self.parts if part.budget in ("", budget)]
        found = [(part.name, v) for part in counted for v in part.verdicts if claim.has_part(v.id)]
        there = {(name.removesuffix(f"-{budget}"), v.id) for name, v in found}
        left: dict[str, dict[str, None]] = {}
        for part, name in self.deciding:
            if claim.has_part(part) and (name, part) not in there:
                left.setdefault(name, {})[part] = None
        return Decision(claim, tuple(found), tuple((", ".join(parts), name) for name, parts in left.items()))

    def values(self, linked: bool) -> dict[str, Any]:
        """What both templates show; ``linked``: whether pages that a program measured stand beside."""
        return {
            "pages": [part.name for part in self.parts if linked or part.budget],
            "report": Report(self.collection.title, self.collection.note, "", (), remarks=(DECIDED, OF_PARTS)),
            "budgets": self.budgets,
            "claims": [[self.decide(claim, budget) for budget in self.budgets] for claim in self.collection.claims],
            "shown": [part for part in self.parts if part.budget in ("", self.budgets[0])],
        }

    def write(self, folder: Path) -> list[Path]:
        """Write ``<name>.html`` and ``<name>.md`` into a folder, beside the tables' own pages."""
        values = self.values(linked=False)
        html = to_page("paper.html", (), **values, words=WORDS, data={})
        texts = {".html": html, ".md": fill("paper.md", **values, pictures={})}
        return [write_text(folder / f"{self.collection.name}{suffix}", text) for suffix, text in texts.items()]

    def publish(self, tables: Path) -> list[Path]:
        """Write the page of ``docs/``, beside ``experiments/tables``, and the claims that the README marks a place
        for."""
        root, name, values = tables.parent.parent, self.collection.name, self.values(linked=True)
        text = fill("paper.md", **values, pictures=self.collection.pictures)
        page = write_text(root / "docs" / f"{name}.md", text)
        return [page, *fill_block(root / "README.md", name, fill("claims.md", **values))]


def collect(
    collection: Collection, folder: Path, budget: str, made: Callable[[TableSpec], ShownTable | None]
) -> PaperPage:
    """The page of a collection whose tables lie in a folder, from what is ``made`` of each at each budget; ``budget``
    comes first."""
    parts, deciding = list[ShownTable](), list[tuple[str, str]]()
    for each in sorted(budgets(), key=lambda name: name != budget):
        specs = [load_spec(folder / f"{name}.yaml", collection.scale, each) for name in collection.tables]
        parts += [part for part in map(made, specs) if part is not None]
        deciding += [(claim.id, spec.path.stem) for spec in specs for claim in spec.claims]
    parts += [part for name in collection.measured if (part := measured(folder, name)) is not None]
    shown = dict.fromkeys([budget, *(part.budget for part in parts if part.budget)])
    return PaperPage(collection, tuple(parts), tuple(shown), tuple(deciding))


def computed_part(plan: Plan) -> ShownTable | None:
    """A table from the runs; None where not one cell of it is computed, of those that train something if it has such:
    the others are the same at every budget."""
    results = gather(plan)
    told = [n for n, line in enumerate(plan.lines) if line.surrogate] or range(len(plan.lines))
    if not any(cell.seeds for (n, _), cell in results.cells.items() if n in told):
        return None
    return _part(plan, results, *drawn(plan, results))


def stored_part(spec: TableSpec) -> ShownTable | None:
    """A table as it is published; None where it is not."""
    path = stored_table(make_plan(spec))
    if not path.is_file():
        return None
    plan = make_plan(spec, seeds=stored_seeds(path))
    results = read(plan, path)
    return _part(plan, results, build_report(plan, results), figure.draw(plan, results))


def _part(plan: Plan, results: Results, report: Report, picture: Figure | None) -> ShownTable:
    svg = figure.to_section(plan, picture)
    return ShownTable(plan.spec.name, plan.spec.budget.name, results.verdicts, report, svg)


def measured(folder: Path, name: str) -> ShownTable | None:
    """What a program has stored beside the tables of a folder, ``results/<name>.json``; None if it has not."""
    found = read_json(folder / RESULTS / f"{name}.json")
    if not found:
        return None
    sections = TypeAdapter(tuple[Section, ...]).validate_python(found["sections"])
    verdicts = TypeAdapter(tuple[Verdict, ...]).validate_python(found["claims"])
    return ShownTable(name, "", verdicts, Report(found["title"], found["note"], found["made"], sections))
