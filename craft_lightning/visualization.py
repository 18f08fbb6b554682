"""Token maps: which codes an image became, which of them adaptation changed, which pruning keeps.

What the paper shows in its figures 4 and 7, drawn with PIL.
"""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

PAPER, INK, MUTED, LINE = "#ffffff", "#1a1a1a", "#666666", "#b0b0b0"
RIGHT, WRONG = "#1b7837", "#b2182b"
DARKEST, BRIGHTEST = 30, 245
CELL = range(16, 33)
"""Smallest and largest side of a token's square in pixels."""
PANEL = 448
"""Side that a panel tries to have, in pixels, where the grid is fine."""
TEXT, TITLE, GAP = 13, 14, 8


@dataclass(frozen=True)
class TokenView:
    """What is known of one image's tokens; panels that nothing is known for are left out.

    Attributes:
        image: of any size. grid: (rows, columns) of tokens, N in all.
        codes: ``[N]`` first-level codes, or None for a continuous tower.
        before: ``[N]`` the same before adaptation. kept: ``[N]`` bool, False for pruned tokens.
        lines: texts below the panels, each with its colour.
    """

    image: Image.Image
    grid: tuple[int, int]
    codes: Tensor | None = None
    before: Tensor | None = None
    kept: Tensor | None = None
    lines: Sequence[tuple[str, str]] = ()


def code_colours(table: Tensor) -> Tensor:
    """``[K, 3]`` uint8, a colour for each codeword of ``[K, d]``: the same in every image, alike for alike codewords.

    Red, green and blue are a codeword's ranks along the first three principal components of the table. Ranks use the
    whole range of colours whatever the distances; each component points to where its largest loading is positive, so
    that colours do not depend on the machine's linear algebra.
    """
    centred = (table - table.mean(dim=0)).double().cpu()
    axes = torch.linalg.eigh(centred.T @ centred).eigenvectors.flip(1)[:, :3]
    axes = axes * axes.gather(0, axes.abs().argmax(dim=0, keepdim=True)).sign()
    ranks = (centred @ axes).argsort(dim=0, stable=True).argsort(dim=0).double() / max(len(table) - 1, 1)
    colours = torch.zeros(len(table), 3, dtype=torch.uint8)
    colours[:, : axes.shape[1]] = (DARKEST + ranks * (BRIGHTEST - DARKEST)).round().byte()
    return colours


def draw_tokens(view: TokenView, colours: Tensor | None) -> Image.Image:
    """The image, its codes (before and after), the codes that changed, the tokens kept, and the texts below them;
    ``colours`` are of :func:`code_colours`, or None where there are no codes."""
    drawn = panels(view, colours)
    width = sum(panel.width + GAP for _, panel in drawn) - GAP
    height = drawn[0][1].height
    text, title = ImageFont.load_default(TEXT), ImageFont.load_default(TITLE)
    letters = int(width / text.getlength("n"))
    lines = [(part, colour) for words, colour in view.lines for part in textwrap.wrap(words, letters)]
    head, step = TITLE + 6, TEXT + 4
    row = Image.new("RGB", (width + 2 * GAP, height + head + step * len(lines) + 2 * GAP), PAPER)
    pen = ImageDraw.Draw(row)
    left, top, below = GAP, GAP + head, GAP + head + height + GAP // 2
    for name, panel in drawn:
        pen.text((left, GAP), name, fill=MUTED, font=title)
        row.paste(panel, (left, top))
        left += panel.width + GAP
    for number, (words, colour) in enumerate(lines):
        pen.text((GAP, below + step * number), words, fill=colour, font=text)
    return row


def stack(rows: Sequence[Image.Image]) -> Image.Image:
    """Several images in one, from top to bottom."""
    sheet = Image.new("RGB", (max(row.width for row in rows), sum(row.height for row in rows)), PAPER)
    top = 0
    for row in rows:
        sheet.paste(row, (0, top))
        top += row.height
    return sheet


def panels(view: TokenView, colours: Tensor | None) -> list[tuple[str, Image.Image]]:
    """Titles and drawings of a view, all of one size; see :func:`draw_tokens`."""
    cell = min(max(PANEL // max(view.grid), CELL[0]), CELL[-1])
    image = view.image.resize((view.grid[1] * cell, view.grid[0] * cell), Image.Resampling.NEAREST)
    drawn, masks = [("image", image)], {"kept": view.kept}
    if view.codes is not None and colours is not None:
        maps = {"codes": view.codes}
        if view.before is not None:
            maps = {"codes before": view.before, "codes after": view.codes}
            masks = {"changed": view.codes != view.before, "kept": view.kept}
        for name, codes in maps.items():
            drawn.append((f"{name}: {len(codes.unique())} different", _map(codes, view, colours, cell)))
    for name, shown in masks.items():
        if shown is not None:
            drawn.append((f"{name}: {int(shown.sum())} of {len(shown)}", _masked(image, shown, view, cell)))
    return drawn


def _squares(grid: tuple[int, int], cell: int) -> list[tuple[int, int, int, int]]:
    """Left, top, right and bottom pixel of each token's square, in raster order."""
    corners = ((column * cell, row * cell) for row in range(grid[0]) for column in range(grid[1]))
    return [(left, top, left + cell - 1, top + cell - 1) for left, top in corners]


def _map(codes: Tensor, view: TokenView, colours: Tensor, cell: int) -> Image.Image:
    """A square of its code's colour for each token, with the code's number where it fits."""
    canvas = Image.new("RGB", (view.grid[1] * cell, view.grid[0] * cell), PAPER)
    pen = ImageDraw.Draw(canvas)
    font = ImageFont.load_default(max(8, cell // 3))
    for code, square in zip(codes.tolist(), _squares(view.grid, cell), strict=True):
        red, green, blue = colours[code].tolist()
        pen.rectangle(square, fill=(red, green, blue))
        if font.getlength(str(code)) <= cell - 2:
            ink = INK if 0.299 * red + 0.587 * green + 0.114 * blue > 120 else PAPER
            centre = (square[0] + cell // 2, square[1] + cell // 2)
            pen.text(centre, str(code), fill=ink, font=font, anchor="mm")
    return canvas


def _masked(image: Image.Image, shown: Tensor, view: TokenView, cell: int) -> Image.Image:
    """The image where ``shown`` ``[N]`` is True, struck-out paper elsewhere."""
    canvas = image.copy()
    pen = ImageDraw.Draw(canvas)
    for keep, (left, top, right, bottom) in zip(shown.tolist(), _squares(view.grid, cell), strict=True):
        if not keep:
            pen.rectangle((left, top, right, bottom), fill=PAPER)
            pen.line((left, bottom, right, top), fill=LINE)
    return canvas
