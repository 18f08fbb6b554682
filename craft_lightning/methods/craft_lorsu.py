"""CRAFT on LoRSU's subset of the encoder: an ablation of what moves, where the loss is CRAFT's own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from torch import nn

from craft_lightning.methods._support.subset import SubsetMethod
from craft_lightning.methods.craft import Craft


class CraftLorsu(SubsetMethod, Craft):
    """Trains on CRAFT's loss few heads and few MLP entries, which the gradient of that loss chooses, and [CLS]."""

    name: ClassVar[str] = "craft_lorsu"

    def trainable(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The subset, and of CRAFT what is dropped after training."""
        yield from super().trainable()
        for name, parameter in Craft.trainable(self):
            if not name.startswith("vlm.tower."):
                yield name, parameter
