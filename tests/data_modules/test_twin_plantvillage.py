"""The PlantVillage twin: the crop is the leaf's shape, the disease is what is on it."""

import numpy as np
import pytest
import torch

from data_modules.datasets import labels
from data_modules.twins.drawings import draw_plantvillage as plantvillage
from data_modules.twins.drawings.draw_plantvillage import PlantVillageTwin

TWIN = PlantVillageTwin()


def test_classes_are_the_real_38_balanced_and_different() -> None:
    assert TWIN.class_names == tuple(map(labels.plantvillage_words, labels.LABELS["plantvillage"]))
    assert len(set(TWIN.class_names)) == 38
    assert len(np.unique(TWIN.class_attributes(), axis=0)) == 38
    drawn = TWIN.draw("train", range(76), 16, "studio").labels
    assert np.array_equal(np.bincount(drawn), np.full(38, 2))


@pytest.mark.parametrize("look", ["studio", "field"])
def test_an_item_does_not_depend_on_its_batch(look: str) -> None:
    batch = TWIN.draw("train", range(100), 64, look)  # type: ignore[arg-type]
    for i in (17, 52):
        alone = TWIN.draw("train", [i], 64, look)  # type: ignore[arg-type]
        assert (batch.images[i] == alone.images[0]).all()
        assert batch.facts[i] == alone.facts[0]


def test_facts_vary_within_a_class_and_are_no_part_of_each_other() -> None:
    drawing = TWIN.draw("train", range(380), 8, "studio")
    for facts in drawing.facts:
        assert len(facts) >= 4
        assert sum(f.varies for f in facts) >= 2
    phrases = {f.phrase for facts in drawing.facts for f in facts}
    assert not [(p, q) for p in phrases for q in phrases if p != q and p in q]
    fixed = {
        (n, tuple(f.phrase for f in fs if not f.varies)) for n, fs in zip(drawing.labels, drawing.facts, strict=True)
    }
    assert len(fixed) == 38


def test_a_healthy_leaf_has_no_marks_and_a_diseased_one_has() -> None:
    attributes = TWIN.sample(plantvillage.Rng.for_items("t", "t", np.arange(152)), np.arange(152))
    healthy = {**attributes, "disease": np.zeros_like(attributes["disease"])}
    rng = plantvillage.Rng.for_items("t", "t", np.arange(152))
    difference = (TWIN.paint(rng, attributes, 64).rgb - TWIN.paint(rng, healthy, 64).rgb).abs().amax(1)
    marked = (difference > 0.12).sum((1, 2))
    ill = torch.from_numpy(attributes["disease"] > 0)
    assert marked[~ill].max() == 0
    assert marked[ill].min() >= 20


def test_the_tip_points_where_the_fact_says() -> None:
    # Bell pepper is widest near the stalk, so most of the leaf lies away from the tip.
    drawing = TWIN.draw("train", [19 + 38 * k for k in range(40)], 64, "studio")
    yellow = (drawing.images[:, 1].int() - drawing.images[:, 2].int() > 60).float()
    wide = yellow.sum(2)
    for rows, facts in zip(wide, drawing.facts, strict=True):
        middle = (rows * torch.arange(64)).sum() / rows.sum()
        assert ("tip up" in [f.phrase for f in facts]) == bool(middle > 31.5)


def test_the_shift_replaces_the_backdrop_and_keeps_the_leaf(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(plantvillage, "SHADOW", 0.0)
    rng = plantvillage.Rng.for_items("t", "t", np.arange(38))
    canvas = TWIN.paint(rng.fork("paint"), TWIN.sample(rng.fork("sample"), np.arange(38)), 64)
    change = (TWIN.shift(rng.fork("shift"), canvas) / 1.1 - canvas.rgb).abs().mean(1)
    assert change[canvas.subject == 0].mean() > 0.15
    assert change[canvas.subject == 1].mean() < 0.1
