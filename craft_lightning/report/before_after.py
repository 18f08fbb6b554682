"""The same questions before and after adaptation, with the justifications of both (the paper's figures 2 and 6)."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase
from typing import TYPE_CHECKING

from craft_lightning.benchmark import store
from craft_lightning.benchmark.judged import Judged, reply_texts
from craft_lightning.benchmark.plan import Plan
from craft_lightning.benchmark.stored_run import Answered, read_runs
from craft_lightning.errors import CraftError
from craft_lightning.evaluation.judgement import Judgement

if TYPE_CHECKING:
    from matplotlib.figure import Figure
    from PIL.Image import Image

SHOWN = {"right": 2, "wrong": 1}
"""Items of a set that are shown: the first in the order of the file that became right, and that became wrong."""
WIDTH = 118
"""Characters of a line beside an image."""
LINE, LEAST = 0.19, 1.5
"""Inches of a line of text, and of an image."""
RIGHT, WRONG, MUTED = "#1b7837", "#b2182b", "#666666"


@dataclass(frozen=True)
class BeforeAfter:
    """An item that became ``right`` or ``wrong``: what each row replied, by its label, and what the judge says of it;
    the ``file`` of the replies before."""

    title: str
    item: Answered
    replies: dict[str, tuple[str, Judgement]]
    file: Path


def pick(plan: Plan) -> list[BeforeAfter]:
    """The items that :data:`SHOWN` asks for, of every set of the table's metric, by the first seed's replies. Nobody
    chooses: the judge found them wrong (right) before and right (wrong) after, and they come first."""
    judged, found = Judged(plan), list[BeforeAfter]()
    for column in plan.counted if plan.spec.replies else ():
        files = _files(plan, judged, column)
        if not files:
            continue
        said = {name: (reply_texts(file), judged.of(file, column)) for name, file in files.items()}
        before, after = [judgements for _, judgements in said.values()][:2]
        first = next(iter(files.values()))
        for word, count in SHOWN.items():
            right = word == "right"
            items = [item for key, item in read_runs([first])[0].items.items() if key in before]
            turned = [i for i in items if before[i.key].correctness != right == after[i.key].correctness]
            for item in turned[:count]:
                replies = {name: (text[item.key], judgements[item.key]) for name, (text, judgements) in said.items()}
                found.append(BeforeAfter(f"{plan.columns[column].label}: became {word}", item, replies, first))
    return found


def _files(plan: Plan, judged: Judged, column: int) -> dict[str, Path]:
    """Judged replies of the first seed at a column by the row's name: before, after, and beside if that is asked for;
    empty while one of them is missing."""
    assert plan.spec.replies is not None
    wanted, files = [lines for _, lines in plan.spec.replies if lines is not None], dict[str, Path]()
    for lines in wanted:
        for number, line in enumerate(plan.lines):
            job = plan.cells[number, column][0]
            file = store.predictions(job, line.row.keep_ratio)
            if lines.mean(line) and store.result(job) is not None and judged.of(file, column):
                files[f"{line.row.label}, {line.backbone.label}"] = file
                break
    return files if len(files) == len(wanted) else {}


def draw(shown: list[BeforeAfter]) -> Figure:
    """Each image with its question, the replies and what the judge says of them beside it; it says why, if the images
    are not there any more."""
    from matplotlib.figure import Figure

    told = [list(_lines(each)) for each in shown]
    heights = [max(LEAST, LINE * (len(lines) + 1)) for lines in told]
    figure = Figure(figsize=(11.0, sum(heights)), layout="constrained")
    rows = figure.subplots(len(shown), 2, squeeze=False, width_ratios=[1, 5], height_ratios=heights)
    try:
        images = _images(shown)
    except CraftError as error:
        images = {}
        figure.suptitle(f"Without images: {error}", color=MUTED, fontsize=9)
    for (left, right), each, lines, height in zip(rows, shown, told, heights, strict=True):
        if images:
            left.imshow(images[each.item.key], interpolation="nearest")
            left.set_anchor("N")
        for axes in (left, right):
            axes.axis("off")
        for number, (text, colour) in enumerate(lines):
            weight = "bold" if number == 0 else "normal"
            place = 1 - number * LINE / height
            written = right.text(0, place, text, color=colour, weight=weight, va="top", fontsize=9)
            written.set(transform=right.transAxes, parse_math=False)  # a reply may hold dollars
    return figure


def _lines(each: BeforeAfter) -> Iterator[tuple[str, str]]:
    """What stands beside an image, each line with its colour."""
    item = each.item
    yield each.title, "black"
    lettered = " / ".join(f"{letter}. {text}" for letter, text in zip(ascii_uppercase, item.options, strict=False))
    options = f" ({lettered})" if lettered else ""
    yield from ((line, "black") for line in textwrap.wrap(f"{item.question}{options}", WIDTH))
    yield f"answer: {item.answer}{'' if item.seen else ', a label held out of training'}", "black"
    for name, (reply, judgement) in each.replies.items():
        said = textwrap.wrap(f"{name}: {reply or '(nothing)'}", WIDTH, subsequent_indent="    ")
        yield from ((line, RIGHT if judgement.correctness else WRONG) for line in said)
        marks = (
            f"relevance {judgement.relevance}, faithfulness {judgement.faithfulness}, verbosity {judgement.verbosity}"
        )
        there = "a justification" if judgement.presence else "no justification"
        yield f"    {there}; {marks}; overall {judgement.overall:g}", MUTED


def _images(shown: list[BeforeAfter]) -> dict[str, Image]:
    from craft_lightning.item_images import open_images  # needs torch, which the tables start without

    found: dict[str, Image] = {}
    for file in dict.fromkeys(each.file for each in shown):
        found |= open_images(read_runs([file])[0], [each.item.key for each in shown if each.file == file])
    return found
