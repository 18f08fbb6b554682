"""The one way from a dataset as it was found to stored items: words, hold-out, missing splits, caps, images.

Splits that a dataset lacks are cut by a hash of the image's name: the same on every machine and for every seed. Shares
are rounded, and at least one of four or more images: of everything in one piece 20 % test, 10 % validation, the rest
training; of training without validation 10 %. Classes are cut one by one; questions by image, with all that is asked
about it, so that no validation image is trained on. Images that belong together (shots of one leaf) stay together.
"""

from __future__ import annotations

import hashlib
import logging
import re
from collections import Counter
from collections.abc import Callable, Collection, Iterable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import partial
from typing import Any, Literal, cast

import torch
from torch import Tensor

from craft_lightning.errors import CraftError
from craft_lightning.models.image_files import told
from craft_lightning.models.image_workers import in_order
from craft_lightning.text import multiple_choice as mcq
from data_modules.backbone_reader import Reader
from data_modules.datasets.facts import TEST_SHARE, VAL_SHARE, DatasetFacts
from data_modules.sources.images import LazyImages, StoredImage, contents, read_square
from data_modules.sources.items import Asked, Found, Item, Labelled, Problems, Source, Split, SplitName
from data_modules.sources.questions import Unread, unread_items

CACHE_BYTES = 1 << 30
"""A split whose images need more memory than this is read image by image."""

HASHED_BYTES = 1 << 30
"""Images of a split are told from others by all their bytes, or, if those are more, by names and numbers of bytes."""

Unit = Literal["question", "picture", "one_each"]

log = logging.getLogger("craft_lightning.data")


class RecordSource(Source):
    """A dataset of records, wherever it was ``found``.

    Args:
        sizes: largest number of each split, None for all. unit: what the size of the training split counts:
            ``question`` (items), ``picture`` (with all that is asked about it), or ``one_each`` (an image with one
            of its questions).
        holdout: share of the labels kept out of training and validation. apart: images that the test split shows are,
            too, by name or by content. workers: processes that read images, see :func:`.in_order`.
    """

    def __init__(
        self,
        facts: DatasetFacts,
        reader: Reader,
        found: Found,
        problems: Problems,
        sizes: dict[SplitName, int | None],
        unit: Unit,
        holdout: float,
        apart: bool,
        workers: int | None,
    ) -> None:
        self.dataset, self.reader, self.found, self.problems = facts, reader, found, problems
        self.sizes, self.unit, self.holdout, self.apart, self.workers = sizes, unit, holdout, apart, workers
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

    def check(self, partial: bool) -> None:
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
        if found.published and not partial:
            raise CraftError(f"{said} (if that is what you want: --data.partial true)")
        log.warning("%s", said)

    def split(self, name: SplitName) -> Split:
        rows = self.unread(name)
        images, index = self._images(_images_of(rows))
        items = [replace(row.item, image=index[row.image.name]) for row in rows if row.image.name in index]
        if self.dataset.kind == "question":
            items = [replace(item, label_id=item.image) for item in items]
        return Split(tuple(items), images)

    def unread(self, name: SplitName) -> list[Unread]:
        """The items of a split before their images are read."""
        rows, cap = self._rows(name), self.sizes[name]
        unit = self.unit if name == "train" else "question"
        if unit == "one_each":
            by_image: dict[str, list[Unread]] = {}
            for row in rows:
                by_image.setdefault(row.image.name, []).append(row)
            rows = [mine[mcq.pick(len(mine), "one of", self.dataset.name, at)] for at, mine in by_image.items()]
        if cap is None:
            return rows
        if unit == "picture":
            kept = self._some([row.image.name for row in rows], name, cap)
            return [row for row in rows if row.image.name in kept]
        if len(rows) <= cap:
            return rows
        return [rows[i] for i in sorted(mcq.permutation(len(rows), "cap", self.dataset.name, name)[:cap])]

    def _some(self, names: Iterable[str], split: SplitName, cap: int) -> set[str]:
        """The images that a cap leaves of those named."""
        names = list(dict.fromkeys(names))
        if len(names) <= cap:
            return set(names)
        return {names[i] for i in mcq.permutation(len(names), "cap", self.dataset.name, split)[:cap]}

    def _images(self, images: Collection[StoredImage]) -> tuple[Tensor | LazyImages, dict[str, int]]:
        """The images that can be read, and the place of each by its name."""
        side, aspect = self.reader.side, self.reader.aspect
        lazy = len(images) * 3 * side**2 > CACHE_BYTES
        # Where bad images are left out, which rows a batch holds is settled here: each is decoded.
        look = partial(_looked_at, decode=self.problems.on_bad == "skip")
        read = look if lazy else partial(read_square, side=side, aspect=aspect)
        squares, good = [torch.empty(0, 3, side, side, dtype=torch.uint8)], list[StoredImage]()
        for image, found in zip(images, in_order(read, tuple(images), self.workers), strict=True):
            if isinstance(found, CraftError):
                self.problems.bad("broken image", str(found))
            else:
                good.append(image)
                squares.append(found[None])
        index = {image.name: i for i, image in enumerate(good)}
        return LazyImages(good, side, aspect) if lazy else torch.cat(squares), index

    def _untested(self) -> dict[str, int]:
        """Images of every class that has some, but no test item."""
        tested = {row.item.label for row in self._rows("test")} if self.class_names else set()
        if not tested:
            return {}
        counts = Counter(row.item.label for name in ("train", "val") for row in self._rows(name))
        return {self.class_names[label]: count for label, count in counts.items() if label not in tested}

    def identity(self, name: SplitName) -> str:
        digest = hashlib.sha256(self.found.stamp.encode())
        images = _images_of(self.unread(name))
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
        splits: tuple[SplitName, ...] = () if self.found.stamp else ("train", "val", "test")
        for name in splits:
            for row in self._rows(name):
                digest.update(f"{name}\0{row.item.key}\0{row.item.answer}\0{row.image.size()}\n".encode())
        return digest.hexdigest()[:12]

    # rows

    def _rows(self, name: SplitName) -> list[Unread]:
        """The rows of a split, before caps."""
        if name not in self._cut:
            rows = self._from_own(name)
            if name != "test" and self.apart:
                tested = self._rows("test")
                same = contents(row.image for row in (*rows, *tested))
                shown = {same.get(row.image.name, row.image.name) for row in tested}
                kept = [row for row in rows if not {row.image.name, same.get(row.image.name)} & shown]
                self.problems.leave_out(f"{name} item whose image is tested", len(rows) - len(kept))
                rows = kept
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
        if own in self._own:
            return self._own[own]
        if self.dataset.kind == "question":
            asked = self._wanted(own, cast("Sequence[Asked]", self.found.splits[own]()))
            if self.found.images:
                self._shown |= {entry.image.name for entry in asked if entry.image}
            letters = len(self.reader.builder.letters)
            self._own[own] = list(unread_items(asked, letters, self.problems, self.found.published))
        else:
            self._own[own] = [Unread(entry.image, self._item(entry)) for entry in self._labels(own)]
        return self._own[own]

    def _labels(self, own: SplitName | None) -> Sequence[Labelled]:
        return cast("Sequence[Labelled]", self.found.entries(own))

    def _item(self, entry: Labelled) -> Item:
        facts, label, key = self.dataset, self._label_of[entry.words], f"{self.dataset.name}/{entry.image.name}"
        return Item(key, -1, facts.query, entry.words, label, facts.caption(entry.words), label=label)

    def _wanted(self, own: SplitName | None, asked: Sequence[Asked]) -> Sequence[Asked]:
        """The questions of a published training split that a cap on its images leaves, before items are made of them:
        of OCR-VQA's 800,000 the paper's cap leaves a fifth, and the items of all would fill a gigabyte."""
        cap = self.sizes["train"]
        whole = own != "train" or "val" not in self.found.splits or self.unit == "question" or self.apart
        if whole or cap is None or not self.found.published:
            return asked
        kept = self._some((entry.image.name for entry in asked if entry.image), "train", cap)
        return [entry for entry in asked if entry.image and entry.image.name in kept]

    # classes

    def _classes(self) -> None:
        shown = {split: {entry.words for entry in self._labels(split)} for split in self.found.splits}
        rank = {self.dataset.label_words(label): i for i, label in enumerate(self.dataset.labels)}
        present = set().union(*shown.values())
        self.class_names = tuple(sorted(present, key=lambda words: (rank.get(words, len(rank)), words)))
        self._label_of = {words: i for i, words in enumerate(self.class_names)}
        trains = shown.get("train", set())
        spelt = {_bare(name): name for name in trains}
        for name in self.class_names:
            if name not in trains and (other := spelt.get(_bare(name))):  # it would count as unseen
                raise CraftError(f"{self.found.place}: class {name!r} is tested, {other!r} is trained; name them alike")
        self._choices(self.class_names, "it shows")
        held = mcq.hold_out(self.class_names, self.holdout, self.dataset.name)
        trained = {self._label_of[words] for words in shown.get("train", self.class_names)}
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


def _images_of(rows: Iterable[Unread]) -> Collection[StoredImage]:
    return {row.image.name: row.image for row in rows}.values()


def _looked_at(image: StoredImage, decode: bool) -> Tensor:
    """Nothing, of an image whose header can be read, and its pixels if they are to be. Raises CraftError: broken."""
    with image.opened() as header:
        if decode:
            header.load()
    return torch.empty(0)


def _bare(name: str) -> str:
    """What is left of a name in any spelling; signs stay, for C, C++ and C# are three."""
    return re.sub(r"[\s_-]+", "", name.casefold())


def _divide(
    split: SplitName | None, names: Iterable[str], has_val: bool, group: Callable[[str], str]
) -> dict[SplitName, list[str]]:
    """Splits cut from the images of one of the dataset's own (None: of everything). ``has_val``: there is an own
    validation split. ``group``: name of an image to the name of what it must not be parted from."""
    if split is not None and (split != "train" or has_val):
        return {split: list(names)}
    order = sorted(names, key=lambda name: (hashlib.sha256(group(name).encode()).digest(), name))

    def end(start: int, share: float) -> int:
        """Where a rounded share ends, at least one of four or more, moved on to where a group ends."""
        at = start + max(int(share * len(order) + 0.5), 1 if len(order) >= 4 else 0)
        while 0 < at < len(order) and group(order[at - 1]) == group(order[at]):
            at += 1
        return at

    tests = end(0, TEST_SHARE) if split is None else 0
    vals = end(tests, VAL_SHARE)
    return {"test": order[:tests], "val": order[tests:vals], "train": order[vals:]}
