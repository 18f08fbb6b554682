"""The EuroSAT twin: what the table and the facts say is what is drawn."""

import numpy as np
import pytest

from data_modules.datasets import labels
from data_modules.twins.drawings import draw_eurosat as eurosat
from data_modules.twins.drawings.draw_eurosat import EuroSatTwin

TWIN = EuroSatTwin()


def test_classes_are_the_real_ten_balanced_and_different() -> None:
    assert TWIN.class_names == tuple(map(labels.eurosat_words, labels.LABELS["eurosat"]))
    table = TWIN.class_attributes()
    assert table.shape == (10, 21)
    assert len(np.unique(table, axis=0)) == 10
    drawn = TWIN.draw("train", range(30), 16, "studio").labels
    assert np.array_equal(np.bincount(drawn), np.full(10, 3))


@pytest.mark.parametrize("look", ["studio", "field"])
def test_an_item_does_not_depend_on_its_batch(look: str) -> None:
    batch = TWIN.draw("train", range(100), 64, look)  # type: ignore[arg-type]
    alone = TWIN.draw("train", [17], 64, look)  # type: ignore[arg-type]
    assert (batch.images[17] == alone.images[0]).all()
    assert batch.facts[17] == alone.facts[0]


def test_facts_vary_within_a_class_and_are_no_part_of_each_other() -> None:
    drawing = TWIN.draw("train", range(400), 8, "studio")
    for facts in drawing.facts:
        assert len(facts) >= 4
        assert sum(f.varies for f in facts) >= 2
    phrases = {f.phrase for facts in drawing.facts for f in facts}
    assert not [(p, q) for p in phrases for q in phrases if p != q and p in q]
    covers = {(label, facts[0].phrase) for label, facts in zip(drawing.labels, drawing.facts, strict=True)}
    assert len(covers) == 10
    assert len({cover for _, cover in covers}) == 10


def test_the_sand_patch_lies_on_the_side_that_the_fact_says() -> None:
    drawing = TWIN.draw("train", range(200), 64, "studio")
    sand = (drawing.images[:, 0] > 235) & (drawing.images[:, 1] > 215) & (drawing.images[:, 2] < 190)
    halves = np.stack([sand[..., :32].sum((1, 2)), sand[..., 32:].sum((1, 2))], axis=1)
    for (left, right), facts in zip(halves, drawing.facts, strict=True):
        patch = next(f.phrase for f in facts if f.name == "patch")
        seen = "no sand patch" if left + right < 40 else "sand patch left" if left > right else "sand patch right"
        assert patch == seen


def test_water_is_blue_only_for_rivers_and_lakes() -> None:
    drawing = TWIN.draw("train", range(100), 64, "studio")
    red, blue = drawing.images[:, 0].int(), drawing.images[:, 2].int()
    share = ((blue - red > 70) & (red < 60)).float().mean((1, 2)).numpy()
    names = np.array(TWIN.class_names)[drawing.labels]
    assert share[names == "sea lake"].min() > 0.5
    assert share[names == "river"].min() > 0.1
    assert share[~np.isin(names, ["river", "sea lake"])].max() < 0.02


def test_the_shift_changes_the_picture_and_a_zero_strength_leaves_it(monkeypatch: pytest.MonkeyPatch) -> None:
    studio = TWIN.draw("train", range(20), 64, "studio").images.float()
    assert (TWIN.draw("train", range(20), 64, "field").images.float() - studio).abs().mean() > 25
    monkeypatch.setattr(eurosat, "SENSOR_STRENGTH", (0.0, 0.0))
    monkeypatch.setattr(eurosat, "HAZE", 0.0)
    assert (TWIN.draw("train", range(20), 64, "field").images.float() - studio).abs().mean() < 8
