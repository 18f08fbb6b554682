"""A question and its answer as one declarative sentence: the caption of a question set."""

from __future__ import annotations

import re

_COUNTED = "(?:an? |any )?(?:only|just|more|less|fewer|at|exactly) "
_EXISTS = re.compile(rf"^(is|are) there (?!{_COUNTED})(?:(an? )|any )?(.+)$", re.I)
_THIS = re.compile(r"^is ((?:this|that)(?: \w+)??|it) ((?:an?|the|in|on|at|from|of|related|located|about) .+)$", re.I)
_WHAT_COLOUR = re.compile(r"^what colou?r (is|are) (.+)$", re.I)
_WHAT_IS = re.compile(r"^what (is|are|was|were) ((?:the|a|an|this|that|these|those|its|his|her) .+)$", re.I)
_HOW_MANY = re.compile(r"^how many (.+?) are there(.*)$", re.I)
_WHO_IS = re.compile(r"^who (is|was) (the .+)$", re.I)
_WHO_DID = re.compile(r"^who (wrote|is the author of|made|painted) (.+)$", re.I)
_WHAT_KIND = re.compile(r"^what (type|kind|genre) of (.+?) is this(?: .+)?$", re.I)


def declarative(question: str, answer: str) -> str:
    """One sentence that states the answer, by rules; the fallback quotes the question.

    >>> declarative("What color is the car?", "Red")
    'The color of the car is red.'
    >>> declarative("Is there a nodule?", "no")
    'There is no nodule.'
    >>> declarative("How do they differ?", "in size")
    'The answer to the question "How do they differ?" is in size.'
    """
    asked = " ".join(question.split()).rstrip("?. ").strip()
    said = " ".join(answer.split()).rstrip(". ")
    sentence = _yes_no(asked, said.lower()) or _open(asked, said)
    if sentence is None:
        return f'The answer to the question "{question.strip()}" is {said}.'
    return sentence[:1].upper() + sentence[1:] + "."


def _yes_no(asked: str, said: str) -> str | None:
    if said not in ("yes", "no"):
        return None
    if found := _EXISTS.match(asked):
        verb, article, thing = found[1].lower(), found[2] or "", found[3]
        return f"there {verb} {'no ' if said == 'no' else article.lower()}{thing}"
    if found := _THIS.match(asked):
        return f"{found[1].lower()} is {'not ' if said == 'no' else ''}{found[2]}"
    return None


def _open(asked: str, said: str) -> str | None:
    if said.lower() in ("yes", "no"):
        return None
    if found := _WHAT_COLOUR.match(asked):
        return f"the color of {found[2]} is {said.lower()}"
    if found := _WHAT_KIND.match(asked):
        return f"the {found[1].lower()} of this {found[2]} is {said}"
    if found := _HOW_MANY.match(asked):
        return f"there are {said} {found[1]}{found[2]}"
    if found := _WHO_DID.match(asked):
        return f"{said} {found[1].lower()} {found[2]}"
    if found := _WHAT_IS.match(asked) or _WHO_IS.match(asked):
        return f"{found[2]} {found[1].lower()} {said}"
    return None
