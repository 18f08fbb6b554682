"""OCR-VQA: book covers with a printed title and author; the genre shows in the cover's colour and emblem.

Titles and authors come from closed lists of short words whose first letters differ; the genre is independent of both.
The field look is the book photographed at an angle: perspective, a table under it, a shadow and a band of glare.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from craft_lightning.types import Fact
from data_modules.twins.drawings.canvas import (
    Canvas,
    both,
    box,
    capsule,
    choose,
    disc,
    either,
    ellipse,
    per_picture,
    polygon,
    ring,
)
from data_modules.twins.drawings.font import Texts
from data_modules.twins.rng import Rng
from data_modules.twins.twin import Attributes, Qa, QuestionTwin

TILT = 1.0
"""Scales rotation, shear and perspective of the photograph (0: the book lies straight)."""
GLARE = 0.55
"""How far the middle of the glare band is washed out to white."""

_ONE_WORD = (
    "angel bridge castle dragon echo fire garden honey island jungle king lemon moon night ocean piano queen river "
    "storm tiger uncle valley winter zebra"
)
TITLES = (
    *_ONE_WORD.split(),
    *("red fox", "old town", "big sky", "ice age", "new home", "dark sea", "lost city", "gold mine"),
)
_SURNAMES = (
    "adams baker clark davis evans frost gomez hughes irving jones kelly lopez moore nolan owens parker quinn rossi "
    "smith turner vega wolf young zimmer"
)
AUTHORS = (*_SURNAMES.split(), "ann lee", "max roy", "leo kim", "eva day")
GENRES = ("romance", "cooking", "travel", "science fiction", "mystery", "sports", "comics", "history")
SPINES = ("white", "blue", "red")
STICKERS = ("left", "right")
KINDS = ("title", "author", "genre", "genre check")

_COVER_RGB = (
    (0.98, 0.72, 0.80),
    (0.97, 0.60, 0.20),
    (0.58, 0.84, 0.98),
    (0.05, 0.05, 0.09),
    (0.32, 0.12, 0.44),
    (0.10, 0.48, 0.20),
    (0.99, 0.88, 0.16),
    (0.46, 0.28, 0.14),
)
_TEXT_RGB = (
    (0.55, 0.02, 0.12),
    (0.22, 0.08, 0.02),
    (0.04, 0.10, 0.35),
    (0.96, 0.96, 1.00),
    (1.00, 0.90, 0.35),
    (1.00, 1.00, 1.00),
    (0.06, 0.06, 0.06),
    (1.00, 0.92, 0.72),
)
_SPINE_RGB = ((0.97, 0.97, 0.97), (0.10, 0.25, 0.85), (0.88, 0.08, 0.08))
_TABLE_RGB = ((0.62, 0.46, 0.30), (0.42, 0.42, 0.44), (0.78, 0.74, 0.66), (0.34, 0.24, 0.18))

# Titles of two words stand on two lines.
_TITLE_TEXTS = Texts.of([title.upper().replace(" ", "\n") for title in TITLES])
_AUTHOR_TEXTS = Texts.of([author.upper() for author in AUTHORS])

_Spot = NDArray[np.float32]


def _heart(cv: Canvas, x: _Spot, y: _Spot) -> None:
    for side in (-0.17, 0.17):
        cv.paint(disc(cv, x + side, y - 0.13, 0.22), (0.85, 0.05, 0.15))
    cv.paint(box(cv, x, y + 0.06, 0.225, 0.225, math.pi / 4), (0.85, 0.05, 0.15))


def _plate(cv: Canvas, x: _Spot, y: _Spot) -> None:
    cv.paint(disc(cv, x, y, 0.34), (0.98, 0.98, 0.96))
    cv.paint(disc(cv, x, y, 0.20), (0.30, 0.62, 0.18))
    for side, head in ((-0.45, 0.09), (0.45, 0.05)):
        cv.paint(capsule(cv, x + side, y - 0.28, x + side, y + 0.30, 0.035), (0.25, 0.25, 0.28))
        cv.paint(box(cv, x + side, y - 0.22, head, 0.12, round_=0.04), (0.25, 0.25, 0.28))


def _mountains(cv: Canvas, x: _Spot, y: _Spot) -> None:
    cv.paint(disc(cv, x + 0.36, y - 0.14, 0.19), (1.00, 0.85, 0.10))
    cv.paint(polygon(cv, x - 0.20, y + 0.12, 0.44, 3), (0.16, 0.50, 0.24))
    cv.paint(polygon(cv, x + 0.26, y + 0.20, 0.30, 3), (0.22, 0.62, 0.30))
    cv.paint(both(polygon(cv, x - 0.20, y + 0.12, 0.44, 3), cv.y - per_picture(y) + 0.16), (1.0, 1.0, 1.0))


def _planet(cv: Canvas, x: _Spot, y: _Spot) -> None:
    for dx, dy in ((-0.6, -0.22), (0.55, -0.28), (-0.5, 0.26), (0.62, 0.24)):
        cv.paint(polygon(cv, x + dx, y + dy, 0.07, 4), (1.0, 1.0, 1.0))
    cv.paint(disc(cv, x, y, 0.30), (0.20, 0.75, 0.85))
    cv.paint(ring(ellipse(cv, x, y, 0.50, 0.14, -0.35), 0.07), (0.98, 0.62, 0.20))


def _magnifier(cv: Canvas, x: _Spot, y: _Spot) -> None:
    cv.paint(capsule(cv, x + 0.12, y + 0.08, x + 0.38, y + 0.32, 0.07), (0.95, 0.75, 0.25))
    cv.paint(disc(cv, x - 0.08, y - 0.08, 0.30), (0.95, 0.75, 0.25))
    cv.paint(disc(cv, x - 0.08, y - 0.08, 0.20), (0.80, 0.90, 0.95))


def _ball(cv: Canvas, x: _Spot, y: _Spot) -> None:
    for dx in (-0.5, 0.5):
        cv.paint(box(cv, x + dx, y, 0.03, 0.36), (1.0, 1.0, 1.0))
    cv.paint(disc(cv, x, y, 0.36), (1.0, 1.0, 1.0))
    cv.paint(polygon(cv, x, y, 0.16, 5), (0.05, 0.05, 0.05))
    for k in range(5):
        dx, dy = 0.30 * math.sin(2 * math.pi * (k + 0.5) / 5), -0.30 * math.cos(2 * math.pi * (k + 0.5) / 5)
        cv.paint(disc(cv, x + dx, y + dy, 0.075), (0.05, 0.05, 0.05))


def _burst(cv: Canvas, x: _Spot, y: _Spot) -> None:
    for radius, colour in ((0.42, (0.92, 0.10, 0.10)), (0.26, (1.0, 1.0, 1.0)), (0.15, (0.15, 0.35, 0.92))):
        cv.paint(either(*(polygon(cv, x, y, radius, 3, k * math.pi / 6) for k in range(4))), colour)


def _temple(cv: Canvas, x: _Spot, y: _Spot) -> None:
    cream = (0.96, 0.88, 0.68)
    across, down = cv.x - per_picture(x), cv.y - per_picture(y)
    cv.paint(both((across.abs() * 0.5 - down - 0.34) * 0.89, down + 0.12), cream)
    cv.paint(box(cv, x, y - 0.08, 0.46, 0.05), cream)
    cv.paint(box(cv, x, y + 0.33, 0.50, 0.05), cream)
    for dx in (-0.36, -0.12, 0.12, 0.36):
        cv.paint(box(cv, x + dx, y + 0.12, 0.065, 0.20), cream)


_EMBLEMS: tuple[Callable[[Canvas, _Spot, _Spot], None], ...] = (
    _heart,
    _plate,
    _mountains,
    _planet,
    _magnifier,
    _ball,
    _burst,
    _temple,
)


class OcrVqaTwin(QuestionTwin):
    """Book covers: title and author to be read, genre to be recognised; open answers of one or two words."""

    name = "ocrvqa"
    title = "OCR-VQA"
    domain = "book cover"
    shift_name = "photographed at an angle"
    answer_vocabulary = (*TITLES, *AUTHORS, *GENRES, "yes", "no")

    def sample(self, rng: Rng, indices: NDArray[np.int64]) -> Attributes:
        """What the stored question asks for goes round with the index; everything else is independent of it."""
        kind, turn = indices % len(KINDS), indices // len(KINDS)
        right, about = turn % 2, turn // 2 % len(GENRES)
        other = (about + 1 + rng.integers("other", len(GENRES) - 1)) % len(GENRES)
        genre = np.where(kind == 2, turn, rng.integers("genre", len(GENRES))) % len(GENRES)
        # A check asks about each genre in turn and is right every second time, so its wording tells nothing.
        right = np.where(kind == 3, right, rng.integers("right", 2))
        genre = np.where(kind == 3, np.where(right == 1, about, other), genre)
        wrong = (genre + 1 + rng.integers("wrong", len(GENRES) - 1)) % len(GENRES)
        return {
            "kind": kind,
            "title": np.where(kind == 0, turn, rng.integers("title", len(TITLES))) % len(TITLES),
            "author": np.where(kind == 1, turn, rng.integers("author", len(AUTHORS))) % len(AUTHORS),
            "genre": genre,
            "checked": np.where(right == 1, genre, np.where(kind == 3, about, wrong)),
            "spine": rng.integers("spine", len(SPINES)),
            "sticker": rng.integers("sticker", len(STICKERS)),
        }

    def paint(self, rng: Rng, attributes: Attributes, side: int) -> Canvas:
        """The cover fills the picture: title above, emblem in the middle, author below, spine at the left edge."""
        genre = attributes["genre"]
        cover = choose(_COVER_RGB, genre) * rng.uniform("tone", 1, low=0.92, high=1.04)
        cover = cover + rng.uniform("hue", 3, low=-0.03, high=0.03)
        cv = Canvas(len(rng), side, cover.clip(0.0, 1.0))
        x = rng.uniform("x", low=0.02, high=0.12)
        y = rng.uniform("y", low=0.06, high=0.12)
        for g, emblem in enumerate(_EMBLEMS):
            mine = np.flatnonzero(genre == g)
            if len(mine):
                part = Canvas(len(mine), side, cover[mine].clip(0.0, 1.0))
                emblem(part, x[mine], y[mine])
                cv.rgb[torch.from_numpy(mine)] = part.rgb
        cv.subject.fill_(1.0)
        lean = np.where(attributes["sticker"] == 1, 0.82, -0.64) + rng.uniform("stick", low=-0.03, high=0.03)
        cv.paint(disc(cv, lean, 0.36, 0.15), (0.10, 0.10, 0.10))
        cv.paint(disc(cv, lean, 0.36, 0.11), (0.98, 0.98, 0.40))
        cv.paint(box(cv, -0.94, 0.0, 0.08, 1.2), choose(_SPINE_RGB, attributes["spine"]))
        size = rng.uniform("size", low=0.94, high=1.0)
        ink = choose(_TEXT_RGB, genre)[:, :, None, None]
        move = rng.uniform("move", 2, 2, low=-0.025, high=0.025)
        title = _TITLE_TEXTS.coverage(
            cv, attributes["title"], 0.07 + move[:, 0, 0], -0.62 + move[:, 0, 1], 0.86 * size, 0.31 * size
        )
        author = _AUTHOR_TEXTS.coverage(
            cv, attributes["author"], 0.07 + move[:, 1, 0], 0.75 + move[:, 1, 1], 0.84 * size, 0.18 * size
        )
        alpha = torch.maximum(title, author).unsqueeze(1)
        cv.rgb = cv.rgb + alpha * (torch.from_numpy(ink) - cv.rgb)
        return cv

    def shift(self, rng: Rng, canvas: Canvas) -> Tensor:
        """Look down at the book on a table: each picture has its own perspective, light, shadow and glare."""
        side = canvas.side
        u, v = _perspective(rng, canvas)
        photo = F.grid_sample(canvas.rgb, torch.stack([u, v], dim=-1), padding_mode="border", align_corners=False)
        pixels = 0.4 * side
        cover = ((1.0 - torch.maximum(u.abs(), v.abs())) * pixels + 0.5).clamp(0.0, 1.0)
        grainy = torch.from_numpy(rng.uniform("wood", 1, 18, 4, low=-0.12, high=0.12))
        table = torch.from_numpy(choose(_TABLE_RGB, rng.integers("table", len(_TABLE_RGB))))[:, :, None, None]
        table = table + F.interpolate(grainy, size=(side, side), mode="bilinear", align_corners=False)
        fall = per_picture(rng.uniform("fall", low=-0.16, high=0.16))
        away = torch.maximum((u - fall).abs(), (v - 0.13).abs())
        table = table * (1.0 - 0.6 * ((1.12 - away) * 5.0).clamp(0.0, 1.0)).unsqueeze(1)
        angle = per_picture(rng.uniform("glare angle", low=0.4, high=1.2))
        lean = per_picture(np.where(rng.integers("glare side", 2) == 1, 1.0, -1.0))
        across = canvas.x * angle.cos() * lean + canvas.y * angle.sin()
        middle = per_picture(rng.uniform("glare middle", low=-0.5, high=0.5))
        band = (-(((across - middle) / per_picture(rng.uniform("glare width", low=0.16, high=0.28))) ** 2)).exp()
        photo = photo + (GLARE * band).unsqueeze(1) * (1.0 - photo)
        picture = torch.lerp(table, photo, cover.unsqueeze(1).expand_as(photo))
        light = per_picture(rng.uniform("light", low=0.72, high=1.0)) + canvas.x * per_picture(
            rng.uniform("slope", low=-0.18, high=0.18)
        )
        return (picture * light.unsqueeze(1)).clamp(0.0, 1.0)

    def facts(self, attributes: Attributes, i: int) -> tuple[Fact, ...]:
        """Title, author and genre, colour of the spine and side of the round sticker."""
        found = {
            "title": f"title {TITLES[attributes['title'][i]]}",
            "author": f"author {AUTHORS[attributes['author'][i]]}",
            "genre": f"{GENRES[attributes['genre'][i]]} book",
            "spine": f"{SPINES[attributes['spine'][i]]} spine",
            "sticker": f"sticker on the {STICKERS[attributes['sticker'][i]]}",
        }
        return tuple(Fact(name, phrase, varies=True) for name, phrase in found.items())

    def questions(self, attributes: Attributes, i: int) -> tuple[Qa, ...]:
        """All four questions, the stored one first."""
        title, author = TITLES[attributes["title"][i]], AUTHORS[attributes["author"][i]]
        genre, checked = GENRES[attributes["genre"][i]], GENRES[attributes["checked"][i]]
        yes = genre == checked
        verdict = f"Yes, this is a {genre} book." if yes else f"No, this is a {genre} book, not a {checked} book."
        asked = [
            Qa("title", "What is the title of this book?", title, (), f"The title of this book is {title}."),
            Qa("author", "Who wrote this book?", author, (), f"This book was written by {author}."),
            Qa("genre", "What type of book is this?", genre, (), f"This is a {genre} book."),
            Qa("genre check", f"Is this a {checked} book?", "yes" if yes else "no", (), verdict),
        ]
        first = int(attributes["kind"][i])
        return (asked[first], *asked[:first], *asked[first + 1 :])


def _perspective(rng: Rng, canvas: Canvas) -> tuple[Tensor, Tensor]:
    """Where on the cover each pixel of the photograph looks, ``[B, S, S]`` twice; the cover is [-1, 1] squared."""
    turn = per_picture(rng.uniform("turn", low=-0.20, high=0.20)) * TILT
    shear = per_picture(rng.uniform("shear", low=-0.16, high=0.16)) * TILT
    depth_x = per_picture(rng.uniform("depth x", low=-0.14, high=0.14)) * TILT
    depth_y = per_picture(rng.uniform("depth y", low=-0.18, high=0.18)) * TILT
    # The way back from the four corners of the cover to the photograph, in closed form, so that all of it is seen.
    corner_u, corner_v = torch.tensor([-1.0, 1.0, 1.0, -1.0]), torch.tensor([-1.0, -1.0, 1.0, 1.0])
    level = corner_u - shear * corner_v
    nearness = 1.0 / (1.0 - depth_x * level - depth_y * corner_v)
    x = (level * turn.cos() - corner_v * turn.sin()) * nearness
    y = (level * turn.sin() + corner_v * turn.cos()) * nearness
    half_x, half_y = ((c.amax(2, keepdim=True) - c.amin(2, keepdim=True)) / 2.0 for c in (x, y))
    scale = per_picture(rng.uniform("scale", low=0.92, high=1.0)) * 0.98 / torch.maximum(half_x, half_y)
    move_x, move_y = (per_picture(rng.uniform(f"move {axis}", low=-1.0, high=1.0)) for axis in "xy")
    x = (canvas.x - move_x * (1.0 - scale * half_x)) / scale + x.amin(2, keepdim=True) + half_x
    y = (canvas.y - move_y * (1.0 - scale * half_y)) / scale + y.amin(2, keepdim=True) + half_y
    u, v = x * turn.cos() + y * turn.sin(), y * turn.cos() - x * turn.sin()
    w = 1.0 + depth_x * u + depth_y * v
    return (u + shear * v) / w, v / w
