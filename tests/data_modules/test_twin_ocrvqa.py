"""OCR-VQA twin: legible closed words, balanced answers, genre independent of the words, whole covers in the field."""

from collections import Counter, defaultdict

import numpy as np
import pytest
import torch

from data_modules.twins.drawings.canvas import Canvas
from data_modules.twins.drawings.draw_ocrvqa import (
    _AUTHOR_TEXTS,
    _TITLE_TEXTS,
    AUTHORS,
    GENRES,
    KINDS,
    TITLES,
    OcrVqaTwin,
    _perspective,
)
from data_modules.twins.drawings.font import Texts, bitmap
from data_modules.twins.rng import Rng

TWIN = OcrVqaTwin()
PERIOD = len(KINDS) * 32 * 28 // 4


@pytest.fixture(scope="module")
def attributes():
    index = np.arange(PERIOD * 4)
    return TWIN.sample(Rng.for_items("ocrvqa", "test", index).fork("sample"), index)


def test_word_lists_are_closed_short_and_different():
    assert len(set(TITLES)) == len(TITLES) <= 40
    assert len(set(AUTHORS)) == len(AUTHORS) <= 40
    for text in (*TITLES, *AUTHORS):
        assert len(text.split()) <= 2
        assert len(text) <= 9
        assert all(len(word) <= 8 for word in text.split())
    everything = [f"title {t}" for t in TITLES] + [f"author {a}" for a in AUTHORS] + [f"{g} book" for g in GENRES]
    assert not [(a, b) for a in everything for b in everything if a != b and a in b]


@pytest.mark.parametrize(("texts", "half_w", "half_h"), [(_TITLE_TEXTS, 0.86, 0.31), (_AUTHOR_TEXTS, 0.84, 0.18)])
def test_printed_words_differ_clearly_at_64_pixels(texts, half_w, half_h):
    count = len(texts.rows)
    ink = texts.coverage(Canvas(count, 64), np.arange(count), 0.0, 0.0, half_w, half_h).flatten(1)
    apart = torch.cdist(ink, ink, p=1) + 1e6 * torch.eye(count)
    # Whole letters differ, not a few pixels.
    assert apart.min() > 0.25 * ink.sum(1).mean()


def test_font_ink_is_exact_at_any_side():
    texts = Texts.of(["HI", "ONE\nTWO"])
    assert bitmap("HI").shape == (7, 11)
    assert bitmap("ONE\nTWO").shape == (16, 17)
    for side in (17, 64, 200):
        cover = texts.coverage(Canvas(2, side), np.array([0, 1]), 0.05, -0.1, 0.55, 0.35)
        for k, text in enumerate(("HI", "ONE\nTWO")):
            ink = bitmap(text)
            cell = np.array([2 * 0.55 / ink.shape[1], 2 * 0.35 / ink.shape[0]])
            cell = np.minimum(cell, cell[::-1] * 1.35)
            area = ink.sum() * cell.prod() * (side / 2) ** 2
            assert cover[k].sum().item() == pytest.approx(area, rel=1e-3)
    with pytest.raises(KeyError):
        bitmap("a")


def test_stored_answers_are_balanced(attributes):
    answers: dict[str, Counter] = defaultdict(Counter)
    for i in range(PERIOD):
        stored, *rest = TWIN.questions(attributes, i)
        assert stored.kind == KINDS[i % 4]
        assert {qa.kind for qa in (stored, *rest)} == set(KINDS)
        answers[stored.kind][stored.answer] += 1
        for qa in (stored, *rest):
            assert qa.options == ()
            assert qa.answer in TWIN.answer_vocabulary
            assert qa.answer in qa.statement.lower()
    for kind, size in zip(KINDS, (32, 28, 8, 2), strict=True):
        assert len(answers[kind]) == size, kind
        assert len(set(answers[kind].values())) == 1, kind


def test_a_check_is_right_half_the_time_whatever_it_asks(attributes):
    for which in (attributes["kind"] == 3, attributes["kind"] != 3):
        for g in range(len(GENRES)):
            asked = which & (attributes["checked"] == g)
            assert (attributes["genre"][asked] == g).mean() == pytest.approx(0.5, abs=0.12)


def test_genre_is_independent_of_the_words(attributes):
    free = attributes["kind"] == 3
    table = np.zeros((len(TITLES), len(GENRES)))
    np.add.at(table, (attributes["title"][free], attributes["genre"][free]), 1)
    expected = table.sum(1, keepdims=True) * table.sum(0, keepdims=True) / table.sum()
    statistic = ((table - expected) ** 2 / expected).sum()
    assert statistic < 217 + 4 * np.sqrt(2 * 217)  # chi squared with 31 * 7 degrees of freedom


def test_facts(attributes):
    facts = TWIN.facts(attributes, 0)
    assert [f.name for f in facts] == ["title", "author", "genre", "spine", "sticker"]
    assert facts[0].phrase == f"title {TWIN.questions(attributes, 0)[0].answer}"
    assert all(f.varies for f in facts)


@pytest.mark.parametrize("look", ["studio", "field"])
def test_a_picture_does_not_depend_on_its_batch(look):
    together = TWIN.draw("test", np.arange(100), 64, look)
    for i in (0, 17, 99):
        alone = TWIN.draw("test", [i], 64, look)
        assert torch.equal(alone.images[0], together.images[i])
        assert alone.questions[0] == together.questions[i]


def test_the_whole_cover_is_in_the_photograph():
    canvas = Canvas(200, 96)
    u, v = _perspective(Rng.for_items("ocrvqa", "test", np.arange(200)).fork("shift"), canvas)
    for value in (u, v):
        border = torch.cat([value[:, 0], value[:, -1], value[:, :, 0], value[:, :, -1]], 1)
        assert border.shape == (200, 4 * 96)
    outside = torch.maximum(u.abs(), v.abs())
    edge = torch.cat([outside[:, 0], outside[:, -1], outside[:, :, 0], outside[:, :, -1]], 1)
    assert (edge.amin(1) > 0.97).all(), "the cover reaches beyond the edge of the image"
    assert ((outside < 1.0).float().mean((1, 2)) > 0.4).all()
