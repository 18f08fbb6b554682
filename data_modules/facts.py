"""What a dataset file states: names, licence, wording. Facts only, no code path depends on a dataset's name."""

from __future__ import annotations

import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from craft_lightning.errors import unknown
from data_modules.labels import plain_words
from data_modules.registry import DATASETS

Kind = Literal["classification", "question"]

OWN = "folder"
"""The dataset name that stands for a user's own data."""

_WNID = re.compile(r"^n\d{8}-")


@dataclass(frozen=True)
class DatasetFacts:
    """Facts of a benchmark.

    Attributes:
        name: key in configs and results. title: as people write it.
        kind: ``"classification"`` (labels become four-option questions) or ``"question"``; the paper weighs the
            contrastive loss by it (1.0 and 0.1).
        licence, citation: of the original data.
        domain: fills *An image of a {domain}, specifically a {label}.* (section 3.2)
        query: the question asked of a labelled picture.
        labels: the official label list as folders or hub features write it; empty if any label goes.
        label_words: official label to the words of questions and captions.
    """

    name: str
    title: str
    kind: Kind
    licence: str
    citation: str
    domain: str = "picture"
    query: str = "Which of these choices is shown in the image?"
    labels: tuple[str, ...] = ()
    label_words: Callable[[str], str] = plain_words

    def class_words(self, folder: str) -> str | None:
        """The words for a class folder, or None if the official list has no such label.

        Spelling is compared by letters and digits alone: file systems and mirrors change slashes, spaces and case.
        """
        bare = _WNID.sub("", folder)
        if not self.labels:
            return " ".join(self.label_words(bare).split())
        known = {
            _bare(form): words
            for label in self.labels
            for words in [self.label_words(label)]
            for form in (label, words)
        }
        return known.get(_bare(bare))

    def caption(self, label: str) -> str:
        """The task sentence of a labelled picture."""
        return f"An image of a {self.domain}, specifically a {label}."


def _bare(text: str) -> str:
    return re.sub(r"[^a-z0-9]", "", text.lower())


def dataset_facts(name: str) -> DatasetFacts:
    """The facts of a registered dataset.

    Raises:
        CraftError: no such dataset.
    """
    if name not in DATASETS:
        raise unknown("dataset", name, [*DATASETS, OWN], "python -m craft_lightning list datasets")
    facts: DatasetFacts = importlib.import_module(f"data_modules.{name}").FACTS
    return facts


def own_facts(name: str, kind: Kind) -> DatasetFacts:
    """Facts of a user's own folder: any label goes, underscores become spaces."""
    return DatasetFacts(name=name, title=name, kind=kind, licence="the owner's", citation="")
