"""A 5 x 7 pixel font of capital letters, painted at any size with exact coverage of every pixel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_modules.twins.drawings.canvas import Canvas, Number, per_picture

# One letter a row, its seven lines from the top, # is ink.
_GLYPHS = {
    "A": ".###. #...# #...# ##### #...# #...# #...#",
    "B": "####. #...# #...# ####. #...# #...# ####.",
    "C": ".#### #.... #.... #.... #.... #.... .####",
    "D": "####. #...# #...# #...# #...# #...# ####.",
    "E": "##### #.... #.... ####. #.... #.... #####",
    "F": "##### #.... #.... ####. #.... #.... #....",
    "G": ".#### #.... #.... #.### #...# #...# .###.",
    "H": "#...# #...# #...# ##### #...# #...# #...#",
    "I": "##### ..#.. ..#.. ..#.. ..#.. ..#.. #####",
    "J": "..### ...#. ...#. ...#. ...#. #..#. .##..",
    "K": "#...# #..#. #.#.. ##... #.#.. #..#. #...#",
    "L": "#.... #.... #.... #.... #.... #.... #####",
    "M": "#...# ##.## #.#.# #.#.# #...# #...# #...#",
    "N": "#...# ##..# ##..# #.#.# #..## #..## #...#",
    "O": ".###. #...# #...# #...# #...# #...# .###.",
    "P": "####. #...# #...# ####. #.... #.... #....",
    "Q": ".###. #...# #...# #...# #.#.# #..#. .##.#",
    "R": "####. #...# #...# ####. #.#.. #..#. #...#",
    "S": ".#### #.... #.... .###. ....# ....# ####.",
    "T": "##### ..#.. ..#.. ..#.. ..#.. ..#.. ..#..",
    "U": "#...# #...# #...# #...# #...# #...# .###.",
    "V": "#...# #...# #...# #...# #...# .#.#. ..#..",
    "W": "#...# #...# #...# #.#.# #.#.# ##.## #...#",
    "X": "#...# #...# .#.#. ..#.. .#.#. #...# #...#",
    "Y": "#...# #...# .#.#. ..#.. ..#.. ..#.. ..#..",
    "Z": "##### ....# ...#. ..#.. .#... #.... #####",
    " ": "..... ..... ..... ..... ..... ..... .....",
}
_WIDTH, _HEIGHT, _GAP, _LEADING = 5, 7, 1, 2
MAX_STRETCH = 1.35
"""How much wider than high, or higher than wide, a font pixel may become so that a text fills its box."""


def bitmap(text: str) -> NDArray[np.float32]:
    r"""Ink of a text, ``[rows, columns]`` of 0 and 1; ``"\n"`` begins a new line, lines are centred.

    Raises:
        KeyError: for a character that is neither a capital letter, a space nor a line break.
    """
    lines = []
    for line in text.split("\n"):
        ink = np.zeros((_HEIGHT, len(line) * (_WIDTH + _GAP) - _GAP), dtype=np.float32)
        for k, letter in enumerate(line):
            glyph = np.array([list(row) for row in _GLYPHS[letter].split()]) == "#"
            ink[:, k * (_WIDTH + _GAP) :][:, :_WIDTH] = glyph
        lines.append(ink)
    width = max(ink.shape[1] for ink in lines)
    rows = np.zeros((len(lines) * (_HEIGHT + _LEADING) - _LEADING, width), dtype=np.float32)
    for k, ink in enumerate(lines):
        left = (width - ink.shape[1]) // 2
        rows[k * (_HEIGHT + _LEADING) :][:_HEIGHT, left : left + ink.shape[1]] = ink
    return rows


@dataclass(frozen=True)
class Texts:
    """A closed list of texts, ready to be painted.

    Attributes:
        summed: ``[T, R + 1, C + 1]`` ink above and to the left of every corner of the font's pixels.
        rows, columns: ``[T]`` size of each text in font pixels.
    """

    summed: Tensor
    rows: NDArray[np.float32]
    columns: NDArray[np.float32]

    @classmethod
    def of(cls, texts: Sequence[str]) -> Texts:
        """Set the texts; see :func:`bitmap` for what they may hold."""
        maps = [bitmap(text) for text in texts]
        rows, columns = (np.array([m.shape[d] for m in maps], dtype=np.float32) for d in (0, 1))
        summed = np.zeros((len(maps), int(rows.max()) + 1, int(columns.max()) + 1), dtype=np.float32)
        for k, ink in enumerate(maps):
            padded = np.pad(ink, ((1, summed.shape[1] - 1 - ink.shape[0]), (1, summed.shape[2] - 1 - ink.shape[1])))
            summed[k] = padded.cumsum(0).cumsum(1)
        return cls(torch.from_numpy(summed), rows, columns)

    def coverage(
        self, cv: Canvas, index: NDArray[np.int64], cx: Number, cy: Number, half_w: Number, half_h: Number
    ) -> Tensor:
        """Paint one text a picture into a box, as large as fits: ``[B, S, S]`` ink in [0, 1].

        The mean of the ink over every pixel of the picture is exact (a difference of summed areas), so letters keep
        their weight at any side length.
        """
        per_x = 2.0 * per_picture(half_w) / per_picture(self.columns[index])
        per_y = 2.0 * per_picture(half_h) / per_picture(self.rows[index])
        per_x, per_y = torch.minimum(per_x, per_y * MAX_STRETCH), torch.minimum(per_y, per_x * MAX_STRETCH)
        edges = torch.arange(cv.side + 1, dtype=torch.float32) * (2.0 / cv.side) - 1.0
        column = (edges.view(1, 1, -1) - per_picture(cx)) / per_x + per_picture(self.columns[index]) / 2.0
        row = (edges.view(1, -1, 1) - per_picture(cy)) / per_y + per_picture(self.rows[index]) / 2.0
        summed = self.summed[torch.from_numpy(index)]
        at_row = _between(summed, row.squeeze(2), 1)
        corner = _between(at_row, column.squeeze(1), 2)
        ink = corner[:, 1:, 1:] - corner[:, :-1, 1:] - corner[:, 1:, :-1] + corner[:, :-1, :-1]
        return (ink * (per_x * per_y) * (cv.side / 2.0) ** 2).clamp(0.0, 1.0)


def _between(table: Tensor, position: Tensor, dim: int) -> Tensor:
    """Linear interpolation of ``[B, R, C]`` along ``dim`` at ``[B, P]`` positions, held constant outside."""
    last = table.shape[dim] - 1
    position = position.clamp(0.0, float(last))
    low = position.floor().clamp_max(last - 1)
    share = (position - low).unsqueeze(3 - dim)
    at = low.long().unsqueeze(3 - dim)
    at = at.expand(-1, -1, table.shape[2]) if dim == 1 else at.expand(-1, table.shape[1], -1)
    return torch.lerp(table.gather(dim, at), table.gather(dim, at + 1), share.expand_as(at))
