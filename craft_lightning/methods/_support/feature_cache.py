"""A frozen encoder sees an image once in a fit, however many epochs ask for it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from craft_lightning.types import VisualTokens, VqaBatch

ROOM = 4 * 2**30
"""Bytes of main memory that a process fills with visual tokens; images beyond it are encoded each time."""


class FeatureCache:
    """Visual tokens by the name of an image, in main memory.

    Args:
        grid: (rows, columns) of visual tokens. room: bytes that they may fill.
    """

    def __init__(self, grid: tuple[int, int], room: int = ROOM) -> None:
        self.grid, self.room = grid, room
        self.rows: dict[str, tuple[Tensor, ...]] = {}

    @torch.no_grad()
    def look(self, batch: VqaBatch, encode: Callable[[Tensor], VisualTokens]) -> VisualTokens:
        """What ``encode`` makes of the batch's images ``[B, 3, H, W]``; it is shown those that are new, each once."""
        rows = {name: self.rows[name] for name in batch.image_names if name in self.rows}
        new = {name: place for place, name in enumerate(batch.image_names) if name not in rows}
        if new:
            made = [column.cpu() for column in _columns(encode(batch.pixel_values[list(new.values())]))]
            for name, *row in zip(new, *made, strict=True):
                rows[name] = tuple(row)
                if (size := sum(tensor.nbytes for tensor in row)) <= self.room:
                    self.room -= size
                    self.rows[name] = rows[name]
        columns = zip(*(rows[name] for name in batch.image_names), strict=True)
        return _visual([torch.stack(column).to(batch.pixel_values.device) for column in columns], self.grid)


def _columns(visual: VisualTokens) -> tuple[Tensor, ...]:
    """The tensors of images that were looked at whole; a continuous tower's tokens are its features."""
    if visual.codes is None:
        return (visual.features,)
    assert visual.energy is not None, "every tower with a codebook says it"
    return visual.features, visual.tokens, visual.codes, visual.energy


def _visual(columns: list[Tensor], grid: tuple[int, int]) -> VisualTokens:
    if len(columns) == 1:
        return VisualTokens(columns[0], columns[0], None, None, grid)
    features, tokens, codes, energy = columns
    return VisualTokens(features, tokens, codes, None, grid, energy)
