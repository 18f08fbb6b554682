"""Cells of a lattice: any number of dots, spots, roofs or fields in one layer, at the cost of one shape."""

from __future__ import annotations

import torch
from torch import Tensor

from data_modules.twins.drawings.canvas import Number, per_picture
from data_modules.twins.rng import Rng

_PERIOD = 16


class Cells:
    """A lattice of rectangles over the frame (u, v), with random values of its own for each cell.

    Attributes:
        u, v: ``[B, S, S]`` coordinates relative to the middle of the cell that holds the pixel.
    """

    def __init__(self, rng: Rng, u: Tensor, v: Tensor, pitch_u: Number, pitch_v: Number) -> None:
        """Args: u, v: ``[B, S, S]`` the frame. pitch_u, pitch_v: sides of a cell, numbers or ``[B]``."""
        pu, pv = per_picture(pitch_u), per_picture(pitch_v)
        column, row = torch.floor(u / pu), torch.floor(v / pv)
        self.u, self.v = u - (column + 0.5) * pu, v - (row + 0.5) * pv
        # The period is a power of two, so that the remainder (of negative numbers too) is a mask.
        index = (column.to(torch.int64) & (_PERIOD - 1)) * _PERIOD + (row.to(torch.int64) & (_PERIOD - 1))
        self._index = index.flatten(1)
        self._shape = index.shape
        self._rng = rng

    def value(self, name: str) -> Tensor:
        """``[B, S, S]`` in [0, 1): one uniform number for each cell (the lattice repeats after 16 cells)."""
        table = torch.from_numpy(self._rng.uniform(name, _PERIOD * _PERIOD))
        return torch.gather(table, 1, self._index).view(self._shape)

    def colour(self, name: str, palette: Tensor) -> Tensor:
        """``[B, 3, S, S]``: each cell takes one colour of ``palette`` ``[n, 3]``."""
        n = len(palette)
        chosen = (self.value(name) * n).to(torch.int64).clamp_max(n - 1)
        return torch.stack([palette[:, c][chosen] for c in range(3)], dim=1)
