"""VQA-RAD: x-ray, CT and MRI pictures of brain, chest and abdomen with open and yes/no questions.

Field look: an ultrasound machine's idea of the same pictures.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from craft_lightning.types import Fact
from data_modules.twins.drawings.canvas import (
    Canvas,
    blur,
    box,
    choose,
    disc,
    ellipse,
    grain,
    noise,
    per_picture,
    ring,
    rotate,
)
from data_modules.twins.rng import Rng
from data_modules.twins.twin import Attributes, Qa, QuestionTwin

TILT = 0.14
"""Field look: largest rotation in radians."""
SPECKLE = 0.24
"""Field look: strength of the multiplicative speckle, as a share of the echo."""

KINDS = ("modality", "organ", "mass", "side", "size", "fluid")
MODALITIES = ("x-ray", "ct", "mri")
ORGANS = ("brain", "chest", "abdomen")
SIDES = ("left", "right")
SIZES = ("small", "large")
TONES = ("dark", "bright")
ANSWERS = (MODALITIES, ORGANS, ("no", "yes"), SIDES, SIZES, ("no", "yes"))

# Brightness of each tissue, one row a modality: bone is bright in x-rays and CT and black in MRI.
TISSUES = ("ground", "skin", "bone", "inside", "hollow", "organ")
BRIGHTNESS = np.array(
    (
        (0.10, 0.40, 0.92, 0.40, 0.14, 0.60),
        (0.00, 0.30, 1.00, 0.45, 0.10, 0.64),
        (0.00, 0.98, 0.02, 0.56, 0.12, 0.78),
    )
)


Tissue = Mapping[str, NDArray[np.floating]]
"""Grey colour ``[B, 3]`` of each tissue."""


def _head(cv: Canvas, rng: Rng, modality: NDArray[np.int64], tissue: Tissue) -> Tensor:
    """A head from above (in x-rays from the front, on its neck). Returns the distance to the room inside."""
    rx, ry = rng.uniform("rx", low=0.62, high=0.70), rng.uniform("ry", low=0.80, high=0.86)
    film = (modality == 0).astype(np.float32)
    outer = ellipse(cv, 0, 0, rx, ry)
    cv.paint(box(cv, 0, 0.95, 0.30, 0.35), tissue["skin"], film, softness=3)
    cv.paint(outer, tissue["skin"])
    bone = ellipse(cv, 0, 0, rx - 0.06, ry - 0.06)
    inside = ellipse(cv, 0, 0, rx - 0.15, ry - 0.15)
    cv.paint(bone, tissue["bone"])
    cv.paint(inside, tissue["inside"])
    folds = torch.maximum(inside, torch.maximum(-inside - 0.10, 0.03 * torch.cos(torch.atan2(cv.y, cv.x) * 18.0)))
    cv.paint(folds, tissue["organ"], 1.0 - film)
    cv.paint(box(cv, 0, 0, 0.025, 0.6), tissue["hollow"], 0.9 * (1.0 - film))
    # Spinal fluid in the ventricles is bright in MRI and dark in CT.
    fluid = np.where((modality == 2)[:, None], 0.97, 0.10).repeat(3, 1)
    u = cv.x.abs()
    for y, angle in ((-0.15, -1.25), (0.15, 1.25)):
        p, q = rotate(u, cv.y, 0.09, y, angle)
        cv.paint((torch.hypot(p / 0.20, q / 0.07) - 1.0) * 0.07, fluid, 1.0 - film)
    gaps = ((cv.x * 8.0 - (cv.x * 8.0).round()).abs() / 8.0) - 0.045
    teeth = torch.maximum(gaps, torch.maximum(u - 0.24, (cv.y - 0.36).abs() - 0.11))
    cv.paint(teeth, tissue["bone"], film)
    return inside


def _slice(cv: Canvas, rng: Rng, chest: NDArray[np.floating], table: NDArray[np.floating], tissue: Tissue) -> Tensor:
    """A CT or MRI slice through chest or abdomen. Returns the distance to the room inside."""
    rx, ry = rng.uniform("rx", low=0.84, high=0.92), rng.uniform("ry", low=0.64, high=0.72)
    bed = ring(torch.hypot(cv.x, cv.y + 1.6) - 2.45, 0.05)
    cv.paint(bed, (0.55, 0.55, 0.55), table, subject=False)
    outer = ellipse(cv, 0, 0, rx, ry)
    wall = ellipse(cv, 0, 0, rx - 0.09, ry - 0.09)
    inside = ellipse(cv, 0, 0, rx - 0.17, ry - 0.17)
    cv.paint(outer, tissue["skin"])
    cv.paint(wall, tissue["inside"])
    ribs = torch.maximum(ring(wall, 0.09), 0.06 * torch.cos(torch.atan2(cv.y, cv.x) * 12.0))
    cv.paint(ribs, tissue["bone"])
    u = cv.x.abs()
    lungs = (torch.hypot((u - 0.40) / 0.31, (cv.y + 0.04) / 0.44) - 1.0) * 0.31
    cv.paint(lungs, tissue["hollow"], chest)
    cv.paint(ellipse(cv, 0.10, -0.14, 0.20, 0.24), tissue["organ"], chest)
    belly = 1.0 - chest
    cv.paint(ellipse(cv, -0.38, -0.10, 0.36, 0.30, -0.3), tissue["organ"], belly)
    cv.paint(ellipse(cv, 0.36, -0.24, 0.26, 0.14, 0.3), tissue["hollow"], belly)
    kidneys = (torch.hypot((u - 0.40) / 0.15, (cv.y - 0.26) / 0.11) - 1.0) * 0.11
    cv.paint(kidneys, tissue["organ"], belly)
    cv.paint(disc(cv, 0, 0.36, 0.15), tissue["bone"])
    cv.paint(disc(cv, 0, 0.36, 0.07), tissue["inside"])
    return inside


def _film(cv: Canvas, rng: Rng, chest: NDArray[np.floating], tissue: Tissue) -> Tensor:
    """A plain x-ray of chest or abdomen, seen from the front. Returns the distance to the room inside."""
    half = rng.uniform("half", low=0.76, high=0.84)
    trunk = box(cv, 0, 0.4, half, 1.25, round_=0.3)
    belly = 1.0 - chest
    cv.paint(trunk, tissue["skin"], softness=3)
    u = cv.x.abs()
    lungs = (torch.hypot((u - 0.40) / 0.28, (cv.y + 0.02) / 0.62) - 1.0) * 0.28
    cv.paint(lungs, tissue["hollow"], chest, softness=2)
    bands = cv.y * 4.5 - u * 1.6
    ribs = torch.maximum((bands - bands.round()).abs() / 4.5 - 0.03, torch.maximum(u - 0.72, cv.y.abs() - 0.72))
    cv.paint(ribs, tissue["bone"], 0.5 * chest, softness=2)
    cv.paint(ellipse(cv, 0.14, 0.26, 0.26, 0.28, 0.5), tissue["organ"], chest, softness=2)
    gas = torch.minimum(torch.hypot(cv.x + 0.25, cv.y - 0.12) - 0.11, torch.hypot(cv.x - 0.32, cv.y + 0.45) - 0.14)
    cv.paint(gas, tissue["hollow"], belly, softness=3)
    hips = (torch.hypot((u - 0.46) / 0.30, (cv.y - 0.78) / 0.34) - 1.0) * 0.30
    cv.paint(hips, tissue["bone"], 0.85 * belly, softness=2)
    cv.paint(hips + 0.14, tissue["inside"], 0.8 * belly, softness=2)
    joints = (cv.y * 3.6 - (cv.y * 3.6).round()).abs() / 3.6
    cv.paint(torch.maximum(u - 0.11, 0.035 - joints), tissue["bone"], 0.85, softness=2)
    return trunk + 0.08


class VqaRadTwin(QuestionTwin):
    """Scans of three organ systems by three modalities, with or without a mass and free fluid."""

    name: ClassVar[str] = "vqa_rad"
    title: ClassVar[str] = "VQA-RAD"
    domain: ClassVar[str] = "medical scan"
    shift_name: ClassVar[str] = "ultrasound"
    answer_vocabulary: ClassVar[tuple[str, ...]] = (*MODALITIES, *ORGANS, "yes", "no", *SIDES, *SIZES, *TONES)

    def sample(self, rng: Rng, indices: NDArray[np.int64]) -> Attributes:
        """The kind of the stored question, then its right answer, are taken in turn."""
        kind, turn = indices % len(KINDS), indices // len(KINDS)
        answer = turn % np.array([len(a) for a in ANSWERS])[kind]
        drawn = {name: rng.integers(name, len(ANSWERS[k])) for k, name in enumerate(KINDS)}
        scene = {name: np.where(kind == k, answer, drawn[name]) for k, name in enumerate(KINDS)}
        scene["mass"] = np.where((kind == KINDS.index("side")) | (kind == KINDS.index("size")), 1, scene["mass"])
        return {"kind": kind, **scene, "tone": rng.integers("tone", 2), "marker": rng.integers("marker", 2)}

    def paint(self, rng: Rng, attributes: Attributes, side: int) -> Canvas:
        """The body by organ and modality, then fluid, mass and the film's marker."""
        modality, organ = attributes["modality"], attributes["organ"]
        level = BRIGHTNESS[modality] * (1.0 + rng.uniform("exposure", 1, low=-0.06, high=0.06))
        tissue = {name: np.repeat(level[:, k : k + 1], 3, axis=1) for k, name in enumerate(TISSUES)}
        cv = Canvas(len(rng), side, tissue["ground"])
        inside = torch.zeros(len(rng), side, side)
        group = np.where(organ == 0, 0, np.where(modality == 0, 2, 1))
        for number in range(3):
            rows = np.flatnonzero(group == number)
            if len(rows):
                part, own = Canvas(len(rows), side, cv.rgb[rows]), Rng(rng.keys[rows]).fork("body")
                chest, grey = (organ[rows] == 1).astype(np.float32), {k: v[rows] for k, v in tissue.items()}
                if number == 0:
                    inside[rows] = _head(part, own, modality[rows], grey)
                elif number == 1:
                    inside[rows] = _slice(part, own, chest, (modality[rows] == 1).astype(np.float32), grey)
                else:
                    inside[rows] = _film(part, own, chest, grey)
                cv.rgb[rows], cv.subject[rows] = part.rgb, part.subject
        surface = rng.uniform("surface", low=0.28, high=0.34) + 0.12 * (organ == 0) + 0.22 * (group == 2)
        pool = torch.maximum(inside, per_picture(surface) - cv.y)
        cv.paint(pool, (0.80, 0.80, 0.80), attributes["fluid"])
        self._mass(cv, rng, attributes)
        cv.paint(box(cv, choose((-0.84, 0.84), attributes["marker"]), -0.86, 0.09, 0.07), (1.0, 1.0, 1.0))
        return cv

    @staticmethod
    def _mass(cv: Canvas, rng: Rng, a: Attributes) -> None:
        """A round mass with a rim of the opposite tone, so that it shows on any tissue."""
        x = choose((-1.0, 1.0), a["side"]) * rng.uniform("mass x", low=0.24, high=0.34)
        y = rng.uniform("mass y", low=-0.30, high=-0.02)
        radius = choose((0.10, 0.22), a["size"]) + rng.uniform("mass r", low=-0.01, high=0.02)
        core = ellipse(cv, x, y, radius, radius * rng.uniform("mass q", low=0.85, high=1.0))
        tone = np.repeat(choose((0.03, 1.0), a["tone"])[:, None], 3, axis=1)
        cv.paint(core - 0.05, 1.0 - tone, a["mass"])
        cv.paint(core, tone, a["mass"])

    def shift(self, rng: Rng, canvas: Canvas) -> Tensor:
        """Tilt, change gain and window, multiply by speckle, and show it in scan lines through a fan."""
        side = canvas.side
        place, tilt = rng.uniform("place", 2, low=-0.08, high=0.08), rng.uniform("a", low=-TILT, high=TILT)
        u, v = rotate(canvas.x, canvas.y, place[:, 0], place[:, 1], tilt)
        zoom = per_picture(rng.uniform("zoom", low=0.95, high=1.15))
        grid = torch.stack([u, v], dim=-1) * zoom.unsqueeze(-1)
        echo = blur(F.grid_sample(canvas.rgb[:, :1], grid, align_corners=False), 0.02).squeeze(1).clamp_min(1e-4)
        low = per_picture(rng.uniform("low", low=0.0, high=0.12))
        echo = low + (0.95 - low) * echo ** per_picture(rng.uniform("gamma", low=0.6, high=1.5))
        fine = grain(rng, "speckle", side)[:, 0]
        coarse = noise(rng, "coarse", 24, side) - 0.5
        echo = echo * (1.0 + SPECKLE * (0.6 * fine + 2.0 * coarse)) + 0.06 * noise(rng, "haze", 4, side)
        beam = per_picture(rng.uniform("beam", low=9.0, high=13.0)) * canvas.y + per_picture(
            rng.uniform("phase", high=1.0)
        )
        echo = echo * (1.0 - 0.25 * (beam - beam.floor() < 0.35).float())
        apex = per_picture(rng.uniform("apex", low=-2.2, high=-1.7))
        reach = torch.hypot(canvas.x, canvas.y - apex)
        fan = torch.maximum(0.89 * canvas.x.abs() - 0.45 * (canvas.y - apex), reach + apex - 0.98)
        echo = echo * canvas.coverage(fan, 3.0) * (1.0 - 0.25 * (reach + apex).clamp_min(0.0))
        tint = torch.from_numpy(1.0 - rng.uniform("tint", 3, high=0.12))
        return echo.unsqueeze(1) * tint.view(-1, 3, 1, 1)

    def facts(self, attributes: Attributes, i: int) -> tuple[Fact, ...]:
        """Modality, organ, fluid, marker and, if there is one, size, side and tone of the mass."""
        a = {name: int(values[i]) for name, values in attributes.items()}
        facts = [
            Fact("modality", ("x-ray film", "ct scan", "mri scan")[a["modality"]], True),
            Fact("organ", f"{ORGANS[a['organ']]} section", True),
            Fact("fluid", ("no fluid", "pool of fluid")[a["fluid"]], True),
            Fact("marker", f"marker at {SIDES[a['marker']]}", True),
        ]
        if not a["mass"]:
            return (*facts, Fact("mass", "no mass", True))
        return (
            *facts,
            Fact("mass", f"{SIZES[a['size']]} mass", True),
            Fact("mass side", f"mass at {SIDES[a['side']]}", True),
            Fact("mass tone", f"{TONES[a['tone']]} mass", True),
        )

    def questions(self, attributes: Attributes, i: int) -> tuple[Qa, ...]:
        """The stored question, then all others that this picture leaves open and can answer."""
        a = {name: int(values[i]) for name, values in attributes.items()}
        stored = KINDS[a["kind"]]
        asked = [self._qa(kind, a) for kind in ("modality", "organ", "fluid")]
        if stored not in ("side", "size"):  # there the question itself says that there is a mass
            asked.append(self._qa("mass", a))
        if a["mass"]:
            asked += [self._qa(kind, a) for kind in ("side", "size", "tone")]
        return tuple(sorted(asked, key=lambda qa: qa.kind != stored))

    @staticmethod
    def _qa(kind: str, a: dict[str, int]) -> Qa:
        options = TONES if kind == "tone" else ANSWERS[KINDS.index(kind)]
        answer = options[a[kind]]
        if kind == "modality":
            question, statement = "What imaging modality was used?", f"The imaging modality used is {answer}."
        elif kind == "organ":
            question, statement = "Which organ system is shown?", f"The organ system shown is the {answer}."
        elif kind == "mass":
            question = "Is there a mass in this image?"
            statement = "Yes, there is a mass in this image." if a[kind] else "No, there is no mass in this image."
        elif kind == "fluid":
            question = "Is there fluid in this image?"
            statement = "Yes, there is fluid in this image." if a[kind] else "No, there is no fluid in this image."
        elif kind == "side":
            question = "On which side of the image is the mass?"
            statement = f"The mass is on the {answer} side of the image."
        elif kind == "size":
            question, statement = "How large is the mass?", f"The mass is {answer}."
        else:
            question, statement = "Is the mass dark or bright?", f"The mass is {answer}."
        return Qa(kind, question, answer, (), statement)
