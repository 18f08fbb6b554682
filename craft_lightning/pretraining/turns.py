"""Conversations of several turns as token ids with labels on the replies only (appendix 8, stage 2)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random
from typing import Any, TypeVar

import torch
from torch.nn import functional as F

from craft_lightning.text.prompts import PLACEHOLDER, pad_right
from craft_lightning.types import IGNORED_LABEL, IMAGE_TOKEN_ID, VqaBatch

Row = TypeVar("Row")

_LETTERS, _COUNTS, _LOOKUPS, _LISTS = "ABCDE", (2, 3, 4, 4, 4, 5), 8, 4

_WIDTH_STEP = 32
"""Batches are padded to multiples of this: every new width costs a compilation of the bfloat16 kernels."""


@dataclass(frozen=True)
class TokenizedTurns:
    """Ids and labels of one conversation, equally long; one :data:`IMAGE_TOKEN_ID` if it has a picture."""

    ids: list[int]
    labels: list[int]

    @property
    def learnt(self) -> int:
        """Tokens that carry a loss."""
        return sum(label != IGNORED_LABEL for label in self.labels)

    def cut(self, longest: int) -> TokenizedTurns:
        """The first tokens of it."""
        return TokenizedTurns(self.ids[:longest], self.labels[:longest])


class TurnEncoder:
    """Writes conversations with a tokenizer's chat template, turn by turn.

    The template must write every turn alike, and once what opens a conversation (a beginning-of-sequence token, a
    system's turn); both are checked.

    Args:
        tokenizer: a transformers tokenizer with a chat template.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        full, end = self._render("x", "reply"), tokenizer.eos_token
        if f"reply{end}" not in full:
            raise ValueError(f"the chat template does not close a reply with {end!r}")
        self.tail = self._encode(full.split(f"reply{end}")[1])
        both = [*_turns("x", "reply"), *_turns("x", None)]
        later = tokenizer.apply_chat_template(both, tokenize=False, add_generation_prompt=True).removeprefix(full)
        first = self._render("x", None)
        if not first.endswith(later):
            raise ValueError("the chat template writes a second turn unlike a first one")
        self.opening = first.removesuffix(later)

    def _render(self, text: str, reply: str | None) -> str:
        turns = _turns(text, reply)
        return self.tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=reply is None)

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False) if text else []

    def __call__(self, turns: Sequence[tuple[str, str]], picture: bool) -> TokenizedTurns:
        """Encode (user's text, reply) pairs; the picture, if any, opens the first."""
        ids: list[int] = []
        labels: list[int] = []
        for k, (text, reply) in enumerate(turns):
            said = self._render(f"{PLACEHOLDER}\n{text}" if picture and k == 0 else text, None)
            said = said.removeprefix(self.opening) if k else said
            prompt = self._pieces(said)
            answer = [*self._encode(reply), self.tokenizer.eos_token_id]
            tail = self.tail if k + 1 < len(turns) else []
            ids += [*prompt, *answer, *tail]
            labels += [*([IGNORED_LABEL] * len(prompt)), *answer, *([IGNORED_LABEL] * len(tail))]
        return TokenizedTurns(ids, labels)

    def caption(self, text: str) -> TokenizedTurns:
        """The bare picture followed by its caption, as stage 1 shows them (OD-28)."""
        start = [] if self.tokenizer.bos_token_id is None else [self.tokenizer.bos_token_id]
        answer = [*self._encode(text), self.tokenizer.eos_token_id]
        start.append(IMAGE_TOKEN_ID)
        return TokenizedTurns([*start, *answer], [*([IGNORED_LABEL] * len(start)), *answer])

    def _pieces(self, said: str) -> list[int]:
        if PLACEHOLDER not in said:
            return self._encode(said)
        before, after = said.split(PLACEHOLDER)
        return [*self._encode(before), IMAGE_TOKEN_ID, *self._encode(after)]


def _turns(text: str, reply: str | None) -> list[dict[str, str]]:
    turns = [{"role": "user", "content": text}]
    return turns if reply is None else [*turns, {"role": "assistant", "content": reply}]


def lookup_primer(tokenizer: Any, words: Sequence[str], rng: Random, asked_first: bool) -> TokenizedTurns:
    """The barest form of looking up, where the circuit forms first: a lettered list and a word of it, then its letter.

    Only the letters carry a loss. Two orders, two circuits: a word asked for *after* the list finds its equal there;
    a word that stands *before* the list (as a picture does) has to mark the option that equals it.

    Args:
        words: single tokens after a space. rng: draws two to five options, and what is asked.
        asked_first: several lists, each behind its word; else one list and eight words.
    """
    newline, dot, *letters = (tokenizer.encode(text, add_special_tokens=False)[-1] for text in ("\n", ".", *_LETTERS))
    ids = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]
    labels = [IGNORED_LABEL] * len(ids)

    def write(tokens: Sequence[int], learnt: bool = False) -> None:
        ids.extend(tokens)
        labels.extend(tokens if learnt else [IGNORED_LABEL] * len(tokens))

    def listing() -> list[int]:
        drawn = rng.sample(words, rng.choice(_COUNTS))
        return [tokenizer.encode(f" {word}", add_special_tokens=False)[-1] for word in drawn]

    options = listing()
    for turn in range(_LISTS if asked_first else _LOOKUPS):
        k = rng.randrange(len(options))
        if asked_first:
            write([options[k], newline])
        if asked_first or turn == 0:
            for letter, option in zip(letters, options, strict=False):
                write([letter, dot, option, newline])
        if not asked_first:
            write([options[k]])
        write([letters[k]], learnt=True)
        write([newline])
        options = listing() if asked_first else options
    return TokenizedTurns(ids, labels)


def collate(rows: Sequence[TokenizedTurns], pad_id: int) -> VqaBatch:
    """A batch for :meth:`DiscreteVlm.forward`; pixels are absent because visual tokens are precomputed."""
    n = len(rows)
    none = torch.full((n,), -1)
    width = max(len(r.ids) for r in rows)
    spare = -width % _WIDTH_STEP
    return VqaBatch(
        pixel_values=torch.empty(n, 0),
        input_ids=F.pad(pad_right([r.ids for r in rows], pad_id), (0, spare), value=pad_id),
        attention_mask=F.pad(pad_right([[1] * len(r.ids) for r in rows], 0), (0, spare)).bool(),
        labels=F.pad(pad_right([r.labels for r in rows], IGNORED_LABEL), (0, spare), value=IGNORED_LABEL),
        prompt_lengths=torch.zeros(n, dtype=torch.long),
        label_ids=none,
        caption_ids=none,
        seen=torch.ones(n, dtype=torch.bool),
        answers=("",) * n,
        keys=("",) * n,
        option_counts=(0,) * n,
    )


def length_grouped(chunk: Sequence[Row], batch_size: int, place: int, length: Callable[[Row], int]) -> list[Row]:
    """Batch number ``place`` of a chunk whose batches hold rows of about one length, so that little is padding.

    The chunk is sorted and cut into batches, which are visited in a fixed order of their own; every row is used once.
    """
    order = torch.randperm(len(chunk) // batch_size, generator=torch.Generator().manual_seed(0)).tolist()
    start = order[place] * batch_size
    return sorted(chunk, key=length)[start : start + batch_size]
