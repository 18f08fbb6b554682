"""Tests of the same items as people read them: one run, or several with what they gain over the first."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from io import BytesIO
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from craft_lightning import run_folder
from craft_lightning.benchmark.claims import LEVEL
from craft_lightning.benchmark.stored_run import Answered, StoredRun
from craft_lightning.comparison import Comparison, Part, grouped, p_text, wrong_replies
from craft_lightning.report.curves import ACCURACY, curves
from craft_lightning.report.report import MISSING, Report, Section
from craft_lightning.report.templates import png_address, to_page
from craft_lightning.text.scoring import normalise

if TYPE_CHECKING:
    from PIL.Image import Image

    Panels = Mapping[str, Sequence[tuple[str, Image]]]

SHOWN = 12
"""Items of a kind that are shown with their images: as many that became right, and that became wrong."""
PAIRS = 10
"""Wrong replies that are told, the most frequent ones."""
CLASSES = 30
"""Classes up to which a matrix of replies can be read."""
WIDTH = 60
"""Characters of a question in a grid."""
ALL, PARTS, FLIPPED = "All items", "By class, label and kind of question", "Items that flipped"
DRAWN = (ALL, PARTS, FLIPPED)
"""Sections that the HTML page has as drawings."""
KINDS = {"labels": "Labels", "class": "Class", "question": "Question", "answer": "Answer"}
DECIDED = (
    f"Intervals are of {LEVEL:.0%}: Wilson's for a share, Agresti and Min's for the difference of two shares of the "
    "same items. Better or worse is said where McNemar's exact test finds the flips uneven at 5 %. An interval of a "
    "part is not corrected for the number of parts: of twenty that did not change, one excludes 0."
)


@dataclass(frozen=True)
class ItemGroup:
    """Items to look at: a heading, how many there are, ``items`` chosen evenly among them, and the runs that reply."""

    title: str
    count: int
    items: tuple[Answered, ...]
    runs: tuple[StoredRun, ...]


@dataclass(frozen=True)
class Share:
    """Right replies of some items, with Wilson's interval; as a text ``62.5 % [52.7, 71.4]``."""

    right: int
    items: int

    @classmethod
    def of(cls, run: StoredRun, keys: Collection[str]) -> Share:
        """That of a run."""
        return cls(sum(run.items[key].correct for key in keys), len(keys))

    @property
    def at(self) -> float:
        """In per cent."""
        return 100 * self.right / self.items

    @cached_property
    def interval(self) -> tuple[float, float]:
        """Its ends, in per cent."""
        from scipy.stats import binomtest

        low, high = binomtest(self.right, self.items).proportion_ci(LEVEL, method="wilson")
        return 100 * float(low), 100 * float(high)

    def __str__(self) -> str:
        return "{:.1f} % [{:.1f}, {:.1f}]".format(self.at, *self.interval)


@dataclass(frozen=True)
class PartRow:
    """A part of the items: of which ``kind``, what each run has right, and the change of each from the first."""

    kind: str
    name: str
    shares: tuple[Share, ...]
    changes: tuple[Part, ...]


def to_show(runs: Sequence[StoredRun], found: Sequence[Comparison]) -> list[ItemGroup]:
    """What flipped between the first run and each other one; of a run alone, what it has wrong and right."""
    base = runs[0]
    kinds: list[tuple[str, list[Answered], tuple[StoredRun, ...]]]
    if found:
        beside = [f" with {one.name}" if len(found) > 1 else "" for one in found]
        kinds = [
            (f"Became {word}{name}", [base.items[key] for key in keys], one.runs)
            for one, name in zip(found, beside, strict=True)
            for word, keys in (("right", one.gained), ("wrong", one.lost))
        ]
    else:
        kinds = [
            (f"{word} replies", [item for item in base.items.values() if item.correct is right], (base,))
            for word, right in (("Wrong", False), ("Right", True))
        ]
    return [ItemGroup(title, len(items), _spread(items), its) for title, items, its in kinds if items]


def _spread(items: Sequence[Answered]) -> tuple[Answered, ...]:
    return tuple(items[place] for place in sorted({place * len(items) // SHOWN for place in range(SHOWN)}))


def build_run_report(runs: Sequence[StoredRun], found: Sequence[Comparison], problems: Sequence[str] = ()) -> Report:
    """The report of some runs, the first of which is the base of ``found``. problems: what could not be shown."""
    base = runs[0]
    title = base.result.get("data", {}).get("title") or base.file.parent.name
    sections = [_overall(runs, found), _parts(runs, found), _wrong(runs), _flipped(found), _costs(runs)]
    told = [sentence(one) for one in found] or [f"{_named(base)} answers {Share.of(base, base.items)} right."]
    return Report(
        title=f"{title}: {'what changed' if found else base.about or base.name}",
        note=f"{len(base.items)} {_split(base)} items. {' '.join(told)}",
        made="",
        sections=tuple(section for section in sections if section.rows),
        remarks=(DECIDED,),
        problems=tuple(problems),
    )


def _split(run: StoredRun) -> str:
    return "validation" if run.result.get("verb") in ("fit", "validate") else "test"


def sentence(found: Comparison) -> str:
    """What a comparison says, in words."""
    before, after = found.runs
    flips = f"{found.better} became right, {found.worse} became wrong (McNemar {p_text(found.p_value)})"
    return (
        f"{_named(after)} answers {100 * found.after:.1f} % right, {_named(before)} {100 * found.before:.1f} %: "
        f"{change(found)} points, {found.verdict}. {flips}."
    )


def _named(run: StoredRun) -> str:
    return f"{run.name} ({run.about})" if run.about else run.name


def change(part: Part) -> str:
    """Points with their interval: ``+12.5 [+3.1, +21.0]``."""
    return f"{100 * part.difference:+z.1f} [{100 * part.low:+z.1f}, {100 * part.high:+z.1f}]"


def _section(title: str, header: Sequence[str], rows: Sequence[Sequence[str]]) -> Section:
    return Section(title, tuple(header), tuple(map(tuple, rows)), (False,) * len(rows))


def _overall(runs: Sequence[StoredRun], found: Sequence[Comparison]) -> Section:
    header = ["Run", "What", "Items", "Right, with interval"]
    rows = [[run.name, run.about, str(len(run.items)), str(Share.of(run, run.items))] for run in runs]
    if found:
        header += [f"Change from {runs[0].name}, points", "Became right", "Became wrong", "McNemar", "Verdict"]
        rows[0] += [MISSING] * 5
        for row, one in zip(rows[1:], found, strict=True):
            row += [change(one), str(one.better), str(one.worse), p_text(one.p_value), one.verdict]
    return _section(ALL, header, rows)


def _rows(runs: Sequence[StoredRun], found: Sequence[Comparison]) -> list[PartRow]:
    """All items, then each part, with every run's share and the change of each from the first."""
    everything = PartRow("", ALL, tuple(Share.of(run, run.items) for run in runs), tuple(found))
    return [everything] + [
        PartRow(KINDS[kind], name, tuple(Share.of(run, keys) for run in runs), tuple(c.parts[kind][n] for c in found))
        for kind, keys_of in grouped(runs[0]).items()
        for n, (name, keys) in enumerate(keys_of.items())
    ]


def _parts(runs: Sequence[StoredRun], found: Sequence[Comparison]) -> Section:
    header = ["By", "Part", "Items", runs[0].name, *(text for run in runs[1:] for text in (run.name, "Change, points"))]
    rows = []
    for row in _rows(runs, found)[1:]:
        first, *others = map(str, row.shares)
        pairs = zip(others, map(change, row.changes), strict=True)
        rows.append([row.kind, row.name, str(row.shares[0].items), first, *(text for pair in pairs for text in pair)])
    return _section(PARTS, header, rows)


def _wrong(runs: Sequence[StoredRun]) -> Section:
    most = wrong_replies(runs)[:PAIRS]
    rows = [[*(text or "(nothing)" for text in pair), *map(str, counts)] for pair, counts in most]
    return _section("Most frequent wrong replies", ["Answer", "Reply", *(run.name for run in runs)], rows)


def _flipped(found: Sequence[Comparison]) -> Section:
    rows = []
    several = bool(found) and "class" not in found[0].parts
    for shown in to_show([found[0].runs[0]], found) if found else ():
        for item in shown.items:
            replies = [run.items[item.key].reply or "(nothing)" for run in shown.runs]
            asked = item.question if len(item.question) <= WIDTH else f"{item.question[: WIDTH - 3]}..."
            kind = f"{shown.title} ({len(shown.items)} of {shown.count})"
            rows.append([kind, item.key, *([asked] if several else []), item.answer, *replies])
    asked_of = ["Question"] if several else []
    return _section(FLIPPED, ["Kind", "Item", *asked_of, "Answer", "Reply before", "Reply after"], rows)


def _costs(runs: Sequence[StoredRun]) -> Section:
    """How the codebook is used, and what training and test took."""
    header = ["Run", "What", "Perplexity of codes", "Unused codes", "Seconds", "Peak MB", "Device"]
    header += ["Trained by", "Trained parameters", "Steps", "Codes of validation changed"]
    header += ["Seconds of training", "Peak MB of training"]
    rows = []
    for run in runs:
        if not run.result:
            continue
        fit = run_folder.result(run.training) if run.training else {}
        used = {key.rpartition("/")[2]: value for key, value in run.result.get("metrics", {}).items()}
        test = {} if run.result.get("verb") == "fit" else run.result
        trained = replace(run, result=fit).about if fit else None
        numbers = [
            (used.get("codebook_perplexity"), "{:.1f}"),
            (used.get("codebook_dead"), "{:.0f}"),
            (test.get("seconds"), "{:.0f}"),
            (_megabytes(test), "{:,.0f}"),
            (run.result.get("device"), "{}"),
            (trained, "{}"),
            (fit.get("trained", {}).get("count"), "{:,}"),
            (fit.get("steps"), "{}"),
            (fit.get("metrics", {}).get("val/codes_changed"), "{:.1%}"),
            (fit.get("seconds"), "{:.0f}"),
            (_megabytes(fit), "{:,.0f}"),
        ]
        texts = [MISSING if value is None else form.format(value) for value, form in numbers]
        rows.append([run.name, run.about, *texts])
    return _section("Codebook and cost", header, rows)


def _megabytes(result: Mapping[str, Any]) -> float | None:
    return result["peak_memory"] / 1e6 if "peak_memory" in result else None


def to_html(
    report: Report, runs: Sequence[StoredRun], found: Sequence[Comparison], panels: Sequence[Panels] = ()
) -> str:
    """The whole file. panels: titles and drawings of items by key, for each of :func:`to_show`; items without are shown
    in words."""
    folders = {run.training: run.name for run in reversed(runs) if run.training}
    learnt = [{"name": name, "points": _drawn_curves(folder)} for folder, name in reversed(folders.items())]
    shown = to_show(runs, found)
    drawn = [{key: [(title, _address(image)) for title, image in its] for key, its in each.items()} for each in panels]
    return to_page(
        "runs.html",
        ("plots.js", "runs.js"),
        report=report,
        sections=[section for section in report.sections if section.title not in DRAWN],
        runs=runs,
        found=found,
        split=_split(runs[0]),
        change=change,
        p_text=p_text,
        charts=[list(rows) for _, rows in groupby(_rows(runs, found), key=lambda row: row.kind)],
        matrices=[matrix for run in runs if (matrix := _matrix(run))],
        shown=list(zip(shown, drawn or [{}] * len(shown), strict=True)),
        data={"curves": [each for each in learnt if each["points"]]},
    )


def _drawn_curves(folder: Path) -> dict[str, list[list[float]]]:
    """A training's curves; of what it told once only the accuracy."""
    return {name: points for name, points in curves(folder).items() if len(points) > 1 or name == ACCURACY}


def _address(image: Image) -> str:
    out = BytesIO()
    image.save(out, "png", optimize=True)
    return png_address(out.getvalue())


def _matrix(run: StoredRun) -> dict[str, Any] | None:
    """Replies to each class as shares of its items; None for questions, or too many classes to be read."""
    classes = grouped(run).get("class", {})
    if not 0 < len(classes) <= CLASSES:
        return None
    known = {normalise(name): name for name in classes}
    replies = {
        name: Counter(known.get(normalise(run.items[key].reply), "") for key in keys) for name, keys in classes.items()
    }
    others = any(counts[""] for counts in replies.values())
    rows = []
    for name, counts in replies.items():
        cells = [counts[reply] for reply in classes]
        rows.append((name, [*cells, counts.total() - sum(cells)] if others else cells, counts.total()))
    return {"name": run.name, "columns": [*classes, *(["none of these"] if others else [])], "rows": rows}
