"""Tokenizers, and the frozen SigLIP text tower for caption embeddings."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn
from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast, SiglipTextModel

from craft_lightning.errors import CraftError
from craft_lightning.models.files import read_as, read_json
from craft_lightning.models.spec import VlmSpec, resolve

BATCH = 256


class TextTower(nn.Module):
    """SigLIP's text half.

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

        Raises:
            CraftError: a text longer than ``positions`` (cutting is the caller's: only it knows the task sentence).
        """
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


def load_tokenizer(source: str | Path | VlmSpec) -> PreTrainedTokenizerBase:
    """The tokenizer of a checkpoint (its ``llm/``) or of a plain tokenizer folder; always has a pad token.

    Raises:
        CraftError: no readable tokenizer there.
    """
    folder = resolve(source) if isinstance(source, VlmSpec) else Path(source)
    for candidate in (folder / "llm", folder / "model" / "llm"):
        if candidate.is_dir():
            folder = candidate
            break
    # A tokenizer that was saved in its general form is read in that form: AutoTokenizer would look at the language
    # model's type and put that family's own word splitting in place of the one in the file.
    config = folder / "tokenizer_config.json"
    saved_as = read_json(config).get("tokenizer_class") if config.is_file() else None
    general = saved_as in ("TokenizersBackend", "PreTrainedTokenizerFast") and (folder / "tokenizer.json").is_file()
    reader = PreTrainedTokenizerFast if general else AutoTokenizer
    with read_as(folder, "a tokenizer"):
        tokenizer = reader.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    return tokenizer
