"""VQA-RAD twin: scans show what the facts and the answers claim."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest
import torch

from data_modules.twins.drawings.draw_vqa_rad import KINDS, MODALITIES, VqaRadTwin
from data_modules.twins.rng import Rng

COUNT = 360
TWIN = VqaRadTwin()


@pytest.fixture(scope="module")
def scene():
    indices = np.arange(COUNT)
    rng = Rng.for_items("vqa_rad", "test", indices)
    attributes = TWIN.sample(rng.fork("sample"), indices)
    return attributes, rng.fork("paint"), TWIN.paint(rng.fork("paint"), attributes, 64).rgb[:, 0]


def painted(scene, **changed: int) -> torch.Tensor:
    attributes, rng, _ = scene
    return TWIN.paint(rng, {**attributes, **{k: np.full(COUNT, v) for k, v in changed.items()}}, 64).rgb[:, 0]


def test_a_mass_shows_on_its_side_in_its_size(scene):
    attributes, _, rgb = scene
    rows = np.flatnonzero(attributes["mass"] == 1)
    assert int(((rgb - painted(scene, mass=0)).abs() > 0.3)[rows].sum((1, 2)).min()) >= 12
    # A dark mass in a dark lung shows by its rim alone, so its area is measured between the two tones.
    changed = ((painted(scene, tone=1) - painted(scene, tone=0)).abs() > 0.3)[rows].float()
    area, left = changed.sum((1, 2)).numpy(), changed[:, :, :32].sum((1, 2)).numpy()
    assert ((left > area / 2) == (attributes["side"][rows] == 0)).all()
    large = attributes["size"][rows] == 1
    assert area[large].min() > 1.5 * area[~large].max()


def test_without_a_mass_none_is_drawn(scene):
    attributes, _, rgb = scene
    rows = np.flatnonzero(attributes["mass"] == 0)
    assert torch.equal(rgb[rows], painted(scene, mass=0)[rows])


def test_fluid_shows_and_has_a_level_surface(scene):
    attributes, _, rgb = scene
    rows = np.flatnonzero(attributes["fluid"] == 1)
    changed = ((rgb - painted(scene, fluid=0)).abs() > 0.08)[rows]
    assert int(changed.sum((1, 2)).min()) > 60
    assert not changed[:, :36].any()


def test_bone_is_bright_in_ct_and_black_in_mri(scene):
    """The spine of a slice, or the skull of a head, on the vertical axis of the image."""
    attributes, _, rgb = scene
    for organ, row in ((1, slice(38, 50)), (0, slice(6, 12))):
        rows = (attributes["organ"] == organ) & (attributes["fluid"] == 0)
        ct = rgb[rows & (attributes["modality"] == MODALITIES.index("ct")), row, 32]
        mri = rgb[rows & (attributes["modality"] == MODALITIES.index("mri")), row, 32]
        assert (ct.amax(1) > 0.85).all()
        assert (mri.amin(1) < 0.2).all()


def test_nine_bodies_differ():
    """Modality and organ each change the image: nearest mean of nine classes finds both in new images."""
    indices = np.arange(540)
    rng = Rng.for_items("vqa_rad", "means", indices)
    attributes = TWIN.sample(rng.fork("sample"), indices)
    rgb = TWIN.paint(rng.fork("paint"), attributes, 32).rgb[:, 0].flatten(1)
    body = torch.from_numpy(attributes["modality"] * 3 + attributes["organ"])
    means = torch.stack([rgb[:360][body[:360] == k].mean(0) for k in range(9)])
    found = torch.cdist(rgb[360:], means).argmin(1)
    assert float((found == body[360:]).float().mean()) > 0.95


def test_open_questions_without_options_stored_first(scene):
    attributes, _, _ = scene
    asked = [TWIN.questions(attributes, i) for i in range(COUNT)]
    assert all(not qa.options for questions in asked for qa in questions)
    assert [questions[0].kind for questions in asked] == [KINDS[i % len(KINDS)] for i in range(COUNT)]
    assert all(len(questions) >= 3 for questions in asked)
    assert all(len({qa.kind for qa in questions}) == len(questions) for questions in asked)


def test_presence_is_not_asked_where_the_question_presupposes_it(scene):
    attributes, _, _ = scene
    answers: Counter[str] = Counter()
    for i in range(COUNT):
        questions = TWIN.questions(attributes, i)
        kinds = {qa.kind for qa in questions}
        assert ("mass" in kinds) == (questions[0].kind not in ("side", "size"))
        answers.update(qa.answer for qa in questions if qa.kind == "mass")
    assert abs(answers["yes"] - answers["no"]) < 4 * (answers["yes"] + answers["no"]) ** 0.5


def test_the_field_look_is_dark_outside_the_fan():
    field = TWIN.draw("val", range(32), 64, "field").images
    assert int(field[:, :, :3, :3].max()) == 0
    assert int(field[:, :, :3, -3:].max()) == 0
    assert float(field[:, :, 24:40, 24:40].float().mean()) > 30
