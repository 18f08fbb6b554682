"""CRAFT: codebook-anchored adaptation of the vision encoder (paper, section 3; methods.md section 1)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn

from craft_lightning.errors import CraftError
from craft_lightning.losses import Level, Reduction, commitment, contrastive, negative_pairs
from craft_lightning.methods.base import BaseMethod
from craft_lightning.models.loading import text_width
from craft_lightning.types import MethodOutput, VisualTokens, VqaBatch

PAPER_CONTRASTIVE = {"classification": 1.0, "question": 0.1}


class Craft(BaseMethod):
    """Trains the encoder on ``lambda_sal * L_SAL + lambda_commitment * L_commit + lambda_contrastive * L_con`` (eq. 5).

    A term of weight 0 is not computed, and without the contrastive term the [CLS] token does not exist.

    Args:
        lambda_sal: weight of the surrogate alignment loss (eq. 2), next-token loss through the frozen language model.
        lambda_commitment: weight of the commitment loss (eq. 3).
        lambda_contrastive: weight of the contrastive loss (eq. 4); null takes the paper's for the kind of data, 0.1 for
            question sets and 1.0 for classification.
        commitment_level: ``final`` (distance to the full sum of codewords) or ``cumulative`` (mean over partial sums).
        commitment_reduction: ``mean``, ``token`` (summed over width) or ``image`` (summed over tokens, too).
        cls_attention: ``one_way`` leaves patch features untouched (OD-2); ``bidirectional`` prepends literally.
    """

    name: ClassVar[str] = "craft"
    usual_keep: ClassVar[float] = 0.8

    def __init__(
        self,
        lambda_sal: float = 1.0,
        lambda_commitment: float = 0.1,
        lambda_contrastive: float | None = None,
        commitment_level: Level = "final",
        commitment_reduction: Reduction = "mean",
        cls_attention: Literal["one_way", "bidirectional"] = "one_way",
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.lambda_sal = lambda_sal
        self.lambda_commitment = lambda_commitment
        self.lambda_contrastive = lambda_contrastive
        self.commitment_level: Level = commitment_level
        self.commitment_reduction: Reduction = commitment_reduction
        self.cls_attention: Literal["one_way", "bidirectional"] = cls_attention

    def build(self) -> None:
        """Add [CLS] ~ N(0, 0.02^2), the log temperature, and a head to the text space where widths differ (OD-10).

        Raises:
            CraftError: a commitment to codewords that the tower does not have.
        """
        tower = self.vlm.tower
        if self.lambda_contrastive is None:
            self.lambda_contrastive = self.hparams["lambda_contrastive"] = PAPER_CONTRASTIVE[self.data_kind]
        if self.lambda_commitment and tower.quantizer is None:
            raise CraftError(f"{self.backbone.name} has no codebook to commit to; set --model.lambda_commitment 0")
        if not self.lambda_contrastive:
            return
        self.cls = nn.Parameter(torch.randn(1, 1, tower.width) * 0.02)
        self.log_temperature = nn.Parameter(torch.tensor(math.log(10.0)))
        self.text_head: nn.Module = nn.Identity()
        width = text_width(self.backbone)
        if width != tower.width:
            self.text_head = nn.Linear(tower.width, width, bias=False)
            nn.init.orthogonal_(self.text_head.weight)

    def trainable(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Embeddings and blocks up to the second-to-last of the tower, [CLS], temperature and head."""
        for name, parameter in self.vlm.tower.used_parameters():
            yield f"vlm.tower.{name}", parameter
        for name, parameter in self.named_parameters():
            if name.startswith(("cls", "log_temperature", "text_head.")):
                yield name, parameter

    def visual_tokens(self, pixel_values: Tensor) -> VisualTokens:
        """The backbone's own path; [CLS] comes along where it is needed, and never changes it if it is one-way."""
        if self.lambda_contrastive and (self.training or self.cls_attention == "bidirectional"):
            return self.vlm.encode(pixel_values, self.cls, self.cls_attention)
        return self.vlm.encode(pixel_values)

    def losses(self, batch: VqaBatch, out: MethodOutput) -> dict[str, Tensor]:
        """Terms ``sal``, ``commitment`` and ``contrastive``, weighted."""
        terms = {}
        if self.lambda_sal:
            terms["sal"] = self.lambda_sal * out.answer_loss
        if self.lambda_commitment:
            terms["commitment"] = self.lambda_commitment * self._commitment(out.visual)
        if self.lambda_contrastive:
            terms["contrastive"] = self.lambda_contrastive * self._contrastive(batch, out.visual)
        return terms

    def _commitment(self, visual: VisualTokens) -> Tensor:
        targets, quantizer = visual.tokens, self.vlm.tower.quantizer
        if self.commitment_level == "cumulative" and quantizer is not None and visual.codes is not None:
            targets = quantizer.partial_sums(visual.codes)
        return commitment(visual.features, targets, self.commitment_reduction)

    def _contrastive(self, batch: VqaBatch, visual: VisualTokens) -> Tensor:
        texts = self.caption_rows(batch)
        negatives = negative_pairs(batch.label_ids, texts.labels, texts.sentences[texts.own], texts.sentences)
        images = self.text_head(visual.image_embedding)
        return contrastive(images, texts.embeddings, texts.own, negatives, self.log_temperature)
