"""Studio images put into words: what the pocket family is pre-trained on.

Every image yields sentences (for the text tower) and conversations (for the language models): captions, short
answers, multiple choice, look-ups in an option list, and justifications from its facts. Wording and prompt format are
those of the benchmarks; field images and real images never enter.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from random import Random

import numpy as np
import torch
from torch import Tensor

from craft_lightning.text.multiple_choice import LETTERS, OPTIONS, nearest_labels
from craft_lightning.text.prompts import JUSTIFY_DIRECTIVE, LETTER_DIRECTIVE, SHORT_DIRECTIVE, pad_right
from craft_lightning.types import IGNORED_LABEL, Fact
from data_modules.twins.twin import ClassificationTwin, Qa, QuestionTwin, Twin

Turn = tuple[str, str]
"""What the user says and what is replied."""

DESCRIBE = "Describe the image."
NAMED_LETTER_DIRECTIVE = "Answer with the letter and the name."

ALL_KINDS = {"ask": 5, "describe": 2, "justify": 3, "named": 2, "told": 1}
"""Weights of the kinds of turns about an image."""
MOSTLY_QUESTIONS = {"ask": 8, "describe": 1, "justify": 3, "named": 2, "told": 1}
"""The same at the end of pre-training, when descriptions have taught what is to be seen."""

_DRAW_AT_ONCE = 200
_LOOKUPS, _LISTS = 8, 4
_DESCRIBED_TURNS = 3


class Studio:
    """A pool of studio images of all twins with everything that can be said about them.

    Args:
        twins: the twins, in a fixed order. side: of the images, in pixels. per_twin: images of each.
        split: ``"studio"`` for training, ``"studio-test"`` for unseen images.

    Attributes:
        pixels: ``[n, 3, S, S]`` uint8; image ``i`` belongs to twin ``i % len(twins)``.
    """

    def __init__(self, twins: Sequence[Twin], side: int, per_twin: int, split: str = "studio") -> None:
        self.twins = tuple(twins)
        n = len(self.twins)
        self.pixels = torch.empty(n * per_twin, 3, side, side, dtype=torch.uint8)
        self.labels = np.full(n * per_twin, -1, dtype=np.int64)
        self.facts: list[tuple[Fact, ...]] = [()] * (n * per_twin)
        self.questions: list[tuple[Qa, ...]] = [()] * (n * per_twin)
        for t, twin in enumerate(self.twins):
            for start in range(0, per_twin, _DRAW_AT_ONCE):
                index = np.arange(start, min(start + _DRAW_AT_ONCE, per_twin))
                drawing = twin.draw(split, index, side, "studio")
                rows = index * n + t
                self.pixels[rows] = drawing.images
                self.labels[rows] = drawing.labels
                for row, facts, questions in zip(rows, drawing.facts, drawing.questions, strict=True):
                    self.facts[row], self.questions[row] = facts, questions
        self._neighbours = {
            t: nearest_labels(twin.class_attributes())
            for t, twin in enumerate(self.twins)
            if isinstance(twin, ClassificationTwin)
        }
        self.names = _all_names(self.twins)
        self.questions_asked, self.answer_words, self._sheet = self._all_questions()

    def _all_questions(self) -> tuple[list[str], list[str], list[list[tuple[int, int]]]]:
        """What can be asked of the images: label, facts and benchmark questions, each with its twin's name.

        Returns:
            All questions and all answers (sorted), and of each image the numbers of its questions and right answers.
        """
        said = []
        for i, (facts, questions) in enumerate(zip(self.facts, self.questions, strict=True)):
            twin = self.twin_of(i)
            pairs = [(f.name, f.phrase) for f in facts] + [(q.question, q.answer) for q in questions]
            if isinstance(twin, ClassificationTwin):
                pairs.append((twin.query, twin.class_names[self.labels[i]]))
            said.append([(f"{twin.name}: {question}", f"{twin.name}: {answer}") for question, answer in pairs])
        asked, answers = (sorted({pair[k] for pairs in said for pair in pairs}) for k in (0, 1))
        number, place = ({text: k for k, text in enumerate(texts)} for texts in (asked, answers))
        return asked, answers, [[(number[q], place[a]) for q, a in pairs] for pairs in said]

    @property
    def answers_allowed(self) -> Tensor:
        """``[Q, A]`` bool: the answers that each question has among these images."""
        allowed = torch.zeros(len(self.questions_asked), len(self.answer_words), dtype=torch.bool)
        for pairs in self._sheet:
            for question, answer in pairs:
                allowed[question, answer] = True
        return allowed

    def quiz(self, rows: Sequence[int]) -> tuple[Tensor, Tensor]:
        """``[B, M]`` numbers of all questions about images (0: none) and of their answers (or ``IGNORED_LABEL``)."""
        sheets = [self._sheet[i] for i in rows]
        asked, answers = ([[pair[k] for pair in pairs] for pairs in sheets] for k in (0, 1))
        return pad_right(asked, 0), pad_right(answers, IGNORED_LABEL)

    def __len__(self) -> int:
        return len(self.pixels)

    def images(self, rows: Sequence[int] | Tensor) -> Tensor:
        """``[B, 3, S, S]`` float32 in [-1, 1]."""
        return self.pixels[rows].float() / 127.5 - 1.0

    def twin_of(self, i: int) -> Twin:
        """The twin that drew image ``i``."""
        return self.twins[i % len(self.twins)]

    def sentence(self, i: int, rng: Random) -> str:
        """A sentence true of the image: its label with the template of section 3.2, some facts, or a statement."""
        twin, facts = self.twin_of(i), self.some_facts(i, rng)
        if isinstance(twin, ClassificationTwin):
            label = twin.class_names[self.labels[i]]
            if rng.random() < 0.5:
                return template(twin.domain, label)
            return f"{template(twin.domain, label)[:-1]}, with {listed(facts)}."
        if rng.random() < 0.5:
            return rng.choice(self.questions[i]).statement
        return f"An image of a {twin.domain}, with {listed(facts)}."

    def same_meaning(self, rows: Sequence[int], sentences: Sequence[str]) -> Tensor:
        """``[B, B]`` bool: sentence j may be true of image i, so that it is no negative of it.

        For classification that is the same class. Of question twins only the image's own sentence and identical
        sentences are spared: drawn attributes rarely coincide.
        """
        concept = [(i % len(self.twins), int(self.labels[i])) if self.labels[i] >= 0 else (i, -1) for i in rows]
        return torch.tensor(
            [
                [a == b or s == t for b, t in zip(concept, sentences, strict=True)]
                for a, s in zip(concept, sentences, strict=True)
            ]
        )

    def some_facts(self, i: int, rng: Random) -> tuple[Fact, ...]:
        """Three facts in random order, at least one of which varies within the class."""
        facts = list(self.facts[i])
        rng.shuffle(facts)
        varying = next(f for f in facts if f.varies)
        rest = [f for f in facts if f is not varying][:2]
        chosen = [varying, *rest]
        rng.shuffle(chosen)
        return tuple(chosen)

    def description(self, i: int, rng: Random) -> str:
        """Caption with the label (or a statement) and three facts."""
        twin, facts = self.twin_of(i), listed(self.some_facts(i, rng))
        if isinstance(twin, ClassificationTwin):
            return f"{template(twin.domain, twin.class_names[self.labels[i]])[:-1]}, with {facts}."
        return f"An image of a {twin.domain}, with {facts}. {self.questions[i][0].statement}"

    def conversation(self, i: int, rng: Random, turns: int, kinds: Mapping[str, int] = ALL_KINDS) -> list[Turn]:
        """Turns about one image: always one benchmark question, the others drawn by the weights of their kinds."""
        drawn = ["ask", *rng.choices(list(kinds), list(kinds.values()), k=turns - 1)]
        rng.shuffle(drawn)
        return [self._turn(i, kind, rng) for kind in drawn]

    def text_conversation(self, rng: Random, lookups: float, words: Sequence[str] | None = None) -> list[Turn]:
        """A conversation without an image.

        Args:
            rng: draws it. lookups: chance of look-ups in an option list; else questions about a description.
            words: options of the look-ups; None draws them from all names and words.
        """
        if rng.random() < lookups:
            names = rng.choice(self.names) if words is None else words
            return self._drill(rng, names) if rng.random() < 0.5 else self._lookups(rng, names)
        i = rng.randrange(len(self))
        said, *others = self.conversation(i, rng, _DESCRIBED_TURNS)
        return [(f"{self.description(i, rng)}\n{said[0]}", said[1]), *others]

    def _turn(self, i: int, kind: str, rng: Random) -> Turn:
        if kind == "describe":
            return DESCRIBE, self.description(i, rng)
        question, right, options = self._question(i, rng)
        if not options:
            if kind == "justify":
                return f"{question}\n{JUSTIFY_DIRECTIVE}", self._justified(right, i, rng)
            return f"{question}\n{SHORT_DIRECTIVE}", right
        letter = LETTERS[options.index(right)]
        listing = lettered(options)
        if kind == "justify":
            return f"{question}\n{listing}\n{JUSTIFY_DIRECTIVE}", self._justified(f"{letter}. {right}", i, rng)
        if kind == "named":
            return f"{question}\n{listing}\n{NAMED_LETTER_DIRECTIVE}", f"{letter}. {right}"
        if kind == "told":
            return f"It shows {right}.\n{listing}\n{LETTER_DIRECTIVE}", letter
        return f"{question}\n{listing}\n{LETTER_DIRECTIVE}", letter

    def _question(self, i: int, rng: Random) -> tuple[str, str, tuple[str, ...]]:
        """Question, right answer and shuffled options (none for an open question)."""
        twin = self.twin_of(i)
        if isinstance(twin, ClassificationTwin):
            label = int(self.labels[i])
            near = self._neighbours[i % len(self.twins)][label]
            pool = near[: OPTIONS - 1] if rng.random() < 0.4 else rng.sample(near, OPTIONS - 1)
            options = [twin.class_names[k] for k in (label, *pool)]
            rng.shuffle(options)
            return twin.query, twin.class_names[label], tuple(options)
        qa = self.questions[i][0] if rng.random() < 0.5 else rng.choice(self.questions[i])
        return qa.question, qa.answer, tuple(rng.sample(qa.options, len(qa.options)))

    def _justified(self, answer: str, i: int, rng: Random) -> str:
        return f"{answer}, because the image shows {listed(self.some_facts(i, rng))}."

    def _options(self, rng: Random, names: Sequence[str]) -> tuple[str, list[str]]:
        """A query and options that may have nothing to do with it."""
        options = rng.sample(names, rng.choice((2, 3, 4, 4, 4, 5)))
        twin = rng.choice(self.twins)
        return twin.query if isinstance(twin, ClassificationTwin) else "Which is it?", options

    def _drill(self, rng: Random, names: Sequence[str]) -> list[Turn]:
        """Names and letters of a list, side by side: the shortest form of looking up, where the circuit starts."""
        query, options = self._options(rng, names)
        picks = [rng.randrange(len(options)) for _ in range(_LOOKUPS)]
        forms = ("It is {name} {letter}", "It is {name}\n{letter}", "{letter}. {name}")
        form = rng.choice(forms)
        lines = [form.format(name=options[k], letter=LETTERS[k]) for k in picks]
        return [(f"{query}\n{lettered(options)}", "\n".join(lines))]

    def matches(self, rng: Random, words: Sequence[str] | None = None) -> list[Turn]:
        """Look-ups whose answer is told before a list of its own, as an image stands before its question."""
        turns = []
        for _ in range(_LISTS):
            query, options = self._options(rng, rng.choice(self.names) if words is None else words)
            right, asked = rng.choice(options), f"{query}\n" if rng.random() < 0.5 else ""
            told = f"It shows {right}.\n{asked}{lettered(options)}\n{LETTER_DIRECTIVE}"
            turns.append((told, LETTERS[options.index(right)]))
        return turns

    def _lookups(self, rng: Random, names: Sequence[str]) -> list[Turn]:
        query, options = self._options(rng, names)
        listing, out = lettered(options), list[Turn]()
        for k in range(_LOOKUPS):
            right = rng.choice(options)
            told = f"It shows {right}."
            asked = f"{told} {query}\n{listing}\n{LETTER_DIRECTIVE}" if k == 0 else told
            out.append((asked, LETTERS[options.index(right)]))
        return out


def template(domain: str, label: str) -> str:
    """The fixed caption of section 3.2."""
    return f"An image of a {domain}, specifically a {label}."


def listed(facts: Sequence[Fact]) -> str:
    """``a, b and c`` of the phrases."""
    phrases = [f.phrase for f in facts]
    return f"{', '.join(phrases[:-1])} and {phrases[-1]}" if len(phrases) > 1 else phrases[0]


def lettered(options: Sequence[str]) -> str:
    """One line an option."""
    return "\n".join(f"{letter}. {text}" for letter, text in zip(LETTERS, options, strict=False))


def _all_names(twins: Sequence[Twin]) -> list[list[str]]:
    """Lists to draw options from: full label lists, answers, and words and pairs (so that not a list is learnt)."""
    lists = []
    for twin in twins:
        if isinstance(twin, ClassificationTwin):
            lists.append(list(twin.all_class_names))
        elif isinstance(twin, QuestionTwin):
            lists.append(list(twin.answer_vocabulary))
    words = sorted({w for names in lists for name in names for w in name.split() if w.isalpha()})
    pairs = [f"{a} {b}" for a, b in zip(words, words[len(words) // 2 :] + words, strict=False)]
    return [*lists, *[words] * 4, *[pairs] * 2]


def rng_of(*key: object) -> Random:
    """A generator that depends on nothing but its key."""
    return Random(int.from_bytes(hashlib.blake2b("/".join(map(str, key)).encode(), digest_size=8).digest(), "little"))
