"""Projector FT: only the projector learns, from the domain's data alone (methods.md 3.2, OD-22)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from torch import Tensor, nn

from craft_lightning.methods.base import BaseMethod
from craft_lightning.types import MethodOutput, VqaBatch


class ProjectorFineTuning(BaseMethod):
    """Trains the projector on the next-token loss; encoder, codebook and language model are frozen."""

    name: ClassVar[str] = "projector_ft"

    def trainable(self) -> Iterator[tuple[str, nn.Parameter]]:
        """All of the projector."""
        for name, parameter in self.vlm.projector.named_parameters():
            yield f"vlm.projector.{name}", parameter

    def losses(self, batch: VqaBatch, out: MethodOutput) -> dict[str, Tensor]:
        """Term ``sal``."""
        return {"sal": out.answer_loss}
