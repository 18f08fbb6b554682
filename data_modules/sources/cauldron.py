"""Rows of HuggingFaceM4/the_cauldron, where questions and answers are turns of a conversation.

Its wording was not seen, only described by programs that read it: what does not parse is left out and counted.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from typing import Any

_OPTION = re.compile(r"^\(?([A-Z])[.:)]\s*(.+)$", re.M)
_LETTER = re.compile(r"^(?:Answer:\s*)?\(?([A-Z])\b[.:)]?", re.I)


def records(row: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    r"""The question records of a row.

    >>> turn = {"user": "Is it?\nChoices:\nA. yes\nB. no\nAnswer with the letter.", "assistant": "Answer: B"}
    >>> list(records({"texts": [turn]}))
    [{'question': 'Is it?', 'choices': ['yes', 'no'], 'answer_index': 1}]
    """
    for turn in row["texts"] or ():
        asked, _, listed = (turn["user"] or "").partition("\nChoices:")
        choices = {letter: text.strip() for letter, text in _OPTION.findall(listed)}
        said = (turn["assistant"] or "").strip()
        letter = _LETTER.match(said)
        at = [*choices].index(letter[1].upper()) if letter and letter[1].upper() in choices else None
        named = {"answer": said} if at is None else {"answer_index": at}
        yield {"question": _question(asked), "choices": [*choices.values()] or None, **named}


def _question(asked: str) -> str:
    """Without its label and, after a question mark, without the directive in the last lines."""
    text = asked.strip().removeprefix("Question:").strip()
    end = text.rfind("?\n")
    return text[: end + 1] if end >= 0 else text
