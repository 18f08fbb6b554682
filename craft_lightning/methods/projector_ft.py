"""Projector FT: only the projector learns, from the target domain's data alone."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from torch import nn

from craft_lightning.methods.base import BaseMethod


class ProjectorFineTuning(BaseMethod):
    """Trains the projector on the next-token loss; encoder, codebook and language model are frozen."""

    name: ClassVar[str] = "projector_ft"

    def trainable(self) -> Iterator[tuple[str, nn.Parameter]]:
        """All of the projector."""
        for name, parameter in self.vlm.projector.named_parameters():
            yield f"vlm.projector.{name}", parameter
