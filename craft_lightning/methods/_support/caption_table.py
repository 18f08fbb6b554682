"""The sentences of the contrastive loss, embedded once by the frozen text tower (methods.md 1.4c, DESIGN 4.8)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from craft_lightning.checkpoints.registry import load_text_tower
from craft_lightning.errors import CraftError
from craft_lightning.models.text_tower import TextTower
from craft_lightning.models.vlm_spec import VlmSpec


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


@dataclass(frozen=True)
class CaptionTable:
    """Every sentence of a data module: ``embeddings`` ``[C, dT]``; ``numbers`` ``[C]``, equal where statements are."""

    embeddings: Tensor
    numbers: Tensor

    @classmethod
    def embed(
        cls, sentences: Sequence[str], backbone: VlmSpec, device: torch.device, statements: Sequence[str] | None = None
    ) -> CaptionTable:
        """Embed with the text tower that was aligned with the backbone's vision tower (OD-10).

        Args:
            sentences: of the data. statements: what each says besides a generated caption: it alone decides which are
                the same (OD-9), whatever was drawn. None: the sentences themselves.

        Raises:
            CraftError: no sentences.
        """
        if not sentences:
            raise CraftError("the data has no captions to contrast with; set --model.lambda_contrastive 0")
        first: dict[str, int] = {}
        numbers = torch.tensor([first.setdefault(s, i) for i, s in enumerate(statements or sentences)], device=device)
        tower = load_text_tower(backbone).to(device)
        return cls(tower.embed_texts([_fitting(s, tower) for s in sentences]).to(device, torch.float32), numbers)

    def rows(self, gathered: Tensor, labels: Tensor, own: slice) -> CaptionRows:
        """The rows of a batch.

        Args:
            gathered: ``[M]`` caption rows of the step over all processes, in rank order. labels: ``[M]`` their labels.
            own: where among them the batch's are.

        Raises:
            CraftError: an example without a caption.
        """
        if bool((gathered < 0).any()):
            raise CraftError("an example has no caption to contrast with; set --model.lambda_contrastive 0")
        place = torch.arange(own.start, own.stop, device=gathered.device)
        return CaptionRows(self.embeddings[gathered], labels, self.numbers[gathered], place)


def _fitting(sentence: str, tower: TextTower) -> str:
    """A sentence without its first words if all do not fit: what states the answer stands at the end (OD-12)."""
    words = sentence.split(" ")
    while len(words) > 1 and len(tower.token_ids(" ".join(words))) > tower.positions:
        words = words[1:]
    return " ".join(words)
