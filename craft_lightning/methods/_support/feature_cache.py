"""A frozen encoder sees an image once in a fit, however many epochs ask for it."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from craft_lightning.types import VisualTokens, VqaBatch

ROOM = 4 * 2**30
"""Bytes of main memory that a process fills with visual tokens; images beyond it are encoded each time."""


class FeatureCache:
    """Visual tokens of ``grid`` (rows, columns) by the name of an image, in ``room`` bytes of main memory."""

    def __init__(self, grid: tuple[int, int], room: int = ROOM) -> None:
        self.grid, self.room = grid, room
        self.rows: dict[str, tuple[Tensor, ...]] = {}

    @torch.no_grad()
    def look(self, batch: VqaBatch, encode: Callable[[Tensor], VisualTokens]) -> VisualTokens:
        """What ``encode`` makes of the batch's images ``[B, 3, H, W]``; it is shown those that are new, each once."""
        rows = {name: self.rows[name] for name in batch.image_names if name in self.rows}
        if new := {name: place for place, name in enumerate(batch.image_names) if name not in rows}:
            made = encode(batch.pixel_values[list(new.values())])
            # A continuous tower's tokens are its features.
            held = (made.features, *(() if made.codes is None else (made.tokens, made.codes, made.energy)))
            for name, *row in zip(new, *(column.cpu() for column in held if column is not None), strict=True):
                rows[name] = tuple(row)
                if (size := sum(tensor.nbytes for tensor in row)) <= self.room:
                    self.room -= size
                    self.rows[name] = rows[name]
        columns = zip(*(rows[name] for name in batch.image_names), strict=True)
        features, *others = (torch.stack(column).to(batch.pixel_values.device) for column in columns)
        tokens, codes, energy = others or (features, None, None)
        return VisualTokens(features, tokens, codes, None, self.grid, energy)
