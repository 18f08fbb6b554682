"""PlantVillage on a pocket lab bench: 38 pairs of crop (the leaf) and disease (what is on it).

Field look: clutter, that is soil and other leaves behind the leaf, dappled shadows over it and a slight blur.
"""

from __future__ import annotations

import math
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from craft_lightning.types import Fact
from data_modules.datasets import labels
from data_modules.twins.drawings.canvas import Canvas, blur, choose, noise, per_picture, rotate
from data_modules.twins.drawings.cells import Cells
from data_modules.twins.rng import Rng
from data_modules.twins.twin import Attributes, ClassificationTwin

CLUTTER = 0.35
"""Share of places behind the leaf that hold leaves of other plants, in each of two layers."""
SOIL = 0.4
"""Share of soil in what is left of the backdrop."""
SHADOW = 0.3
"""Deepest dappled shadow: the share of light that it takes."""
BLUR = 0.018
"""Blur in half sides of the picture."""

_SOIL = (0.40, 0.29, 0.20)
_LAYOUTS = (
    "one blade", "five lobes", "three leaflets", "five leaflet fan", "paired leaflets", "small twig leaves",
    "winged stalk", "long strap",
)  # fmt: skip
_ONE, _LOBED, _THREE, _FAN, _PAIRS, _TWIG, _WINGED, _STRAP = range(8)
_EDGES = ("smooth edge", "fine teeth", "coarse teeth")
_WIDTHS = ("slim leaf", "middle leaf", "broad leaf")
_STALKS = ((0.48, 0.62, 0.28), (0.72, 0.22, 0.20))
# crop: layout, edge, red stalk, half-width / length, rise and fall of the width, lobe depth, rgb
_CROPS = {
    "apple": (_ONE, 1, 0, 0.35, 0.55, 0.60, 0.0, (0.30, 0.55, 0.20)),
    "blueberry": (_TWIG, 0, 1, 0.30, 0.60, 0.60, 0.0, (0.25, 0.52, 0.45)),
    "cherry": (_ONE, 2, 1, 0.27, 0.50, 1.10, 0.0, (0.14, 0.40, 0.17)),
    "corn": (_STRAP, 0, 0, 0.11, 0.22, 0.50, 0.0, (0.46, 0.70, 0.24)),
    "grape": (_LOBED, 2, 0, 0.50, 0.50, 0.50, 0.38, (0.38, 0.60, 0.22)),
    "orange": (_WINGED, 0, 0, 0.30, 0.80, 0.80, 0.0, (0.10, 0.40, 0.22)),
    "peach": (_ONE, 1, 0, 0.15, 0.70, 0.80, 0.0, (0.50, 0.68, 0.22)),
    "bell pepper": (_ONE, 0, 0, 0.42, 0.38, 1.00, 0.0, (0.22, 0.62, 0.27)),
    "potato": (_PAIRS, 0, 0, 0.38, 0.50, 0.60, 0.0, (0.17, 0.45, 0.22)),
    "raspberry": (_FAN, 2, 1, 0.26, 0.60, 0.80, 0.0, (0.56, 0.74, 0.32)),
    "soybean": (_THREE, 0, 0, 0.42, 0.45, 0.80, 0.0, (0.42, 0.66, 0.24)),
    "squash": (_LOBED, 0, 0, 0.60, 0.50, 0.50, 0.13, (0.30, 0.52, 0.24)),
    "strawberry": (_THREE, 2, 1, 0.52, 0.70, 0.35, 0.0, (0.20, 0.56, 0.20)),
    "tomato": (_PAIRS, 2, 0, 0.40, 0.50, 0.95, 0.0, (0.32, 0.56, 0.18)),
}
_PALETTE = np.array(
    [
        (0, 0, 0), (0.22, 0.20, 0.08), (0.72, 0.56, 0.36), (0.40, 0.10, 0.32), (0.98, 0.56, 0.06), (0.86, 0.16, 0.08),
        (0.97, 0.97, 0.96), (0.66, 0.66, 0.66), (0.62, 0.28, 0.06), (0.88, 0.78, 0.54), (0.10, 0.07, 0.05),
        (0.97, 0.88, 0.20), (0.42, 0.25, 0.10), (0.24, 0.22, 0.20), (0.70, 0.88, 0.42),
    ],
    dtype=np.float32,
)  # fmt: skip
(_NIL, _OLIVE, _TAN, _PLUM, _ORANGE, _RED, _WHITE, _GREY, _RUST, _STRAW, _BLACK, _YELLOW, _BROWN, _SMOKE, _LIME) = (
    range(15)
)
_CLEAN, _SPOTS, _CLOUDS, _RIM, _TIP, _TIGER, _MOSAIC = range(7)
# disease: sign, kind, halo, rim, fill, core (palette, 0 none), pitch of the spots, radius / pitch, length / width
_DISEASES = {
    "healthy": ("no marks", _CLEAN, 0, 0, 0, 0, 0.3, 0.0, 1.0),
    "scab": ("olive blotches", _SPOTS, _OLIVE, _OLIVE, _OLIVE, 0, 0.40, 0.36, 1.0),
    "black rot": ("dark round spots", _SPOTS, 0, _BLACK, _BROWN, _BROWN, 0.36, 0.33, 1.0),
    "apple black rot": ("purple ringed spots", _SPOTS, 0, _PLUM, _TAN, _TAN, 0.38, 0.36, 1.0),
    "cedar rust": ("orange spots", _SPOTS, _YELLOW, _ORANGE, _ORANGE, _RED, 0.42, 0.28, 1.0),
    "powdery mildew": ("white powder", _CLOUDS, 0, 0, _WHITE, 0, 0.3, 0.0, 1.0),
    "gray leaf spot": ("grey bars", _SPOTS, 0, _GREY, _GREY, 0, 0.15, 0.40, 3.0),
    "common rust": ("rusty dots", _SPOTS, 0, _RUST, _RUST, 0, 0.115, 0.42, 1.0),
    "northern leaf blight": ("long tan streak", _SPOTS, 0, _BROWN, _STRAW, _STRAW, 0.22, 0.44, 4.0),
    "black measles": ("red and yellow stripes", _TIGER, _YELLOW, 0, _RED, 0, 0.3, 0.0, 1.0),
    "leaf blight": ("brown patches", _CLOUDS, 0, 0, _BROWN, 0, 0.3, 0.0, 1.0),
    "citrus greening": ("yellow mottle", _CLOUDS, 0, 0, _YELLOW, 0, 0.3, 0.0, 1.0),
    "bacterial spot": ("black specks", _SPOTS, _YELLOW, _BLACK, _BLACK, 0, 0.22, 0.21, 1.0),
    "early blight": ("brown target rings", _SPOTS, _YELLOW, _BROWN, _TAN, _BROWN, 0.42, 0.37, 1.0),
    "potato early blight": ("dark brown rings", _SPOTS, 0, _BLACK, _BROWN, _TAN, 0.42, 0.33, 1.0),
    "late blight": ("dark rotten tip", _TIP, _LIME, 0, _SMOKE, 0, 0.3, 0.0, 1.0),
    "leaf scorch": ("scorched margin", _RIM, 0, 0, _PLUM, 0, 0.3, 0.0, 1.0),
    "leaf mold": ("yellow clouds", _CLOUDS, 0, 0, _YELLOW, _BROWN, 0.3, 0.0, 1.0),
    "septoria leaf spot": ("pale dots", _SPOTS, 0, _BLACK, _WHITE, _WHITE, 0.24, 0.33, 1.0),
    "spider mites": ("pale speckle", _SPOTS, 0, _STRAW, _STRAW, 0, 0.085, 0.36, 1.0),
    "target spot": ("red bull eyes", _SPOTS, 0, _RED, _RED, _WHITE, 0.38, 0.34, 1.0),
    "yellow leaf curl virus": ("curled yellow margin", _RIM, 0, 0, _YELLOW, 0, 0.3, 0.0, 1.0),
    "mosaic virus": ("light dark mosaic", _MOSAIC, 0, 0, _LIME, 0, 0.3, 0.0, 1.0),
}  # fmt: skip
_NAMES = tuple(map(labels.plantvillage_words, labels.LABELS["plantvillage"]))
_CROP_NAMES, _DISEASE_NAMES = tuple(_CROPS), tuple(_DISEASES)


def _pair(name: str) -> tuple[int, int]:
    """Rows of the crop and of the disease in a class name; a disease may look different on one crop."""
    crop = next(c for c in _CROP_NAMES if name.startswith(c))
    disease = name if name in _DISEASES else name[len(crop) + 1 :]
    return _CROP_NAMES.index(crop), _DISEASE_NAMES.index(disease)


_ROWS = np.array([_pair(name) for name in _NAMES], dtype=np.int64)
_CROP = np.array([row[:7] for row in _CROPS.values()], dtype=np.float32)
_CROP_RGB = np.array([row[7] for row in _CROPS.values()], dtype=np.float32)
_DISEASE = np.array([row[1:] for row in _DISEASES.values()], dtype=np.float32)
_BACKDROPS = (
    ("grey backdrop", (0.74, 0.74, 0.76)),
    ("blue backdrop", (0.52, 0.64, 0.86)),
    ("cream backdrop", (0.95, 0.90, 0.80)),
)
_TIPS = ("tip up", "tip down")
_LEANS = ("leaning left", "leaning right")
_AMOUNTS = ("few marks", "many marks")
# leaflets of each layout: base (along, across), angle, length
_LEAFLETS: dict[int, tuple[tuple[float, float, float, float], ...]] = {
    _ONE: ((-0.78, 0, 0, 1.62),),
    _THREE: ((-0.06, 0, 0, 0.86), (-0.1, 0.03, 1.75, 0.74), (-0.1, -0.03, -1.75, 0.74)),
    _FAN: (
        (-0.05, 0, 0, 0.86), (-0.1, 0.02, 1, 0.74), (-0.1, -0.02, -1, 0.74), (-0.16, 0.02, 2, 0.6),
        (-0.16, -0.02, -2, 0.6),
    ),
    _PAIRS: (
        (0.18, 0, 0, 0.72), (0.12, 0.05, 1.15, 0.62), (0.12, -0.05, -1.15, 0.62), (-0.42, 0.05, 1.15, 0.56),
        (-0.42, -0.05, -1.15, 0.56),
    ),
    _TWIG: (
        (0.36, 0, 0, 0.5), (0.2, 0.02, 0.85, 0.52), (-0.02, -0.02, -0.85, 0.52), (-0.26, 0.02, 0.85, 0.52),
        (-0.48, -0.02, -0.85, 0.52),
    ),
    _WINGED: ((-0.48, 0, 0, 1.34), (-0.86, 0, 0, 0.42)),
    _STRAP: ((-0.84, 0, 0, 1.86),),
}  # fmt: skip


class PlantVillageTwin(ClassificationTwin):
    """A leaf on a plain backdrop: its shape says the crop, its marks say the disease."""

    name: ClassVar[str] = "plantvillage"
    title: ClassVar[str] = "PlantVillage"
    domain: ClassVar[str] = "plant leaf"
    shift_name: ClassVar[str] = "field clutter"
    query: ClassVar[str] = "Which crop disease is shown in this leaf image?"
    class_names: ClassVar[tuple[str, ...]] = _NAMES
    all_class_names: ClassVar[tuple[str, ...]] = _NAMES

    def class_attributes(self) -> NDArray[np.float64]:
        """``[38, 37]`` one-hot layout, edge, kind of marks; proportions and colour of leaf and marks."""
        crop, disease = _CROP[_ROWS[:, 0]], _DISEASE[_ROWS[:, 1]]
        hot = [
            w * (m[:, c : c + 1] == np.arange(n))
            for m, c, n, w in ((crop, 0, 8, 0.8), (crop, 1, 3, 0.4), (disease, 0, 7, 0.6))
        ]
        marks = [0.4 * _PALETTE[disease[:, c].astype(np.int64)] for c in (1, 3, 4)]
        numbers = [crop[:, 3:4] * 3.0, _CROP_RGB[_ROWS[:, 0]] * 2.0, disease[:, 5:7] * 2.0, np.log(disease[:, 7:8])]
        return np.concatenate([*hot, *marks, *numbers], axis=1).astype(np.float64)

    def sample(self, rng: Rng, indices: NDArray[np.int64]) -> Attributes:
        label = indices % len(_ROWS)
        return {
            "label": label,
            "crop": _ROWS[label, 0],
            "disease": _ROWS[label, 1],
            "backdrop": rng.integers("backdrop", len(_BACKDROPS)),
            "tip": rng.integers("tip", 2),
            "lean": rng.integers("lean", 2),
            "amount": rng.integers("amount", 2),
        }

    def paint(self, rng: Rng, attributes: Attributes, side: int) -> Canvas:
        """Backdrop and leaf: outline and veins of the crop, lesions of the disease, turned and leaning."""
        a = attributes
        n = len(rng)
        backdrop = choose([rgb for _, rgb in _BACKDROPS], a["backdrop"]) + 0.05 * (rng.uniform("tone", 3) - 0.5)
        cv = Canvas(n, side, backdrop)
        lean = np.where(a["lean"] == 0, -1.0, 1.0) * rng.uniform("tilt", low=0.32, high=0.6)
        axis = np.where(a["tip"] == 0, -np.pi / 2, np.pi / 2) + np.where(a["tip"] == 0, lean, -lean)
        u, v = rotate(
            cv.x, cv.y, rng.uniform("cx", low=-0.07, high=0.07), rng.uniform("cy", low=-0.07, high=0.07), axis
        )
        size = per_picture(rng.uniform("size", low=0.9, high=1.04))
        u, v = u / size, v / size
        crop = _CROP[a["crop"]]
        leaf, along, across = torch.ones(n, side, side), torch.zeros(n, side, side), torch.zeros(n, side, side)
        for layout in range(len(_LAYOUTS)):
            # A layout is measured only where it occurs: the rows are split off and put back.
            rows = np.flatnonzero(crop[:, 0] == layout)
            if len(rows):
                shape = _lobed if layout == _LOBED else _leaflets
                leaf[rows], along[rows], across[rows] = shape(u[rows], v[rows], crop[rows])
        stalk = torch.maximum(v.abs() - 0.032, torch.maximum(-0.98 - u, u - 0.2))
        cv.paint(stalk, choose(_STALKS, crop[:, 2].astype(np.int64)))
        green = np.clip(_CROP_RGB[a["crop"]] + 0.06 * (rng.uniform("hue", 3) - 0.5), 0, 1)
        vein = torch.maximum(
            1.0 - across.abs() / 0.025, 0.55 - ((along * 34.0 - across.abs() * 30.0).cos() + 1.0) * 5.0
        )
        # Corn has parallel veins.
        vein = torch.where(
            per_picture(a["crop"] == _CROP_NAMES.index("corn")) > 0, 0.6 * (across * 75.0).cos(), vein
        ).clamp(0, 1)
        blade = torch.from_numpy(green).view(n, 3, 1, 1) * (1.0 + 0.35 * vein - 0.12 * (across > 0)).unsqueeze(1)
        marks = Canvas(n, side)
        marks.rgb = blade.clamp(0, 1)
        _paint_marks(rng.fork("marks"), marks, a, leaf, u, v, along)
        cv.paint(leaf, marks.rgb)
        return cv

    def shift(self, rng: Rng, canvas: Canvas) -> Tensor:
        n, side = len(rng), canvas.side
        soil_colour = torch.from_numpy(rng.uniform("soil colour", 3, low=-0.08, high=0.08)) + torch.tensor(_SOIL)
        soil = soil_colour.view(n, 3, 1, 1) * (0.55 + 0.9 * noise(rng, "soil", 12, side)).unsqueeze(1)
        behind = Canvas(n, side)
        behind.rgb = torch.lerp(canvas.rgb, soil.clamp(0, 1), SOIL)
        u, v = rotate(canvas.x, canvas.y, 0.0, 0.0, rng.uniform("angle", high=6.28))
        for k in range(2):
            _paint_clutter(rng.fork(f"layer{k}"), behind, u, v)
        rgb = torch.lerp(behind.rgb, canvas.rgb, canvas.subject.unsqueeze(1))
        dapple = ((noise(rng, "dapple", 6, side) - 0.48) * 7.0).clamp(0.0, 1.0)
        depth = per_picture(rng.uniform("depth", low=0.6 * SHADOW, high=SHADOW))
        return blur(rgb * (1.1 - depth * dapple).unsqueeze(1), BLUR)

    def facts(self, attributes: Attributes, i: int) -> tuple[Fact, ...]:
        """Layout, width, edge and sign say crop and disease; tip, lean and backdrop vary within them."""
        a = {k: int(v[i]) for k, v in attributes.items()}
        crop, disease = _CROP[a["crop"]], _DISEASES[_DISEASE_NAMES[a["disease"]]]
        found = [
            Fact("layout", _LAYOUTS[int(crop[0])], False),
            Fact("width", _WIDTHS[int(np.searchsorted((0.2, 0.32), crop[3]))], False),
            Fact("edge", _EDGES[int(crop[1])], False),
            Fact("sign", disease[0], False),
            Fact("tip", _TIPS[a["tip"]], True),
            Fact("lean", _LEANS[a["lean"]], True),
            Fact("backdrop", _BACKDROPS[a["backdrop"]][0], True),
        ]
        if disease[1] == _SPOTS:
            found.append(Fact("amount", _AMOUNTS[a["amount"]], True))
        return tuple(found)


def _paint_clutter(rng: Rng, cv: Canvas, u: Tensor, v: Tensor) -> None:
    """A loose layer of leaves of other plants, one in each cell that has one."""
    shift = rng.uniform("shift", 2, high=0.8)
    cells = Cells(rng, u + per_picture(shift[:, 0]), v + per_picture(shift[:, 1]), 0.8, 0.8)
    angle = 2 * math.pi * cells.value("angle")
    cos, sin = angle.cos(), angle.sin()
    along, across = cells.u * cos + cells.v * sin, cells.v * cos - cells.u * sin
    blade = across.abs() - 0.17 * (1.0 - (along / 0.4) ** 2).clamp_min(-1.0)
    light = 0.4 + 0.6 * cells.value("light")
    light = light * (1.0 + 0.25 * (across > 0) - 0.4 * (across.abs() < 0.02))
    tint = torch.from_numpy(rng.uniform("tint", 3, low=-0.06, high=0.06)) + torch.tensor((0.28, 0.50, 0.20))
    hidden = (cells.value("there") > CLUTTER).float()
    cv.paint(blade + hidden, tint.view(-1, 3, 1, 1) * light.unsqueeze(1), subject=False)


def _teeth(t: Tensor, edge: Tensor, count: float) -> Tensor:
    """Saw teeth along an edge, 0 to 1 of the local width, pointing to the tip."""
    coarse = (edge == 2).float()
    saw = torch.frac(t * torch.where(coarse > 0, count, 2.4 * count))
    return (0.06 * (edge == 1) + 0.26 * coarse) * (saw - 0.5)


def _leaflets(u: Tensor, v: Tensor, crop: NDArray[np.float32]) -> tuple[Tensor, Tensor, Tensor]:
    """Distance to the blades of one layout, and position along and across the nearest blade."""
    half, rise, fall = (per_picture(crop[:, c]) for c in (3, 4, 5))
    edge = per_picture(crop[:, 1])
    peak = rise / (rise + fall)
    norm = peak**rise * (1.0 - peak) ** fall
    best, along, across = torch.full_like(u, 9.0), torch.zeros_like(u), torch.zeros_like(u)
    for x, y, angle, length in _LEAFLETS[int(crop[0, 0])]:
        p, q = rotate(u, v, x, y, angle)
        t = p / length
        inner = t.clamp(1e-3, 1.0 - 1e-3)
        width = half * length * torch.exp(rise * inner.log() + fall * (1.0 - inner).log()) / norm
        width = width * (1.0 + _teeth(inner, edge, 8.0 if length > 1 else 5.0))
        distance = torch.maximum(q.abs() - width, (t - 0.5).abs() * length - 0.5 * length)
        nearer = distance < best
        best = torch.where(nearer, distance, best)
        along, across = torch.where(nearer, t, along), torch.where(nearer, q, across)
    return best, along, across


def _lobed(u: Tensor, v: Tensor, crop: NDArray[np.float32]) -> tuple[Tensor, Tensor, Tensor]:
    """Distance to a hand-shaped blade of five lobes, and position along and across the nearest lobe."""
    depth, edge = per_picture(crop[:, 6]), per_picture(crop[:, 1])
    p = u + 0.08
    r, angle = torch.hypot(p, v), torch.atan2(v, p)
    lobe = (2.5 * angle).cos().abs()
    reach = 0.84 * (1.0 - depth * (1.0 - lobe)) * (1.0 + 0.4 * _teeth(angle.abs() / math.pi, edge, 17.0))
    # The blade is cut to the stalk at its foot.
    notch = (angle.abs() - 2.75).clamp_min(0.0) * 1.4
    fold = angle - (2 * math.pi / 5) * torch.round(angle * (5 / (2 * math.pi)))
    return r - reach + notch, r / 0.84, r * fold.sin()


def _paint_marks(rng: Rng, cv: Canvas, a: Attributes, leaf: Tensor, u: Tensor, v: Tensor, along: Tensor) -> None:
    """Paint what the disease does on a canvas that is all blade."""
    row = _DISEASE[a["disease"]]
    kind = row[:, 0]
    colours = row[:, 1:5].astype(np.int64)
    many = per_picture(a["amount"])
    stretch = per_picture(row[:, 7])
    cells = Cells(rng, u / stretch, v, row[:, 5], row[:, 5])
    room = per_picture(row[:, 5]) * (0.5 - per_picture(row[:, 6])).clamp_min(0.0)
    du, dv = cells.u - room * (cells.value("u") - 0.5), cells.v - room * (cells.value("v") - 0.5)
    radius = per_picture(row[:, 5] * row[:, 6])
    spot = torch.hypot(du, dv) - radius + 9.0 * (cells.value("there") > 0.6 + 0.4 * many)
    shown = (kind == _SPOTS)[:, None] & (colours > 0)
    for column, scale in enumerate((-0.5, 0.0, 0.34, 0.64)):
        soft = 3.0 if column == 0 else 1.0
        cv.paint(spot + scale * radius, _PALETTE[colours[:, column]], 0.8 * shown[:, column], softness=soft)
    fill, halo, core = _PALETTE[colours[:, 2]], _PALETTE[colours[:, 0]], _PALETTE[colours[:, 3]]
    cloud = 0.49 - noise(rng, "cloud", 7, cv.side) - 0.05 * many
    cv.paint(0.6 * cloud, fill, 0.9 * (kind == _CLOUDS), softness=3.0)
    cv.paint(0.6 * cloud + 0.1, core, 0.9 * ((kind == _CLOUDS) & (colours[:, 3] > 0)), softness=3.0)
    width = 0.10 + 0.04 * many
    cv.paint(-leaf - width + 0.08 * (noise(rng, "rim", 8, cv.side) - 0.5), fill, 0.92 * (kind == _RIM), softness=3.0)
    end = 0.5 - 0.1 * many - along + 0.3 * (noise(rng, "tip", 5, cv.side) - 0.5)
    cv.paint(end - 0.16, halo, 0.85 * (kind == _TIP), softness=2.0)
    cv.paint(end, fill, 0.92 * (kind == _TIP), softness=2.0)
    angle = torch.atan2(v, u + 0.08)
    tiger = 0.12 * ((angle * 5.0).cos() + 0.1) + 0.12 * (0.35 - torch.hypot(u, v)).clamp_min(0.0)
    cv.paint(tiger - 0.05, halo, 0.95 * (kind == _TIGER), softness=2.0)
    cv.paint(tiger + 0.04, fill, 0.95 * (kind == _TIGER), softness=2.0)
    checks = Cells(rng.fork("mosaic"), u + 0.1 * cloud, v, 0.15, 0.15).value("light")
    cv.paint(0.5 - checks, fill, 0.85 * (kind == _MOSAIC))
