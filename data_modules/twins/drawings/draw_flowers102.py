"""Flowers-102 in a pocket garden: 26 flowers (every fourth of the real list) told apart by form, petals and colours.

Field look: night, that is little light, a coloured torch spot, grain, and a sensor that loses colour in the dark.
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
from data_modules.twins.drawings.canvas import Canvas, both, capsule, choose, disc, ellipse, grain, per_picture, rotate
from data_modules.twins.drawings.cells import Cells
from data_modules.twins.rng import Rng
from data_modules.twins.twin import Attributes, ClassificationTwin

NIGHT = (0.3, 0.55)
"""Range of the light that is left outside the torch spot."""
TORCH_WIDTH = 0.6
"""Radius of the torch spot, in half sides of the picture."""
GRAIN = 0.035
"""Standard deviation of the sensor noise at night."""

_COLOURS = (
    ("white", (0.97, 0.96, 0.93)), ("yellow", (0.98, 0.84, 0.12)), ("orange", (0.97, 0.54, 0.08)),
    ("red", (0.84, 0.10, 0.12)), ("pink", (0.97, 0.52, 0.70)), ("purple", (0.62, 0.24, 0.70)),
    ("blue", (0.28, 0.36, 0.88)), ("green", (0.45, 0.66, 0.24)), ("brown", (0.40, 0.22, 0.10)),
    ("dark", (0.13, 0.09, 0.16)),
)  # fmt: skip
_WHITE, _YELLOW, _ORANGE, _RED, _PINK, _PURPLE, _BLUE, _GREEN, _BROWN, _DARK = range(len(_COLOURS))
_FORMS = ("open bloom", "tall spike", "round scaly head", "hanging trumpets")
_OPEN, _SPIKE, _HEAD, _TRUMPET = range(4)
_SHAPES = (
    "round petals",
    "pointed petals",
    "notched petals",
    "narrow petals",
    "petal tubes",
    "small buds",
    "hooded buds",
    "leafy scales",
)
_ROUND, _POINTED, _NOTCHED, _NARROW, _TUBES, _BUDS, _HOODS, _SCALES = range(8)
_MARKS = (
    "plain petals", "coloured tips", "petal stripes", "coloured rims", "second petal row", "thread ring",
    "fine green threads", "long stamens", "petal blotches",
)  # fmt: skip
_PLAIN, _TIPS, _STRIPES, _RIMS, _DOUBLE, _CORONA, _MIST, _STAMENS, _BLOTCH = range(9)

_COLUMNS = ("form", "petals", "shape", "colour", "mark", "second", "centre", "centre_size")
# form, number of petals, petal shape, petal colour, mark, colour of the mark, colour of the centre, size of the centre
_TABLE = {
    "pink primrose": (_OPEN, 4, _ROUND, _PINK, _PLAIN, _PINK, _YELLOW, 1),
    "english marigold": (_OPEN, 16, _NARROW, _ORANGE, _DOUBLE, _ORANGE, _BROWN, 1),
    "monkshood": (_SPIKE, 6, _HOODS, _PURPLE, _PLAIN, _PURPLE, _PURPLE, 0),
    "king protea": (_OPEN, 12, _POINTED, _PINK, _DOUBLE, _PINK, _WHITE, 3),
    "purple coneflower": (_OPEN, 12, _NARROW, _PURPLE, _PLAIN, _PURPLE, _ORANGE, 3),
    "fire lily": (_OPEN, 6, _POINTED, _RED, _RIMS, _YELLOW, _YELLOW, 0),
    "grape hyacinth": (_SPIKE, 9, _BUDS, _BLUE, _PLAIN, _BLUE, _BLUE, 0),
    "artichoke": (_HEAD, 8, _SCALES, _GREEN, _TIPS, _PURPLE, _PURPLE, 2),
    "love in the mist": (_OPEN, 8, _POINTED, _BLUE, _MIST, _GREEN, _GREEN, 1),
    "cape flower": (_OPEN, 6, _NARROW, _PINK, _STAMENS, _PINK, _PINK, 0),
    "barbeton daisy": (_OPEN, 16, _NARROW, _RED, _PLAIN, _RED, _DARK, 2),
    "bolero deep blue": (_OPEN, 5, _ROUND, _BLUE, _DOUBLE, _BLUE, _BLUE, 0),
    "oxeye daisy": (_OPEN, 16, _NARROW, _WHITE, _PLAIN, _WHITE, _YELLOW, 2),
    "primula": (_OPEN, 5, _NOTCHED, _RED, _PLAIN, _RED, _YELLOW, 2),
    "gaura": (_OPEN, 4, _ROUND, _WHITE, _STAMENS, _PINK, _PINK, 0),
    "cautleya spicata": (_SPIKE, 6, _BUDS, _YELLOW, _BLOTCH, _RED, _RED, 0),
    "californian poppy": (_OPEN, 4, _ROUND, _ORANGE, _PLAIN, _ORANGE, _ORANGE, 1),
    "windflower": (_OPEN, 8, _ROUND, _PURPLE, _PLAIN, _PURPLE, _DARK, 2),
    "water lily": (_OPEN, 12, _POINTED, _WHITE, _DOUBLE, _PINK, _YELLOW, 1),
    "passion flower": (_OPEN, 10, _ROUND, _WHITE, _CORONA, _PURPLE, _GREEN, 1),
    "frangipani": (_OPEN, 5, _ROUND, _WHITE, _PLAIN, _WHITE, _YELLOW, 3),
    "desert-rose": (_OPEN, 5, _POINTED, _WHITE, _RIMS, _PINK, _RED, 1),
    "watercress": (_OPEN, 5, _ROUND, _YELLOW, _BLOTCH, _RED, _YELLOW, 0),
    "air plant": (_OPEN, 12, _POINTED, _GREEN, _TIPS, _RED, _PURPLE, 1),
    "mallow": (_OPEN, 5, _NOTCHED, _PINK, _STRIPES, _PURPLE, _WHITE, 1),
    "trumpet creeper": (_TRUMPET, 4, _TUBES, _ORANGE, _TIPS, _RED, _RED, 0),
}
_NAMES = labels.LABELS["flowers102"][::4]
_ROWS = np.array([_TABLE[name] for name in _NAMES], dtype=np.int64)
_RGB = np.array([rgb for _, rgb in _COLOURS], dtype=np.float32)
_COUNTS = {
    4: "four petals",
    5: "five petals",
    6: "six petals",
    8: "eight petals",
    10: "ten petals",
    12: "twelve petals",
}
_BACKDROPS = (
    ("brown backdrop", (0.60, 0.49, 0.38)),
    ("green backdrop", (0.16, 0.36, 0.17)),
    ("sky backdrop", (0.50, 0.74, 0.90)),
)
_LEAVES = ("leaf at left", "leaf at right", "leaves both sides")
_BLOOMS = ("small bloom", "large bloom")


class FlowersTwin(ClassificationTwin):
    """Blooms with petals around a centre, spikes, scaly heads and hanging trumpets, with a stem and leaves."""

    name: ClassVar[str] = "flowers102"
    title: ClassVar[str] = "Flowers-102"
    domain: ClassVar[str] = "flower"
    shift_name: ClassVar[str] = "night"
    query: ClassVar[str] = "Which of these flowers is shown in the image?"
    class_names: ClassVar[tuple[str, ...]] = _NAMES
    all_class_names: ClassVar[tuple[str, ...]] = labels.LABELS["flowers102"]

    def class_attributes(self) -> NDArray[np.float64]:
        """``[26, 35]`` one-hot form, shape and mark; petal count on a log scale; colours as RGB; size of the centre."""
        hot = [w * (_ROWS[:, c : c + 1] == np.arange(n)) for c, n, w in ((0, 4, 1.0), (2, 8, 0.5), (4, 9, 0.5))]
        rgb = [w * _RGB[_ROWS[:, c]] for c, w in ((3, 1.2), (5, 0.4), (6, 0.5))]
        numbers = np.stack([np.log(_ROWS[:, 1]), 0.2 * _ROWS[:, 7]], axis=1)
        return np.concatenate([*hot, *rgb, numbers], axis=1).astype(np.float64)

    def sample(self, rng: Rng, indices: NDArray[np.int64]) -> Attributes:
        label = indices % len(_ROWS)
        return {
            "label": label,
            **{column: _ROWS[label, c] for c, column in enumerate(_COLUMNS)},
            "backdrop": rng.integers("backdrop", len(_BACKDROPS)),
            "leaf": rng.integers("leaf", len(_LEAVES)),
            "bloom": rng.integers("bloom", len(_BLOOMS)),
        }

    def paint(self, rng: Rng, attributes: Attributes, side: int) -> Canvas:
        """Backdrop, stem and leaves, then the bloom of the species' form, colour and petals."""
        a = attributes
        n = len(rng)
        cv = Canvas(
            n, side, choose([rgb for _, rgb in _BACKDROPS], a["backdrop"]) + 0.05 * (rng.uniform("tone", 3) - 0.5)
        )
        cx, cy = rng.uniform("cx", low=-0.1, high=0.1), rng.uniform("cy", low=-0.24, high=-0.12)
        foot = rng.uniform("foot", low=-0.08, high=0.08)
        cv.paint(capsule(cv, cx, cy, foot, 1.2, 0.045), (0.25, 0.50, 0.20))
        for k, sign in enumerate((-1.0, 1.0)):
            leaf = ellipse(cv, foot + sign * 0.42, 0.72, 0.40, 0.15, -sign * (0.5 + 0.3 * rng.uniform(f"leaf{k}")))
            cv.paint(leaf, (0.30, 0.62, 0.24), (a["leaf"] == k) | (a["leaf"] == 2))
        radius = choose([0.56, 0.74], a["bloom"]) * (0.96 + 0.08 * rng.uniform("radius"))
        tint = 0.08 * (rng.uniform("tint", 3) - 0.5)
        colour = np.clip(_RGB[a["colour"]] + tint, 0, 1)
        second = np.clip(_RGB[a["second"]] + tint, 0, 1)
        parts = ((_OPEN, _paint_open), (_SPIKE, _paint_spike), (_HEAD, _paint_head), (_TRUMPET, _paint_trumpets))
        for form, painter in parts:
            # A form is painted only where it occurs: the rows are split off, painted and put back.
            rows = np.flatnonzero(a["form"] == form)
            if len(rows):
                part = Canvas(len(rows), side)
                part.rgb, part.subject = cv.rgb[rows], cv.subject[rows]
                row_attributes = {k: v[rows] for k, v in a.items()}
                frame = (cx[rows], cy[rows], radius[rows])
                painter(Rng(rng.fork("form").keys[rows]), part, row_attributes, frame, colour[rows], second[rows])
                cv.rgb[rows], cv.subject[rows] = part.rgb, part.subject
        return cv

    def shift(self, rng: Rng, canvas: Canvas) -> Tensor:
        """Night: moonlight, and a coloured torch spot somewhere, with the sensor's grain."""
        n, side = len(rng), canvas.side
        low, high = NIGHT
        ambient = torch.from_numpy(rng.uniform("ambient", low=low, high=high)).view(n, 1, 1, 1)
        moon = torch.tensor([0.75, 0.85, 1.25]).view(1, 3, 1, 1)
        x, y = rng.uniform("x", low=-0.5, high=0.5), rng.uniform("y", low=-0.6, high=0.3)
        spot = torch.exp(
            -((torch.hypot(canvas.x - per_picture(x), canvas.y - per_picture(y)) / TORCH_WIDTH) ** 2)
        ).unsqueeze(1)
        bulb = torch.from_numpy(rng.uniform("bulb", 3, low=0.45, high=1.15)).view(n, 3, 1, 1)
        seen = canvas.rgb * (ambient * moon + spot * bulb)
        # Colour vanishes where little light arrives, as rods take over from cones; bright parts saturate.
        grey = seen.mean(1, keepdim=True)
        seen = torch.lerp(grey, seen, (grey * 1.6).clamp(0.0, 1.0))
        seen = 1.0 - torch.exp(-1.25 * seen)
        return seen + GRAIN * grain(rng, "grain", side)

    def facts(self, attributes: Attributes, i: int) -> tuple[Fact, ...]:
        """Form, shape, colour, petals, marks and centre say the species; backdrop, leaves and bloom vary within it."""
        a = {k: int(v[i]) for k, v in attributes.items()}
        found = [Fact("form", _FORMS[a["form"]], False), Fact("shape", _SHAPES[a["shape"]], False)]
        found.append(Fact("colour", f"{_COLOURS[a['colour']][0]} flower", False))
        if a["form"] == _OPEN:
            found.append(Fact("count", _COUNTS.get(a["petals"], "many petals"), False))
            if a["mark"] != _PLAIN:
                found.append(Fact("mark", _MARKS[a["mark"]], False))
            if a["centre_size"]:
                found.append(Fact("centre", f"{_COLOURS[a['centre']][0]} centre", False))
        found.append(Fact("backdrop", _BACKDROPS[a["backdrop"]][0], True))
        found.append(Fact("leaf", _LEAVES[a["leaf"]], True))
        found.append(Fact("bloom", _BLOOMS[a["bloom"]], True))
        return tuple(found)


Frame = tuple[NDArray[np.float32], NDArray[np.float32], NDArray[np.float32]]
_WIDEST = np.array([0.62, 0.45, 0.70, 0.62, 0.5, 0.5, 0.5, 0.5], dtype=np.float32)
"""Where along a petal it is widest, for each petal shape."""


def _petals(
    cv: Canvas, a: Attributes, frame: Frame, turn: NDArray[np.float32], reach: float
) -> tuple[Tensor, Tensor, Tensor]:
    """One row of petals: distance, position along a petal (0 centre, 1 tip) and across it (-1 to 1)."""
    cx, cy, radius = frame
    u, v = rotate(cv.x, cv.y, cx, cy, turn)
    wedge = 2.0 * math.pi / per_picture(a["petals"])
    angle = torch.atan2(u, -v)
    angle = angle - wedge * torch.round(angle / wedge)
    r = torch.hypot(u, v)
    length = per_picture(radius) * reach
    along, across = r * angle.cos() / length, r * angle.sin() / length
    pointed, notched, narrow = (per_picture(a["shape"] == s) for s in (_POINTED, _NOTCHED, _NARROW))
    widest = per_picture(_WIDEST[a["shape"]])
    half = (wedge / 2).sin() * widest * (1.06 - 0.30 * pointed - 0.10 * narrow - 0.12 * notched)
    half = torch.minimum(half, 0.42 + 0.0 * half) * torch.where(
        per_picture(a["petals"]) <= 6, 1.0 - 0.55 * narrow, torch.ones(1)
    )
    # Half-width along the petal: a rounded top (power 2) or a point (power 1), and a narrow foot.
    top = ((1.0 - along) / (1.0 - widest)).clamp(0.0, 1.0)
    round_top = (1.0 - (1.0 - top) ** 2).clamp_min(0.0).sqrt()
    profile = torch.where(
        along > widest, torch.lerp(round_top, top, pointed), 0.35 + 0.65 * (along / widest).clamp(0, 1)
    )
    across_unit = across / half
    bite = notched * 0.26 * (1.0 - 1.5 * across_unit.abs()).clamp_min(0.0)
    distance = torch.maximum(across.abs() - half * profile, along - 1.0 + bite) * length
    return distance, along, across_unit


def _paint_open(rng: Rng, cv: Canvas, a: Attributes, frame: Frame, colour: NDArray, second: NDArray) -> None:
    """Petals around a centre, with the marks of the class."""
    cx, cy, radius = frame
    turn = rng.uniform("turn", high=0.6)
    mark = a["mark"]
    u, v = rotate(cv.x, cv.y, cx, cy, turn)
    ray = torch.atan2(u, -v)
    r = torch.hypot(u, v) / per_picture(radius)
    cv.paint(both(r - 1.15, 0.35 - (ray * 11).cos()), (0.42, 0.68, 0.30), mark == _MIST)
    rgb, rgb2 = torch.from_numpy(colour).view(-1, 3, 1, 1), torch.from_numpy(second).view(-1, 3, 1, 1)
    double = mark == _DOUBLE
    half_wedge = np.pi / a["petals"].astype(np.float32)
    back, along, across = _petals(cv, a, frame, turn + half_wedge, 1.0)
    cv.paint(back, 0.80 * rgb2, double)
    front, along, across = _petals(cv, a, frame, turn, 1.0)
    front = torch.where(per_picture(double) > 0, _petals(cv, a, frame, turn, 0.72)[0], front)
    where = [
        (_TIPS, along - 0.66),
        (_STRIPES, (across * 8.0).cos() - 0.55),
        (_RIMS, torch.maximum(along - 0.74, across.abs() - 0.55)),
        (_BLOTCH, 0.12 - (along - 0.42).abs()),
    ]
    share = torch.zeros(1)
    for kind, inside in where:
        share = share + (0.5 + inside * 9.0).clamp(0, 1) * per_picture(mark == kind)
    petal = torch.lerp(rgb, rgb2, share.unsqueeze(1)) * (1.0 - 0.26 * across.abs().clamp(0, 1.4) ** 3).unsqueeze(1)
    petal = petal * (0.72 + 0.28 * (along * 2.5).clamp(0, 1)).unsqueeze(1)
    cv.paint(front, petal)
    cv.paint(both(r - 0.66, -0.2 - (ray * 14).cos()), second, mark == _CORONA)
    third = torch.remainder(ray + 0.5, 2 * math.pi / 3) - math.pi / 3
    thread = torch.maximum((r * third.sin()).abs() - 0.035, r - 0.9)
    tip = torch.hypot(r * third.cos() - 0.9, r * third.sin()) - 0.1
    cv.paint(torch.where(third.cos() > 0, torch.minimum(thread, tip), torch.ones(1)), 0.5 * second, mark == _STAMENS)
    size = choose([0.001, 0.2, 0.34, 0.46], a["centre_size"])
    centre = torch.from_numpy(_RGB[a["centre"]]).view(-1, 3, 1, 1) * (
        1.05 - 0.35 * (r / per_picture(size)).clamp(0, 1) ** 2
    ).unsqueeze(1)
    cv.paint(disc(cv, cx, cy, size * radius), centre.clamp(0, 1), a["centre_size"] > 0)


def _paint_spike(rng: Rng, cv: Canvas, a: Attributes, frame: Frame, colour: NDArray, second: NDArray) -> None:
    """A tall cone of buds or hoods."""
    cx, cy, radius = frame
    top = cy - radius
    hoods, blotch = per_picture(a["shape"] == _HOODS), per_picture(a["mark"] == _BLOTCH)
    pitch = np.where(a["shape"] == _HOODS, 0.34, 0.21) * radius / 0.74
    cone = ellipse(cv, cx, cy + 0.12, 0.46 * radius, 1.05 * radius)
    row = torch.floor((cv.y - per_picture(top)) / per_picture(pitch)).remainder(2)
    cells = Cells(
        rng, cv.x - per_picture(cx) + 0.5 * (1.0 - row) * per_picture(pitch), cv.y - per_picture(top), pitch, pitch
    )
    bud = torch.hypot(cells.u, cells.v) - 0.5 * per_picture(pitch)
    bud = torch.where(
        hoods > 0, torch.maximum(bud - 0.06 * per_picture(radius), cells.v - 0.22 * per_picture(pitch)), bud
    )
    cv.paint(cone - 0.02, 0.45 * second + 0.02, 1.0)
    light = (0.72 - 2.2 * (cells.u + cells.v)).clamp(0.55, 1.0).unsqueeze(1)
    red = (blotch * (cells.v > 0.02)).unsqueeze(1)
    rgb = torch.lerp(
        torch.from_numpy(colour).view(-1, 3, 1, 1) * light, torch.from_numpy(second).view(-1, 3, 1, 1), red
    )
    cv.paint(both(cone, bud), rgb)


def _paint_head(rng: Rng, cv: Canvas, a: Attributes, frame: Frame, colour: NDArray, second: NDArray) -> None:
    """A round head of overlapping scales with a tuft on top."""
    cx, cy, radius = frame
    tuft = ellipse(cv, cx, cy - 0.62 * radius, 0.42 * radius, 0.44 * radius)
    cv.paint(tuft + 0.05 * torch.cos(cv.x * 40.0), second)
    head = ellipse(cv, cx, cy + 0.08, 0.78 * radius, 0.80 * radius)
    pitch = 0.34 * radius
    row = torch.floor((cv.y - per_picture(cy)) / per_picture(pitch))
    cells = Cells(
        rng, cv.x - per_picture(cx) + 0.5 * row.remainder(2) * per_picture(pitch), cv.y - per_picture(cy), pitch, pitch
    )
    light = (0.68 + 1.1 * cells.v / per_picture(pitch) - 0.9 * cells.u.abs() / per_picture(pitch)).clamp(0.3, 1.1)
    cv.paint(head, (torch.from_numpy(colour).view(-1, 3, 1, 1) * light.unsqueeze(1)).clamp(0, 1))


def _paint_trumpets(rng: Rng, cv: Canvas, a: Attributes, frame: Frame, colour: NDArray, second: NDArray) -> None:
    """Three tubes that hang from one point and open into a mouth."""
    cx, cy, radius = frame
    for k, lean in enumerate((-0.62, 0.62, 0.0)):
        angle = np.pi / 2 + lean + rng.uniform(f"lean{k}", low=-0.08, high=0.08)
        u, v = rotate(cv.x, cv.y, cx, cy - 0.85 * radius, angle)
        flare = 0.08 + 0.16 * (u / per_picture(1.5 * radius)).clamp(0, 1) ** 2
        tube = torch.maximum(v.abs() - flare, (u - per_picture(0.75 * radius)).abs() - per_picture(0.72 * radius))
        cv.paint(tube, colour * (1.0, 0.9, 0.94)[k])
        mouth = torch.hypot((u - per_picture(1.47 * radius)) / 0.5, v) - per_picture(0.34 * radius)
        cv.paint(mouth, second)
        cv.paint(mouth + 0.13, (0.98, 0.72, 0.25))
