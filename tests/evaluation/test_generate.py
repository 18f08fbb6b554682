"""The letter rule: the most likely of the letters that an item has options for, whatever other tokens say."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch

from craft_lightning.evaluation.generate import likely_letters, scored_replies

IDS = dict(zip("ABCDEFGH", (7, 3, 11, 5, 2, 13, 9, 1), strict=True))
"""Token ids in another order than the letters."""

ROWS = (
    {"A": 1.0, "B": 2.0, "C": 8.0, "H": 9.0},  # the likeliest letters are none of its options
    {"A": 1.0, "B": 2.0, "C": 8.0, "H": 9.0},
    {"D": 0.5},
    {letter: float(value) for value, letter in enumerate(IDS)},
)
COUNTS = (2, 0, 4, 8)


def logits() -> torch.Tensor:
    found = torch.zeros(len(ROWS), 20)
    found[:, 0] = 99.0  # a token that is no letter
    for row, told in enumerate(ROWS):
        for letter, value in told.items():
            found[row, IDS[letter]] = value
    return found


class Model:
    """Replies and logits that are given."""

    def letter_ids(self) -> dict[str, int]:
        return IDS

    def reply(self, visual: Any, batch: Any, most: int) -> tuple[list[str], torch.Tensor]:
        return ["b", "B. it", "d", "x"], logits()


class Batch(SimpleNamespace):
    def __len__(self) -> int:
        return len(self.keys)


def batch(counts: tuple[int, ...] = COUNTS) -> Any:
    answers = ("B", "a roof", "A", "H")
    seen, shared = torch.tensor([True, True, False, True]), torch.tensor([0, 1, 1, 1])
    named = {"image_names": ("test/3", "test/5"), "image_of": shared}
    return Batch(keys=tuple("wxyz"), answers=answers, seen=seen, option_counts=counts, **named)


def test_only_the_item_s_own_letters_compete() -> None:
    model: Any = Model()
    assert likely_letters(model, logits(), batch()) == ["b", None, "d", "h"]
    assert likely_letters(model, logits(), batch((0, 0, 0, 0))) == [None] * 4


def test_replies_and_letters_are_scored_apart() -> None:
    model: Any = Model()
    found = scored_replies(model, None, batch())  # type: ignore[arg-type]
    assert [p.image for p in found] == ["test/3", "test/5", "test/5", "test/5"]
    assert [(p.key, p.text, p.correct, p.seen, p.letter_correct) for p in found] == [
        ("w", "b", True, True, True),
        ("x", "B. it", False, True, None),
        ("y", "d", False, False, False),
        ("z", "x", False, True, True),
    ]
