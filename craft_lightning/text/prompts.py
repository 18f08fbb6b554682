"""Examples become token ids: prompt with the image's placeholder, and the reply that is learnt or scored.

Two conversations: ``vicuna_v1``, exactly as VILA-U was trained (reference code ``vila_u/conversation.py``), and
``chat_template``, the language model's own. Both put ``<image>`` and a newline in front of the question.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from craft_lightning.errors import CraftError
from craft_lightning.types import IGNORED_LABEL, IMAGE_TOKEN_ID, VqaExample

LETTER_DIRECTIVE = "Answer in one letter only."
SHORT_DIRECTIVE = "Answer as succinctly as possible."
JUSTIFY_DIRECTIVE = "Justify your answer."

PLACEHOLDER = "<image>"
VICUNA_SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)

LETTERS = "ABCDEFGH"
"""Names of the options, in order."""
Conversation = Literal["vicuna_v1", "chat_template"]

_NEEDED_LETTERS = 4
_CACHED_TEXTS = 65536


def message(example: VqaExample) -> str:
    """What the user says: question, one line per option, and the directive, whose place ``meta["directive"]`` takes
    (see :func:`justify`)."""
    directive = example.meta.get("directive", LETTER_DIRECTIVE if example.options else SHORT_DIRECTIVE)
    options = [f"{letter}. {text}" for letter, text in zip(LETTERS, example.options, strict=False)]
    return "\n".join([example.question.strip(), *options, directive])


def justify(example: VqaExample) -> VqaExample:
    """The same item, asked to explain itself: ``Justify your answer.`` takes the directive's place (section 4.3)."""
    question = example.question
    for directive in (LETTER_DIRECTIVE, SHORT_DIRECTIVE):
        question = question.replace(directive, "").replace(directive.rstrip("."), "")
    return replace(example, question=question.strip(), meta={**example.meta, "directive": JUSTIFY_DIRECTIVE})


@dataclass(frozen=True)
class Encoded:
    """Token ids of one example: prompt with one :data:`IMAGE_TOKEN_ID`, and reply with its end-of-turn token."""

    prompt: tuple[int, ...]
    reply: tuple[int, ...]


class PromptBuilder:
    """Writes prompts for one transformers tokenizer.

    Args:
        lettered: False if nobody will ask multiple choice: any tokenizer will do then.

    Attributes:
        letters: the option letters whose reply is a single token, at least ``ABCD``; none without ``lettered``.
        letter_ids: their token ids.
        end_id: the end-of-turn token. pad_id: fills ``input_ids`` on the right (its value never matters).

    Raises:
        CraftError: a letter from A to D takes more than one token, or the tokenizer lacks what the conversation needs.
    """

    def __init__(self, tokenizer: Any, conversation: Conversation, lettered: bool = True) -> None:
        if tokenizer.eos_token_id is None:
            raise CraftError("the tokenizer has no end-of-sequence token, so replies cannot end")
        if conversation == "chat_template" and not tokenizer.chat_template:
            raise CraftError("the tokenizer has no chat template; use conversation 'vicuna_v1'")
        self.tokenizer = tokenizer
        self.conversation: Conversation = conversation
        self.end_id: int = tokenizer.eos_token_id
        self.pad_id: int = tokenizer.pad_token_id if tokenizer.pad_token_id is not None else self.end_id
        plain = [tokenizer.encode(text, add_special_tokens=False) for text in ("a", " a")]
        self._marks_starts = conversation == "vicuna_v1" and plain[0] == plain[1]
        self._prompts: dict[str, tuple[int, ...]] = {}
        self._replies: dict[str, tuple[int, ...]] = {}
        self._heads: dict[str, list[int]] = {}
        self.letters, self.letter_ids = self._single_letters() if lettered else ("", ())

    def _single_letters(self) -> tuple[str, tuple[int, ...]]:
        letters, ids = "", list[int]()
        for letter in LETTERS:
            reply = self._reply(letter)
            if len(reply) != 2 or reply[1] != self.end_id or reply[0] in ids:
                break
            letters, ids = letters + letter, [*ids, reply[0]]
        if len(letters) < _NEEDED_LETTERS:
            raise CraftError(
                f"the reply {LETTERS[len(letters)]!r} is not a single token of its own in this tokenizer; "
                "multiple choice needs one token for each of A, B, C, D"
            )
        return letters, tuple(ids)

    def encode(self, example: VqaExample) -> Encoded:
        """Prompt and reply of an example."""
        return self.encode_text(message(example), example.answer)

    def encode_text(self, text: str, answer: str) -> Encoded:
        """Prompt and reply of a user's message and its answer. Raises CraftError: the tokenizer merges the end of the
        prompt with the reply."""
        if answer not in self._replies:
            self._replies[answer] = self._reply(answer)
        return Encoded(self.prompt_ids(text), self._replies[answer])

    def tokens(self, answer: str) -> int:
        """Number of tokens that a reply takes, its end token not counted."""
        return len(self.encode_text("", answer).reply) - 1

    def prompt_ids(self, text: str) -> tuple[int, ...]:
        """The prompt of a message, ready for generation."""
        if text not in self._prompts:
            if len(self._prompts) >= _CACHED_TEXTS:
                self._prompts.clear()
            self._prompts[text] = tuple(self._write(_plain(text), None))
        return self._prompts[text]

    def _reply(self, answer: str) -> tuple[int, ...]:
        """Reply tokens: what follows the prompt's own tokens. Every prompt ends alike, so any message will do."""
        if self.end_id in self._piece(_plain(answer)):
            raise CraftError(
                f"the answer {answer!r} holds what ends a reply, and would end there; write it in another way"
            )
        prompt, full = self._write("Which?", None), self._write("Which?", _plain(answer))
        if full[: len(prompt)] != prompt:
            raise CraftError(f"the tokenizer merges the reply {answer!r} with the prompt; its span cannot be found")
        reply = tuple(full[len(prompt) :])
        # A chat template may write a newline after the end of turn: the reply ends with the token itself.
        return reply[: reply.index(self.end_id) + 1] if self.end_id in reply else (*reply, self.end_id)

    def _write(self, text: str, answer: str | None) -> list[int]:
        """Ids of a message and, if given, its answer, in the conversation's form."""
        if self.conversation == "chat_template":
            return self._chat(text, answer)
        prompt = f"{VICUNA_SYSTEM} USER: {PLACEHOLDER}\n{text} ASSISTANT:"
        return self.pieces(prompt) if answer is None else [*self.pieces(f"{prompt} {answer}"), self.end_id]

    def pieces(self, text: str) -> list[int]:
        """Any text with placeholders as VILA-U tokenizes it: bos, then the pieces between images, each alone."""
        bos = self.tokenizer.bos_token_id
        first, *others = text.split(PLACEHOLDER)
        ids = [*([] if bos is None else [bos]), *self._head(first)]
        for piece in others:
            ids += [IMAGE_TOKEN_ID, *self._piece(piece)]
        return ids

    def _chat(self, text: str, answer: str | None) -> list[int]:
        messages = [{"role": "user", "content": f"{PLACEHOLDER}\n{text}"}]
        if answer is not None:
            messages.append({"role": "assistant", "content": answer})
        said = self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=answer is None)
        if said.count(PLACEHOLDER) != 1:
            raise CraftError("the tokenizer's chat template does not write the user's text once")
        before, after = said.split(PLACEHOLDER)
        return [*self._head(before), IMAGE_TOKEN_ID, *self._piece(after)]

    def _head(self, text: str) -> list[int]:
        """What stands before the image, the same in every prompt."""
        if text not in self._heads:
            self._heads = {text: self._piece(text)}
        return self._heads[text]

    def _piece(self, text: str) -> list[int]:
        # VILA-U's own tokenizer puts a start mark before every piece; a ``tokenizer.json`` converted from it leaves it
        # out where the piece begins with a space, unless it gets one more.
        remedy = " " if self._marks_starts and text.startswith(" ") else ""
        return self.tokenizer.encode(remedy + text, add_special_tokens=False)


def _plain(text: str) -> str:
    """Stripped, and without the placeholder: a text that quotes it must not become a second image."""
    return text.strip().replace(PLACEHOLDER, "image")


def pad_right(rows: Sequence[Sequence[int]], value: int) -> Tensor:
    """``[B, T]`` long, rows filled up with ``value`` on the right."""
    width = max(len(row) for row in rows)
    return torch.tensor([[*row, *[value] * (width - len(row))] for row in rows], dtype=torch.long)


def collate_text(rows: Sequence[Encoded], pad_id: int, with_reply: bool) -> dict[str, Any]:
    """Text tensors of a batch: ``input_ids``, ``attention_mask``, ``labels`` ``[B, T]`` and ``prompt_lengths`` ``[B]``;
    for generation, without ``with_reply``, prompts alone and no labels. ``pad_id``: see :class:`PromptBuilder`."""
    replies = [row.reply if with_reply else () for row in rows]
    ids = [(*row.prompt, *reply) for row, reply in zip(rows, replies, strict=True)]
    labels = [[IGNORED_LABEL] * len(row.prompt) + list(reply) for row, reply in zip(rows, replies, strict=True)]
    return {
        "input_ids": pad_right(ids, pad_id),
        "attention_mask": pad_right([[1] * len(row) for row in ids], 0).bool(),
        "labels": pad_right(labels, IGNORED_LABEL),
        "prompt_lengths": torch.tensor([len(row.prompt) for row in rows], dtype=torch.long),
    }
