"""Genuine pictures of the benchmarks, where ``$CRAFT_REAL_DATA`` has them."""

import os
import time
from collections import Counter
from pathlib import Path

import pytest

from data_modules.base import VqaDataModule

ROOT = os.environ.get("CRAFT_REAL_DATA")

pytestmark = [
    pytest.mark.usefixtures("stub_backbone"),
    pytest.mark.skipif(not ROOT, reason="CRAFT_REAL_DATA names no folder with real pictures"),
]


def real(dataset, stage, **options):
    data = VqaDataModule(dataset=dataset, source="folder", root=str(Path(str(ROOT)) / dataset), **options)
    data.setup(stage)
    return data


def test_eurosat():
    start = time.process_time()
    data = real("eurosat", "fit")
    assert time.process_time() - start < 5.0
    said = data.describe()
    assert said["splits"] == {"train": 1440, "val": 160}
    assert said["classes"] == 10
    assert len(said["held_out"]) == 2
    assert not {e.meta["answer_text"] for e in data.examples("train")} & set(said["held_out"])
    test = real("eurosat", "test").examples("test")
    assert len(test) == 800
    assert set(Counter(e.answer for e in test).values()) == {200}
    assert sum(not e.seen for e in test) == 160


@pytest.mark.parametrize(
    ("dataset", "classes", "held", "test"), [("plantvillage", 4, 1, 230), ("stanford_cars", 130, 26, 520)]
)
def test_class_sets(dataset, classes, held, test):
    data = real(dataset, "test")
    said = data.describe()
    assert (said["classes"], len(said["held_out"]), said["splits"]["test"]) == (classes, held, test)
    assert not said["skipped"]


def test_vqa_rad():
    data = real("vqa_rad", "fit")
    data.setup("test")
    said = data.describe()
    assert said["splits"]["train"] + said["splits"]["val"] == 1206
    assert said["splits"]["test"] == 289
    assert not any(e.options for e in data.examples("test"))
    plain = sum(not c.startswith("The answer to the question") for c in data.captions)
    assert plain > 0.3 * len(data.captions)


def test_iconqa_leaves_out_picture_choices():
    data = real("iconqa", "test")
    assert data.describe()["skipped"]["choices are pictures"] == 33
    kinds = Counter(bool(e.options) for e in data.examples("test"))
    assert kinds == {True: 10, False: 10}


def test_scienceqa_has_its_hint_and_choices():
    (example,) = real("scienceqa", "test").examples("test")
    assert sorted(example.options) == ["bilberry", "mushroom"]
    assert example.meta["answer_text"] == "mushroom"
    assert example.question.startswith("Context: Below is a food web")
