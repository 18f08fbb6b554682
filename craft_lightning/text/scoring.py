"""The metric of record, exact match (paper, section 4), and the diagnostics that stand beside it."""

from __future__ import annotations

import re
from collections.abc import Sequence

MAX_NEW_TOKENS = 5
"""Greedy decoding stops after this many tokens (paper, section 4)."""
_LETTER = re.compile(r"\s*([a-z])(?![a-z])", re.IGNORECASE)


def normalise(text: str) -> str:
    """Lower case, stripped, runs of white space as one blank; nothing else is taken away.

    >>> normalise("  Red   Roof ")
    'red roof'
    """
    return " ".join(text.lower().split())


def exact_match(text: str, answer: str) -> bool:
    """Whether the two are equal after :func:`normalise`; ``"A."`` is not ``"a"``."""
    return normalise(text) == normalise(answer)


def answer_kind(answer: str, options: Sequence[str]) -> str:
    """What kind of answer an item has: ``one of choices``, ``yes or no``, ``a number`` or ``in words``.

    >>> answer_kind("Yes", ()), answer_kind("12", ())
    ('yes or no', 'a number')
    """
    if options:
        return "one of choices"
    text = normalise(answer)
    return "yes or no" if text in ("yes", "no") else "a number" if text.isdecimal() else "in words"


def lone_letter(text: str) -> bool:
    """Whether a reply is well-formed for multiple choice: one letter and nothing else."""
    return len(normalise(text)) == 1 and normalise(text).isalpha()


def lenient_match(text: str, answer: str) -> bool:
    """Diagnostic: the reply begins with the right option letter, and no letter follows it.

    >>> lenient_match("B. forest", "b"), lenient_match("Bright", "b")
    (True, False)
    """
    found = _LETTER.match(text)
    return found is not None and found.group(1).lower() == normalise(answer)
