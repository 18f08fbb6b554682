"""Class names as words, and the sentence that states a class: articles by the sound that follows them."""

from __future__ import annotations

import re

_SERIAL = re.compile(r"^(?:\d+[.)]|0\d*(?=[\s_-]))[\s_-]*(?=\D)")
_GROUP = re.compile(r"^([^_]+)_{2,}(?=\1(?:[_\s]|$))", re.IGNORECASE)
_HUMP = re.compile(r"(?<=[a-z]{2})(?=[A-Z][a-z]{2})|(?<=[A-Z]{2})(?=[A-Z][a-z]{2})")
_HYPHEN = re.compile(r"(?<=[a-z]{3})-(?=[a-z]{3})")
_NUMBER = re.compile(r"(?<=[^\W\d_]{3})(?=\d)")

_YOU_OR_WON = r"eu|ewe\b|on(?:e\b|ce)|u(?:ni(?![dmn])|s[aeu]|t[ei]|r[aeio]|bi|ku|fo)"
_AN = re.compile(rf"(?!{_YOU_OR_WON})[aeiou]|hour|honest|hono|heir|8|1[18](?!\d)", re.IGNORECASE)
_SPELT = re.compile(r"([A-Z])(?:[A-Z0-9]{,2}|[B-DF-HJ-NP-TV-Z0-9]+)\b|([A-Za-z])\b")
_PLURAL = re.compile(r"[a-z]{2}(?<!len)(?<![aisu])s$|\b(?:people|children|(?:wo)?men|teeth|feet)$", re.IGNORECASE)
_STATE = re.compile(
    r"(?:un|ab)?(?:healthy|normal|ripe)|diseased|infected|benign|malignant|positive|negative|good|bad|intact|damaged|"
    r"broken|cracked|defective|fresh|rotten|open|closed|empty|full|clean|dirty|wet|dry|unknown",
    re.IGNORECASE,
)
"""Classes that are no things: a noun goes behind them."""


def class_name(folder: str) -> str:
    """The words of a class folder: a serial number and a repeated group fall away, underscores, joined capitals and
    digits are parted. Capitals stay where they may be those of a name.

    >>> [class_name(n) for n in ("Apple___Apple_scab", "AnnualCrop", "001.Black_footed_Albatross", "Boeing737")]
    ['Apple scab', 'annual crop', 'Black footed Albatross', 'Boeing 737']
    """
    bare = _GROUP.sub("", _SERIAL.sub("", folder))
    if not re.search(r"[\s_]", bare):
        bare = _HYPHEN.sub(" ", bare)
    words: list[str] = []
    for word in _NUMBER.sub(" ", bare.replace("_", " ")).split():
        humps = _HUMP.split(word)
        words += [word] if len(humps) == 1 else [hump.lower() if hump.istitle() else hump for hump in humps]
    return " ".join(words)


def with_article(words: str) -> str:
    """Words behind *a* or *an*, as they are said; behind none where they are many.

    >>> [with_article(w) for w in ("apple", "unit", "MRI scan", "X-ray", "hour", "8-ball", "industrial buildings")]
    ['an apple', 'a unit', 'an MRI scan', 'an X-ray', 'an hour', 'an 8-ball', 'industrial buildings']
    """
    if _PLURAL.search(words):
        return words
    spelt = _SPELT.match(words)
    an = (spelt[1] or spelt[2]).upper() in "AEFHILMNORSX" if spelt else _AN.match(words)
    return f"{'an' if an else 'a'} {words}"


def class_caption(domain: str, label: str) -> str:
    """The sentence of an image of a class, in the paper's form; ``domain``: what all images show, or nothing.

    >>> class_caption("plant leaf", "Apple scab"), class_caption("", "cork")
    ('An image of a plant leaf, specifically an Apple scab.', 'An image of a cork.')
    >>> class_caption("leaf", "Tomato healthy")
    'An image of a leaf, specifically a healthy Tomato leaf.'
    """
    kind = re.sub(r"^(?:an?|the)\s+", "", " ".join(domain.split()).rstrip("."), flags=re.IGNORECASE)
    *rest, last = label.split()
    if _STATE.fullmatch(last):
        label = " ".join([last, *rest, *(kind.split() or ([] if rest else ["object"]))])
    general = f"{with_article(kind)}, specifically " if kind else ""
    return f"An image of {general}{with_article(label)}."
