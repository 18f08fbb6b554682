"""How many rows a run will find in a published dataset, from what is known of it: nothing is opened or fetched."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from data_modules.datasets.facts import DatasetFacts
from data_modules.sources.records import TEST_SHARE, VAL_SHARE


@dataclass(frozen=True)
class Expected:
    """Rows of training and test items."""

    train: int
    test: int


def expected(facts: DatasetFacts, settings: Mapping[str, Any]) -> Expected:
    """Rows after cutting, holding out and the paper's own limits; to within the rounding of classes.

    Args:
        facts: of the dataset. settings: of the data module: ``train_size``, ``test_size``, ``holdout``.
    """
    counts = facts.counts[0]
    if "all" in counts:
        train, test = counts["all"] * (1 - TEST_SHARE - VAL_SHARE), counts["all"] * TEST_SHARE
    else:
        train, test = counts["train"] * (1 if "val" in counts else 1 - VAL_SHARE), counts["test"]
    if facts.kind == "classification":
        train *= 1 - settings["holdout"]
    caps = {"train": settings["train_size"] or facts.paper.train, "test": settings["test_size"] or facts.paper.test}
    train = min(train, caps["train"] or train) * facts.questions
    test = min(test * facts.questions, caps["test"] or test * facts.questions)
    return Expected(int(train), int(test))
