"""The one way from a dataset as it was found to stored items: words, hold-out, missing splits, caps, images.

Splits that a dataset lacks are cut by a hash of the image's name: the same on every machine and for every seed. Shares
are rounded, and at least one of four or more images: of everything in one piece 20 % test, 10 % validation, the rest
training; of training without validation 10 %. Classes are cut one by one; questions by image, with all that is asked
about it, so that no validation image is trained on. Images that belong together (shots of one leaf) stay together.
"""

from __future__ import annotations

import functools
import hashlib
import logging
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import torch
from torch import Tensor

from craft_lightning.errors import CraftError
from craft_lightning.models.image_files import told
from craft_lightning.text import multiple_choice as mcq
from data_modules.backbone_reader import Reader
from data_modules.datasets.facts import DatasetFacts
from data_modules.sources.images import LazyImages, StoredImage, check, read_square
from data_modules.sources.items import Asked, Found, Item, Labelled, Problems, Source, Split, SplitName
from data_modules.sources.questions import Unread, unread_items

CACHE_BYTES = 1 << 30
"""A split whose images need more memory than this is read image by image."""

HASHED_BYTES = 1 << 30
"""Images of a split are told from others by all their bytes, or, if those are more, by names and numbers of bytes."""

VAL_SHARE, TEST_SHARE = 0.1, 0.2

SPLITS: tuple[SplitName, ...] = ("train", "val", "test")

Unit = Literal["question", "picture", "one_each"]

log = logging.getLogger("craft_lightning.data")


@dataclass(frozen=True)
class Selection:
    """What is taken of a dataset.

    Attributes:
        sizes: largest number of each split, None for all. unit: what the size of the training split counts:
            ``question`` (items), ``picture`` (with all that is asked about it), or ``one_each`` (an image with one
            of its questions).
        holdout: share of the labels kept out of training and validation.
        apart: images that the test split shows are left out of training and validation.
        partial: a published dataset may have other counts than the published ones.
    """

    sizes: dict[SplitName, int | None]
    unit: Unit = "question"
    holdout: float = 0.2
    apart: bool = False
    partial: bool = False


class RecordSource(Source):
    """A dataset of records, wherever it was found.

    Args:
        facts: of the dataset (kind, wording, label list). reader: what the backbone needs.
        found: the dataset. select: what is taken of it. problems: what happens to bad inputs.
    """

    def __init__(
        self, facts: DatasetFacts, reader: Reader, found: Found, select: Selection, problems: Problems
    ) -> None:
        self.dataset, self.reader, self.found, self.select, self.problems = facts, reader, found, select, problems
        self._own: dict[SplitName | None, list[Unread]] = {}
        self._cut: dict[SplitName, list[Unread]] = {}
        self._shown: set[str] = set()
        if facts.kind == "classification":
            self._classes()

    def facts(self) -> dict[str, Any]:
        data_hash = self._data_hash()  # reads all splits
        if unasked := len(self.found.images - self._shown):
            self.problems.skipped["image that no question asks about"] = unasked
        return {
            "root": self.found.place,
            "layout": self.found.layout,
            **self.found.told,
            "untested": self._untested(),
            "side": self.reader.side,
            "data_hash": data_hash,
        }

    def check(self) -> None:
        """Compare counts and labels with the published ones; what differs goes into the banner, too. Raises CraftError:
        a published dataset is not whole, unless ``partial``."""
        found = self.found
        differs = self.dataset.differences(found.count()) if self.dataset.counts else []
        missing = [w for label in self.dataset.labels if (w := self.dataset.label_words(label)) not in self.class_names]
        if self.class_names and missing:
            differs.append(f"no image of {len(missing)} of {len(self.dataset.labels)} classes, first {missing[0]!r}")
        if not differs:
            return
        found.told["differs"] = differs
        said = f"{found.place}: {'; '.join(differs)}"
        if found.published and not self.select.partial:
            raise CraftError(f"{said} (if that is what you want: --data.partial true)")
        log.warning("%s", said)

    def split(self, name: SplitName) -> Split:
        rows = self._capped(name)
        images, index = self._images({row.image.name: row.image for row in rows}.values())
        items = [replace(row.item, image=index[row.image.name]) for row in rows if row.image.name in index]
        if self.dataset.kind == "question":
            items = [replace(item, label_id=item.image) for item in items]
        return Split(tuple(items), images)

    def _capped(self, name: SplitName) -> list[Unread]:
        rows, cap = self._rows(name), self.select.sizes[name]
        unit = self.select.unit if name == "train" else "question"
        if unit == "one_each":
            by_image: dict[str, list[Unread]] = {}
            for row in rows:
                by_image.setdefault(row.image.name, []).append(row)
            rows = [mine[mcq.pick(len(mine), "one of", self.dataset.name, at)] for at, mine in by_image.items()]
        units = list(dict.fromkeys(row.image.name for row in rows)) if unit == "picture" else rows
        if cap is None or len(units) <= cap:
            return rows
        chosen = sorted(mcq.permutation(len(units), "cap", self.dataset.name, name)[:cap])
        if unit != "picture":
            return [rows[i] for i in chosen]
        kept = {cast("str", units[i]) for i in chosen}
        return [row for row in rows if row.image.name in kept]

    def _images(self, images: Collection[StoredImage]) -> tuple[Tensor | LazyImages, dict[str, int]]:
        """The images that can be read, and the place of each by its name."""
        side, aspect = self.reader.side, self.reader.aspect
        lazy = len(images) * 3 * side**2 > CACHE_BYTES
        # Where bad images are left out, each is decoded now: which rows a batch holds is settled after this.
        skipping = self.problems.on_bad == "skip"
        read, good = list[Tensor](), list[StoredImage]()
        for image in images:
            try:
                if lazy:
                    check(image, decode=skipping)
                else:
                    read.append(read_square(image, side, aspect))
                good.append(image)
            except CraftError as e:
                self.problems.bad("broken image", str(e))
        empty = torch.empty(0, 3, side, side, dtype=torch.uint8)
        kept = LazyImages(good, side, aspect) if lazy else (torch.stack(read) if read else empty)
        return kept, {image.name: i for i, image in enumerate(good)}

    def _untested(self) -> dict[str, int]:
        """Images of every class that has some, but no test item."""
        tested = {row.item.label for row in self._rows("test")} if self.class_names else set()
        if not tested:
            return {}
        counts = Counter(row.item.label for name in ("train", "val") for row in self._rows(name))
        return {self.class_names[label]: count for label, count in counts.items() if label not in tested}

    def identity(self, name: SplitName) -> str:
        digest = hashlib.sha256(self.found.stamp.encode())
        images = {row.image.name: row.image for row in self._capped(name)}.values()
        sizes = [image.size() for image in images]
        read = not self.found.stamp and sum(sizes) <= HASHED_BYTES
        for image, size in zip(images, sizes, strict=True):
            digest.update(f"{image.name}\0{size}\n".encode())
            if read:
                with suppress(CraftError):  # a broken one that was left out
                    digest.update(hashlib.sha256(image.content()).digest())
        return digest.hexdigest()

    def _data_hash(self) -> str:
        digest = hashlib.sha256(self.found.stamp.encode())
        for name in () if self.found.stamp else SPLITS:
            for row in self._rows(name):
                digest.update(f"{name}\0{row.item.key}\0{row.item.answer}\0{row.image.size()}\n".encode())
        return digest.hexdigest()[:12]

    # rows

    def _rows(self, name: SplitName) -> list[Unread]:
        """The rows of a split, before caps."""
        if name not in self._cut:
            rows = self._from_own(name)
            if name != "test" and self.select.apart:
                tested = {row.image.name for row in self._rows("test")}
                rows = [row for row in rows if row.image.name not in tested]
            self._cut[name] = rows
        return self._cut[name]

    def _from_own(self, name: SplitName) -> list[Unread]:
        splits = self.found.splits
        own = None if None in splits else "train" if name == "val" and "val" not in splits else name
        if own not in splits:
            return []
        by_label: dict[int, list[Unread]] = {}
        for row in self._entries(own):
            by_label.setdefault(row.item.label, []).append(row)
        kept: list[Unread] = []
        for rows in by_label.values():
            names = dict.fromkeys(row.image.name for row in rows)
            chosen = set(_divide(own, names, "val" in splits, self.dataset.group).get(name, ()))
            kept += [row for row in rows if row.image.name in chosen]
        return [row for row in kept if name == "test" or row.item.label not in self.held_out]

    def _entries(self, own: SplitName | None) -> list[Unread]:
        if own not in self._own:
            if self.dataset.kind == "question":
                letters = len(self.reader.builder.letters)
                asked = self._wanted(own, cast("Sequence[Asked]", self.found.splits[own]()))
                if self.found.images:
                    self._shown |= {entry.image.name for entry in asked if entry.image}
                self._own[own] = list(unread_items(asked, letters, self.problems, self.found.published))
            else:
                entries = cast("Sequence[Labelled]", self.found.entries(own))
                self._own[own] = [self._labelled(entry) for entry in entries]
        return self._own[own]

    def _wanted(self, own: SplitName | None, asked: Sequence[Asked]) -> Sequence[Asked]:
        """The questions of a published training split that a cap on its images leaves, before items are made of them.

        Of OCR-VQA's 800,000 training questions the paper's cap leaves a fifth; the items of all would fill a gigabyte.
        """
        cap = self.select.sizes["train"]
        whole = own != "train" or "val" not in self.found.splits or self.select.unit == "question" or self.select.apart
        if whole or cap is None or not self.found.published:
            return asked
        names = list(dict.fromkeys(entry.image.name for entry in asked if entry.image))
        kept = {names[i] for i in mcq.permutation(len(names), "cap", self.dataset.name, "train")[:cap]}
        return [entry for entry in asked if entry.image and entry.image.name in kept]

    # classes

    def _classes(self) -> None:
        shown = {s: {e.words for e in cast("Sequence[Labelled]", self.found.entries(s))} for s in self.found.splits}
        self.class_names = self._order(set().union(*shown.values()))
        self._spelt_alike(shown.get("train", set()))
        self._choices(self.class_names, "it shows")
        held = mcq.hold_out(self.class_names, self.select.holdout, self.dataset.name)
        trained = {self._index[words] for words in shown.get("train", self.class_names)}
        back = max(2 - len(trained - held), 0)  # where few of the classes are trained, two of them stay
        self.held_out = held - set(sorted(trained & held)[:back])
        if train := self._rows("train"):
            seen = {row.item.label for row in train}
            self._choices([self.class_names[label] for label in seen], "its training images show")
            # A class that only the test images show is unseen, too.
            self.held_out = frozenset(range(len(self.class_names))) - seen
        # Otherwise the memory would hold rows of what is held out now.
        self._cut = {"train": train} if train else {}

    def _choices(self, names: Sequence[str], shows: str) -> None:
        """Refuse a single class: its question would have no choices."""
        if len(names) == 1:
            left = f"; left out: {told(self.problems.skipped)}" if self.problems.skipped else ""
            raise CraftError(f"{self.found.place}: {shows} one class, {names[0]!r}; a question needs two or more{left}")

    def _spelt_alike(self, trained: set[str]) -> None:
        """Refuse a class that is trained under one spelling and tested under another: it would count as unseen."""
        spelt = {_bare(name): name for name in trained}
        for name in self.class_names:
            if name not in trained and (other := spelt.get(_bare(name))):
                raise CraftError(f"{self.found.place}: class {name!r} is tested, {other!r} is trained; name them alike")

    def _order(self, present: Iterable[str]) -> tuple[str, ...]:
        official = [self.dataset.label_words(label) for label in self.dataset.labels]
        rank = {words: i for i, words in enumerate(official)}
        return tuple(sorted(present, key=lambda words: (rank.get(words, len(rank)), words)))

    @functools.cached_property
    def _index(self) -> dict[str, int]:
        return {words: i for i, words in enumerate(self.class_names)}

    def _labelled(self, entry: Labelled) -> Unread:
        label = self._index[entry.words]
        key = f"{self.dataset.name}/{entry.image.name}"
        caption = self.dataset.caption(entry.words)
        item = Item(key, -1, self.dataset.query, entry.words, label, caption, label=label)
        return Unread(entry.image, item)


def _bare(name: str) -> str:
    """What is left of a name in any spelling; signs stay, for C, C++ and C# are three."""
    return re.sub(r"[\s_-]+", "", name.casefold())


def _divide(
    split: SplitName | None, names: Iterable[str], has_val: bool, group: Callable[[str], str]
) -> dict[SplitName, list[str]]:
    """Cut the missing splits from the images of one of the dataset's own.

    Args:
        split: the own split, None for everything. names: of its images. has_val: there is an own validation split.
        group: name of an image to the name of what it must not be parted from.
    """
    if split is not None and (split != "train" or has_val):
        return {split: list(names)}
    order = sorted(names, key=lambda name: (hashlib.sha256(group(name).encode()).digest(), name))
    tests = _whole(order, _share(len(order), TEST_SHARE) if split is None else 0, group)
    vals = _whole(order, tests + _share(len(order), VAL_SHARE), group)
    parts: dict[SplitName, list[str]] = {"val": order[tests:vals], "train": order[vals:]}
    if split is None:
        parts["test"] = order[:tests]
    return {name: sorted(part) for name, part in parts.items()}


def _share(count: int, share: float) -> int:
    """A rounded share, at least one of four or more."""
    return max(int(share * count + 0.5), 1 if count >= 4 else 0)


def _whole(order: list[str], end: int, group: Callable[[str], str]) -> int:
    """The end moved on to where a group ends."""
    while 0 < end < len(order) and group(order[end - 1]) == group(order[end]):
        end += 1
    return end
