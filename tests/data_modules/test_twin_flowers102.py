"""The Flowers-102 twin: form, petals, colours and centre follow the table."""

import numpy as np
import pytest
import torch

from data_modules.datasets import labels
from data_modules.twins.drawings import draw_flowers102 as flowers102
from data_modules.twins.drawings.draw_flowers102 import FlowersTwin
from data_modules.twins.rng import Rng

TWIN = FlowersTwin()


def test_classes_are_every_fourth_real_name_balanced_and_different() -> None:
    assert TWIN.class_names == labels.LABELS["flowers102"][::4]
    assert len(TWIN.class_names) == 26
    assert TWIN.all_class_names == labels.LABELS["flowers102"]
    assert len(np.unique(TWIN.class_attributes(), axis=0)) == 26
    drawn = TWIN.draw("train", range(78), 16, "studio").labels
    assert np.array_equal(np.bincount(drawn), np.full(26, 3))


@pytest.mark.parametrize("look", ["studio", "field"])
def test_an_item_does_not_depend_on_its_batch(look: str) -> None:
    batch = TWIN.draw("train", range(100), 64, look)  # type: ignore[arg-type]
    for i in (17, 51):
        alone = TWIN.draw("train", [i], 64, look)  # type: ignore[arg-type]
        assert (batch.images[i] == alone.images[0]).all()
        assert batch.facts[i] == alone.facts[0]


def test_facts_vary_within_a_class_and_are_no_part_of_each_other() -> None:
    drawing = TWIN.draw("train", range(260), 8, "studio")
    for facts in drawing.facts:
        assert len(facts) >= 4
        assert sum(f.varies for f in facts) >= 2
    phrases = {f.phrase for facts in drawing.facts for f in facts}
    assert not [(p, q) for p in phrases for q in phrases if p != q and p in q]


def test_as_many_petals_are_drawn_as_the_table_says() -> None:
    """On a circle near the tips, flower and gaps take turns as often as there are petals."""
    plain = ("pink primrose", "frangipani", "californian poppy", "windflower", "purple coneflower", "oxeye daisy")
    index = np.array([TWIN.class_names.index(n) for n in plain])
    rng = Rng.for_items("t", "t", index)
    attributes = dict(TWIN.sample(rng, index)) | {"bloom": np.ones(len(index), dtype=np.int64)}
    rows = range(len(index))
    canvas = flowers102.Canvas(len(index), 256, (0.0, 0.0, 0.0))
    zero = np.zeros(len(index), dtype=np.float32)
    frame = (zero, zero, zero + np.float32(0.8))
    white = np.ones((len(index), 3), dtype=np.float32)
    flowers102._paint_open(rng, canvas, attributes, frame, white, white)
    angle = torch.arange(0, 2 * np.pi, 0.005)
    x, y = (127.5 + 0.86 * 0.8 * 128 * t for t in (angle.cos(), angle.sin()))
    on = canvas.subject[:, y.round().long(), x.round().long()] > 0.5
    turns = (on != on.roll(1, 1)).sum(1)
    assert [int(turns[i]) // 2 for i in rows] == [int(attributes["petals"][i]) for i in rows]


def test_leaves_grow_where_the_fact_says() -> None:
    drawing = TWIN.draw("train", range(130), 64, "studio")
    leaf = torch.tensor([0.30, 0.62, 0.24]).mul(255).view(1, 3, 1, 1)
    found = ((drawing.images.float() - leaf).abs().amax(1) < 10)[:, 48:]
    for green, facts in zip(found, drawing.facts, strict=True):
        left, right = bool(green[:, :26].sum() > 20), bool(green[:, 38:].sum() > 20)
        expected = {(True, False): "leaf at left", (False, True): "leaf at right", (True, True): "leaves both sides"}
        assert expected[left, right] in [f.phrase for f in facts]


def test_night_is_dark_and_takes_colour_away() -> None:
    studio = TWIN.draw("train", range(52), 64, "studio").images.float()
    field = TWIN.draw("train", range(52), 64, "field").images.float()
    assert field.mean() < 0.7 * studio.mean()
    spread = [p.amax(1).mean() - p.amin(1).mean() for p in (studio, field)]
    assert spread[1] < 0.8 * spread[0]
