"""The six school-science diagrams of the ScienceQA twin: each painter draws one kind from the twin's attributes."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from data_modules.twins.drawings.canvas import Canvas, Number, box, choose, per_picture, ring
from data_modules.twins.rng import Rng
from data_modules.twins.twin import Attributes

KINDS = ("magnets", "concentration", "food chain", "symmetry", "temperature", "state")
ORGANISMS = ("grass", "bug", "fish", "mouse", "snake", "owl")
ACCENT_RGB = ((0.85, 0.12, 0.12), (0.08, 0.55, 0.15), (0.10, 0.25, 0.85), (0.55, 0.15, 0.65))
DARK = (0.08, 0.08, 0.10)

# Strokes of the letters in a box from -1 to 1: (x0, y0, x1, y1).
LETTERS = {
    "N": ((-0.8, 1, -0.8, -1), (-0.8, -1, 0.8, 1), (0.8, 1, 0.8, -1)),
    "S": ((0.8, -1, -0.7, -1), (-0.7, -1, -0.7, -0.1), (-0.7, -0.1, 0.7, 0.1), (0.7, 0.1, 0.7, 1), (0.7, 1, -0.8, 1)),
    "A": ((-0.9, 1, 0, -1), (0, -1, 0.9, 1), (-0.5, 0.3, 0.5, 0.3)),
    "B": (
        (-0.7, -1, -0.7, 1),
        (-0.7, -1, 0.5, -0.7),
        (0.5, -0.7, 0.5, -0.3),
        (0.5, -0.3, -0.7, 0),
        (-0.7, 0, 0.7, 0.3),
        (0.7, 0.3, 0.7, 0.7),
        (0.7, 0.7, -0.7, 1),
    ),
}

Painter = Callable[[Canvas, Rng, Attributes], None]


def _letter(u: Tensor, v: Tensor, letter: str, size: float, width: float) -> Tensor:
    """Distance to a letter of half-height ``size`` in local coordinates."""
    nearest: Tensor | None = None
    for x0, y0, x1, y1 in LETTERS[letter]:
        ax, ay, bx, by = x0 * size * 0.7, y0 * size, (x1 - x0) * size * 0.7, (y1 - y0) * size
        px, py = u - ax, v - ay
        t = ((px * bx + py * by) / (bx * bx + by * by)).clamp(0.0, 1.0)
        squared = (px - t * bx).square() + (py - t * by).square()
        nearest = squared if nearest is None else torch.minimum(nearest, squared)
    assert nearest is not None
    return nearest.sqrt() - width


def _dots(cv: Canvas, px: NDArray[np.floating], py: NDArray[np.floating], radius: Number) -> Tensor:
    """Distance to the nearest of ``[B, n]`` points."""
    nearest = torch.full((len(px), cv.side, cv.side), 1e6)
    for k in range(px.shape[1]):
        dx, dy = (cv.x - per_picture(px[:, k])).square(), (cv.y - per_picture(py[:, k])).square()
        nearest = torch.minimum(nearest, dx + dy)
    return nearest.sqrt() - per_picture(radius)


def _sides(cv: Canvas, values: NDArray[np.floating]) -> Tensor:
    """``[B, 1, S]``: the first column of ``[B, 2]`` in the left half, the second in the right half."""
    return torch.where(cv.x < 0, per_picture(values[:, 0]), per_picture(values[:, 1]))


def _magnets(cv: Canvas, rng: Rng, a: Attributes) -> None:
    """Two bar magnets in a row; north is red with a white N, south pale with a dark S."""
    gap = choose((0.05, 0.15), a["gap"]) + rng.uniform("gap", low=-0.01, high=0.01)
    half, height = 0.185, rng.uniform("height", low=0.24, high=0.32)
    v = cv.y - per_picture(rng.uniform("y", low=-0.25, high=0.25))
    u = cv.x - cv.x.sign() * per_picture(gap + 2 * half)
    north = _sides(cv, (a["north_right"] * 2 - 1).astype(np.float32))
    body = torch.maximum(u.abs() - 2 * half, v.abs() - per_picture(height))
    cv.paint(body, (0.55, 0.75, 1.0))
    cv.paint(torch.maximum(body, -u * north), (0.78, 0.08, 0.10))
    cv.paint(ring(body, 0.05), DARK)
    cv.paint(_letter(u - north * half, v, "N", 0.14, 0.035), (1.0, 1.0, 1.0))
    cv.paint(_letter(u + north * half, v, "S", 0.14, 0.035), DARK)


def _concentration(cv: Canvas, rng: Rng, a: Attributes) -> None:
    """Two beakers of liquid, A and B, with coloured particles."""
    y = rng.uniform("y", low=-0.15, high=-0.10)
    px, py = [], []
    for side in range(2):
        cell = rng.permutation(f"cell{side}", 12)[:, :9]
        jitter = rng.uniform(f"jitter{side}", 2, 9, low=-0.025, high=0.025)
        shown = np.arange(9) < a["counts"][:, side : side + 1]
        px.append(np.where(shown, (side - 0.5) + (cell % 3 - 1) * 0.22 + jitter[:, 0], 10.0))
        py.append(y[:, None] + (cell // 3 - 1.5) * 0.215 + 0.06 + jitter[:, 1])
    u, v = cv.x - cv.x.sign() * 0.5, cv.y - per_picture(y)
    glass = torch.maximum(u.abs() - 0.40, v.abs() - 0.52)
    cv.paint(torch.maximum(glass, -0.40 - v), (0.82, 0.93, 0.96))
    cv.paint(torch.maximum(ring(glass, 0.06), -0.48 - v), DARK)
    cv.paint(_dots(cv, np.concatenate(px, 1), np.concatenate(py, 1), 0.09), choose(ACCENT_RGB, a["accent"]))
    for sign, letter in ((-1, "A"), (1, "B")):
        cv.paint(_letter(cv.x - sign * 0.5, cv.y - per_picture(y + 0.69), letter, 0.12, 0.035), DARK)


def _chain(cv: Canvas, rng: Rng, a: Attributes) -> None:
    """Three organisms in a row, arrows pointing right."""
    slot = torch.where(cv.x < -0.33, -1.0, torch.where(cv.x < 0.33, 0.0, 1.0))
    u = (cv.x - slot * 0.67) / 1.08
    v = (cv.y - per_picture(rng.uniform("y", low=-0.35, high=0.35))) / 1.08
    chain = [per_picture(a["chain"][:, k]) for k in range(3)]
    organism = torch.where(slot < 0, chain[0], torch.where(slot < 0.5, chain[1], chain[2]))
    for number, layers in enumerate(_organisms(u, v)):
        hidden = (organism != number).float() * 10.0
        for distance, colour in layers:
            cv.paint(distance + hidden, colour)
    w = cv.x.abs() - 0.335
    along = w * cv.x.sign()
    head = torch.maximum(v.abs() * 0.7 + along - 0.075, -along - 0.02)
    shaft = torch.maximum(v.abs() - 0.03, along.abs() - 0.075)
    cv.paint(torch.minimum(head, shaft), DARK)


def _organisms(u: Tensor, v: Tensor) -> tuple[tuple[tuple[Tensor, tuple[float, float, float]], ...], ...]:
    """Layers (distance, colour) of each organism, about 0.5 wide, in local coordinates, in the order of ORGANISMS."""

    def dot(x: float, y: float, rx: float, ry: float) -> Tensor:
        return (torch.hypot((u - x) / rx, (v - y) / ry) - 1.0) * min(rx, ry)

    width = 0.055 + (v - 0.25).clamp(-0.5, 0.0) * 0.09
    blades = torch.minimum(u.abs() - width, (u.abs() - (0.25 - v) * 0.35 - 0.03).abs() - width)
    ears = torch.minimum(dot(-0.15, -0.17, 0.10, 0.10), dot(0.15, -0.17, 0.10, 0.10))
    wave = torch.maximum((v - 0.13 * (u * 14.0).sin()).abs() - 0.075, u.abs() - 0.24)
    spots = torch.minimum(dot(-0.11, 0.02, 0.055, 0.055), dot(0.11, 0.02, 0.055, 0.055))
    eyes = torch.minimum(dot(-0.10, -0.10, 0.09, 0.09), dot(0.10, -0.10, 0.09, 0.09))
    pupils = torch.minimum(dot(-0.10, -0.10, 0.04, 0.04), dot(0.10, -0.10, 0.04, 0.04))
    tail = torch.maximum(v.abs() * 0.9 - (u - 0.06), u - 0.25)
    return (
        ((torch.maximum(blades, v.abs() - 0.26), (0.10, 0.60, 0.10)),),
        (
            (dot(0, -0.18, 0.12, 0.10), DARK),
            (dot(0, 0.04, 0.22, 0.22), (0.90, 0.15, 0.10)),
            (torch.maximum(u.abs() - 0.022, (v - 0.04).abs() - 0.2), DARK),
            (torch.minimum(spots, dot(0, 0.2, 0.2, 0.02)), DARK),
        ),
        (
            (torch.minimum(dot(-0.06, 0, 0.19, 0.14), tail), (0.15, 0.45, 0.90)),
            (dot(-0.15, -0.03, 0.04, 0.04), (1.0, 1.0, 1.0)),
        ),
        (
            (ears, (0.85, 0.50, 0.55)),
            (dot(0, 0.04, 0.19, 0.19), (0.60, 0.58, 0.58)),
            (torch.minimum(dot(-0.07, 0.0, 0.03, 0.03), dot(0.07, 0.0, 0.03, 0.03)), DARK),
            (dot(0, 0.13, 0.045, 0.035), (0.85, 0.30, 0.40)),
        ),
        ((wave, (0.80, 0.62, 0.05)), (dot(0.20, 0.02, 0.06, 0.09), (0.55, 0.40, 0.02))),
        (
            (dot(0, 0.02, 0.21, 0.26), (0.48, 0.28, 0.12)),
            (eyes, (1.0, 1.0, 0.95)),
            (pupils, DARK),
            (dot(0, 0.04, 0.035, 0.06), (0.98, 0.70, 0.10)),
        ),
    )


def _symmetry(cv: Canvas, rng: Rng, a: Attributes) -> None:
    """A shape on either side of a vertical dotted line."""
    size = per_picture(rng.uniform("size", low=0.26, high=0.32))
    v = cv.y - per_picture(rng.uniform("y", low=-0.2, high=0.2))
    u = cv.x.abs() - size - 0.14
    shape = _sides(cv, a["shapes"].astype(np.float32))
    circle = torch.hypot(u, v) - size
    square = torch.maximum(u.abs(), v.abs()) - size * 0.95
    triangle = torch.maximum(u.abs() * 0.894 - (v + size) * 0.447, v - size)
    cv.paint(
        torch.where(shape < 0.5, circle, torch.where(shape < 1.5, square, triangle)), choose(ACCENT_RGB, a["accent"])
    )
    dashes = ((cv.y * 4.0 - (cv.y * 4.0).floor()) - 0.5).abs() / 4.0 - 0.075
    cv.paint(torch.maximum(torch.maximum(cv.x.abs() - 0.035, dashes), v.abs() - 0.62), DARK)


def _temperature(cv: Canvas, rng: Rng, a: Attributes) -> None:
    """Two thermometers, A and B."""
    y = rng.uniform("y", low=-0.06, high=0.02)
    u, v = cv.x - cv.x.sign() * 0.45, cv.y - per_picture(y)
    level = choose((0.18, -0.52), a["levels"]) + rng.uniform("level", 2, low=-0.06, high=0.06)
    level[:, 1] = np.where(a["levels"][:, 0] == a["levels"][:, 1], level[:, 0], level[:, 1])
    tube = torch.maximum(u.abs() - 0.13, (v + 0.14).abs() - 0.52)
    bulb = torch.hypot(u, v - 0.40) - 0.22
    cv.paint(torch.minimum(tube, bulb), DARK)
    cv.paint(torch.minimum(tube, bulb) + 0.045, (1.0, 1.0, 1.0))
    column = torch.maximum(u.abs() - 0.075, _sides(cv, level) - v)
    colour = choose(ACCENT_RGB, a["accent"])
    cv.paint(torch.minimum(torch.maximum(column, v - 0.4), bulb + 0.06), colour)
    ticks = ((v * 6.0 - (v * 6.0).round()).abs() / 6.0) - 0.015
    cv.paint(torch.maximum(torch.maximum(ticks, (u - 0.22).abs() - 0.06), (v + 0.24).abs() - 0.36), DARK)
    for sign, letter in ((-1, "A"), (1, "B")):
        cv.paint(_letter(cv.x - sign * 0.45 + 0.32, v + 0.1, letter, 0.13, 0.035), DARK)


def _state(cv: Canvas, rng: Rng, a: Attributes) -> None:
    """Particles in a box: a lattice, a jumble on the floor, or a few far apart."""
    y = rng.uniform("y", low=-0.06, high=0.06)
    jitter = rng.uniform("jitter", 2, 16, low=-1.0, high=1.0)
    k = np.arange(16)
    gas = rng.permutation("gas", 16)
    spread = np.stack([(gas % 4 - 1.5) * 0.31, (gas // 4 - 1.5) * 0.31], 1)
    xs = np.stack([(k % 4 - 1.5) * 0.25, (k % 5 - 2) * 0.235 + 0.055 * (k // 5 % 2 * 2 - 1), k * 0.0])
    ys = np.stack([0.52 - (k // 4) * 0.25, 0.53 - (k // 5) * 0.22, k * 0.0])
    state = a["state"]
    px = (
        np.where((state == 2)[:, None], spread[:, 0], xs[state])
        + jitter[:, 0] * choose((0.0, 0.05, 0.05), state)[:, None]
    )
    py = (
        np.where((state == 2)[:, None], spread[:, 1], ys[state])
        + jitter[:, 1] * choose((0.0, 0.05, 0.05), state)[:, None]
    )
    px = np.where(k >= choose((16, 15, 5), state)[:, None], 10.0, px)
    frame = box(cv, 0.0, y, 0.68, 0.68)
    cv.paint(frame, (0.97, 0.97, 0.97))
    cv.paint(ring(frame, 0.06), DARK)
    dots = _dots(cv, px, y[:, None] + py, 0.115)
    cv.paint(dots, DARK)
    cv.paint(dots + 0.035, choose(ACCENT_RGB, a["accent"]))


PAINTERS: tuple[Painter, ...] = (_magnets, _concentration, _chain, _symmetry, _temperature, _state)
"""One for each of KINDS."""
