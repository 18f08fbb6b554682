"""What methods share that train the encoder with captions beside it (paper 3.2; methods.md 1.3, methods.md 1.4c)."""

from __future__ import annotations

import math
from collections.abc import Iterator
from itertools import islice
from typing import Any, Literal

import torch
from torch import Tensor, nn

from craft_lightning.checkpoints.registry import text_width
from craft_lightning.losses import contrastive, negative_pairs
from craft_lightning.methods.base import BaseMethod
from craft_lightning.types import VisualTokens, VqaBatch

PAPER_CONTRASTIVE = {"classification": 1.0, "question": 0.1}
PICTURES = 256
LOGIT_BIAS = -10.0


class ContrastiveMethod(BaseMethod):
    """Moves the encoder and, where the contrastive weight is not 0, a [CLS] token that is dropped after training.

    Args:
        lambda_contrastive: weight of the contrastive loss (eq. 4); null takes the paper's for the kind of data, 0.1 for
            question sets and 1.0 for classification. At 0 the [CLS] token does not exist.
        cls_attention: ``one_way`` leaves patch features untouched (OD-2); ``bidirectional`` prepends literally: patches
            then need the trained token, so the method is tested from its checkpoint and exports no encoder.
        cls_init: ``normal`` starts [CLS] at N(0, 0.02^2); ``patch_mean`` at the mean embedding of the first
            :data:`PICTURES` training pictures (OD-3).
        logit_bias: add a trained bias to every score, -10 at first, as SigLIP does; eq. 4 has none (OD-8).
    """

    logit_bias: nn.Parameter | None

    def __init__(
        self,
        lambda_contrastive: float | None = None,
        cls_attention: Literal["one_way", "bidirectional"] = "one_way",
        cls_init: Literal["normal", "patch_mean"] = "normal",
        logit_bias: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.lambda_contrastive = lambda_contrastive
        self.cls_attention: Literal["one_way", "bidirectional"] = cls_attention
        self.cls_init: Literal["normal", "patch_mean"] = cls_init
        self.with_bias = logit_bias
        self.register_parameter("logit_bias", None)

    def build(self) -> None:
        """Add [CLS], the log temperature, a bias if asked for, and a head to the text space where widths differ
        (OD-10)."""
        if self.lambda_contrastive is None:
            self.lambda_contrastive = self.hparams["lambda_contrastive"] = PAPER_CONTRASTIVE[self.data_kind]
        if not self.lambda_contrastive:
            return
        tower = self.vlm.tower
        self.cls = nn.Parameter(self._first_cls())
        self.log_temperature = nn.Parameter(torch.tensor([math.log(10.0)]))
        if self.with_bias:
            self.logit_bias = nn.Parameter(torch.tensor([LOGIT_BIAS]))
        if self.cls_attention == "bidirectional":
            self.beside_encoder = "its [CLS], which the patches attend to (cls_attention: bidirectional)"
        self.text_head: nn.Module = nn.Identity()
        width = text_width(self.backbone)
        if width != tower.width:
            self.text_head = nn.Linear(tower.width, width, bias=False)
            nn.init.orthogonal_(self.text_head.weight)

    @torch.no_grad()
    def _first_cls(self) -> Tensor:
        """``[1, 1, d]``; without training pictures (in an evaluation, where a checkpoint fills it) always normal."""
        tower, data = self.vlm.tower, None if self._trainer is None else getattr(self.trainer, "datamodule", None)
        if self.cls_init == "normal" or data is None or self.trainer.state.fn != "fit":
            return torch.randn(1, 1, tower.width) * 0.02
        device = next(tower.parameters()).device
        pictures = islice((picture for batch in data.training_pictures() for picture in batch), PICTURES)
        means = [tower.features_after((0,), one[None].to(device))[0].float().mean((0, 1)) for one in pictures]
        return torch.stack(means).mean(0)[None, None]

    def trainable(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Embeddings and blocks up to the second-to-last of the tower, [CLS], temperature and head."""
        for name, parameter in self.vlm.tower.used_parameters():
            yield f"vlm.tower.{name}", parameter
        for name, parameter in self.named_parameters():
            if name.startswith(("cls", "log_temperature", "logit_bias", "text_head.")):
                yield name, parameter

    def visual_tokens(self, pixel_values: Tensor) -> VisualTokens:
        """The backbone's own path; [CLS] comes along where it is needed, and never changes it if it is one-way."""
        if self.lambda_contrastive and (self.training or (self.moved and self.cls_attention == "bidirectional")):
            return self.vlm.encode(pixel_values, self.cls, self.cls_attention)
        return self.vlm.encode(pixel_values)

    def contrast(self, batch: VqaBatch, visual: VisualTokens) -> dict[str, Tensor]:
        """The weighted term ``contrastive``, or nothing where its weight is 0."""
        if not self.lambda_contrastive:
            return {}
        texts = self.caption_rows(batch)
        negatives = negative_pairs(batch.label_ids, texts.labels, texts.sentences[texts.own], texts.sentences)
        images = self.text_head(visual.image_embedding)
        term = contrastive(images, texts.embeddings, texts.own, negatives, self.log_temperature, self.logit_bias)
        return {"contrastive": self.lambda_contrastive * term}
