"""A frozen encoder sees a picture once in a fit, however many epochs ask for it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from craft_lightning.types import VisualTokens, VqaBatch

ROOM = 4 * 2**30
"""Bytes of main memory that a process fills with visual tokens; pictures beyond it are encoded each time."""


class SeenPictures:
    """Visual tokens by example key, in main memory.

    Args:
        grid: (rows, columns) of visual tokens. room: bytes that they may fill.
    """

    def __init__(self, grid: tuple[int, int], room: int = ROOM) -> None:
        self.grid, self.room = grid, room
        self.rows: dict[str, tuple[Tensor, ...]] = {}

    @torch.no_grad()
    def look(self, batch: VqaBatch, encode: Callable[[Tensor], VisualTokens]) -> VisualTokens:
        """What ``encode`` makes of the batch's pictures ``[B, 3, H, W]``; it is shown those that are new."""
        rows = {key: self.rows[key] for key in batch.keys if key in self.rows}
        new = [place for place, key in enumerate(batch.keys) if key not in rows]
        if new:
            made = zip(*_columns(encode(batch.pixel_values[new])), strict=True)
            rows.update(zip([batch.keys[place] for place in new], made, strict=True))
            for place in new:
                self._keep(batch.keys[place], rows[batch.keys[place]])
        columns = zip(*(rows[key] for key in batch.keys), strict=True)
        device = batch.pixel_values.device
        return _visual([torch.stack([row.to(device) for row in column]) for column in columns], self.grid)

    def _keep(self, key: str, row: tuple[Tensor, ...]) -> None:
        size = sum(tensor.nbytes for tensor in row)
        if size <= self.room:
            self.room -= size
            self.rows[key] = tuple(tensor.cpu().clone() for tensor in row)


def _columns(visual: VisualTokens) -> tuple[Tensor, ...]:
    """The tensors of pictures that were looked at whole; a continuous tower's tokens are its features."""
    if visual.codes is None or visual.energy is None:
        return (visual.features,)
    return visual.features, visual.tokens, visual.codes, visual.energy


def _visual(columns: list[Tensor], grid: tuple[int, int]) -> VisualTokens:
    if len(columns) == 1:
        return VisualTokens(columns[0], columns[0], None, None, grid)
    features, tokens, codes, energy = columns
    return VisualTokens(features, tokens, codes, None, grid, energy)
