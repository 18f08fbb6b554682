"""ScienceQA twin: the diagrams show what the facts and the answers claim, in colour and in grey."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
import torch

from data_modules.twins.drawings.diagrams import ACCENT_RGB, KINDS, ORGANISMS
from data_modules.twins.drawings.draw_scienceqa import ANSWERS, EVIDENCE, ScienceQaTwin
from data_modules.twins.rng import Rng

COUNT = 360
TWIN = ScienceQaTwin()


@pytest.fixture(scope="module")
def scene():
    indices = np.arange(COUNT)
    rng = Rng.for_items("scienceqa", "test", indices)
    attributes = TWIN.sample(rng.fork("sample"), indices)
    return attributes, TWIN.paint(rng.fork("paint"), attributes, 64).rgb


def accent_pixels(rgb: torch.Tensor, accent: np.ndarray) -> torch.Tensor:
    """Pixels of the accent colour, ``[B, 64, 64]``, without the bar at the top or bottom."""
    colour = torch.tensor(np.array(ACCENT_RGB)[accent], dtype=torch.float32).view(-1, 3, 1, 1)
    return ((rgb - colour).abs().amax(1) < 0.05)[:, 8:56]


def test_the_fuller_side_has_more_colour(scene):
    """Beakers: more particles. Thermometers: a higher column. Equal scenes: within a particle of each other."""
    attributes, rgb = scene
    pixels = accent_pixels(rgb, attributes["accent"])
    left, right = pixels[:, :, :32].sum((1, 2)).numpy(), pixels[:, :, 32:].sum((1, 2)).numpy()
    for kind in ("concentration", "temperature"):
        rows = np.flatnonzero(attributes["kind"] == KINDS.index(kind))
        answer, ratio = attributes["answer"][rows], (left[rows] + 1) / (right[rows] + 1)
        assert (ratio[answer == 0] > 1.3).all()
        assert (ratio[answer == 1] < 1 / 1.3).all()
        assert (np.abs(np.log(ratio[answer == 2])) < np.log(1.3)).all()


def test_mirror_images_match_exactly_when_the_line_is_one_of_symmetry(scene):
    attributes, rgb = scene
    rows = np.flatnonzero(attributes["kind"] == KINDS.index("symmetry"))
    difference = (rgb[rows] - rgb[rows].flip(-1)).abs().amax((1, 2, 3)).numpy()
    assert (difference[attributes["answer"][rows] == 0] < 1e-4).all()
    assert (difference[attributes["answer"][rows] == 1] > 0.3).all()


def test_poles_attract_when_the_facing_ones_differ(scene):
    attributes, rgb = scene
    rows = np.flatnonzero(attributes["kind"] == KINDS.index("magnets"))
    red = ((rgb[rows] - torch.tensor((0.78, 0.08, 0.10)).view(1, 3, 1, 1)).abs().amax(1) < 0.05)[:, 8:56].float()
    column = torch.arange(64.0)
    # Mean column of red, seen from the outer edge: facing poles are equal if both lie inwards or outwards.
    inwards = []
    for half, columns in ((red[:, :, :32], column[:32] - 15.5), (red[:, :, 32:], 47.5 - column[32:])):
        mass = half.sum(1)
        inwards.append(((mass * columns).sum(1) / mass.sum(1)).numpy() > 0)
    assert ((inwards[0] != inwards[1]) == (attributes["answer"][rows] == 0)).all()


def test_the_chain_answers_its_end(scene):
    attributes, _ = scene
    rows = np.flatnonzero(attributes["kind"] == KINDS.index("food chain"))
    seen = set()
    for i in rows:
        stored, chain = TWIN.questions(attributes, int(i))[0], attributes["chain"][i]
        end = "start" if "start" in stored.question else "end"
        assert stored.answer == ORGANISMS[chain[0 if end == "start" else 2]]
        assert sorted(stored.options) == sorted(ORGANISMS[k] for k in chain)
        assert len(set(chain.tolist())) == 3
        seen.add((end, stored.answer))
    assert len(seen) == 12


def test_answers_do_not_depend_on_colour(scene):
    """In grey, scenes with different answers stay as different as two scenes of the same kind can be."""
    attributes, rgb = scene
    indices = np.arange(COUNT)
    rng = Rng.for_items("scienceqa", "test", indices).fork("paint")
    grey = rgb.mean(1)
    swaps = {
        "magnets": {"north_right": np.stack([attributes["north_right"][:, 0], 1 - attributes["north_right"][:, 1]], 1)},
        "food chain": {"chain": attributes["chain"][:, ::-1].copy()},
        "state": {"state": (attributes["state"] + 1) % 3},
    }
    for kind, changed in swaps.items():
        rows = attributes["kind"] == KINDS.index(kind)
        other = TWIN.paint(rng, {**attributes, **changed}, 64).rgb.mean(1)
        assert ((grey - other).abs().amax((1, 2)).numpy()[rows] > 0.3).all()


def test_evidence_says_what_the_answer_is_and_is_unique():
    phrases = [phrase for kind in EVIDENCE for phrase in kind]
    assert [len(e) for e in EVIDENCE] == [len(a) for a in ANSWERS]
    assert all(a not in b for a, b in itertools.permutations(phrases, 2))


def test_the_photocopy_is_grey_and_keeps_the_page():
    studio = TWIN.draw("val", range(48), 64, "studio").images.float()
    field = TWIN.draw("val", range(48), 64, "field").images.float()
    assert (field[:, 0] == field[:, 1]).all()
    assert (field[:, 1] == field[:, 2]).all()
    ours, theirs = studio.mean(1).flatten(1), field.mean(1).flatten(1)
    alike = torch.nn.functional.cosine_similarity(
        ours - ours.mean(1, keepdim=True), theirs - theirs.mean(1, keepdim=True)
    )
    assert 0.2 < float(alike.mean()) < 0.9
