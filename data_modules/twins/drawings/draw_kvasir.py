"""Kvasir drawn: eight endoscopic findings on the inner wall of the gut, seen down a tube.

The findings keep the cues of the real ones: the pylorus is a smooth round ring about a small opening, the z-line a
zigzag border between pale and red lining, the cecum curved folds, oesophagitis red streaks that run away from the
opening, colitis yellow patches on inflamed wall; polyps are bumps, lifted on blue dye or not, and a cut leaves a raw
crater in the dye.
"""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from craft_lightning.types import Fact
from data_modules.datasets.labels import LABELS, kvasir_words
from data_modules.twins.drawings.canvas import Canvas, both, box, choose, ellipse, noise, per_picture, ring
from data_modules.twins.rng import Rng
from data_modules.twins.twin import Attributes, ClassificationTwin

# Strength of the field look: size of the lamp's glare spots, and how much the lens adds (window, blur, drift of hue).
GLARE = 1.0
LENS = 0.4

FINDINGS = (
    "pink mound",
    "raw crater",
    "red streaks",
    "curved folds",
    "round ring",
    "zigzag border",
    "single bump",
    "yellow patches",
)
OPENINGS = ("no opening", "narrow dark hole", "wide dark hole")
DYES = ("natural colour", "blue dye")
SIDES = ("on the left", "on the right")
TISSUES = ("pale tissue", "red tissue")
VIEWS = ("far view", "near view")

# Columns: finding (row of FINDINGS), dye, opening, border or fold lines, growth out of the wall, damage of the wall.
CLASS_TABLE = np.array(
    [
        [0, 1, 0, 0, 2, 0],  # dyed lifted polyps
        [1, 1, 0, 0, 0, 2],  # dyed resection margins
        [2, 0, 2, 0, 0, 1],  # esophagitis
        [3, 0, 1, 2, 0, 0],  # normal cecum
        [4, 0, 1, 1, 0, 0],  # normal pylorus
        [5, 0, 2, 3, 0, 0],  # normal z-line
        [6, 0, 0, 0, 2, 0],  # polyps
        [7, 0, 0, 0, 0, 3],  # ulcerative colitis
    ]
)
_TISSUE_RGB = ((0.95, 0.76, 0.70), (0.86, 0.50, 0.44))
_HOLES = np.array((0.0, 0.17, 0.34))
_SCALES = np.array((0.78, 1.08))


class KvasirTwin(ClassificationTwin):
    """Eight findings; side, tissue and nearness vary within each. Field look: through an endoscope's optics."""

    name: ClassVar[str] = "kvasir"
    title: ClassVar[str] = "Kvasir"
    domain: ClassVar[str] = "endoscopic finding"
    shift_name: ClassVar[str] = "endoscope"
    query: ClassVar[str] = "Which of these endoscopic findings is shown in the image?"
    class_names: ClassVar[tuple[str, ...]] = tuple(map(kvasir_words, LABELS["kvasir"]))
    all_class_names: ClassVar[tuple[str, ...]] = class_names

    def class_attributes(self) -> NDArray[np.float64]:
        """See the base class; the finding itself counts little, so that what it looks like decides."""
        return CLASS_TABLE[:, 1:] * np.array([3.0, 1.0, 0.7, 1.0, 1.0])

    def sample(self, rng: Rng, indices: NDArray[np.int64]) -> Attributes:
        """See the base class."""
        label = indices % len(CLASS_TABLE)
        finding, dye, opening = CLASS_TABLE[label, :3].T
        free = {k: rng.integers(k, 2) for k in ("side", "tissue", "view")}
        return {"label": label, "finding": finding, "dye": dye, "opening": opening, **free}

    def facts(self, attributes: Attributes, i: int) -> tuple[Fact, ...]:
        """See the base class."""
        words = {"finding": FINDINGS, "dye": DYES, "opening": OPENINGS}
        varying = {"side": SIDES, "tissue": TISSUES, "view": VIEWS}
        return tuple(
            Fact(name, phrases[attributes[name][i]], name in varying) for name, phrases in (words | varying).items()
        )

    def paint(self, rng: Rng, attributes: Attributes, side: int) -> Canvas:
        """See the base class."""
        tissue = choose(_TISSUE_RGB, attributes["tissue"]) + rng.uniform("tone", 3, low=-0.025, high=0.025)
        cv = Canvas(len(rng), side, tissue)
        view = _View(cv, rng, attributes)
        cv.shade(1.0 + 0.16 * view.wobble)
        has = {name: (attributes["finding"] == k).astype(np.float32) for k, name in enumerate(FINDINGS)}
        _paint_wall(cv, rng, view, tissue, has)
        _paint_opening(cv, view, attributes["opening"])
        _paint_growth(cv, view, tissue, attributes["dye"].astype(np.float32), has)
        return cv

    def shift(self, rng: Rng, canvas: Canvas) -> Tensor:
        """See the base class: hue drift, blur that grows outwards, glare, a round window, sometimes a green inset."""
        n, side = len(rng), canvas.side
        drift = rng.uniform("drift", 3, low=-1.0, high=1.0) * 0.13 * LENS
        cx, cy = rng.uniform("cx", low=-0.08, high=0.08), rng.uniform("cy", low=-0.08, high=0.08)
        from_axis = torch.hypot(canvas.x - per_picture(cx), canvas.y - per_picture(cy))
        # Averaging into a coarse lattice and back is a blur that costs little.
        coarse = F.interpolate(
            F.adaptive_avg_pool2d(canvas.rgb, 20), size=(side, side), mode="bilinear", align_corners=False
        )
        rgb = torch.lerp(canvas.rgb, coarse, ((from_axis * 2.0 - 0.4) * LENS).clamp(0.0, 1.0).unsqueeze(1))
        out = Canvas(n, side)
        out.rgb = (
            rgb
            * (1.0 + LENS * (0.10 - 0.30 * from_axis**2)).unsqueeze(1)
            * torch.from_numpy(1.0 + drift).view(n, 3, 1, 1)
        )
        for k in range(3):
            spot = rng.fork(f"glare{k}")
            at = spot.uniform("at", 2, low=-0.65, high=0.65)
            size = spot.uniform("size", 2, low=0.05, high=0.14) * GLARE
            glow = ellipse(out, at[:, 0], at[:, 1], size[:, 0], size[:, 1], spot.uniform("angle", high=math.pi))
            out.paint(glow, (1.0, 1.0, 0.98), 0.95, softness=0.06 * side)
        window = 1.25 - LENS * rng.uniform("window", low=0.20, high=0.36)
        out.paint(per_picture(window) - from_axis, (0.02, 0.02, 0.03), softness=0.03 * side)
        inset = rng.integers("inset", 2)
        out.paint(box(out, -0.76, 0.76, 0.20, 0.18), (0.10, 0.62, 0.30), inset)
        out.paint(box(out, -0.76, 0.76, 0.11, 0.09), (0.05, 0.30, 0.16), inset)
        return out.rgb


class _View:
    """Polar coordinates about the finding, in units of its size.

    Attributes:
        cx, cy, scale: ``[B]`` centre and size of the finding.
        s: ``[B, 1, 1]`` its size, to turn distances in its own units into those of the canvas.
        wobble: ``[B, S, S]`` smooth noise in [-0.5, 0.5] that keeps outlines organic.
        r, theta: ``[B, S, S]`` distance from the centre in units of ``s``, and direction.
    """

    def __init__(self, cv: Canvas, rng: Rng, attributes: Attributes) -> None:
        self.cx = (attributes["side"] * 2 - 1) * rng.uniform("cx", low=0.22, high=0.38)
        self.cy = rng.uniform("cy", low=-0.18, high=0.18)
        self.scale = choose(_SCALES, attributes["view"]) * rng.uniform("scale", low=0.94, high=1.06)
        self.s = per_picture(self.scale)
        u, v = (cv.x - per_picture(self.cx)) / self.s, (cv.y - per_picture(self.cy)) / self.s
        self.wobble = noise(rng, "wobble", 6, cv.side) - 0.5
        self.r = torch.hypot(u, v) + 0.12 * self.wobble
        self.theta = torch.atan2(v, u) + per_picture(rng.uniform("turn", high=2 * math.pi))

    def fold(self, count: float, twist: Tensor | float = 0.0) -> Tensor:
        """Direction within one of ``count`` equal wedges, in [-pi/count, pi/count]."""
        wedge = 2 * math.pi / count
        theta = self.theta + twist
        return theta - wedge * torch.round(theta / wedge)


_Flags = dict[str, NDArray[np.float32]]


def _paint_wall(cv: Canvas, rng: Rng, view: _View, tissue: NDArray[np.float32], has: _Flags) -> None:
    """What the wall itself looks like: rings, folds, zigzag border, streaks or patches."""
    r, s = view.r, view.s
    soft = 0.05 * cv.side
    # Pylorus: one thick pale ring with a dark crease outside it.
    cv.paint(ring(r - 0.72, 0.14) * s, tissue * 0.55, has["round ring"], softness=soft)
    cv.paint(ring(r - 0.46, 0.34) * s, tissue * 0.6 + 0.4, has["round ring"], softness=soft)
    # Cecum: arcs about the opening, each with a dark side and a bright side.
    arcs = 0.36 * torch.round(r / 0.36)
    third = view.fold(3.0, 0.9 * torch.round(r / 0.36))
    open_arc = torch.maximum(third.abs() * r - 0.62 * r, 0.3 - r)
    cv.paint(both(ring(r - arcs + 0.05, 0.13), open_arc) * s, tissue * 0.50, has["curved folds"], softness=1.5)
    cv.paint(both(ring(r - arcs - 0.05, 0.13), open_arc) * s, tissue * 0.5 + 0.5, has["curved folds"], softness=1.5)
    # Z-line: the red lining of the stomach ends in teeth against the pale gullet.
    teeth = view.fold(9.0).abs() * (9.0 / math.pi)
    edge = r - 0.52 - 0.30 * teeth
    pale = tissue * 0.8 + 0.2
    cv.paint(-edge * s, pale, has["zigzag border"], softness=1.5)
    cv.paint(edge * s, (0.80, 0.24, 0.20), has["zigzag border"], softness=1.5)
    # Oesophagitis: streaks run outwards from the opening.
    lateral = view.fold(6.0, 0.3 * torch.sin(5.0 * r)).abs() * r
    streak = both(lateral - 0.085, 0.36 - r, r - 1.2)
    cv.paint(streak * s, (0.74, 0.08, 0.10), has["red streaks"], softness=1.5)
    # Colitis: the whole wall is inflamed; ulcers, yellow with a dark red edge, crowd about the centre.
    sore = 0.6 * noise(rng, "sore", 9, cv.side) - 0.24 - 0.5 * (r - 0.25).clamp_min(0.0)
    cv.paint(torch.full_like(r, -1.0), (0.74, 0.25, 0.22), has["yellow patches"] * 0.35)
    cv.paint(-(sore + 0.07), (0.55, 0.10, 0.12), has["yellow patches"] * 0.8, softness=1.5)
    cv.paint(-sore, (0.98, 0.90, 0.52), has["yellow patches"], softness=1.5)


def _paint_opening(cv: Canvas, view: _View, opening: NDArray[np.int64]) -> None:
    """The way onward: a dark hole with a shaded rim."""
    radius = per_picture(choose(_HOLES, opening))
    shown = (opening > 0).astype(np.float32)
    cv.paint((view.r - radius - 0.05) * view.s, (0.42, 0.10, 0.10), shown * 0.7, softness=0.06 * cv.side)
    cv.paint((view.r - radius) * view.s, (0.10, 0.02, 0.03), shown, softness=1.5)


def _paint_growth(cv: Canvas, view: _View, tissue: NDArray[np.float32], dye: NDArray[np.float32], has: _Flags) -> None:
    """Blue dye, and on it or on the bare wall a bump or the crater that a cut left."""
    cx, cy, k, r, s = view.cx, view.cy, view.scale, view.r, view.s
    soft = 0.05 * cv.side
    cv.paint((r - 0.72 - 0.5 * view.wobble) * s, (0.22, 0.42, 0.80), dye * 0.9, softness=soft)
    bump = np.maximum(has["pink mound"], has["single bump"])
    cv.paint(ellipse(cv, cx + 0.07 * k, cy + 0.10 * k, 0.48 * k, 0.46 * k), tissue * 0.42, bump * 0.8, softness=soft)
    cv.paint((r - 0.44) * s, (0.88, 0.36, 0.38), bump, softness=1.5)
    cv.paint(ellipse(cv, cx - 0.1 * k, cy - 0.12 * k, 0.24 * k, 0.22 * k), (1.0, 0.62, 0.60), bump, softness=2.5 * soft)
    crater = has["raw crater"]
    cv.paint((r - 0.46 - 0.4 * view.wobble) * s, (0.45, 0.05, 0.08), crater, softness=1.5)
    cv.paint((r - 0.32 - 0.4 * view.wobble) * s, (0.98, 0.90, 0.74), crater, softness=1.5)
