"""IconQA: abstract diagrams with large plain shapes; two to five text choices.

Five kinds of scene (a group, two rows, two bars, shapes at places, a divided shape) carry eight kinds of question.
The field look is the same diagram drawn in chalk on a blackboard.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from craft_lightning.types import Fact
from data_modules.twins.drawings import iconqa_words as words
from data_modules.twins.drawings.canvas import (
    Canvas,
    Number,
    blur,
    both,
    box,
    choose,
    disc,
    either,
    noise,
    per_picture,
    ring,
)
from data_modules.twins.drawings.iconqa_words import (
    BARS,
    COLORS,
    FRACTIONS,
    GROUP,
    KIND_SCENE,
    KINDS,
    NUMBERS,
    PAPERS,
    PIE,
    PLACES,
    ROWS,
    SHAPES,
    SPREAD,
)
from data_modules.twins.rng import Rng
from data_modules.twins.twin import Attributes, Qa, QuestionTwin

DUST = 0.55
"""How much of the chalk is missing at the thinnest places (0: solid chalk)."""
SMUDGE = 0.30
"""Brightness of the wiped chalk left on the board."""

_COLOR_RGB = ((0.88, 0.12, 0.12), (0.98, 0.82, 0.08), (0.12, 0.62, 0.20), (0.12, 0.32, 0.88), (0.58, 0.16, 0.68))
_INK = (0.14, 0.14, 0.14)
_PAPER_RGB = ((0.98, 0.98, 0.98), (1.00, 0.94, 0.70), (0.76, 0.90, 1.00))
_PLACE_XY = ((-0.64, 0.0), (0.64, 0.0), (0.0, -0.64), (0.0, 0.64), (0.0, 0.0))
# Two arrangements of one to five shapes, like the pips of a die: x and y of each, and the radius that fits.
_DICE: tuple[tuple[tuple[tuple[float, float], ...], ...], ...] = (
    (
        ((0.0, 0.0),),
        ((-0.45, 0.0), (0.45, 0.0)),
        ((-0.48, 0.42), (0.48, 0.42), (0.0, -0.42)),
        ((-0.45, -0.45), (0.45, -0.45), (-0.45, 0.45), (0.45, 0.45)),
        ((-0.58, -0.58), (0.58, -0.58), (-0.58, 0.58), (0.58, 0.58), (0.0, 0.0)),
    ),
    (
        ((0.0, 0.0),),
        ((-0.42, -0.42), (0.42, 0.42)),
        ((-0.62, 0.0), (0.0, 0.0), (0.62, 0.0)),
        ((0.0, -0.6), (-0.6, 0.0), (0.6, 0.0), (0.0, 0.6)),
        ((-0.62, -0.4), (0.0, -0.4), (0.62, -0.4), (-0.32, 0.4), (0.32, 0.4)),
    ),
)
_DICE_RADIUS = np.array([[0.62, 0.36, 0.34, 0.33, 0.27], [0.62, 0.36, 0.29, 0.30, 0.27]], dtype=np.float32)
_SLOTS = 8


def _star(u: Tensor, v: Tensor) -> Tensor:
    wedge = 2.0 * math.pi / 5.0
    theta = torch.atan2(u, -v)
    theta = (theta - wedge * torch.round(theta / wedge)).abs()
    inner = (0.50 * math.cos(wedge / 2), 0.50 * math.sin(wedge / 2))
    length = math.hypot(inner[1], 1.1 - inner[0])
    rho = torch.hypot(u, v)
    return ((rho * theta.cos() - 1.1) * inner[1] + rho * theta.sin() * (1.1 - inner[0])) / length


def _heart(u: Tensor, v: Tensor) -> Tensor:
    side = u.abs()
    lobes = torch.hypot(side - 0.47, v + 0.32) - 0.52
    # The tip: a triangle with its corner at the bottom, tangent to the lobes.
    return either(lobes, torch.maximum((side * 0.76 + v * 0.65) - 0.669, (0.6 * side - v - 0.5) * 0.86))


def _bar(u: Tensor, v: Tensor, half_w: float, half_h: float) -> Tensor:
    return torch.maximum(u.abs() - half_w, v.abs() - half_h)


# Signed distances of shapes of about unit radius.
_DISTANCES: tuple[Callable[[Tensor, Tensor], Tensor], ...] = (
    lambda u, v: torch.hypot(u, v) - 0.95,
    lambda u, v: _bar(u, v, 0.85, 0.85),
    lambda u, v: torch.maximum(u.abs() * 0.87 - v * 0.5 - 0.5, v - 0.75),
    _star,
    _heart,
    lambda u, v: either(_bar(u, v, 0.36, 0.98), _bar(u, v, 0.98, 0.36)),
    lambda u, v: both(torch.hypot(u, v) - 1.0, 0.85 - torch.hypot(u - 0.55, v)),
    lambda u, v: u.abs() * 0.83 + v.abs() * 0.56 - 0.59,
)


class IconQaTwin(QuestionTwin):
    """Diagrams of plain shapes, with count, shape, color, comparison, position and fraction questions."""

    name = "iconqa"
    title = "IconQA"
    domain = "diagram"
    shift_name = "chalk on a blackboard"
    answer_vocabulary = (
        *NUMBERS,
        *SHAPES,
        *COLORS,
        *PLACES,
        *FRACTIONS,
        "yes",
        "no",
        *(f"{c} bar" for c in COLORS),
    )

    def sample(self, rng: Rng, indices: NDArray[np.int64]) -> Attributes:
        """The answer of the stored question goes round with the index; everything else is independent of it."""
        kind, turn = indices % len(KINDS), indices // len(KINDS)
        is_kind = {name: kind == k for k, name in enumerate(KINDS)}
        shape = rng.permutation("shape", len(SHAPES))[:, :3]
        color = rng.permutation("color", len(COLORS))[:, :3]
        place = rng.permutation("place", len(PLACES))[:, :3]
        # Turning a whole permutation puts the wanted value at the asked position and keeps all three different.
        shape = np.where(is_kind["shape"][:, None], shape + (turn - shape[:, 0])[:, None], shape)
        shape = np.where(is_kind["place"][:, None], shape + (turn - shape[:, 1])[:, None], shape) % len(SHAPES)
        asked_color = (is_kind["color"] | is_kind["longer"])[:, None]
        color = np.where(asked_color, color + (turn - color[:, 0])[:, None], color) % len(COLORS)
        place = np.where(is_kind["where"][:, None], place + (turn - place[:, 0])[:, None], place) % len(PLACES)
        pair = np.sort(rng.permutation("pair", 4)[:, :2], axis=1)
        more = np.where(is_kind["compare"], turn % 2, rng.integers("more", 2))
        single = np.where(is_kind["count"], turn, rng.integers("count", 5)) % 5
        in_rows = KIND_SCENE[kind] == ROWS
        first = np.where(in_rows, np.where(more == 1, pair[:, 1], pair[:, 0]), single)
        return {
            "kind": kind,
            "shape": shape,
            "color": color,
            "place": place,
            "count": np.stack([first, np.where(more == 1, pair[:, 0], pair[:, 1])], axis=1),
            "more": more,
            "fraction": np.where(is_kind["fraction"], turn, rng.integers("fraction", 3)) % 3,
            "layout": rng.integers("layout", 2),
            "upper": rng.integers("upper", 2),
            "paper": rng.integers("paper", len(PAPERS)),
            "shape_order": rng.permutation("shape_order", len(SHAPES)),
            "color_order": rng.permutation("color_order", len(COLORS)),
        }

    def paint(self, rng: Rng, attributes: Attributes, side: int) -> Canvas:
        """Shapes with a dark outline on tinted paper."""
        scene, batch = KIND_SCENE[attributes["kind"]], len(rng)
        paper = choose(_PAPER_RGB, attributes["paper"]) * rng.uniform("tone", 1, low=0.96, high=1.0)
        cv = Canvas(batch, side, paper)
        rgb = choose(_COLOR_RGB, attributes["color"]) + rng.uniform("hue", 3, 3, low=-0.05, high=0.05)
        slots = _slots(rng, attributes, scene)
        outline = (slots["radius"] * 0.16).clip(0.032, 0.05)
        for k in range(_SLOTS):
            chosen = np.flatnonzero(slots["active"][:, k])
            distance = _slot_distance(cv, chosen, {name: value[chosen, k] for name, value in slots.items()})
            _paint_icon(cv, chosen, distance, rgb[chosen, slots["member"][chosen, k]], outline[chosen, k])
        bars = np.flatnonzero(scene == BARS)
        length = rng.uniform("length", low=0.74, high=0.84)
        lengths = (length, length * rng.uniform("ratio", low=0.45, high=0.62))
        lean = 2.0 * attributes["layout"] - 1.0
        for j, half in enumerate(lengths):
            above = attributes["upper"] == (j == 0)
            cx, cy = lean * (0.86 - half), np.where(above, -0.4, 0.4) + rng.uniform("shake", low=-0.06, high=0.06)
            _paint_icon(cv, bars, box(cv, cx[bars], cy[bars], half[bars], 0.19), rgb[bars, j], 0.05)
        pies = np.flatnonzero(scene == PIE)
        _paint_pie(cv, rng, pies, {name: value[pies] for name, value in attributes.items()}, rgb[pies, 0])
        return cv

    def shift(self, rng: Rng, canvas: Canvas) -> Tensor:
        """Light chalk on a dark board: hues stay, brightness turns over, strokes are dusty, the board is smudged."""
        side = canvas.side
        peak = canvas.rgb.amax(1, keepdim=True).clamp_min(0.05)
        chalk = 1.0 - 0.72 * (1.0 - canvas.rgb / peak)
        board = torch.from_numpy(choose(((0.10, 0.22, 0.17), (0.12, 0.13, 0.15), (0.10, 0.16, 0.24)), _board(rng)))
        board = board[:, :, None, None] + 0.12 * (canvas.rgb - canvas.rgb.mean(1, keepdim=True))
        wiped = noise(rng, "wiped", 5, side) * noise(rng, "cloud", 2, side)
        board = board + SMUDGE * wiped.unsqueeze(1)
        angle = per_picture(rng.uniform("angle", low=0.5, high=1.1))
        pitch = per_picture(rng.uniform("pitch", low=22.0, high=30.0))
        along = canvas.x * angle.cos() + canvas.y * angle.sin()
        hatch = 0.5 + 0.5 * (along * pitch + 6.0 * noise(rng, "wobble", 3, side)).sin()
        dust = noise(rng, "dust", 24, side)
        edge = ((canvas.subject - blur(canvas.subject.unsqueeze(1), 0.05).squeeze(1)) * 3.0).clamp(0.0, 1.0)
        body = 1.0 - DUST * hatch - 0.35 * dust
        alpha = canvas.subject * torch.maximum(body, edge * (1.0 - 0.5 * dust)).clamp(0.0, 1.0)
        return torch.lerp(board, chalk, alpha.unsqueeze(1).expand_as(board))

    def facts(self, attributes: Attributes, i: int) -> tuple[Fact, ...]:
        """See :func:`.iconqa_words.facts`."""
        return words.facts({name: value[i].tolist() for name, value in attributes.items()})

    def questions(self, attributes: Attributes, i: int) -> tuple[Qa, ...]:
        """Three questions about the scene, the stored one first."""
        return words.questions({name: value[i].tolist() for name, value in attributes.items()})


def _board(rng: Rng) -> NDArray[np.int64]:
    return rng.integers("board", 3)


def _slots(rng: Rng, attributes: Attributes, scene: NDArray[np.int64]) -> dict[str, NDArray[Any]]:
    """Where each of up to eight icons stands: ``[B, 8]`` arrays; ``member`` picks the color of the icon."""
    batch, k = len(rng), np.arange(_SLOTS)
    dice = np.zeros((2, 5, _SLOTS, 2), dtype=np.float32)
    for variant, table in enumerate(_DICE):
        for n, points in enumerate(table):
            dice[variant, n, : n + 1] = points
    count, layout = attributes["count"], attributes["layout"]
    group, rows, spread = ((scene == s)[:, None] for s in (GROUP, ROWS, SPREAD))
    single = np.minimum(count[:, 0], 4)
    row = np.broadcast_to(k // 4, (batch, _SLOTS))
    third = np.minimum(k, 2)
    at_place = choose(_PLACE_XY, attributes["place"][:, third])
    lower = np.where(attributes["upper"][:, None] == 1, row, 1 - row)
    xy = np.where(group[:, :, None], dice[layout, single], at_place)
    xy = np.where(rows[:, :, None], np.stack([-0.71 + 0.475 * (k % 4) + 0.0 * lower, lower - 0.5], axis=2), xy)
    member = np.where(rows, row, np.where(spread, third, 0))
    radius = np.where(group, _DICE_RADIUS[layout, single][:, None], np.where(rows, 0.195, 0.29))
    move = rng.uniform("move", 1, 2, low=-0.05, high=0.05) + rng.uniform("shake", _SLOTS, 2, low=-0.02, high=0.02)
    pictures = np.arange(batch)[:, None]
    slots = {
        "active": (group & (k <= count[:, :1])) | (rows & (k % 4 <= count[pictures, row])) | (spread & (k < 3)),
        "cx": xy[:, :, 0] + move[:, :, 0],
        "cy": xy[:, :, 1] + move[:, :, 1],
        "radius": radius * rng.uniform("size", 1, low=0.9, high=1.0),
        "angle": np.where(rows, 0.0, rng.uniform("tilt", 1, low=-0.14, high=0.14)),
        "shape": attributes["shape"][pictures, member],
        "member": member,
    }
    return {name: np.broadcast_to(value, (batch, _SLOTS)) for name, value in slots.items()}


def _slot_distance(cv: Canvas, chosen: NDArray[np.int64], slot: dict[str, NDArray[Any]]) -> Tensor:
    """``[len(chosen), S, S]`` distance of one icon in each chosen picture, each with its own shape."""
    radius, cos, sin = (per_picture(v) for v in (slot["radius"], np.cos(slot["angle"]), np.sin(slot["angle"])))
    dx, dy = (cv.x - per_picture(slot["cx"])) / radius, (cv.y - per_picture(slot["cy"])) / radius
    u, v = dx * cos + dy * sin, dy * cos - dx * sin
    distance = torch.empty(len(chosen), cv.side, cv.side)
    for s, unit in enumerate(_DISTANCES):
        mine = torch.from_numpy(np.flatnonzero(slot["shape"] == s))
        if len(mine):
            distance[mine] = unit(u[mine], v[mine])
    return distance * radius


def _paint_icon(
    cv: Canvas, chosen: NDArray[np.int64], distance: Tensor, rgb: NDArray[np.floating], outline: Number
) -> None:
    """Lay icons with an ink outline over the chosen pictures only (most slots are empty in most pictures)."""
    if not len(chosen):
        return
    inside = cv.coverage(distance + per_picture(outline)).unsqueeze(1)
    ink, fill = torch.tensor(_INK).view(1, 3, 1, 1), torch.from_numpy(rgb).view(-1, 3, 1, 1)
    alpha = cv.coverage(distance)
    pick = torch.from_numpy(chosen)
    cv.rgb[pick] += alpha.unsqueeze(1) * (ink + (fill - ink) * inside - cv.rgb[pick])
    cv.subject[pick] = torch.maximum(cv.subject[pick], alpha)


def _paint_pie(cv: Canvas, rng: Rng, pies: NDArray[np.int64], a: Attributes, rgb: NDArray[np.floating]) -> None:
    """A circle or square cut in four, one to three quarters of it filled from any quarter on."""
    if not len(pies):
        return
    cx, cy = rng.uniform("pie", 2, low=-0.1, high=0.1)[pies].T
    radius = rng.uniform("pie size", low=0.62, high=0.78)[pies]
    whole = torch.where(
        per_picture(a["layout"]) == 0, disc(cv, cx, cy, radius), box(cv, cx, cy, radius * 0.92, radius * 0.92)
    )
    u, v = cv.x - per_picture(cx), cv.y - per_picture(cy)
    # Quarters are numbered clockwise from the top right.
    quarter = torch.where(u >= 0, torch.where(v < 0, 0.0, 1.0), torch.where(v >= 0, 2.0, 3.0))
    start = per_picture(rng.integers("start", 4)[pies])
    filled = torch.remainder(quarter - start, 4.0) <= per_picture(a["fraction"])
    colour = torch.where(filled.unsqueeze(1), torch.from_numpy(rgb).view(-1, 3, 1, 1), torch.full((3, 1, 1), 0.96))
    lines = either(ring(whole, 0.06), both(whole, torch.minimum(u.abs(), v.abs()) - 0.03))
    pick, alpha = torch.from_numpy(pies), cv.coverage(whole).unsqueeze(1)
    drawn = torch.lerp(cv.rgb[pick], colour, alpha.expand_as(colour))
    stroke = cv.coverage(lines).unsqueeze(1)
    cv.rgb[pick] = drawn + stroke * (torch.tensor(_INK).view(1, 3, 1, 1) - drawn)
    cv.subject[pick] = torch.maximum(cv.coverage(lines), alpha.squeeze(1) * filled)
