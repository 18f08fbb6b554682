"""The first lines of a run say what a reader must know of its data."""

from types import SimpleNamespace
from typing import Any

from PIL import Image

from callbacks.run_banner import _data_line, _wording
from craft_lightning import run_facts
from craft_lightning.types import VqaExample

DATA = {"dataset": "folder", "source": "folder", "root": "pets", "splits": {"val": 4, "test": 9}, "classes": 12}


def data_line(decoded=5, **said):
    """The line of the data, for what a data module says of itself."""
    data, state = SimpleNamespace(describe=lambda: DATA | said), SimpleNamespace(fn="test")
    trainer: Any = SimpleNamespace(datamodule=data, state=state, limit_test_batches=1.0)
    return _data_line(run_facts.data_facts(trainer), decoded)


def test_held_out_classes_are_named():
    held = [f"breed {i}" for i in range(10)]
    assert "; 2 of 12 labels held out: breed 0, breed 1)" in data_line(held_out=held[:2])
    assert "; 10 of 12 labels held out: breed 0, breed 1, " in data_line(held_out=held)
    assert data_line(held_out=held).endswith("breed 7 and 2 more)")
    assert "held out" not in data_line(held_out=[])


def test_classes_without_a_test_item_are_named_with_their_pictures():
    assert data_line(untested={"elk": 3, "ibex": 1}).endswith("labels without a test item: elk (3), ibex (1))")
    assert "without a test item" not in data_line(untested={})


def test_answers_that_no_reply_can_spell_are_counted():
    line = data_line(too_long={"val": 1, "test": 2})
    assert line.endswith("1 of 4 val and 2 of 9 test answers are longer than the 5 tokens of a reply)")
    assert "than the 64 tokens of a reply" in data_line(64, too_long={"val": 1})
    assert "longer" not in data_line(too_long={})


def test_a_training_shows_how_it_asks_and_what_it_says():
    example = VqaExample("k", Image.new("RGB", (1, 1)), "Which?", "A", ("oak", "elm"))
    captions = [f"An image of a tree, specifically a number {i}." for i in range(5)]
    data: Any = SimpleNamespace(captions=captions, asked=lambda split, count: [example][:count])
    assert _wording(data) == {
        "question": "Which? | A. oak | B. elm | Answer in one letter only.",
        "captions": f"{' '.join(captions[:3])} ... (5 captions)",
    }
    assert _wording(SimpleNamespace()) == {"question": "", "captions": ""}, "a data module of somebody's own"
