"""Vision FT: the encoder of a continuous model learns from the answers alone."""

from __future__ import annotations

from typing import Any, ClassVar

from torch import Tensor

from craft_lightning.methods._support.contrastive import ContrastiveMethod
from craft_lightning.types import MethodOutput, VqaBatch


class VisionFineTuning(ContrastiveMethod):
    """Trains the encoder on the next-token loss of the frozen language model; nothing is quantised, nothing anchors it.

    With the contrastive term it is an ablation that the paper does not have: CRAFT's captions without its codebook.

    Args:
        lambda_contrastive: weight of the contrastive loss; 0 is Vision FT, null takes CRAFT's for the kind of data.
    """

    name: ClassVar[str] = "vision_ft"
    continuous: ClassVar[bool] = True

    def __init__(self, *, lambda_contrastive: float | None = 0.0, **kwargs: Any) -> None:
        super().__init__(lambda_contrastive=lambda_contrastive, **kwargs)

    def losses(self, batch: VqaBatch, out: MethodOutput) -> dict[str, Tensor]:
        """Term ``sal``; ``contrastive``, weighted, where it is asked for."""
        return super().losses(batch, out) | self.contrast(batch, out.visual)
