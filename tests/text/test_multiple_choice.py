"""Options, distractors, letters, hold-out and stored items."""

import json
import subprocess
import sys
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from craft_lightning.text import multiple_choice as mcq
from craft_lightning.types import VqaExample
from data_modules.datasets import labels

EXAMPLE = VqaExample("d/test/1", Image.new("RGB", (4, 4)), "Which?", "B", options=("x", "y"))


@pytest.mark.parametrize(
    ("names", "count"),
    [
        (labels.LABELS["eurosat"], 2),
        (labels.LABELS["kvasir"], 2),
        (labels.LABELS["plantvillage"], 8),
        (labels.LABELS["flowers102"], 20),
        (labels.LABELS["stanford_dogs"], 24),
        (labels.LABELS["stanford_cars"], 39),
    ],
)
def test_hold_out_counts_are_the_papers(names, count):
    assert len(mcq.hold_out(names, 0.2, "d")) == count


def test_hold_out_depends_on_label_texts_not_on_their_order():
    names = [f"label {i}" for i in range(20)]
    held = {names[i] for i in mcq.hold_out(names, 0.2, "d")}
    assert held == {names[::-1][i] for i in mcq.hold_out(names[::-1], 0.2, "d")}
    assert held != {names[i] for i in mcq.hold_out(names, 0.2, "other")}


def test_at_least_two_labels_stay():
    assert len(mcq.hold_out(["a", "b", "c"], 0.9, "d")) == 1
    assert not mcq.hold_out(["a", "b"], 0.9, "d")


@pytest.mark.parametrize("count", [2, 3, 4, 5])
def test_letters_are_balanced_and_prefix_stable(count):
    slots = mcq.balanced_slots([count] * 401, "d", "test")
    frequency = Counter(slots)
    assert max(frequency.values()) - min(frequency.values()) <= 1
    assert mcq.balanced_slots([count] * 100, "d", "test") == slots[:100]


def test_letters_are_balanced_within_each_number_of_options():
    counts = [(0, 2, 4, 3)[i % 4] for i in range(480)]
    slots = mcq.balanced_slots(counts, "d", "test")
    assert all(slot == 0 for slot, count in zip(slots, counts, strict=True) if count == 0)
    for count in (2, 3, 4):
        here = Counter(slot for slot, c in zip(slots, counts, strict=True) if c == count)
        assert set(here) == set(range(count))
        assert max(here.values()) - min(here.values()) == 0


def test_letters_tell_nothing_about_the_label():
    # Labels come in turn; if letters came in turn, too, eight classes would each have two letters of their own.
    slots = mcq.balanced_slots([4] * 8000, "d", "test")
    for label in range(8):
        share = Counter(slots[label::8])
        assert all(abs(n - 250) < 60 for n in share.values())


def test_nearest_distractors_are_the_nearest_allowed():
    table = np.array([[0.0], [1.0], [2.5], [4.5], [9.0]])
    neighbours = mcq.nearest_labels(table)
    assert neighbours[1] == [0, 2, 3, 4]
    assert mcq.nearest_distractors(1, [0, 1, 3, 4], 2, neighbours) == [0, 3]


def test_random_distractors_never_hold_the_right_label_and_vary():
    drawn = [tuple(mcq.random_distractors(3, range(8), 3, "seed", i)) for i in range(200)]
    assert all(3 not in d and len(set(d)) == 3 for d in drawn)
    frequency = Counter(label for d in drawn for label in d)
    assert set(frequency) == set(range(8)) - {3}
    assert all(abs(n - 600 / 7) < 35 for n in frequency.values())


def test_fewer_than_four_labels_use_what_exists():
    assert mcq.random_distractors(0, [0, 1], 3, "s") == [1]
    assert mcq.place("right", ["wrong"], 1) == ("wrong", "right")


def test_words_are_the_same_in_another_process():
    code = (
        "from craft_lightning.text import multiple_choice as mcq; print(mcq.permutation(9, 'a', 1), mcq.pick(7, 'b'))"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()
    assert out == f"{mcq.permutation(9, 'a', 1)} {mcq.pick(7, 'b')}"
    # A fixed value: a change of the hash would silently change every stored item.
    assert mcq.permutation(9, "a", 1) == [8, 6, 5, 2, 7, 3, 1, 0, 4]


def test_stored_items_round_trip(tmp_path):
    path = tmp_path / "run" / "items.jsonl"
    mcq.write_items(path, [EXAMPLE])
    row = json.loads(path.read_text())
    assert row["options"] == ["x", "y"]
    assert row["hash"] == mcq.item_hash(EXAMPLE)
    changed = VqaExample(EXAMPLE.key, EXAMPLE.image, "Which?", "A", options=("y", "x"))
    assert mcq.item_hash(changed) != mcq.item_hash(EXAMPLE)
    assert mcq.items_hash([EXAMPLE, changed]) != mcq.items_hash([changed, EXAMPLE])
    assert [f.name for f in path.parent.iterdir()] == ["items.jsonl"]
