"""Methods that train the encoder with captions beside it (paper, section 3.2): [CLS], the sentences, and the loss."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import islice
from typing import Any, Literal

import torch
from torch import Tensor, nn

from craft_lightning.checkpoints.vila_u import load_text_tower, text_width
from craft_lightning.errors import CraftError
from craft_lightning.losses import contrastive, negative_pairs
from craft_lightning.methods.base import BaseMethod
from craft_lightning.models.towers.siglip import TextTower
from craft_lightning.models.vlm_spec import VlmSpec
from craft_lightning.types import VisualTokens, VqaBatch

PAPER_CONTRASTIVE = {"classification": 1.0, "question": 0.1}
CLS_IMAGES = 256
LOGIT_BIAS = -10.0


@dataclass(frozen=True)
class CaptionRows:
    """Sentences of one optimiser step over all processes.

    Attributes:
        embeddings: ``[M, dT]`` float32, no gradient. labels: ``[M]``. sentences: ``[M]`` numbers of the sentences.
        own: ``[B]`` rows of the batch's examples.
    """

    embeddings: Tensor
    labels: Tensor
    sentences: Tensor
    own: Tensor


WITHOUT = "--model.lambda_contrastive 0"


@dataclass(frozen=True)
class CaptionTable:
    """Every sentence of a data module: ``embeddings`` ``[C, dT]``; ``numbers`` ``[C]``, equal where statements are; and
    the logarithm of the scale that the text tower was trained to read their cosines with. ``without``: the flag with
    which a training needs none."""

    embeddings: Tensor
    numbers: Tensor
    log_scale: float
    without: str = WITHOUT

    @classmethod
    def embed(
        cls,
        sentences: Sequence[str],
        backbone: VlmSpec,
        device: torch.device,
        statements: Sequence[str] | None = None,
        without: str = WITHOUT,
    ) -> CaptionTable:
        """Embed with the text tower that was aligned with the backbone's vision tower: not with a language model, which
        would tie the encoder to it. ``statements`` say what each sentence states besides a generated caption: they
        alone decide which are the same, whatever caption was drawn (None: the sentences themselves). Raises CraftError:
        no sentences."""
        if not sentences:
            raise CraftError(f"the data has no captions to contrast with; set {without}")
        first: dict[str, int] = {}
        numbers = torch.tensor([first.setdefault(s, i) for i, s in enumerate(statements or sentences)], device=device)
        try:
            tower = load_text_tower(backbone).to(device)
        except CraftError as error:
            raise CraftError(f"{error}; without captions: {without}") from error
        embeddings = tower.embed_texts([_fitting(s, tower) for s in sentences]).to(device, torch.float32)
        return cls(embeddings, numbers, tower.logit_scale, without)

    def rows(self, gathered: Tensor, labels: Tensor, own: slice) -> CaptionRows:
        """The rows of a batch, which stand at ``own`` among the step's: ``gathered`` ``[M]`` caption rows over all
        processes, in rank order, and their ``labels`` ``[M]``. Raises CraftError: an example without a caption."""
        if bool((gathered < 0).any()):
            raise CraftError(f"an example has no caption to contrast with; set {self.without}")
        place = torch.arange(own.start, own.stop, device=gathered.device)
        return CaptionRows(self.embeddings[gathered], labels, self.numbers[gathered], place)


def _fitting(sentence: str, tower: TextTower) -> str:
    """A sentence without its first words if all do not fit: what states the answer stands at the end. Of one word that
    is too long (a sentence without blanks) the end is left."""
    while len(tower.token_ids(sentence)) > tower.positions:
        sentence = sentence.partition(" ")[2] or sentence[1:]
    return sentence


class ContrastiveMethod(BaseMethod):
    """Moves the encoder and, where the contrastive weight is not 0, a [CLS] token that is dropped after training.

    Args:
        lambda_contrastive: weight of the contrastive loss (equation 4); null takes the paper's for the kind of data,
            0.1 for question sets and 1.0 for classification. At 0 the [CLS] token does not exist.
        cls_attention: ``one_way`` leaves patch features untouched: codes at step 0 are the zero-shot codes, and the
            token costs nothing at test time; ``bidirectional`` prepends literally: patches then need the trained token,
            so the method is tested from its checkpoint and exports no encoder.
        cls_init: ``normal`` starts [CLS] at N(0, 0.02^2); ``patch_mean`` at the mean embedding of the first
            :data:`CLS_IMAGES` training images.
        logit_bias: add a trained bias to every score, -10 at first, as SigLIP does; equation 4 has none.

    Attributes:
        captions: the embedded sentences of the data, once :meth:`caption_rows` has asked for them.
    """

    logit_bias: nn.Parameter | None

    def __init__(
        self,
        *,
        lambda_contrastive: float | None = None,
        cls_attention: Literal["one_way", "bidirectional"] = "one_way",
        cls_init: Literal["normal", "patch_mean"] = "normal",
        logit_bias: bool = False,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.lambda_contrastive, self.with_bias = lambda_contrastive, logit_bias
        self.cls_attention: Literal["one_way", "bidirectional"] = cls_attention
        self.cls_init: Literal["normal", "patch_mean"] = cls_init
        self.captions: CaptionTable | None = None
        self.register_parameter("logit_bias", None)

    def build(self) -> None:
        """Add [CLS], the log temperature, a bias if asked for, and a head to the text space where widths differ."""
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
        """``[1, 1, d]``; without training images (in an evaluation, where a checkpoint fills it) always normal."""
        tower = self.vlm.tower
        if self.cls_init == "normal" or self._data is None or self.trainer.state.fn != "fit":
            return torch.randn(1, 1, tower.width) * 0.02
        device = next(tower.parameters()).device
        images = islice((image for batch in self._data.training_images() for image in batch), CLS_IMAGES)
        means = [tower.features_after((0,), image[None].to(device))[0].float().mean((0, 1)) for image in images]
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

    def caption_rows(self, batch: VqaBatch) -> CaptionRows:
        """Embedded sentences of the step (of all processes and parts), and which of them belong to the batch's rows.

        The sentences are the data module's; the frozen text tower embeds each of them once, at the first call. Scored
        against those of all processes, a step is the same step on any number of them. Raises CraftError: the data has
        no captions.
        """
        if self.captions is None:
            sentences, stated = (getattr(self._data, name, None) for name in ("captions", "statements"))
            self.captions = CaptionTable.embed(sentences or (), self.backbone, self.device, stated)
        share = batch.share
        ids, labels, first = share.caption_ids, share.label_ids, share.part * len(batch)
        if self._processes() > 1:
            first += self.global_rank * len(ids)
            gathered: Any = self.all_gather({"ids": ids, "labels": labels})
            ids, labels = gathered["ids"].flatten(), gathered["labels"].flatten()
        return self.captions.rows(ids, labels, slice(first, first + len(batch)))

    def contrast(self, batch: VqaBatch, visual: VisualTokens) -> dict[str, Tensor]:
        """The weighted term ``contrastive``, or nothing where its weight is 0."""
        if not self.lambda_contrastive:
            return {}
        texts = self.caption_rows(batch)
        negatives = negative_pairs(batch.label_ids, texts.labels, texts.sentences[texts.own], texts.sentences)
        images = self.text_head(visual.image_embedding)
        term = contrastive(images, texts.embeddings, texts.own, negatives, self.log_temperature, self.logit_bias)
        return {"contrastive": self.lambda_contrastive * term}
