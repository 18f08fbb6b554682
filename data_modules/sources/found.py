"""A dataset as it was found, before anything is cut, held out or left out: what layouts and tables deliver."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from data_modules.sources.images import Picture
from data_modules.sources.split import SplitName

SPLIT_NAMES: dict[SplitName, tuple[str, ...]] = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation", "dev"),
    "test": ("test", "testing"),
}


def split_named(word: str) -> SplitName | None:
    """The split that a folder, file or table of that name holds, or None."""
    return next((split for split, names in SPLIT_NAMES.items() if word.lower() in names), None)


@dataclass(frozen=True, slots=True)
class Labelled:
    """A picture and the words of its class."""

    picture: Picture
    words: str


@dataclass(frozen=True, slots=True)
class Asked:
    """A question record about a picture.

    Attributes:
        where: it stands, for messages. key: unique in the dataset.
        record: ``question``, ``answer`` and so on (see :mod:`.questions`).
        picture: None where the record has none.
    """

    where: str
    key: str
    record: Mapping[str, Any]
    picture: Picture | None


Entries = Sequence[Labelled] | Sequence[Asked]
Splits = dict[SplitName | None, Callable[[], Entries]]


@dataclass
class Found:
    """A dataset somewhere.

    Attributes:
        place: folder, archive or hub id, for messages.
        layout: what it was recognised as.
        splits: its own splits, read when they are asked for; None is everything, uncut.
        published: whole as its authors or a mirror give it, so that counts are compared with the published ones and an
            odd record, which no user can mend, is left out and counted.
        counts: rows of each split, where they are known without reading; else the entries are counted.
        stamp: what stands for all bytes in the data's hash (a revision); empty: names and sizes of the pictures.
        told: more for the run banner.
        pictures: names of all that lie beside question files, so that those which none asks about are counted.
    """

    place: str
    layout: str
    splits: Splits
    published: bool = False
    counts: dict[str, int] | None = None
    stamp: str = ""
    told: dict[str, Any] = field(default_factory=dict)
    pictures: frozenset[str] = frozenset()
    _read: dict[SplitName | None, Entries] = field(default_factory=dict, init=False, repr=False)

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
