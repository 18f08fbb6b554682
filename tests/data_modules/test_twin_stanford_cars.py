"""Properties of the car drawings: bodies, directions and paints are what the facts say."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from data_modules.twins.drawings import draw_stanford_cars as stanford_cars
from data_modules.twins.drawings.draw_stanford_cars import BODIES, CLASS_TABLE, MODELS, PAINTS, CarsTwin
from data_modules.twins.rng import Rng
from data_modules.twins.twin import Drawing, Look


@pytest.fixture(scope="module")
def studio() -> Drawing:
    return CarsTwin().draw("train", range(112), 64, "studio")


def _fact(drawing: Drawing, i: int, name: str) -> str:
    return next(fact.phrase for fact in drawing.facts[i] if fact.name == name)


def test_classes_differ_and_bodies_follow_the_real_names() -> None:
    twin = CarsTwin()
    assert len(MODELS) == len(twin.class_names) == 28 == len(np.unique(CLASS_TABLE, axis=0))
    assert len(twin.all_class_names) == 196
    types = {
        "Convertible": {"convertible"},
        "SUV": {"suv", "square"},
        "Minivan": {"minivan"},
        "Wagon": {"wagon"},
        "Hatchback": {"hatchback"},
        "Sedan": {"sedan", "limousine"},
        "Crew Cab": {"crew"},
        "Regular Cab": {"regular"},
        "Express": {"van"},
        "Passenger Van": {"high"},
    }
    for name, model in zip(twin.class_names, MODELS, strict=True):
        for word, bodies in types.items():
            assert word not in name or model[0] in bodies, name


@pytest.mark.parametrize("look", ["studio", "field"])
def test_a_picture_does_not_depend_on_its_batch(look: Look) -> None:
    twin = CarsTwin()
    alone, among = twin.draw("train", [17], 64, look), twin.draw("train", range(100), 64, look)
    assert torch.equal(alone.images[0], among.images[17])
    assert alone.facts[0] == among.facts[17]


def test_cars_face_the_named_way(studio: Drawing) -> None:
    red, green, blue = studio.images.double().unbind(1)
    lamp = ((red > 170) & (green < 110) & (blue < 90)).double().sum(1)
    light = ((red > 200) & (green > 190) & (blue < red - 40) & (blue > 110)).double().sum(1)
    column = torch.arange(64).double()
    for i in range(112):
        # Red tail lamps only tell on cars that are not red themselves; pale headlights not on yellow or beige ones.
        if _fact(studio, i, "paint").split()[0] in {"blue", "green", "purple", "black"}:
            tail, front = (lamp[i] * column).sum() / lamp[i].sum(), (light[i] * column).sum() / light[i].sum()
            assert (front > tail + 15) == (_fact(studio, i, "facing") == "faces right")


def test_paint_fills_the_car(studio: Drawing) -> None:
    paints = torch.tensor(list(PAINTS.values())).double() * 255
    for i in range(112):
        name = _fact(studio, i, "paint").split()[0]
        near = (studio.images[i].double() - paints[list(PAINTS).index(name)].view(3, 1, 1)).abs().amax(0) < 30
        assert near.sum() > 100, name


def test_silhouettes_are_ordered_by_body() -> None:
    twin = CarsTwin()
    indices = np.arange(112)
    rng = Rng.for_items("stanford_cars", "train", indices)
    attributes = twin.sample(rng.fork("sample"), indices)
    subject = twin.paint(rng.fork("paint"), attributes, 64).subject > 0.5
    height = subject.any(2).sum(1).double() / subject.any(1).sum(1).double()
    of = {b: height[torch.from_numpy(attributes["body"] == k)].mean().item() for k, b in enumerate(BODIES)}
    assert of["sports"] < of["convertible"] < of["sedan"] < of["suv"] < of["van"] < of["high"]


def test_motion_smears_along_the_road(monkeypatch: pytest.MonkeyPatch) -> None:
    def ratio() -> float:
        x = CarsTwin().draw("train", range(28), 64, "field").images.double()
        return (x.diff(dim=3).abs().mean() / x.diff(dim=2).abs().mean()).item()

    monkeypatch.setattr(stanford_cars, "RAIN", 0.0)
    moving = ratio()
    monkeypatch.setattr(stanford_cars, "MOTION", 0.0)
    assert moving < 0.8 * ratio()


def test_the_wet_road_mirrors_the_car(studio: Drawing) -> None:
    """Below a car on a grey road its paint shows again: red in the lowest rows under red cars only."""
    field = CarsTwin().draw("train", range(112), 64, "field").images.double()
    foot = field[:, :, 50:58, 20:44].mean((2, 3))
    redness = foot[:, 0] - foot[:, 2]
    grey = [i for i in range(112) if _fact(studio, i, "road") == "grey road"]
    red = [redness[i] for i in grey if _fact(studio, i, "paint") == "red paint"]
    blue = [redness[i] for i in grey if _fact(studio, i, "paint") == "blue paint"]
    assert min(red) > max(blue) + 10
