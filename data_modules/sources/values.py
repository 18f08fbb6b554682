"""What a value of a JSON file or a table says. Who writes tables puts NaN, null or "" where nothing is known."""

from __future__ import annotations

import math
import unicodedata
from typing import Any

_SHOWN = 60
"""Characters of a value in a message: an image's path may be the image itself, in base64."""


def absent(value: Any) -> bool:
    """Whether nothing is said: None, a number that is none (NaN, infinity), or a text of blanks.

    >>> [absent(value) for value in (None, float("nan"), " ", 0, "nan", [])]
    [True, True, True, False, False, False]
    """
    if isinstance(value, str):
        return not value.strip()
    return value is None or (isinstance(value, float) and not math.isfinite(value))


def nfc(text: str) -> str:
    """One form for what looks alike: Macs write the names of files with accents apart (NFD), most others do not."""
    return unicodedata.normalize("NFC", text)


def as_text(value: Any) -> str:
    """A text, stripped and in one form, or a number in digits. Raises ValueError: neither, or it has two spellings.

    >>> as_text(" left lung "), as_text(7), as_text(0.5)
    ('left lung', '7', '0.5')
    """
    if isinstance(value, bool):
        word = str(value).lower()
        raise ValueError(f"{word} may be the text '{'yes' if value else 'no'}' or '{word}'; write the text")
    if isinstance(value, float) and value.is_integer():
        raise ValueError(f"{value} may be the text '{value:.0f}' or '{value}'; write the text")
    if not isinstance(value, str | int | float):
        raise ValueError(f"a {type(value).__name__} is no text")
    return nfc(str(value)).strip()


def as_index(value: Any) -> int | None:
    """A whole number, also where a table made 1.0 or "1" of it; None if it is none.

    >>> [as_index(value) for value in (2, 2.0, " 2", True, 0.5, "B", [])]
    [2, 2, 2, None, None, None, None]
    """
    if isinstance(value, str):
        value = value.strip()
        return int(value) if value.isascii() and value.removeprefix("-").isdecimal() and len(value) < 10 else None
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def shown(value: Any) -> str:
    """A value in a message, quoted if it is a text."""
    text = value if isinstance(value, str) else repr(value)
    text = text if len(text) <= _SHOWN else f"{text[:_SHOWN]}…"
    return repr(text) if isinstance(value, str) else text
