"""Properties of the Kvasir drawings: the words of the facts hold in the pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from data_modules.twins.drawings.draw_kvasir import CLASS_TABLE, KvasirTwin
from data_modules.twins.twin import Drawing, Look


@pytest.fixture(scope="module")
def studio() -> Drawing:
    return KvasirTwin().draw("train", range(64), 64, "studio")


def _phrases(drawing: Drawing, i: int) -> set[str]:
    return {fact.phrase for fact in drawing.facts[i]}


def test_classes_differ_in_looks() -> None:
    twin = KvasirTwin()
    assert len(twin.class_names) == 8 == len(np.unique(CLASS_TABLE[:, 1:], axis=0))
    assert len(np.unique(twin.class_attributes(), axis=0)) == 8


@pytest.mark.parametrize("look", ["studio", "field"])
def test_a_picture_does_not_depend_on_its_batch(look: Look) -> None:
    twin = KvasirTwin()
    alone, among = twin.draw("train", [17], 64, look), twin.draw("train", range(100), 64, look)
    assert torch.equal(alone.images[0], among.images[17])
    assert alone.facts[0] == among.facts[17]


def test_blue_dye_is_blue(studio: Drawing) -> None:
    red, _, blue = studio.images.double().unbind(1)
    share = ((blue - red) > 60).double().mean((1, 2))
    dyed = torch.tensor(["blue dye" in _phrases(studio, i) for i in range(64)])
    assert dyed.sum() == 16
    assert share[dyed].min() > 0.04
    assert share[~dyed].max() == 0.0


def test_dark_holes_lie_on_the_named_side(studio: Drawing) -> None:
    dark = (studio.images.amax(1) < 70).double()
    column = torch.arange(64).double() - 31.5
    for i in range(64):
        words = _phrases(studio, i)
        if words & {"narrow dark hole", "wide dark hole"}:
            centre = (dark[i].sum(0) * column).sum() / dark[i].sum()
            assert (centre > 3) if "on the right" in words else (centre < -3)
        else:
            assert "no opening" in words
            assert dark[i].sum() < 30


def test_wide_holes_are_wider_than_narrow_ones(studio: Drawing) -> None:
    area = (studio.images.amax(1) < 70).double().sum((1, 2))
    for view in ("near view", "far view"):
        size = {
            w: [area[i] for i in range(64) if {w, view} <= _phrases(studio, i)]
            for w in ("narrow dark hole", "wide dark hole")
        }
        assert min(size["wide dark hole"]) > max(size["narrow dark hole"])


def test_only_field_pictures_have_black_corners_and_green_insets(studio: Drawing) -> None:
    field = KvasirTwin().draw("train", range(64), 64, "field").images
    assert field[:, :, :3, :3].double().mean() < 20 < 80 < studio.images[:, :, :3, :3].double().mean()
    red, green, blue = field[:, :, 56, 7].double().unbind(1)
    inset = (green > red + 10) & (green > blue + 10)
    assert 20 <= inset.sum() <= 44
    red, green, blue = studio.images.double().unbind(1)
    assert not ((green > red + 10) & (green > blue + 10)).any()
