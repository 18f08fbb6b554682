"""Properties of the dog portraits: tilt, mouth and collar are what the facts say, and breeds differ."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from data_modules.twins.drawings.draw_stanford_dogs import BREEDS, CLASS_TABLE, DogsTwin
from data_modules.twins.rng import Rng
from data_modules.twins.twin import Drawing, Look


@pytest.fixture(scope="module")
def studio() -> Drawing:
    return DogsTwin().draw("train", range(120), 64, "studio")


def _has(drawing: Drawing, phrase: str) -> torch.Tensor:
    return torch.tensor([any(f.phrase == phrase for f in facts) for facts in drawing.facts])


def test_breeds_differ_also_in_the_phrases_of_their_facts(studio: Drawing) -> None:
    twin = DogsTwin()
    assert len(BREEDS) == len(twin.class_names) == 30 == len(np.unique(CLASS_TABLE, axis=0))
    assert len(twin.all_class_names) == 120
    constant = {tuple(f.phrase for f in facts if not f.varies) for facts in studio.facts}
    assert len(constant) == 30


@pytest.mark.parametrize("look", ["studio", "field"])
def test_a_picture_does_not_depend_on_its_batch(look: Look) -> None:
    twin = DogsTwin()
    alone, among = twin.draw("train", [17], 64, look), twin.draw("train", range(100), 64, look)
    assert torch.equal(alone.images[0], among.images[17])
    assert alone.facts[0] == among.facts[17]


def test_collars_have_the_named_colour(studio: Drawing) -> None:
    below = studio.images[:, :, 42:].double()
    blue = ((below[:, 2] - below[:, 0]) > 120).sum((1, 2))
    named = _has(studio, "blue collar")
    assert blue[named].min() > 25
    assert blue[~named].max() == 0


def test_tongues_are_out_when_named(studio: Drawing) -> None:
    red, green, blue = studio.images.double().unbind(1)
    pink = ((red - green > 110) & (blue - green > 15) & (red > 200)).sum((1, 2))
    out = _has(studio, "tongue out")
    assert pink[out].min() >= 4
    assert pink[~out].max() < pink[out].min()


def test_heads_lean_to_the_named_side() -> None:
    """A head that leans right carries its chin, and so the black nose of a long snout, to the left."""
    twin = DogsTwin()
    indices = np.arange(120)
    rng = Rng.for_items("stanford_dogs", "train", indices)
    attributes = dict(twin.sample(rng.fork("sample"), indices))
    light = {"fawn", "golden", "rust", "white", "slate", "pink"}
    long = [i for i in range(120) if BREEDS[i % 30][1] == "long snout" and BREEDS[i % 30][3] in light and i % 30 != 21]
    column = torch.arange(64).double()
    nose = []
    for tilt in (0, 1):
        attributes["tilt"] = np.full(120, tilt)
        black = (twin.paint(rng.fork("paint"), attributes, 64).rgb.amax(1) < 0.12)[long, 32:].double()
        nose.append((black.sum(1) * column).sum(1) / black.sum((1, 2)))
    assert (nose[0] - nose[1]).min() > 3.0


def test_the_fence_hides_part_of_every_dog_and_grass_grows_in_the_field_only(studio: Drawing) -> None:
    field = DogsTwin().draw("train", range(120), 64, "field").images
    changed = ((field.double() - studio.images.double()).abs().amax(1) > 40).double().mean((1, 2))
    assert changed.min() > 0.3

    def grass(images: torch.Tensor) -> torch.Tensor:
        red, green, blue = images[:, :, 61:].double().unbind(1)
        return ((green > red + 20) & (green > blue + 40) & (green < 170)).double().mean((1, 2))

    assert grass(field).min() > 0.2
    assert grass(studio.images).max() < 0.1
