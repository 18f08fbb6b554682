"""LoRSU: few heads and few MLP entries of a continuous model's encoder learn, those that the loss asks for most."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from torch import Tensor

from craft_lightning.errors import CraftError
from craft_lightning.losses import info_nce
from craft_lightning.methods._support.contrastive import CaptionTable
from craft_lightning.methods._support.subset import SubsetMethod
from craft_lightning.types import MethodOutput, VisualTokens, VqaBatch


class Lorsu(SubsetMethod):
    """Trains a chosen subset of the encoder, see :class:`.SubsetMethod`.

    Args:
        variant: ``ppl``, on the next-token loss of the frozen language model, or ``clip``, on the contrast of the
            tower's own image embeddings with captions; that moves the last block and more biases, too, and needs the
            text half that the tower was aligned with.
    """

    name: ClassVar[str] = "lorsu"
    continuous: ClassVar[bool] = True

    def __init__(self, *, variant: Literal["ppl", "clip"] = "ppl", **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.variant = variant
        self.whole_tower = variant == "clip"
        self.captions: CaptionTable | None = None

    def visual_tokens(self, pixel_values: Tensor) -> VisualTokens:
        """The backbone's own path; in training on captions with the embedding behind it."""
        if not (self.training and self.variant == "clip"):
            return self.vlm.encode(pixel_values)
        features, pooled = self.vlm.tower.features_and_pooled(pixel_values)
        return VisualTokens(features, features, None, pooled, self.vlm.grid)

    def losses(self, batch: VqaBatch, out: MethodOutput) -> dict[str, Tensor]:
        """Term ``sal``, or ``clip``. Raises CraftError: data without captions, a tower without a text half, or a step
        in parts, which would be contrasts of fewer images."""
        if self.variant == "ppl":
            return super().losses(batch, out)
        if self._processes() * self._parts() > 1:
            raise CraftError("--model.variant clip contrasts all images of a step: one device, one batch a step")
        if self.captions is None:
            self.captions = CaptionTable.embed(
                getattr(self._data, "captions", ()), self.backbone, self.device, without="--model.variant ppl"
            )
        images: Any = out.visual.image_embedding
        texts = self.captions.rows(batch.caption_ids, batch.label_ids, slice(0, len(batch)))
        return {"clip": info_nce(images, texts.embeddings, self.captions.log_scale)}
