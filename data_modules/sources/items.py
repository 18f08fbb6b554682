"""What flows from files and tables to batches: records as they were found, and the items that are made of them."""

from __future__ import annotations

import logging
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Any, Literal, TypeVar

import torch
from torch import Tensor

from craft_lightning.errors import CraftError
from craft_lightning.types import Fact
from data_modules.sources.images import LazyImages, StoredImage

SplitName = Literal["train", "val", "test"]
OnBad = Literal["error", "skip"]
Raw = TypeVar("Raw")

SPLIT_NAMES: dict[SplitName, tuple[str, ...]] = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}

log = logging.getLogger("craft_lightning.data")


def split_named(word: str) -> SplitName | None:
    """The split that a folder, file or table of that name holds, or None."""
    return next((split for split, names in SPLIT_NAMES.items() if word.lower() in names), None)


class Problems:
    """Bad inputs: the first one ends the run (``on_bad="error"``), or all are skipped and counted (``"skip"``)."""

    def __init__(self, on_bad: OnBad) -> None:
        self.on_bad = on_bad
        self.skipped: Counter[str] = Counter()

    def bad(self, kind: str, message: str, count: int = 1) -> None:
        """Report a bad input of a kind, or ``count`` of them. Raises CraftError: unless bad inputs are skipped."""
        if self.on_bad == "error":
            raise CraftError(f"{message} (skip and count such inputs with --data.on_bad skip)")
        self.leave_out(kind, count)
        log.warning("skipped: %s", message)

    def leave_out(self, kind: str, count: int = 1) -> None:
        """Count an input that is left out by design, for example a text-only question."""
        if count:
            self.skipped[kind] += count


@dataclass(frozen=True, slots=True)
class Labelled:
    """An image and the words of its class."""

    image: StoredImage
    words: str


@dataclass(frozen=True, slots=True)
class Asked:
    """A question record about an image.

    Attributes:
        where: it stands, for messages. key: unique in the dataset.
        record: ``question``, ``answer`` and so on (see :mod:`.questions`). image: None where the record has none.
    """

    where: str
    key: str
    record: Mapping[str, Any]
    image: StoredImage | None


Entries = Sequence[Labelled] | Sequence[Asked]
Splits = dict[SplitName | None, Callable[[], Entries]]


@dataclass
class Found:
    """A dataset before anything is cut, held out or left out: what layouts and tables deliver.

    Attributes:
        place: folder, archive or hub id, for messages. layout: what it was recognised as.
        splits: its own splits, read when they are asked for; None is everything, uncut.
        published: whole as its authors or a mirror give it, so that counts are compared with the published ones and an
            odd record, which no user can mend, is left out and counted.
        counts: rows of each split, where they are known without reading; else the entries are counted.
        stamp: what stands for all bytes in the data's hash (a revision); empty: names and sizes of the images.
        told: more for the run banner.
        images: names of all that lie beside question files, so that those which none asks about are counted.
    """

    place: str
    layout: str
    splits: Splits
    published: bool = False
    counts: dict[str, int] | None = None
    stamp: str = ""
    told: dict[str, Any] = field(default_factory=dict)
    images: frozenset[str] = frozenset()
    _read: dict[SplitName | None, Entries] = field(default_factory=dict, init=False, repr=False)

    @classmethod
    def asked(
        cls,
        place: str,
        layout: str,
        rows: Iterable[tuple[SplitName | None, Raw]],
        records: Callable[[str, Raw], Iterable[Asked]],
        problems: Problems,
        stray: str = "question of no split",
    ) -> Found:
        """The questions of authors' own files: ``rows`` with their splits, and the ``records`` of a row of a split (or
        of ``all``). Rows of no split are counted as ``stray``, or, if all rows are, they are one piece to cut."""
        found: dict[SplitName | None, list[Raw]] = {}
        for split, row in rows:
            found.setdefault(split, []).append(row)
        if len(found) > 1:
            problems.leave_out(stray, len(found.pop(None, [])))

        def read(split: SplitName | None) -> list[Asked]:
            return [record for row in found[split] for record in records(split or "all", row)]

        counts: dict[str, int] = {split or "all": len(mine) for split, mine in found.items()}
        return cls(place, layout, {split: partial(read, split) for split in found}, published=True, counts=counts)

    def entries(self, split: SplitName | None) -> Entries:
        """What one of its own splits holds, read once."""
        if split not in self._read:
            self._read[split] = self.splits[split]()
        return self._read[split]

    def count(self) -> dict[str, int]:
        """Rows of each split; the key of an uncut dataset is ``all``."""
        if self.counts is None:
            self.counts = {name or "all": len(self.entries(name)) for name in self.splits}
        return self.counts


@dataclass(frozen=True)
class Item:
    """A question about an image before its options are lettered.

    Attributes:
        key: unique and stable. image: row of the split's images, -1 before they are read.
        question: wording without options and directive. answer: the short text answer or the label's words.
        label_id: see :class:`.types.VqaExample`. caption: the sentence that states the answer.
        options: candidate texts of a choice question, the answer among them; empty for open questions and for labels,
            whose options are made of other labels.
        label: index into the source's class names, or -1.
        facts: what was drawn. generated: what a captioner says of a training image.
    """

    key: str
    image: int
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
        """The paper's caption set of an image: the statement alone, and behind each generated caption."""
        return (self.caption, *(f"{said} {self.caption}" for said in self.generated))


@dataclass(frozen=True)
class Split:
    """Items of a split; ``images[i]`` is ``[3, S, S]`` uint8."""

    items: tuple[Item, ...]
    images: Tensor | LazyImages

    def without_images(self, side: int) -> Split:
        """The same items, each with one and the same grey image."""
        grey = torch.full((1, 3, side, side), 128, dtype=torch.uint8)
        return Split(tuple(replace(item, image=0) for item in self.items), grey)


class Source(ABC):
    """A dataset as items.

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
        """Hash of what tells the images of a split from others, the same on every machine."""

    @abstractmethod
    def facts(self) -> dict[str, Any]:
        """What the run banner says of the source: hash, skipped rows, folder."""

    def pool(self, split: SplitName) -> list[int]:
        """Classes whose names may be options in a split."""
        return [c for c in range(len(self.class_names)) if split == "test" or c not in self.held_out]
