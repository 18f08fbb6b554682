"""Stanford Dogs drawn: 30 of the 120 breeds as portraits, told apart by ears, snout, coat colour, markings and hair.

The rows below follow the real breeds: the Boston bull has bat ears, a flat snout and a white blaze, the collie a long
snout in a mane, the Airedale a black crown and a beard, the Rhodesian ridgeback its ridge.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable
from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from craft_lightning.types import Fact
from data_modules.datasets.labels import LABELS, plain_words
from data_modules.twins.drawings.canvas import (
    Canvas,
    Colour,
    both,
    box,
    capsule,
    choose,
    disc,
    either,
    ellipse,
    noise,
    per_picture,
    polygon,
    ring,
    rotate,
)
from data_modules.twins.rng import Rng
from data_modules.twins.twin import Attributes, ClassificationTwin

# Strength of the field look: width of the fence's boards and wires, and how much the place itself (hedge, sun, blocks)
# takes over.
FENCE = 0.8
PLACE = 0.28

# Ears: ellipse (x, y, half-width, half-height, turn) and triangle (x, y, size, turn) of the right ear; size 0 is none.
EARS: dict[str, tuple[float, ...]] = {
    "pricked ears": (0.0, 0.0, 0.01, 0.01, 0.0, 0.31, -0.47, 0.33, 0.12),
    "bat ears": (0.43, -0.42, 0.19, 0.37, 0.55, 0.0, 0.0, 0.0, 0.0),
    "drooping ears": (0.46, -0.02, 0.15, 0.33, -0.25, 0.0, 0.0, 0.0, 0.0),
    "long hanging ears": (0.47, 0.20, 0.19, 0.52, -0.10, 0.0, 0.0, 0.0, 0.0),
    "folded ears": (0.0, 0.0, 0.01, 0.01, 0.0, 0.36, -0.27, 0.24, 2.6),
    "small side ears": (0.42, -0.30, 0.19, 0.09, -0.45, 0.0, 0.0, 0.0, 0.0),
}
# Snout: centre, half-width and half-height of the muzzle, height and half-width of the nose.
SNOUTS: dict[str, tuple[float, ...]] = {
    "long snout": (0.32, 0.14, 0.34, 0.50, 0.10),
    "short snout": (0.20, 0.18, 0.16, 0.14, 0.08),
    "flat snout": (0.16, 0.30, 0.18, 0.03, 0.13),
    "boxy snout": (0.25, 0.27, 0.25, 0.12, 0.13),
}
WIDTHS = {"narrow head": 0.33, "medium head": 0.41, "wide head": 0.49}
COATS = {
    "black": (0.13, 0.12, 0.13),
    "white": (0.97, 0.96, 0.93),
    "slate": (0.35, 0.42, 0.53),
    "grey": (0.66, 0.67, 0.69),
    "fawn": (0.86, 0.70, 0.47),
    "golden": (0.93, 0.66, 0.22),
    "rust": (0.66, 0.29, 0.12),
    "chocolate": (0.34, 0.19, 0.12),
    "pink": (0.71, 0.50, 0.49),
}
MARKINGS = (
    "one colour",
    "white blaze",
    "dark mask",
    "tan eyebrows",
    "dark crown",
    "dark spots",
    "dark ridge",
    "side patches",
    "three colours",
)
HAIRS = {"smooth hair": 0.0, "fluffy hair": 0.06, "shaggy hair": 0.11, "bearded chin": 0.03}
# One row a breed, in the order of ``LABELS["stanford_dogs"][::4]``: ears, snout, head, coat, second colour, marking and
# hair. The second colour is that of the marking.
BREEDS = (
    ("bat ears", "short snout", "narrow head", "fawn", "fawn", "one colour", "smooth hair"),  # Chihuahua
    ("drooping ears", "flat snout", "medium head", "white", "slate", "side patches", "shaggy hair"),  # Shih-Tzu
    ("drooping ears", "long snout", "medium head", "fawn", "chocolate", "dark ridge", "smooth hair"),  # ridgeback
    ("long hanging ears", "boxy snout", "medium head", "rust", "black", "dark crown", "smooth hair"),  # bloodhound
    ("drooping ears", "long snout", "narrow head", "white", "rust", "side patches", "smooth hair"),  # English foxhound
    ("small side ears", "long snout", "narrow head", "slate", "slate", "one colour", "smooth hair"),  # greyhound
    ("long hanging ears", "boxy snout", "wide head", "fawn", "fawn", "one colour", "shaggy hair"),  # otterhound
    ("small side ears", "boxy snout", "wide head", "rust", "rust", "white blaze", "smooth hair"),  # Staffordshire
    ("folded ears", "boxy snout", "medium head", "slate", "slate", "one colour", "bearded chin"),  # Kerry blue terrier
    ("pricked ears", "short snout", "narrow head", "golden", "slate", "dark crown", "shaggy hair"),  # Yorkshire terrier
    ("folded ears", "boxy snout", "narrow head", "golden", "black", "dark crown", "bearded chin"),  # Airedale
    ("bat ears", "flat snout", "wide head", "black", "black", "white blaze", "smooth hair"),  # Boston bull
    ("pricked ears", "boxy snout", "medium head", "black", "black", "one colour", "bearded chin"),  # Scotch terrier
    ("pricked ears", "short snout", "wide head", "white", "white", "one colour", "fluffy hair"),  # West Highland
    ("drooping ears", "boxy snout", "medium head", "golden", "golden", "one colour", "fluffy hair"),  # golden retriever
    ("drooping ears", "long snout", "narrow head", "rust", "rust", "one colour", "smooth hair"),  # vizsla
    ("drooping ears", "short snout", "medium head", "white", "golden", "side patches", "fluffy hair"),  # Brittany
    (
        "long hanging ears",
        "short snout",
        "medium head",
        "chocolate",
        "chocolate",
        "one colour",
        "fluffy hair",
    ),  # cocker
    ("pricked ears", "short snout", "medium head", "black", "black", "one colour", "fluffy hair"),  # schipperke
    ("pricked ears", "long snout", "narrow head", "chocolate", "chocolate", "tan eyebrows", "smooth hair"),  # kelpie
    ("folded ears", "long snout", "narrow head", "golden", "golden", "white blaze", "shaggy hair"),  # collie
    ("pricked ears", "long snout", "medium head", "fawn", "black", "dark mask", "smooth hair"),  # German shepherd
    ("drooping ears", "boxy snout", "wide head", "black", "black", "three colours", "fluffy hair"),  # Bernese
    ("drooping ears", "flat snout", "wide head", "fawn", "black", "dark mask", "smooth hair"),  # bull mastiff
    ("drooping ears", "boxy snout", "wide head", "rust", "rust", "white blaze", "fluffy hair"),  # Saint Bernard
    ("folded ears", "flat snout", "narrow head", "black", "black", "one colour", "shaggy hair"),  # affenpinscher
    ("drooping ears", "boxy snout", "wide head", "black", "black", "one colour", "fluffy hair"),  # Newfoundland
    ("pricked ears", "flat snout", "wide head", "rust", "rust", "one colour", "shaggy hair"),  # chow
    ("bat ears", "long snout", "medium head", "grey", "black", "dark spots", "smooth hair"),  # Cardigan
    ("bat ears", "long snout", "narrow head", "pink", "pink", "one colour", "smooth hair"),  # Mexican hairless
)
_TABLES: tuple[Iterable[str], ...] = (EARS, SNOUTS, WIDTHS, COATS, COATS, MARKINGS, HAIRS)
CLASS_TABLE = np.array([[list(t).index(v) for t, v in zip(_TABLES, row, strict=True)] for row in BREEDS])
TILTS = ("tilts left", "tilts right")
MOUTHS = ("mouth closed", "tongue out")
COLLARS = ("red collar", "blue collar")
_COLLAR_RGB = ((0.88, 0.10, 0.12), (0.10, 0.30, 0.88))
_TAN = (0.85, 0.55, 0.25)
_GREEN = np.array([-0.05, 0.08, -0.08], dtype=np.float32).reshape(3, 1, 1)
_WHITE = (0.97, 0.96, 0.93)


class DogsTwin(ClassificationTwin):
    """30 breeds; tilt of the head, mouth and collar vary within each. Field look: a low sun, behind a fence."""

    name: ClassVar[str] = "stanford_dogs"
    title: ClassVar[str] = "Stanford Dogs"
    domain: ClassVar[str] = "dog"
    shift_name: ClassVar[str] = "behind the fence"
    query: ClassVar[str] = "Which of these dog breeds is shown in the image?"
    class_names: ClassVar[tuple[str, ...]] = tuple(map(plain_words, LABELS["stanford_dogs"][::4]))
    all_class_names: ClassVar[tuple[str, ...]] = tuple(map(plain_words, LABELS["stanford_dogs"]))

    def class_attributes(self) -> NDArray[np.float64]:
        """See the base class: ears, snout, width of the head, both colours, marking and hair."""
        ears, snout, width, coat, second, marking, hair = CLASS_TABLE.T
        colours = np.array(list(COATS.values()))
        looks = (
            np.eye(len(EARS))[ears] * 0.7,
            np.eye(len(SNOUTS))[snout] * 0.5,
            np.array(list(WIDTHS.values()))[width, None] * 2.0,
            colours[coat] * 1.5,
            colours[second] * 0.7,
            np.eye(len(MARKINGS))[marking] * 0.5,
            np.array(list(HAIRS.values()))[hair, None] * 5.0,
        )
        return np.concatenate(looks, axis=1)

    def sample(self, rng: Rng, indices: NDArray[np.int64]) -> Attributes:
        """See the base class."""
        label = indices % len(CLASS_TABLE)
        names = ("ears", "snout", "head", "coat", "second", "marking", "hair")
        free = {k: rng.integers(k, 2) for k in ("tilt", "mouth", "collar")}
        return {"label": label, **dict(zip(names, CLASS_TABLE[label].T, strict=True)), **free}

    def facts(self, attributes: Attributes, i: int) -> tuple[Fact, ...]:
        """See the base class."""
        of_class = {
            "ears": list(EARS),
            "snout": list(SNOUTS),
            "coat": [f"{name} coat" for name in COATS],
            "marking": MARKINGS,
            "hair": list(HAIRS),
        }
        varying = {"tilt": TILTS, "mouth": MOUTHS, "collar": COLLARS}
        return tuple(Fact(k, words[attributes[k][i]], k in varying) for k, words in (of_class | varying).items())

    def paint(self, rng: Rng, attributes: Attributes, side: int) -> Canvas:
        """See the base class."""
        backdrop = np.array([0.78, 0.86, 0.80]) + rng.uniform("backdrop", 3, low=-0.07, high=0.07)
        cv = Canvas(len(rng), side, backdrop)
        coat = choose(list(COATS.values()), attributes["coat"]) * rng.uniform("tone", 1, low=0.93, high=1.05)
        second = choose(list(COATS.values()), attributes["second"])
        has = {name: (attributes["marking"] == k).astype(np.float32) for k, name in enumerate(MARKINGS)}
        portrait = _Portrait(cv, rng, attributes, coat, second, has)
        portrait.paint_body()
        portrait.paint_ears()
        portrait.paint_head()
        portrait.paint_muzzle()
        portrait.paint_eyes()
        return cv

    def shift(self, rng: Rng, canvas: Canvas) -> Tensor:
        """See the base class: a hedge behind, a low sun, grass and a fence in front, and coarse blocks."""
        n, side = len(rng), canvas.side
        out = Canvas(n, side)
        leaves = noise(rng, "leaves", 11, side).unsqueeze(1)
        hedge = torch.from_numpy(rng.uniform("hedge", 3, 1, 1, low=0.18, high=0.36) + _GREEN) * (0.45 + 0.9 * leaves)
        behind = PLACE * (1.0 - canvas.subject).unsqueeze(1)
        out.rgb = torch.lerp(canvas.rgb, hedge, behind.expand_as(hedge))
        # The sun stands on one side: that side is warm and bright, the other in shadow.
        sun = per_picture(rng.integers("sun", 2) * 2.0 - 1.0) * PLACE
        warm = torch.tensor([1.0, 0.85, 0.6]).view(1, 3, 1, 1)
        out.rgb = out.rgb * (0.92 + 0.40 * (sun * (canvas.x + 0.2 * canvas.y)).unsqueeze(1) * warm)
        blades = (torch.sin(25.0 * canvas.x + 6.0 * per_picture(rng.uniform("blades"))) + leaves.squeeze(1)) * 0.14
        grass = per_picture(rng.uniform("grass", low=0.7, high=0.9)) - canvas.y + blades
        out.paint(grass, (0.30, 0.48, 0.14))
        self._paint_fence(rng, out)
        # Strong compression: a share of each picture is what remains of it in coarse blocks.
        blocks = F.interpolate(F.adaptive_avg_pool2d(out.rgb, 16), size=(side, side), mode="nearest")
        return torch.lerp(out.rgb, blocks, 0.8 * PLACE)

    @staticmethod
    def _paint_fence(rng: Rng, out: Canvas) -> None:
        """Boards with gaps, or a net of wire, and a rail across."""
        wired = rng.integers("wired", 2).astype(np.float32)
        offset, period = rng.uniform("offset", 2), rng.uniform("period", low=0.42, high=0.58)
        wood = rng.uniform("wood", 1, low=0.3, high=0.8) * np.array([1.0, 0.82, 0.62], dtype=np.float32)

        def stripes(along: Tensor, phase: NDArray[np.float32], width: float) -> Tensor:
            p = per_picture(period)
            position = along / p + per_picture(phase)
            return (position - torch.round(position)).abs() * p - width * FENCE

        boards = stripes(out.x, offset[:, 0], 0.075)
        rail = (out.y - per_picture(rng.uniform("rail", low=0.2, high=0.6))).abs() - 0.05 * FENCE
        out.paint(either(boards, rail), wood, 1.0 - wired)
        net = either(stripes(out.x + out.y, offset[:, 0], 0.035), stripes(out.x - out.y, offset[:, 1], 0.035))
        out.paint(net, (0.62, 0.64, 0.66), wired)


class _Portrait:
    """A batch of heads in their own frame: upright, centred between the eyes, mirrored so that one ear makes two."""

    def __init__(
        self,
        cv: Canvas,
        rng: Rng,
        attributes: Attributes,
        coat: NDArray[np.float32],
        second: NDArray[np.float32],
        has: dict[str, NDArray[np.float32]],
    ) -> None:
        self.cv, self.rng, self.attributes, self.has = cv, rng, attributes, has
        self.coat, self.second = coat, second
        self.s = per_picture(rng.uniform("scale", low=0.92, high=1.08))
        self.cx = rng.uniform("cx", low=-0.08, high=0.08)
        cy = rng.uniform("cy", low=-0.14, high=0.0)
        angle = (attributes["tilt"] * 2.0 - 1.0) * rng.uniform("tilt", low=0.20, high=0.32)
        u, v = rotate(cv.x, cv.y, self.cx, cy, angle)
        # The drawing kit reads coordinates from the canvas: the face is the same canvas seen in the head's frame.
        self.face = copy.copy(cv)
        self.face.x, self.face.y = (u / self.s).abs(), v / self.s
        amplitude = per_picture(choose([[a] for a in HAIRS.values()], attributes["hair"])[:, 0])
        self.tufts = (noise(rng, "tufts", 20, cv.side) - 0.5) * amplitude * 2.0
        self.half_width = choose([[w] for w in WIDTHS.values()], attributes["head"])[:, 0]
        self.ears = choose(list(EARS.values()), attributes["ears"]).T
        self.snout = choose(list(SNOUTS.values()), attributes["snout"]).T
        self.dark = coat * 0.6 + (coat.mean(1, keepdims=True) < 0.2) * np.float32(0.16)

    def lay(self, distance: Tensor, colour: Colour, opacity: float | NDArray[np.float32] = 1.0) -> None:
        """Paint a shape given in the head's frame."""
        self.cv.paint(distance * self.s, colour, opacity)

    def paint_body(self) -> None:
        """Chest, neck, mane and collar."""
        cv, a = self.cv, self.attributes
        chest = ellipse(cv, self.cx, 1.05, 0.30 + 0.5 * self.half_width, 0.62)
        neck = capsule(cv, self.cx, 0.1, self.cx, 0.7, 0.22)
        cv.paint(either(chest, neck) + self.tufts, self.coat * 0.92)
        white = np.maximum(self.has["white blaze"], self.has["three colours"])
        cv.paint(ellipse(cv, self.cx, 1.0, 0.2, 0.5) + self.tufts, _WHITE, white)
        shaggy = (a["hair"] == list(HAIRS).index("shaggy hair")).astype(np.float32)
        self.lay(disc(self.face, 0.0, 0.10, 0.60) + self.tufts, self.coat * 0.85, shaggy)
        collar = both(ring(ellipse(cv, self.cx, 0.42, 0.34, 0.30), 0.13), 0.52 - cv.y)
        cv.paint(collar, choose(_COLLAR_RGB, a["collar"]))

    def paint_ears(self) -> None:
        """Two ears, in the second colour where the marking colours them."""
        ex, ey, rx, ry, turn, tx, ty, size, tilt = self.ears
        coloured = np.maximum(self.has["dark crown"], self.has["side patches"])[:, None]
        colour = self.coat * (1 - coloured) * 0.82 + self.second * coloured
        round_ear = (rx > 0.02).astype(np.float32)
        upright = np.maximum(ey < -0.35, ty < -0.4).astype(np.float32)
        self.lay(ellipse(self.face, ex, ey, rx, ry, turn) + 0.5 * self.tufts, colour, round_ear)
        self.lay(ellipse(self.face, ex, ey, rx * 0.5, ry * 0.65, turn), (0.92, 0.62, 0.60), round_ear * upright)
        self.lay(polygon(self.face, tx, ty, size, 3, tilt) + 0.4 * self.tufts, colour, 1 - round_ear)
        self.lay(polygon(self.face, tx, ty, size * 0.5, 3, tilt), (0.92, 0.62, 0.60), (1 - round_ear) * upright)

    def paint_head(self) -> None:
        """The skull with its markings."""
        face, has = self.face, self.has
        head = ellipse(face, 0.0, 0.0, self.half_width, 0.46) + self.tufts
        self.lay(head - 0.02, self.dark)
        self.lay(head, self.coat)
        crown = both(head, face.y + 0.12 - 0.5 * face.x)
        self.lay(crown, self.second, has["dark crown"])
        self.lay(both(head, 0.13 - face.x, face.y - 0.2), self.second, has["side patches"])
        spots = both(head, 0.56 - noise(self.rng, "spots", 9, self.cv.side))
        self.lay(spots, self.second, has["dark spots"])
        self.lay(both(head, face.x - 0.055, face.y + 0.06), self.second, has["dark ridge"])
        white = np.maximum(has["white blaze"], has["three colours"])
        self.lay(both(head, face.x - 0.09), _WHITE, white)
        self.lay(ellipse(face, 0.18, -0.05, 0.13, 0.13), self.second, has["dark mask"])
        brows = np.maximum(has["tan eyebrows"], has["three colours"])
        self.lay(disc(face, 0.17, -0.20, 0.07), _TAN, brows)

    def paint_muzzle(self) -> None:
        """Muzzle, nose, mouth and the beard of the terriers."""
        face, has = self.face, self.has
        cy, rx, ry, nose_y, nose_rx = self.snout
        plain = self.coat * 0.72 + 0.26
        colour = np.where(self.coat.mean(1, keepdims=True) > 0.9, self.coat * 0.88, plain)
        for rgb, flag in (
            (np.array(_WHITE), np.maximum(has["white blaze"], has["three colours"])),
            (np.array(_TAN), has["tan eyebrows"]),
            (np.array((0.13, 0.12, 0.13)), has["dark mask"]),
        ):
            colour = colour * (1 - flag[:, None]) + rgb * flag[:, None]
        bearded = (self.attributes["hair"] == list(HAIRS).index("bearded chin")).astype(np.float32)
        beard = box(face, 0.0, 0.48, 0.26, 0.22, 0.0, 0.05) + 4.0 * self.tufts
        self.lay(beard, self.coat * 0.85 + 0.12, bearded)
        tongue = ellipse(face, 0.0, cy + ry + 0.05, 0.11, 0.17)
        self.lay(tongue, (0.96, 0.36, 0.48), self.attributes["mouth"].astype(np.float32))
        boxy = (rx > 0.25).astype(np.float32) * (ry > 0.2)
        oval = ellipse(face, 0.0, cy, rx, ry)
        square = box(face, 0.0, cy, rx, ry, 0.0, 0.14)
        muzzle = torch.where(per_picture(boxy) > 0, square, oval)
        self.lay(muzzle - 0.025, self.dark)
        self.lay(muzzle, colour)
        masked = has["dark mask"][:, None]
        self.lay(ellipse(face, 0.0, nose_y, nose_rx, nose_rx * 0.75), np.array((0.05, 0.04, 0.05)) + 0.3 * masked)

    def paint_eyes(self) -> None:
        """Two eyes with bright rims, so that they show on dark coats."""
        self.lay(disc(self.face, 0.18, -0.07, 0.085), (0.96, 0.90, 0.74))
        self.lay(disc(self.face, 0.18, -0.07, 0.058), (0.06, 0.04, 0.04))
