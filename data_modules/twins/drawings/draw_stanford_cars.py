"""Stanford Cars drawn: 28 of the 196 models in side view, told apart by body, paint, wheels and one extra.

Bodies are height profiles along the car, so that a convertible has no roof, a van is a box, a pickup has a bed and a
hatchback is short; glass follows the roof line. Every model keeps the body type that its real name states.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from craft_lightning.types import Fact
from data_modules.datasets.labels import LABELS
from data_modules.twins.drawings.canvas import Canvas, both, box, choose, either, ellipse, per_picture
from data_modules.twins.rng import Rng
from data_modules.twins.twin import Attributes, ClassificationTwin

# Strength of the field look: half-length of the motion blur in units of half the side, and opacity of rain and haze.
MOTION = 0.10
RAIN = 0.5

# Body: phrase, half-length, first and last window edge along the car, pillars between windows, and the roof line as
# (position, height) from the tail (-1) to the nose (1); heights count from the axles.
_Body = tuple[str, float, float, float, tuple[float, ...], tuple[tuple[float, float], ...]]
BODIES: dict[str, _Body] = {
    "sedan": (
        "sedan shape", 1.0, -0.60, 0.40, (-0.12,),
        ((-1, 0.20), (-0.97, 0.30), (-0.64, 0.33), (-0.38, 0.60), (0.08, 0.62), (0.42, 0.33), (0.92, 0.26), (1, 0.12)),
    ),
    "coupe": (
        "coupe shape", 0.98, -0.62, 0.36, (),
        ((-1, 0.18), (-0.97, 0.29), (-0.84, 0.32), (-0.22, 0.54), (0.00, 0.54), (0.40, 0.29), (0.92, 0.22), (1, 0.10)),
    ),
    "sports": (
        "low wedge shape", 0.98, -0.45, 0.50, (),
        ((-1, 0.22), (-0.92, 0.31), (-0.25, 0.45), (0.02, 0.46), (0.52, 0.22), (0.95, 0.10), (1, 0.04)),
    ),
    "convertible": (
        "open top", 0.98, 0.0, 0.0, (),
        ((-1, 0.20), (-0.96, 0.31), (-0.52, 0.33), (-0.46, 0.26), (0.24, 0.26), (0.30, 0.31), (0.92, 0.24), (1, 0.10)),
    ),
    "suv": (
        "suv shape", 0.95, -0.88, 0.44, (-0.50, -0.05),
        ((-1, 0.20), (-0.98, 0.40), (-0.90, 0.70), (-0.80, 0.74), (0.16, 0.74), (0.44, 0.42), (0.93, 0.37), (1, 0.12)),
    ),
    "square": (
        "square block shape", 0.95, -0.90, 0.36, (-0.52, -0.08),
        ((-1, 0.20), (-1, 0.84), (-0.96, 0.86), (0.24, 0.86), (0.32, 0.48), (0.98, 0.48), (1, 0.12)),
    ),
    "van": (
        "tall box body", 1.0, -0.90, 0.68, (-0.50, -0.10, 0.28),
        ((-1, 0.20), (-0.99, 0.84), (-0.95, 0.88), (0.42, 0.88), (0.70, 0.48), (0.97, 0.36), (1, 0.10)),
    ),
    "high": (
        "very high roof", 1.0, -0.90, 0.52, (-0.50, -0.10, 0.22),
        ((-1, 0.20), (-0.99, 1.05), (-0.94, 1.12), (0.10, 1.12), (0.30, 0.98), (0.56, 0.50), (0.97, 0.46), (1, 0.10)),
    ),
    "minivan": (
        "one long sloping nose", 0.98, -0.88, 0.66, (-0.46, 0.00),
        ((-1, 0.20), (-0.97, 0.44), (-0.86, 0.68), (-0.70, 0.74), (0.08, 0.74), (0.70, 0.36), (0.95, 0.24), (1, 0.10)),
    ),
    "wagon": (
        "long flat roof", 1.02, -0.92, 0.40, (-0.52, -0.10),
        ((-1, 0.20), (-0.98, 0.38), (-0.88, 0.57), (0.08, 0.59), (0.42, 0.33), (0.93, 0.26), (1, 0.10)),
    ),
    "hatchback": (
        "short hatch shape", 0.78, -0.84, 0.50, (-0.14,),
        ((-1, 0.24), (-0.97, 0.40), (-0.80, 0.70), (-0.66, 0.74), (0.10, 0.74), (0.52, 0.42), (0.94, 0.32), (1, 0.14)),
    ),
    "mini": (
        "tiny round body", 0.66, -0.70, 0.50, (),
        ((-1, 0.24), (-0.96, 0.52), (-0.70, 0.86), (-0.40, 0.98), (0.0, 0.98), (0.52, 0.52), (0.88, 0.40), (1, 0.16)),
    ),
    "crew": (
        "truck with long cab", 1.04, -0.26, 0.48, (0.06,),
        ((-1, 0.14), (-0.99, 0.38), (-0.30, 0.38), (-0.27, 0.76), (0.22, 0.78), (0.48, 0.44), (0.95, 0.41), (1, 0.12)),
    ),
    "regular": (
        "truck with short cab", 1.0, 0.06, 0.50, (),
        ((-1, 0.14), (-0.99, 0.38), (0.02, 0.38), (0.05, 0.76), (0.30, 0.78), (0.50, 0.44), (0.95, 0.41), (1, 0.12)),
    ),
    "limousine": (
        "long upright sedan", 1.1, -0.66, 0.26, (-0.20,),
        ((-1, 0.20), (-0.98, 0.38), (-0.68, 0.42), (-0.52, 0.70), (0.04, 0.72), (0.24, 0.44), (0.97, 0.43), (1, 0.16)),
    ),
}  # fmt: skip
PAINTS = {
    "white": (0.97, 0.97, 0.96),
    "silver": (0.66, 0.69, 0.72),
    "black": (0.11, 0.11, 0.13),
    "red": (0.82, 0.10, 0.12),
    "blue": (0.12, 0.28, 0.78),
    "green": (0.08, 0.46, 0.22),
    "yellow": (0.98, 0.83, 0.10),
    "orange": (0.96, 0.50, 0.08),
    "brown": (0.42, 0.25, 0.14),
    "beige": (0.87, 0.76, 0.55),
    "purple": (0.44, 0.16, 0.52),
}
RIMS = {"silver wheels": (0.88, 0.90, 0.92), "dark wheels": (0.22, 0.22, 0.24), "gold wheels": (0.93, 0.72, 0.15)}
EXTRAS = ("no extras", "roof rack", "rear spoiler", "white stripe", "red stripe", "dark side blade", "no side windows")
# One row a model, in the order of ``LABELS["stanford_cars"][::7]``: body, paint, rims, extra.
MODELS = (
    ("square", "yellow", "dark wheels", "roof rack"),  # AM General Hummer SUV
    ("convertible", "green", "silver wheels", "no extras"),  # Aston Martin V8 Vantage Convertible
    ("sports", "silver", "silver wheels", "dark side blade"),  # Audi R8 Coupe
    ("coupe", "red", "dark wheels", "no extras"),  # Audi S5 Coupe
    ("sedan", "blue", "silver wheels", "no extras"),  # BMW 3 Series Sedan
    ("convertible", "red", "silver wheels", "no extras"),  # BMW M6 Convertible
    ("coupe", "beige", "silver wheels", "no extras"),  # Bentley Continental GT Coupe
    ("suv", "brown", "silver wheels", "no extras"),  # Buick Enclave SUV
    ("sports", "white", "gold wheels", "red stripe"),  # Chevrolet Corvette Ron Fellows Edition Z06
    ("van", "white", "dark wheels", "no side windows"),  # Chevrolet Express Cargo Van
    ("van", "blue", "silver wheels", "no extras"),  # Chevrolet Express Van
    ("minivan", "silver", "silver wheels", "roof rack"),  # Chrysler Town and Country Minivan
    ("minivan", "green", "silver wheels", "no extras"),  # Dodge Caravan Minivan
    ("wagon", "purple", "silver wheels", "no extras"),  # Dodge Magnum Wagon
    ("mini", "red", "dark wheels", "white stripe"),  # FIAT 500 Abarth
    ("crew", "red", "silver wheels", "no extras"),  # Ford F-450 Super Duty Crew Cab
    ("regular", "blue", "dark wheels", "no extras"),  # Ford F-150 Regular Cab
    ("suv", "black", "silver wheels", "roof rack"),  # GMC Yukon Hybrid SUV
    ("minivan", "beige", "dark wheels", "no extras"),  # Honda Odyssey Minivan
    ("sedan", "white", "dark wheels", "no extras"),  # Hyundai Sonata Hybrid Sedan
    ("coupe", "orange", "silver wheels", "rear spoiler"),  # Infiniti G Coupe IPL
    ("suv", "red", "dark wheels", "roof rack"),  # Jeep Grand Cherokee SUV
    ("suv", "green", "silver wheels", "white stripe"),  # Land Rover LR2 SUV
    ("sedan", "silver", "gold wheels", "rear spoiler"),  # Mercedes-Benz C-Class Sedan
    ("high", "orange", "silver wheels", "no extras"),  # Nissan NV Passenger Van
    ("limousine", "black", "silver wheels", "white stripe"),  # Rolls-Royce Ghost Sedan
    ("hatchback", "orange", "dark wheels", "roof rack"),  # Suzuki SX4 Hatchback
    ("hatchback", "yellow", "silver wheels", "no extras"),  # Volkswagen Golf Hatchback
)
_PARTS: tuple[tuple[str, ...], ...] = (tuple(BODIES), tuple(PAINTS), tuple(RIMS), EXTRAS)
CLASS_TABLE = np.array([[names.index(v) for names, v in zip(_PARTS, row, strict=True)] for row in MODELS])
FACINGS = ("faces left", "faces right")
ROADS = ("grey road", "brown road")
SIZES = ("far car", "near car")
_ROAD_RGB = ((0.52, 0.54, 0.57), (0.64, 0.50, 0.36))
_SCALES = np.array((0.66, 0.86))
_KNOTS = 101
_PROFILES = np.stack(
    [np.interp(np.linspace(-1, 1, _KNOTS), *np.array(body[5], dtype=np.float64).T) for body in BODIES.values()]
).astype(np.float32)


class CarsTwin(ClassificationTwin):
    """28 models; driving direction, road and nearness vary within each. Field look: passing by on a wet street."""

    name: ClassVar[str] = "stanford_cars"
    title: ClassVar[str] = "Stanford Cars"
    domain: ClassVar[str] = "car"
    shift_name: ClassVar[str] = "rain and motion"
    query: ClassVar[str] = "Which of these cars is shown in the image?"
    class_names: ClassVar[tuple[str, ...]] = LABELS["stanford_cars"][::7]
    all_class_names: ClassVar[tuple[str, ...]] = LABELS["stanford_cars"]

    def class_attributes(self) -> NDArray[np.float64]:
        """See the base class: roof line, length, paint, rims and extra."""
        body, paint, rim, extra = CLASS_TABLE.T
        looks = (
            _PROFILES[body, ::10] * 1.5,
            np.array([b[1] for b in BODIES.values()])[body, None] * 2.0,
            np.array(list(PAINTS.values()))[paint] * 2.0,
            np.eye(len(RIMS))[rim] * 0.3,
            np.eye(len(EXTRAS))[extra] * 0.5,
        )
        return np.concatenate(looks, axis=1).astype(np.float64)

    def sample(self, rng: Rng, indices: NDArray[np.int64]) -> Attributes:
        """See the base class."""
        label = indices % len(CLASS_TABLE)
        body, paint, rim, extra = CLASS_TABLE[label].T
        free = {k: rng.integers(k, 2) for k in ("facing", "road", "size")}
        return {"label": label, "body": body, "paint": paint, "wheels": rim, "extra": extra, **free}

    def facts(self, attributes: Attributes, i: int) -> tuple[Fact, ...]:
        """See the base class."""
        of_class = {
            "body": [b[0] for b in BODIES.values()],
            "paint": [f"{name} paint" for name in PAINTS],
            "wheels": list(RIMS),
            "extra": EXTRAS,
        }
        varying = {"facing": FACINGS, "road": ROADS, "size": SIZES}
        vocabulary = of_class | varying
        return tuple(Fact(k, words[attributes[k][i]], k in varying) for k, words in vocabulary.items())

    def paint(self, rng: Rng, attributes: Attributes, side: int) -> Canvas:
        """See the base class."""
        n = len(rng)
        wall = np.array([0.72, 0.80, 0.87]) + rng.uniform("wall", 1, low=-0.05, high=0.04)
        cv = Canvas(n, side, wall)
        scale = choose(_SCALES, attributes["size"]) * rng.uniform("scale", low=0.95, high=1.05)
        length = choose([[b[1]] for b in BODIES.values()], attributes["body"])[:, 0]
        cx, axle = rng.uniform("cx", low=-0.08, high=0.08), 0.36 + rng.uniform("cy", low=-0.08, high=0.08)
        road = choose(_ROAD_RGB, attributes["road"]) + rng.uniform("road", 1, low=-0.03, high=0.03)
        cv.paint(per_picture(axle + 0.02) - cv.y, road, subject=False)
        # Car coordinates: u from tail to nose along the car, h upwards from the axles, both in half-lengths.
        s = per_picture(scale * length)
        u = (cv.x - per_picture(cx)) / s * per_picture(attributes["facing"] * 2.0 - 1.0)
        h = (per_picture(axle) - cv.y) / s
        _paint_car(cv, rng, attributes, u, h, s)
        return cv

    def shift(self, rng: Rng, canvas: Canvas) -> Tensor:
        """See the base class: a street behind the car, a wet mirror below it, motion blur along it, rain over all."""
        n, side = len(rng), canvas.side
        out = Canvas(n, side)
        out.rgb = canvas.rgb
        self._paint_street(rng, out, 1.0 - canvas.subject)
        # The mirror starts where the car ends; rows below it repeat the rows above, darker.
        filled = canvas.subject.amax(2) > 0.5
        bottom = (filled * torch.arange(side)).amax(1).view(n, 1, 1)
        row = torch.arange(side).view(1, side, 1)
        mirrored = (2 * bottom - row).clamp(0, side - 1).unsqueeze(1).expand(-1, 3, -1, side)
        wet = 0.55 * (row > bottom)
        rgb = torch.lerp(out.rgb, out.rgb.gather(2, mirrored) * 0.8, wet.unsqueeze(1).float().expand_as(out.rgb))
        reach = max(1, round(MOTION * side / 2))
        smeared = F.avg_pool2d(F.pad(rgb, (reach, reach, 0, 0), mode="replicate"), (1, 2 * reach + 1), stride=1)
        sharp = torch.from_numpy(rng.uniform("sharp", low=0.1, high=0.4)).view(n, 1, 1, 1)
        rgb = torch.lerp(smeared, rgb, sharp)
        haze = torch.tensor([0.52, 0.56, 0.62]).view(1, 3, 1, 1)
        gloom = torch.from_numpy(rng.uniform("gloom", low=0.70, high=0.90)).view(n, 1, 1, 1)
        rgb = torch.lerp(rgb, haze, 0.25 * RAIN) * gloom
        return torch.lerp(rgb, torch.full_like(rgb, 0.92), (self._rain(rng, side) * RAIN).unsqueeze(1))

    @staticmethod
    def _paint_street(rng: Rng, out: Canvas, behind: Tensor) -> None:
        """Houses, parked cars and poles where ``behind`` ``[B, S, S]`` is 1."""
        clear = out.rgb
        out.rgb = clear.clone()
        for k in range(4):
            house = rng.fork(f"house{k}")
            cx = -0.75 + 0.5 * k + house.uniform("cx", low=-0.12, high=0.12)
            top = house.uniform("top", low=-1.1, high=-0.1)
            wall = box(out, cx, (top + 0.25) / 2, house.uniform("width", low=0.12, high=0.30), (0.25 - top) / 2)
            out.paint(
                wall,
                house.uniform("tone", 1, low=0.3, high=0.7) + house.uniform("hue", 3, low=-0.14, high=0.14),
                subject=False,
            )
        for k in range(2):
            parked = rng.fork(f"parked{k}")
            cx = parked.uniform("cx", low=-1.0, high=1.0)
            shape = ellipse(out, cx, 0.18, parked.uniform("length", low=0.25, high=0.45), 0.16)
            out.paint(shape, parked.uniform("paint", 3, low=0.05, high=0.95), subject=False)
        pole = (out.x - per_picture(rng.uniform("pole", low=-0.9, high=0.9))).abs() - 0.03
        out.paint(both(pole, out.y - 0.25), (0.16, 0.17, 0.18), subject=False)
        out.rgb = torch.lerp(clear, out.rgb, behind.unsqueeze(1).expand_as(clear))

    @staticmethod
    def _rain(rng: Rng, side: int) -> Tensor:
        """Slanting streaks ``[B, S, S]`` in [0, 1]: tall thin cells of noise, each row shifted along."""
        cells = torch.from_numpy(rng.uniform("rain", 1, 9, 40))
        upright = F.interpolate(cells, size=(side, side), mode="bilinear", align_corners=False).squeeze(1)
        slant = torch.from_numpy(rng.uniform("slant", low=-0.35, high=0.35)).view(-1, 1, 1)
        at = torch.arange(side).view(1, 1, side) + slant * torch.arange(side).view(1, side, 1)
        streaks = upright.gather(2, torch.remainder(at, side).long().clamp_max(side - 1))
        return ((streaks - 0.72) * 6.0).clamp(0.0, 1.0)


def _roof_line(u: Tensor, body: NDArray[np.int64]) -> tuple[Tensor, Tensor]:
    """Height of the body along the car and its steepness factor ``1 / sqrt(1 + slope^2)``, ``[B, 1, S]`` each."""
    profile = torch.from_numpy(_PROFILES[body]).unsqueeze(1)
    at = ((u + 1.0) * ((_KNOTS - 1) / 2)).clamp(0.0, _KNOTS - 1.001)
    left = at.long()
    low, high = profile.gather(2, left), profile.gather(2, left + 1)
    slope = (high - low) * ((_KNOTS - 1) / 2)
    # At the ends the line is nearly upright; a bound keeps the outline from growing thin spikes there.
    slope = slope.clamp(-2.5, 2.5)
    return torch.lerp(low, high, at - left), torch.rsqrt(1.0 + slope * slope)


def _paint_car(cv: Canvas, rng: Rng, attributes: Attributes, u: Tensor, h: Tensor, s: Tensor) -> None:
    """The car: body, glass, extras, lights and wheels."""
    body, extra = attributes["body"], attributes["extra"]
    paint = choose(list(PAINTS.values()), attributes["paint"]) * rng.uniform("gloss", 1, low=0.92, high=1.08)
    has = {name: (extra == k).astype(np.float32) for k, name in enumerate(EXTRAS)}
    roof, steep = _roof_line(u, body)
    hull = both((h - roof) * steep, u.abs() - 1.0, -0.10 - h)
    cv.paint(torch.maximum((h + 0.17).abs() - 0.05, u.abs() - 0.95) * s, (0.25, 0.25, 0.27), 0.6, softness=3)
    cv.paint((hull - 0.035) * s, paint * 0.45)
    cv.paint(hull * s, paint)
    _paint_glass(cv, body, has["no side windows"], (u, h, s, (h - roof) * steep), paint)
    _paint_extras(cv, has, body, (u, h, s, hull))
    front, rear = (u - 0.93).abs() - 0.05, (u + 0.95).abs() - 0.04
    cv.paint(both(front, (h - 0.12).abs() - 0.07) * s, (1.0, 0.97, 0.70))
    cv.paint(both(rear, (h - 0.18).abs() - 0.08) * s, (0.95, 0.15, 0.10))
    rim = choose(list(RIMS.values()), attributes["wheels"])
    hub = torch.hypot(u.abs() - 0.60, h + 0.02)
    cv.paint((hub - 0.24) * s, paint * 0.45)
    cv.paint((hub - 0.21) * s, (0.06, 0.06, 0.07))
    cv.paint((hub - 0.13) * s, rim)


def _paint_glass(
    cv: Canvas,
    body: NDArray[np.int64],
    blank: NDArray[np.float32],
    frame: tuple[Tensor, ...],
    paint: NDArray[np.float32],
) -> None:
    """Side windows under the roof line with their pillars; a windscreen and two heads for an open car."""
    u, h, s, below_roof = frame
    table = list(BODIES.values())
    first, last = choose([[b[2], b[3]] for b in table], body).T
    belt = choose([[0.44 * max(p[1] for p in b[5]) + 0.10] for b in table], body)[:, 0]
    # A cargo van keeps the front door's window only.
    first = np.where(blank > 0, 0.30, first)
    closed = (first < last).astype(np.float32)
    glass = both(below_roof + 0.065, per_picture(belt) - h, per_picture(first) - u, u - per_picture(last))
    cv.paint(glass * s, (0.20, 0.27, 0.34), closed)
    posts = choose([[*b[4], *[9.0] * (3 - len(b[4]))] for b in table], body)
    for k in range(3):
        cv.paint(both((u - per_picture(posts[:, k])).abs() - 0.035, glass - 0.02) * s, paint, closed)
    opened = 1.0 - closed
    screen = both((u - 0.34 + 0.8 * (h - 0.27)).abs() - 0.035, (h - 0.40).abs() - 0.14)
    seats = both((torch.abs(u + 0.15) - 0.16).abs() - 0.07, (h - 0.30).abs() - 0.09)
    cv.paint(either(screen, seats) * s, (0.12, 0.12, 0.14), opened)


def _paint_extras(
    cv: Canvas, has: dict[str, NDArray[np.float32]], body: NDArray[np.int64], frame: tuple[Tensor, ...]
) -> None:
    """What tells two cars of one shape apart: rack, spoiler, stripes or the R8's blade."""
    u, h, s, hull = frame
    top = per_picture(_PROFILES[body].max(axis=1))
    rail = both((h - top - 0.14).abs() - 0.03, (u + 0.30).abs() - 0.42)
    legs = both((h - top - 0.06).abs() - 0.08, ((u + 0.30).abs() - 0.34).abs() - 0.035)
    cv.paint(either(rail, legs) * s, (0.10, 0.10, 0.11), has["roof rack"])
    wing = both((h - 0.50).abs() - 0.04, (u + 0.90).abs() - 0.16)
    strut = both((h - 0.38).abs() - 0.10, (u + 0.88).abs() - 0.04)
    cv.paint(either(wing, strut) * s, (0.10, 0.10, 0.11), has["rear spoiler"])
    band = both((h - 0.13).abs() - 0.05, hull)
    cv.paint(band * s, (0.98, 0.98, 0.97), has["white stripe"])
    cv.paint(band * s, (0.90, 0.08, 0.10), has["red stripe"])
    blade = both((u + 0.22).abs() - 0.13, hull)
    cv.paint(blade * s, (0.08, 0.08, 0.10), has["dark side blade"])
