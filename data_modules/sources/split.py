"""What every source delivers: items that are not yet lettered, and their pictures at the model's side."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from torch import Tensor

from craft_lightning.errors import CraftError
from craft_lightning.types import Fact
from data_modules.sources.images import LazyImages

SplitName = Literal["train", "val", "test"]
OnBad = Literal["error", "skip"]

log = logging.getLogger("craft_lightning.data")


@dataclass(frozen=True)
class Item:
    """A question about a picture before its options are lettered.

    Attributes:
        key: unique and stable. picture: row of the split's pictures.
        question: wording without options and directive. answer: the short text answer or the label's words.
        options: candidate texts of a choice question, the answer among them; empty for open questions and for labels,
            whose options are made of other labels.
        label: index into the source's class names, or -1.
        label_id: see :class:`.types.VqaExample`.
        caption: the sentence that states the answer. generated: what a captioner says of a training picture.
        facts: what was drawn.
    """

    key: str
    picture: int
    question: str
    answer: str
    label_id: int
    caption: str
    options: tuple[str, ...] = ()
    label: int = -1
    facts: tuple[Fact, ...] = ()
    generated: tuple[str, ...] = ()

    @property
    def captions(self) -> tuple[str, ...]:
        """T_i of section 3.2: the statement alone, and behind each generated caption (OD-12)."""
        return (self.caption, *(f"{said} {self.caption}" for said in self.generated))


@dataclass(frozen=True)
class Split:
    """Items of a split; ``images[i]`` is ``[3, S, S]`` uint8."""

    items: tuple[Item, ...]
    images: Tensor | LazyImages

    def without_pictures(self, side: int) -> Split:
        """The same items, each with one and the same grey picture."""
        grey = torch.full((1, 3, side, side), 128, dtype=torch.uint8)
        return Split(tuple(replace(item, picture=0) for item in self.items), grey)


class Source(ABC):
    """A place where a dataset's pictures come from.

    Attributes:
        class_names: words of every class; empty for question sets.
        neighbours: for each class the others, most alike first; None where nothing is known of their looks.
        held_out: classes absent from training and validation.
    """

    class_names: tuple[str, ...] = ()
    neighbours: Sequence[Sequence[int]] | None = None
    held_out: frozenset[int] = frozenset()

    @abstractmethod
    def split(self, name: SplitName) -> Split:
        """The items of a split, in a fixed order; training and validation hold no held-out class."""

    @abstractmethod
    def identity(self, name: SplitName) -> str:
        """Hash of what tells the pictures of a split from others, the same on every machine."""

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """What the run banner says of the source: hash, skipped rows, folder."""

    def pool(self, split: SplitName) -> list[int]:
        """Classes whose names may be options in a split."""
        labels = range(len(self.class_names))
        return [c for c in labels if split == "test" or c not in self.held_out]


class Problems:
    """Bad inputs: the first one ends the run, or all are skipped and counted.

    Args:
        on_bad: ``"error"`` or ``"skip"``.
    """

    def __init__(self, on_bad: OnBad) -> None:
        self.on_bad = on_bad
        self.skipped: Counter[str] = Counter()

    def bad(self, kind: str, message: str, count: int = 1) -> None:
        """Report a bad input of a kind, or ``count`` of them.

        Raises:
            CraftError: unless bad inputs are skipped.
        """
        if self.on_bad == "error":
            raise CraftError(f"{message} (skip and count such inputs with --data.on_bad skip)")
        self.leave_out(kind, count)
        log.warning("skipped: %s", message)

    def leave_out(self, kind: str, count: int = 1) -> None:
        """Count an input that is left out by design, for example a text-only question."""
        if count:
            self.skipped[kind] += count

    def leave_out_all(self, counts: Mapping[str, int]) -> None:
        """The same of several kinds."""
        for kind, count in counts.items():
            self.leave_out(kind, count)
