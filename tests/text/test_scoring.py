from __future__ import annotations

import doctest

import pytest

from craft_lightning import errors, optim
from craft_lightning.text import scoring
from craft_lightning.text.scoring import exact_match, lenient_match, lone_letter, normalise


@pytest.mark.parametrize(
    ("text", "expected"), [("B", "b"), (" red\troof\n", "red roof"), ("A.", "a."), ("", ""), ("Yes  ", "yes")]
)
def test_normalise(text: str, expected: str) -> None:
    assert normalise(text) == expected


def test_a_trailing_stop_is_no_match() -> None:
    assert exact_match(" B ", "b")
    assert not exact_match("A.", "A")
    assert not exact_match("B is right", "B")


def test_diagnostics() -> None:
    assert lone_letter(" c ")
    assert not lone_letter("1")
    assert not lone_letter("c.")
    assert lenient_match("(A"[1:], "a")
    assert not lenient_match("An apple", "A")
    assert lenient_match("A. an apple", "A")
    assert not lenient_match("", "A")


@pytest.mark.parametrize("module", [scoring, optim, errors])
def test_examples_in_docstrings(module: object) -> None:
    result = doctest.testmod(module)  # type: ignore[arg-type]
    assert result.attempted > 0
    assert result.failed == 0
