"""What a dataset file states: names, licence, wording. No code path depends on a dataset's name."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

from craft_lightning.errors import nearest
from data_modules.captioning.wording import class_caption
from data_modules.datasets.labels import plain_words
from data_modules.sources.values import nfc

if TYPE_CHECKING:
    from data_modules.sources.items import Found, Problems, SplitName
    from data_modules.sources.tree import Tree

Kind = Literal["classification", "question"]

Record = Mapping[str, Any]

Counts = Mapping[str, int]
"""Rows of the splits ``train``, ``val`` and ``test``, or of ``all``."""

VAL_SHARE, TEST_SHARE = 0.1, 0.2
"""Of what lacks a split; see :mod:`.records`."""

_WNID = re.compile(r"^n\d{8}-")


class Expected(NamedTuple):
    """Rows of training and test items."""

    train: int
    test: int


@dataclass(frozen=True)
class HubTable:
    """A copy of a dataset on the hub.

    Attributes:
        id: of the repository. config: folder of the tables in it. revision: branch, tag or commit.
        image, label: the columns of image and label.
        unusable: why it cannot be read as a table, for the error to say.
        by_index: its labels are numbers in the order of our list, and that was checked.
        repeats: several rows show one image, which is then told by its bytes.
        note: what to know of it.
    """

    id: str
    config: str | None = None
    revision: str | None = None
    image: str = "image"
    label: str = "label"
    unusable: str = ""
    by_index: bool = False
    repeats: bool = False
    note: str = ""


@dataclass(frozen=True)
class DatasetFacts:
    """Facts of a benchmark.

    Attributes:
        name: key in configs and results. title: as people write it.
        kind: ``"classification"`` (labels become four-option questions) or ``"question"``; the paper weighs the
            contrastive loss by it (1.0 and 0.1).
        licence: of the original data. cite: key of the reference in ``docs/datasets.md``.
        domain: fills *An image of a {domain}, specifically a {label}.*, the paper's caption; empty: *An image of a
            {label}.* Articles go by the words, unless it is ``as_printed``: in the paper's letters, whatever follows.
        query: the question asked of a labelled image.
        labels: the official label list as folders or hub features write it; empty if any label goes.
        label_words: official label to the words of questions and captions.
        aliases: other spelling of a label (folders, mirrors) to the official one.
        counts: of the whole dataset, as its authors or mirrors give it; any one of them is right.
        questions: usable ones of a counted row, on average.
        siblings: number of images of a dataset that is easily taken for this one, to its name. strangers: a class
            that only such a dataset has, to its name.
        group: name of an image to the name of what it must not be parted from when a split is cut.
        layout: recognises the authors' own files; None if this is something else. listed: files of an official list to
            their splits, for copies that merged them; empty if the list is not there.
        hub: copies on the hub, the first choice first. hub_records: rows of a table to the question records of each.
        elsewhere: where to get what the hub lacks.
        paper: how much of a split the paper uses, where that is not all, and source ``hub`` by default: images of
            ``train`` with all their questions, items of ``test`` (inferred from the printed accuracies).
    """

    name: str
    title: str
    kind: Kind
    licence: str
    domain: str = ""
    as_printed: bool = False
    query: str = "Which of these choices is shown in the image?"
    labels: tuple[str, ...] = ()
    label_words: Callable[[str], str] = plain_words
    aliases: Mapping[str, str] = field(default_factory=dict)
    cite: str = ""
    counts: tuple[Counts, ...] = ()
    questions: float = 1.0
    siblings: Mapping[int, str] = field(default_factory=dict)
    strangers: Mapping[str, str] = field(default_factory=dict)
    group: Callable[[str], str] = str
    layout: Callable[[Tree, Problems], Found | None] | None = None
    listed: Callable[[Tree], Mapping[str, SplitName]] | None = None
    hub: tuple[HubTable, ...] = ()
    hub_records: Callable[[Sequence[Record]], Iterable[Iterable[Record]]] = lambda rows: ([row] for row in rows)
    elsewhere: str = ""
    paper: Mapping[str, int] = field(default_factory=dict)

    def class_words(self, folder: str) -> str | None:
        """The words for a class folder, or None if the official list has no such label. Spelling is compared by letters
        and digits alone: file systems and mirrors change slashes, spaces and case."""
        bare = _WNID.sub("", nfc(folder))
        if not self.labels:
            return " ".join(self.label_words(bare).split())
        spellings = {form: label for label in self.labels for form in (label, self.label_words(label))}
        known = {_bare(form): label for form, label in {**self.aliases, **spellings}.items()}
        return self.label_words(known[_bare(bare)]) if _bare(bare) in known else None

    def no_class(self, name: str) -> str:
        """What to say of a label that is none of this dataset's."""
        if name in self.strangers:
            return f"{self.title} has no class {name!r}; this is {self.strangers[name]}"
        close = nearest(name, self.labels)
        return f"{self.title} has no class {name!r}" + (f"; did you mean {close!r}?" if close else "")

    def differences(self, found: Counts) -> list[str]:
        """How the counts differ from the published ones; nothing if they equal one version of them."""
        total = sum(found.values())
        for version in self.counts:
            if "all" in found or "all" in version:
                if sum(version.values()) == total:
                    return []
            elif all(version.get(split) == count for split, count in found.items()):
                return []
        said = [_counted(found), "published: " + " or ".join(map(_counted, self.counts))]
        if total in self.siblings:
            said.append(f"this is {self.siblings[total]}")
        return ["; ".join(said)]

    def expected(self, settings: Mapping[str, Any]) -> Expected:
        """Rows that a run will find of the published dataset after cutting, holding out and the paper's own limits, to
        within the rounding of classes; nothing is opened. ``settings``: of the data module."""
        counts = self.counts[0]
        if "all" in counts:
            train, test = counts["all"] * (1 - TEST_SHARE - VAL_SHARE), counts["all"] * TEST_SHARE
        else:
            train, test = counts["train"] * (1 if "val" in counts else 1 - VAL_SHARE), counts["test"]
        if self.kind == "classification":
            train *= 1 - settings["holdout"]
        train = min(train, settings["train_size"] or self.paper.get("train") or train) * self.questions
        test *= self.questions
        return Expected(int(train), int(min(test, settings["test_size"] or self.paper.get("test") or test)))

    def caption(self, label: str) -> str:
        """The task sentence of a labelled image."""
        if self.as_printed:
            return f"An image of a {self.domain}, specifically a {label}."
        return class_caption(self.domain, label)


def _counted(counts: Counts) -> str:
    said = [f"{counts[split]:,} {split}" for split in ("train", "val", "test", "all") if split in counts]
    return ", ".join(said).removesuffix(" all")


def _bare(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())
