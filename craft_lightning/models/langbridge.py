"""LangBridge: an adapter that writes each visual token as a combination of the language model's own word embeddings."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from craft_lightning.errors import CraftError

Combination = Literal["softmax", "linear"]

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


class LangBridge(nn.Module):
    """Tower width to language-model width by way of words, ``[..., width]`` to ``[..., llm_width]``.

    The layers give each word of a vocabulary subset a coefficient, and the output is the sum of the words' input
    embeddings, so weighted. Nothing that is learnt or saved knows a language model: :class:`.vlm.DiscreteVlm` rebuilds
    the word matrix from the one that it puts the adapter in front of.

    Args:
        words: V texts of tokens, see :func:`token_texts`; their order is that of the coefficients.
        width: of visual tokens. hidden: of the two inner layers; only the first has an activation (exact GELU).
        combination: ``softmax`` of the scores over a learnable temperature, so that outputs lie in the convex hull of
            the words; or ``linear``, the scores themselves, as the authors' code has it.

    Attributes:
        ids: ``[V]`` of the words in the language model's tokenizer. matrix: ``[V, llm_width]`` their embeddings, in
            float32 unless the model is cast as a whole. Neither is saved, nor gets a gradient.

    Raises:
        CraftError: no words, one of them twice, or another combination.
    """

    kind = "langbridge"
    ids: Tensor
    matrix: Tensor

    def __init__(self, words: Sequence[str], width: int, hidden: int, combination: Combination = "softmax") -> None:
        super().__init__()
        if not words or len(set(words)) < len(words):
            raise CraftError(f"a vocabulary subset of {len(words)} words, {len(set(words))} of them different")
        if combination not in ("softmax", "linear"):
            raise CraftError(f"no combination {combination!r} of words; known: softmax, linear")
        self.words, self.hidden, self.combination = tuple(words), hidden, combination
        self.layers = nn.Sequential(
            nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, hidden), nn.Linear(hidden, len(words))
        )
        if combination == "softmax":
            self.log_temperature = nn.Parameter(torch.zeros(1))  # a vector: sharding cannot cut a scalar
        self.register_buffer("ids", torch.zeros(len(words), dtype=torch.long), persistent=False)
        self.register_buffer("matrix", torch.empty(len(words), 0), persistent=False)

    def attach(self, tokenizer: PreTrainedTokenizerBase, embeddings: Tensor) -> None:
        """Take the words' rows of a language model's input embeddings ``[rows, llm_width]``. Raises CraftError: its
        tokenizer lacks a word, or has one for which there is no row."""
        known = token_texts(tokenizer)
        if missing := [word for word in self.words if word not in known]:
            raise CraftError(
                f"the tokenizer has no token for {len(missing)} of the adapter's {len(self.words)} words, such as "
                f"{missing[0]!r}: an adapter goes where its words are known; `python -m craft_lightning vocabulary` "
                "finds those that several tokenizers share"
            )
        ids = torch.tensor([known[word] for word in self.words])
        if int(ids.max()) >= len(embeddings):
            raise CraftError(f"{self.words[int(ids.argmax())]!r} is token {int(ids.max())} of {len(embeddings)} rows")
        self.ids = ids.to(embeddings.device)
        self.follow(embeddings)

    @torch.no_grad()
    def follow(self, embeddings: Tensor) -> None:
        """Take the same rows again, of embeddings that have moved since."""
        self.matrix = embeddings.detach()[self.ids].float()

    def coefficients(self, tokens: Tensor) -> Tensor:
        """``[..., V]`` float32, by which each visual token weighs the words."""
        scores = self.layers(tokens).float()
        return scores if self.combination == "linear" else (scores / self.log_temperature.float().exp()).softmax(-1)

    def forward(self, tokens: Tensor) -> Tensor:
        """The sum over words is taken in float32, whatever the layers compute in."""
        weights = self.coefficients(tokens)
        with torch.autocast(tokens.device.type, enabled=False):
            return (weights @ self.matrix.float()).to(tokens.dtype)


def token_texts(tokenizer: PreTrainedTokenizerBase) -> dict[str, int]:
    """Ids of a tokenizer's ordinary tokens by their text within a sentence, alike for tokenizers of any kind.

    A word that begins after a space begins with it. Special and added tokens, single bytes and other pieces that are no
    text are left out; of several tokens with one text the first counts.
    """
    left_out = {*tokenizer.all_special_ids, *tokenizer.get_added_vocab().values()}
    vocabulary = sorted((i, token) for token, i in tokenizer.get_vocab().items())
    ids = [i for i, token in vocabulary if i not in left_out and not _BYTE.fullmatch(token)]
    first = tokenizer.encode("a", add_special_tokens=False)[-1]  # else some decoders strip a leading space
    start = len(tokenizer.decode([first]))
    pairs = tokenizer.batch_decode([[first, i] for i in ids], clean_up_tokenization_spaces=False)
    found: dict[str, int] = {}
    for i, pair in zip(ids, pairs, strict=True):
        if (text := pair[start:]) and "\ufffd" not in text:
            found.setdefault(text, i)
    return found
