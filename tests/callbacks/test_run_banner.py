"""The first lines of a run say what a reader must know of its data."""

from types import SimpleNamespace

import pytest
from lightning.pytorch import LightningModule

from callbacks.run_banner import banner
from craft_lightning import run_facts

DATA = {"dataset": "folder", "source": "folder", "root": "pets", "splits": {"val": 4, "test": 9}, "classes": 12}


@pytest.fixture
def data_line(monkeypatch):
    """The line of the data, for what a data module says of itself."""
    monkeypatch.setattr(run_facts, "method", lambda *_: "zero_shot")
    monkeypatch.setattr(run_facts, "strategy", lambda *_: "")
    monkeypatch.setattr(run_facts, "pruning", lambda *_: {})

    def line(**said):
        data, state = SimpleNamespace(describe=lambda: DATA | said), SimpleNamespace(fn="test")
        trainer = SimpleNamespace(datamodule=data, state=state, limit_test_batches=1.0, default_root_dir="runs")
        return banner(trainer, LightningModule())["data"]

    return line


def test_held_out_classes_are_named(data_line):
    held = [f"breed {i}" for i in range(10)]
    assert "; 2 of 12 labels held out: breed 0, breed 1)" in data_line(held_out=held[:2])
    assert "; 10 of 12 labels held out: breed 0, breed 1, " in data_line(held_out=held)
    assert data_line(held_out=held).endswith("breed 7 and 2 more)")
    assert "held out" not in data_line(held_out=[])


def test_classes_without_a_test_item_are_named_with_their_pictures(data_line):
    assert data_line(untested={"elk": 3, "ibex": 1}).endswith("labels without a test item: elk (3), ibex (1))")
    assert "without a test item" not in data_line(untested={})


def test_answers_that_no_reply_can_spell_are_counted(data_line):
    line = data_line(too_long={"val": 1, "test": 2})
    assert line.endswith("1 of 4 val and 2 of 9 test answers are longer than the 5 tokens of a reply)")
    assert "longer" not in data_line(too_long={})
