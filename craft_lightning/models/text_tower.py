"""The frozen SigLIP text tower, which embeds captions."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase, SiglipTextModel

from craft_lightning.errors import CraftError

BATCH = 256


class TextTower(nn.Module):
    """SigLIP's text half: texts to embeddings.

    Args:
        model: the text model. tokenizer: its tokenizer, with a pad token.
        logit_scale, logit_bias: scalars of its contrastive training (scale before the exponential).

    Attributes:
        width: dT, of the embeddings. positions: longest text in tokens (64).
    """

    def __init__(
        self, model: SiglipTextModel, tokenizer: PreTrainedTokenizerBase, logit_scale: float, logit_bias: float
    ) -> None:
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.logit_scale = logit_scale
        self.logit_bias = logit_bias
        self.width: int = model.head.out_features
        self.positions: int = model.config.max_position_embeddings

    def token_ids(self, text: str) -> list[int]:
        """Ids of a lower-cased text, unpadded: their number is what has to fit ``positions``."""
        return list(self.tokenizer(text.lower())["input_ids"])

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """``[n, dT]`` embeddings, not normalised; texts are lower-cased and padded to the full length, as in training.
        Raises CraftError: a text longer than ``positions`` (cutting is the caller's: only it knows the task
        sentence)."""
        pad = self.tokenizer.pad_token_id
        device = self.model.head.weight.device
        rows = []
        for text in texts:
            ids = self.token_ids(text)
            if len(ids) > self.positions:
                raise CraftError(f"caption of {len(ids)} tokens, {self.positions} fit: {text!r}")
            rows.append(ids + [pad] * (self.positions - len(ids)))
        if not rows:
            return torch.empty(0, self.width, device=device)
        table = torch.tensor(rows, device=device)
        return torch.cat([self.model(part).pooler_output for part in table.split(BATCH)])
