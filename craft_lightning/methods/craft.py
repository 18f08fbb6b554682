"""CRAFT: codebook-anchored adaptation of the vision encoder (paper, section 3)."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from torch import Tensor

from craft_lightning.errors import CraftError
from craft_lightning.losses import Level, Reduction, commitment, summed_per_sample
from craft_lightning.methods._support.contrastive import ContrastiveMethod
from craft_lightning.types import MethodOutput, VqaBatch


class Craft(ContrastiveMethod):
    """Trains the encoder on ``lambda_sal * L_SAL + lambda_commitment * L_commit + lambda_contrastive * L_con``.

    That is equation 5; a term of weight 0 is not computed.

    Args:
        lambda_sal: weight of the surrogate alignment loss (equation 2): next tokens, through the frozen language model.
        sal_reduction: ``mean`` over the labelled tokens of a step, or ``sum_per_sample``, equation 2 to the letter.
        lambda_commitment: weight of the commitment loss (equation 3).
        commitment_level: ``final`` (distance to the full sum of codewords) or ``cumulative`` (mean over partial sums).
        commitment_reduction: ``mean``, ``token`` (summed over width) or ``image`` (summed over tokens, too).
    """

    name: ClassVar[str] = "craft"
    usual_keep: ClassVar[float] = 0.8

    def __init__(
        self,
        *,
        lambda_sal: float = 1.0,
        sal_reduction: Literal["mean", "sum_per_sample"] = "mean",
        lambda_commitment: float = 0.1,
        commitment_level: Level = "final",
        commitment_reduction: Reduction = "mean",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.lambda_sal = lambda_sal
        self.sal_reduction: Literal["mean", "sum_per_sample"] = sal_reduction
        self.lambda_commitment = lambda_commitment
        self.commitment_level: Level = commitment_level
        self.commitment_reduction: Reduction = commitment_reduction

    def build(self) -> None:
        """The contrastive part. Raises CraftError: a commitment to codewords that the tower does not have."""
        if self.lambda_commitment and self.vlm.tower.quantizer is None:
            raise CraftError(f"{self.backbone.name} has no codebook to commit to; set --model.lambda_commitment 0")
        super().build()

    def losses(self, batch: VqaBatch, out: MethodOutput) -> dict[str, Tensor]:
        """Terms ``sal``, ``commitment`` and ``contrastive``, weighted."""
        terms = {}
        if self.lambda_sal:
            literal = self.sal_reduction == "sum_per_sample"
            loss = summed_per_sample(out.logits, out.targets, len(batch)) if literal else out.answer_loss
            terms["sal"] = self.lambda_sal * loss
        if self.lambda_commitment:
            targets, quantizer = out.visual.tokens, self.vlm.tower.quantizer
            if self.commitment_level == "cumulative" and quantizer is not None and out.visual.codes is not None:
                targets = quantizer.partial_sums(out.visual.codes)
            loss = commitment(out.visual.features, targets, self.commitment_reduction)
            terms["commitment"] = self.lambda_commitment * loss
        return terms | self.contrast(batch, out.visual)
