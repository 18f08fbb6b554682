"""``compare``: what a test found, or how tests of the same items differ; in the terminal and as a page with images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from craft_lightning.benchmark.stored_run import Answered, StoredRun, read_runs
from craft_lightning.cli import verbs
from craft_lightning.comparison import Comparison, compared
from craft_lightning.errors import CraftError
from craft_lightning.io import check_file, fresh_file, write_text
from craft_lightning.report import run_page
from craft_lightning.report.render import show_report, to_markdown

if TYPE_CHECKING:
    from torch import Tensor

    from craft_lightning.visualization import TokenView

    Views = list[tuple[dict[str, TokenView], Tensor | None]]

SUFFIXES = (".html", ".md")
PLAIN = (8, 8)
"""Squares of an image whose tokens are not known."""


def main(argv: Sequence[str]) -> int:
    """The verb; returns the exit code."""
    args = verbs.compare().parse_args(argv)
    if args.output is not None:
        check_file(args.output, "--output")
        if args.output.suffix.lower() not in SUFFIXES:
            raise CraftError(f"--output {args.output} is no {' or '.join(SUFFIXES)} file")
    runs = read_runs(args.runs)
    found = [compared(runs[0], run) for run in runs[1:]]
    show_report(run_page.build_run_report(runs, found))
    for path in [] if args.output is None else write(args.output, runs, found):
        print(f"written: {path}")
    return 0


def write(output: Path, runs: Sequence[StoredRun], found: Sequence[Comparison]) -> list[Path]:
    """Write the page of some runs, the first of which is the base of ``found``, as HTML or as Markdown with a sheet of
    images beside it, by the name's ending; returns what was written. What has no images by now says why."""
    shown = run_page.to_show(runs, found)
    views, problems = _views(runs, shown)
    report = run_page.build_run_report(runs, found, problems)
    from craft_lightning.visualization import draw_tokens, panels, stack

    if output.suffix.lower() == ".html":
        drawn = [{key: panels(view, colours) for key, view in each.items()} for each, colours in views]
        return [write_text(output, run_page.to_html(report, runs, found, drawn))]
    written = []
    if views:
        report = replace(report, picture=f"{output.stem}.png")
        with fresh_file(output.with_name(report.picture)) as temporary:
            rows = [
                draw_tokens(replace(each[item.key], lines=_lines(group, item)), colours)
                for group, (each, colours) in zip(shown, views, strict=True)
                for item in group.items
            ]
            stack(rows).save(temporary, optimize=True)
        written.append(output.with_name(report.picture))
    return [write_text(output, to_markdown(report)), *written]


def _views(runs: Sequence[StoredRun], shown: Sequence[run_page.ItemGroup]) -> tuple[Views, list[str]]:
    """For each group of items their images and codes: as the model sees them alone and with its encoder, or as two runs
    do; and what is not there any more."""
    from craft_lightning.item_images import open_images, spec_of, token_views
    from craft_lightning.visualization import TokenView

    views: Views = []
    try:
        images = open_images(runs[0], {item.key for group in shown for item in group.items})
    except CraftError as error:
        return views, [f"Without images: {error}"]
    problems = []
    for _, alike in groupby(shown, key=lambda group: group.runs[-1].name):
        groups = list(alike)
        asked = {item.key: images[item.key] for group in groups for item in group.items}
        before, after = spec_of(groups[0].runs[0], adapted=len(groups[0].runs) > 1), spec_of(groups[0].runs[-1])
        try:
            found = token_views(before, after, asked)
        except CraftError as error:
            problems.append(f"Without codes: {error}")
            found = {key: TokenView(image, PLAIN) for key, image in asked.items()}, None
        views += [found] * len(groups)
    return views, problems


def _lines(group: run_page.ItemGroup, item: Answered) -> list[tuple[str, str]]:
    """What stands below an item's image in a sheet, each with its colour."""
    from craft_lightning.visualization import INK, MUTED, RIGHT, WRONG

    seen = "" if item.seen else ", a label held out of training"
    replies = [(run.name, run.items[item.key]) for run in group.runs]
    return [
        (f"{group.title}: {item.question or item.key}", INK),
        *([(" / ".join(item.options), MUTED)] if item.options else []),
        (f"answer: {item.answer}{seen}", INK),
        *((f"{name}: {r.reply or '(nothing)'}", RIGHT if r.correct else WRONG) for name, r in replies),
    ]
