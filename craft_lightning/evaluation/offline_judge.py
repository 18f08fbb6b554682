"""A judge by rules, for drawn images: what is true of them is written down as facts (docs/judge.md).

It knows the words of the drawings and nothing else, so its numbers are not comparable with those of a language model
that judges; of two models that were asked the same it says which one justifies its answers.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Collection, Iterable, Sequence

from craft_lightning.evaluation.judgement import Judgement
from craft_lightning.text.prompts import LETTERS
from craft_lightning.text.scoring import normalise
from craft_lightning.types import Fact, VqaExample

LEAST_WORDS = {True: 2, False: 5}
"""Content words that make a justification: behind a word like *because* or in a second sentence, and in a reply without
these, of which some may be the answer itself."""
OPEN_WORDS = 8
"""Words from the beginning of a reply among which the answer to an open question is looked for."""
LENGTHS = (20, 35, 55, 80, 120)
"""Words up to which a reply has verbosity 0, 1, 2, 3 and 4; a longer one has 5."""
_SAYING_NOTHING = (
    "a an and are as at be because but by can due for from has have here i in into is it its no not of on one or see "
    "seen shown shows show since so such that the their there these they this those to was we which with you your "
    "answer answers correct right option image images picture pictures photo question reason"
)
FUNCTION_WORDS = frozenset(_SAYING_NOTHING.split())
"""Words that say nothing of an image by themselves."""

_LETTER = re.compile(
    r"(?:(?:so|thus|hence|therefore),? )?"
    r"(?:the )?(?:correct |right )?(?:answer|option)?(?: is)?:? ?\(?([a-h])(?=[.):,;]|$| because\b| since\b)"
)
_SENTENCE = re.compile(r"(?<=[a-z0-9]{2}[.!?;]) ")
_REASON = re.compile(rf"\b(?:because|since|due to|as the image)\b|{_SENTENCE.pattern}")


class OfflineJudge:
    """Judges replies about images of one drawn dataset.

    Args:
        facts: of some images, at least of those judged: a phrase of theirs that is none of the image is false of it.
        others: of images of other datasets: their phrases are false of every image, and bear on no answer.
    """

    def __init__(self, facts: Iterable[Collection[Fact]], others: Iterable[Collection[Fact]] = ()) -> None:
        self.known = {fact.phrase.lower(): fact for each in facts for fact in each}
        every = {fact.phrase.lower() for each in others for fact in each} | self.known.keys()
        phrases = sorted(every, key=lambda phrase: (-len(phrase), phrase))
        self._phrases = re.compile(rf"\b(?:{'|'.join(map(re.escape, phrases))})\b")

    def judge(self, reply: str, example: VqaExample) -> Judgement:
        """What the rules say of a reply; ``example`` is the item as it was asked, its image is not looked at."""
        text, wanted = normalise(reply), normalise(example.meta["answer_text"])
        answer, *reason = _REASON.split(text, maxsplit=1)
        *before, last = _SENTENCE.split(text)
        rest = " ".join(before)
        if rest and example.options and not _chosen(rest, example.options) and _LETTER.match(last):
            answer, reason = last, [rest]  # the answer stands last
        topic = {*_words(normalise(example.question)), *_words(wanted)}
        options = {word for option in example.options for word in _words(normalise(option))}
        content = {*_words(reason[0] if reason else text)} - FUNCTION_WORDS - topic - options
        stated = dict.fromkeys(self._phrases.findall(text)) if self.known else {}
        own = [self.known[phrase] for phrase in stated if phrase in self.known]
        # What is the same in all images of a class speaks of the class; of a question, what it names.
        bearing = sum(not fact.varies or not topic.isdisjoint(_words(f"{fact.name} {fact.phrase}")) for fact in own)
        true = sum(fact in example.meta["facts"] for fact in own)
        length = len(_words(text))
        return Judgement(
            correctness=is_right(answer.strip(" .,;:"), example),
            presence=len(content) >= LEAST_WORDS[bool(reason)],
            relevance=min(5, len(own) + bearing),
            faithfulness=int(5 * true / len(stated) + 0.5) if stated else 0,
            verbosity=bisect_left(LENGTHS, length),
            notes=f"Of {len(stated)} stated facts {true} hold and {bearing} bear on the answer. {length} words.",
        )


def is_right(answer: str, example: VqaExample) -> bool:
    """Whether the answer part of a reply, normalised, chooses the right answer: by letter, by the option's text, or by
    both, which then have to agree; of an open question by its words."""
    wanted = normalise(example.meta["answer_text"])
    if not example.options:
        words, place = _words(answer), _words(wanted)
        starts = range(1 if wanted in ("yes", "no") else max(1, OPEN_WORDS - len(place) + 1))
        return any(words[start : start + len(place)] == place for start in starts)
    return _chosen(answer, example.options) == {LETTERS.index(example.answer)}


def _chosen(answer: str, options: Sequence[str]) -> set[int]:
    """Places of the options that an answer chooses."""
    letter = _LETTER.match(answer)
    return {*({LETTERS.lower().index(letter[1])} if letter else ()), *_named(answer, options)}


def _named(answer: str, options: Sequence[str]) -> set[int]:
    """Places of the options whose text stands in an answer; a text within another that stands there is none."""
    found, rest = set(), answer
    for place, option in sorted(enumerate(map(normalise, options)), key=lambda pair: -len(pair[1])):
        shorter = re.sub(rf"\b{re.escape(option)}(?!\w)", " ", rest)
        found |= {place} if shorter != rest else set()
        rest = shorter
    return found


def _words(text: str) -> list[str]:
    return re.findall(r"[a-z0-9]+(?:['-][a-z0-9]+)*", text.lower())
