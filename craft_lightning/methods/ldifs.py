"""LDIFS: Vision FT that is held near its start, in the encoder's features, as in the authors' code."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from craft_lightning.losses import Axis, feature_distance
from craft_lightning.methods.base import BaseMethod
from craft_lightning.types import MethodOutput, VisualTokens, VqaBatch

FRACTIONS = (0.0, 0.25, 0.5, 0.75, 1.0)
"""Where the encoder is compared with its start: shares of the blocks that run, rounded up."""


class Ldifs(BaseMethod):
    """Trains the encoder on the next-token loss plus ``lambda_ldifs`` times its features' distance to the start's.

    Args:
        lambda_ldifs: weight of the distance; at 0 it is Vision FT and there is no copy of the start.
        axis: see :func:`.losses.feature_distance`; a weight belongs to its axis.
    """

    name: ClassVar[str] = "ldifs"
    continuous: ClassVar[bool] = True

    def __init__(self, *, lambda_ldifs: float = 10.0, axis: Axis = "token", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.lambda_ldifs = lambda_ldifs
        self.axis: Axis = axis

    def build(self) -> None:
        """Keep a frozen copy of the encoder as it starts."""
        self.slices = tuple(math.ceil(fraction * self.vlm.tower.depth) for fraction in FRACTIONS)
        if self.lambda_ldifs:
            self.start = copy.deepcopy(self.vlm.tower)

    def trainable(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Embeddings and blocks up to the second-to-last of the tower."""
        for name, parameter in self.vlm.tower.used_parameters():
            yield f"vlm.tower.{name}", parameter

    def visual_tokens(self, pixel_values: Tensor) -> VisualTokens:
        """The backbone's own path; in training with the features on the way."""
        if not (self.training and self.lambda_ldifs):
            return self.vlm.encode(pixel_values)
        slices = self.vlm.tower.features_after(self.slices, pixel_values)
        return VisualTokens(slices[-1], slices[-1], None, None, self.vlm.grid, slices=slices)

    def losses(self, batch: VqaBatch, out: MethodOutput) -> dict[str, Tensor]:
        """Terms ``sal`` and, weighted, ``ldifs``."""
        terms = super().losses(batch, out)
        if self.lambda_ldifs:
            with torch.no_grad():
                sources = [batch.by_row(each) for each in self.start.features_after(self.slices, batch.pixel_values)]
            terms["ldifs"] = self.lambda_ldifs * feature_distance(out.visual.slices, sources, self.axis)
        return terms
