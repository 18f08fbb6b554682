"""A twin: a synthetic dataset in the place of a benchmark, with the same name, labels, wording and answer format.

A twin has two looks. *Studio* images (clean, centred, even light) are what the pocket family is pre-trained on;
*field* images show the same concepts through the twin's own domain shift, which the encoder has never seen.
Everything drawn is also written down as facts, so that justifications can be checked against the image.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from craft_lightning.types import Fact
from data_modules.twins.drawings.canvas import Canvas
from data_modules.twins.rng import Rng

Attributes = Mapping[str, NDArray[np.int64]]
"""Drawn attributes, each ``[B]`` or ``[B, k]`` small integers that index the twin's own tables."""

Look = Literal["studio", "field"]


@dataclass(frozen=True)
class Qa:
    """A question about a drawn image.

    Attributes:
        kind: type of question, for example ``"count"``; answers are balanced within a kind.
        question: the wording, without options and without an answer directive.
        answer: the short text answer (for a choice question, the text of the right option, not its letter).
        options: candidate texts, the right one among them; empty for an open question.
        statement: question and answer as one declarative sentence (the caption of section 3.2 for question sets).
    """

    kind: str
    question: str
    answer: str
    options: tuple[str, ...]
    statement: str


@dataclass(frozen=True)
class Drawing:
    """A batch of drawn images.

    Attributes:
        images: ``[B, 3, S, S]`` uint8.
        labels: ``[B]`` class of each image (classification) or -1.
        facts: facts of each image. questions: its questions (question twins; the first is the stored one).
    """

    images: Tensor
    labels: NDArray[np.int64]
    facts: tuple[tuple[Fact, ...], ...]
    questions: tuple[tuple[Qa, ...], ...]


class Twin(ABC):
    """Base of the ten twins. A subclass states what there is to see; drawing order and randomness live here."""

    name: ClassVar[str]
    """Key in configs and results, for example ``"eurosat"``."""
    title: ClassVar[str]
    """As people write it, for example ``"EuroSAT"``."""
    domain: ClassVar[str]
    """Fills *An image of a {domain}, specifically a {label}.*"""
    shift_name: ClassVar[str]
    """The domain shift of the field look, in a few words."""

    @abstractmethod
    def sample(self, rng: Rng, indices: NDArray[np.int64]) -> Attributes:
        """Draw the attributes of each image. ``indices`` are positions in the split: classes and the answers of
        the stored question are taken from them in turn, so that any stretch of a split is balanced."""

    @abstractmethod
    def paint(self, rng: Rng, attributes: Attributes, side: int) -> Canvas:
        """Studio image of the attributes."""

    @abstractmethod
    def shift(self, rng: Rng, canvas: Canvas) -> Tensor:
        """Field image ``[B, 3, S, S]`` in [0, 1] made of the studio one; its randomness must not see the label."""

    @abstractmethod
    def facts(self, attributes: Attributes, i: int) -> tuple[Fact, ...]:
        """At least four facts of image ``i``, at least two of which vary within its class."""

    def labels(self, attributes: Attributes) -> NDArray[np.int64]:
        """Class of each image; -1 for question twins."""
        return np.full(len(next(iter(attributes.values()))), -1, dtype=np.int64)

    def questions(self, attributes: Attributes, i: int) -> tuple[Qa, ...]:
        """Questions about image ``i``, the stored one first; empty for classification twins."""
        return ()

    def draw(
        self, split: str, indices: Sequence[int] | NDArray[np.int64], side: int, look: Look, seed: int = 0
    ) -> Drawing:
        """Draw the given items of a split: a pure function of its arguments, item by item.

        Args:
            split: any name; two splits share nothing. indices: positions in the split.
            side: side length in pixels. look: ``"studio"`` or ``"field"``. seed: of the world, not of a run.
        """
        index = np.asarray(indices, dtype=np.int64)
        rng = Rng.for_items(self.name, split, index, seed)
        attributes = self.sample(rng.fork("sample"), index)
        canvas = self.paint(rng.fork("paint"), attributes, side)
        rgb = canvas.rgb if look == "studio" else self.shift(rng.fork("shift"), canvas)
        images = (rgb.clamp(0.0, 1.0) * 255.0 + 0.5).to(torch.uint8)
        n = range(len(index))
        return Drawing(
            images,
            self.labels(attributes),
            tuple(self.facts(attributes, i) for i in n),
            tuple(self.questions(attributes, i) for i in n),
        )


class ClassificationTwin(Twin):
    """A twin whose images have one class each; classes are rows of a table of attributes."""

    query: ClassVar[str]
    """For example ``"Which of these flowers is shown in the image?"``"""
    class_names: ClassVar[tuple[str, ...]]
    """The classes drawn: the real list, or every k-th of a long one, as they are written in questions."""
    all_class_names: ClassVar[tuple[str, ...]]
    """The full real label list, written the same way."""

    def labels(self, attributes: Attributes) -> NDArray[np.int64]:
        """The attribute ``"label"`` that every classification twin samples."""
        return attributes["label"]

    @abstractmethod
    def class_attributes(self) -> NDArray[np.float64]:
        """``[C, A]`` the table of drawn attributes, one row a class, scaled so that Euclidean distance says how alike
        two classes look; the three nearest classes are the default distractors."""


class QuestionTwin(Twin):
    """A twin whose images are asked questions of several kinds."""

    answer_vocabulary: ClassVar[tuple[str, ...]]
    """Every possible answer text: at most four tokens each in every pocket tokenizer."""

    @abstractmethod
    def questions(self, attributes: Attributes, i: int) -> tuple[Qa, ...]:
        """See :meth:`Twin.questions`."""
