"""EuroSAT seen by a pocket satellite: ten land covers from above.

Field look: a false-colour sensor, that is channels mixed by a random strength for each picture, behind uneven haze.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from craft_lightning.types import Fact
from data_modules.datasets import labels
from data_modules.twins.drawings.canvas import Canvas, blur, both, choose, ellipse, noise, rotate
from data_modules.twins.drawings.cells import Cells
from data_modules.twins.rng import Rng
from data_modules.twins.twin import Attributes, ClassificationTwin

SENSOR_STRENGTH = (0.35, 0.85)
"""Range of the share of the false-colour mix in a field picture (0 leaves natural colours)."""
HAZE = 0.45
"""Densest haze of a field picture."""

_COLUMNS = ("ground", "fields", "dots", "roofs", "band", "water")
# ground: 0 meadow, 1 forest floor, 2 scrub, 3 soil, 4 concrete, 5 gardens; fields: 0 none, 1 hedged, 2 crop strips;
# dots: 0 none, 1 shrubs, 2 crowns, 3 rows of trees; roofs: 0 none, 1 halls, 2 houses; band: 0 none, 1 road, 2 river
_TABLE = {
    "AnnualCrop": (3, 2, 0, 0, 0, 0),
    "Forest": (1, 0, 2, 0, 0, 0),
    "HerbaceousVegetation": (2, 0, 1, 0, 0, 0),
    "Highway": (0, 0, 0, 0, 1, 0),
    "Industrial": (4, 0, 0, 1, 0, 0),
    "Pasture": (0, 1, 0, 0, 0, 0),
    "PermanentCrop": (3, 0, 3, 0, 0, 0),
    "Residential": (5, 0, 0, 2, 0, 0),
    "River": (0, 0, 0, 0, 2, 0),
    "SeaLake": (0, 0, 0, 0, 0, 1),
}
_ROWS = np.array([_TABLE[name] for name in labels.LABELS["eurosat"]], dtype=np.int64)
# [season, ground, rgb]; season 0 green, 1 dry
_GROUND = [
    [
        (0.40, 0.66, 0.28),
        (0.07, 0.22, 0.10),
        (0.44, 0.54, 0.27),
        (0.52, 0.44, 0.27),
        (0.55, 0.57, 0.57),
        (0.38, 0.55, 0.27),
    ],
    [
        (0.72, 0.66, 0.33),
        (0.22, 0.22, 0.08),
        (0.62, 0.53, 0.31),
        (0.70, 0.56, 0.37),
        (0.63, 0.59, 0.52),
        (0.65, 0.58, 0.33),
    ],
]
_CROPS = torch.tensor(
    [(0.47, 0.30, 0.17), (0.86, 0.76, 0.42), (0.38, 0.60, 0.22), (0.70, 0.50, 0.30), (0.62, 0.74, 0.34)]
)
_DOTS = [(0.0, 0.0, 0.0), (0.16, 0.30, 0.12), (0.17, 0.42, 0.17), (0.10, 0.32, 0.10)]
_HALLS = torch.tensor([(0.90, 0.91, 0.92), (0.36, 0.38, 0.42), (0.55, 0.70, 0.84)])
_HOUSES = torch.tensor([(0.80, 0.30, 0.18), (0.70, 0.22, 0.14), (0.86, 0.46, 0.28)])
_WATER = (0.10, 0.30, 0.58)
_SAND = (0.97, 0.90, 0.66)

_COVER = {
    (2, 0, 0, 0, 0): "field strips", (0, 2, 0, 0, 0): "dense tree tops", (0, 1, 0, 0, 0): "scattered bushes",
    (0, 0, 0, 1, 0): "grey road", (0, 0, 1, 0, 0): "large flat roofs", (1, 0, 0, 0, 0): "meadow with hedges",
    (0, 3, 0, 0, 0): "trees in rows", (0, 0, 2, 0, 0): "small red roofs", (0, 0, 0, 2, 0): "winding blue water",
    (0, 0, 0, 0, 1): "open blue water",
}  # fmt: skip
_EDGES = ("soft edges", "straight edges", "curved edges")
_SEASONS = ("fresh land", "dry land")
_PATCHES = ("no sand patch", "sand patch left", "sand patch right")
_RUNS = ("runs across", "runs down", "runs slanted")
_SHORES = ("shore at left", "shore at top", "shore at right", "shore at bottom")


class EuroSatTwin(ClassificationTwin):
    """Ten land covers from above, built of ground, fields, dots, roofs, bands and water."""

    name: ClassVar[str] = "eurosat"
    title: ClassVar[str] = "EuroSAT"
    domain: ClassVar[str] = "land cover"
    shift_name: ClassVar[str] = "false-colour sensor"
    query: ClassVar[str] = "Which land cover is shown in this satellite image?"
    class_names: ClassVar[tuple[str, ...]] = tuple(map(labels.eurosat_words, labels.LABELS["eurosat"]))
    all_class_names: ClassVar[tuple[str, ...]] = class_names

    def class_attributes(self) -> NDArray[np.float64]:
        """``[10, 21]`` one-hot, because the values of a column have no order."""
        hot = [_ROWS[:, c : c + 1] == np.arange(_ROWS[:, c].max() + 1) for c in range(_ROWS.shape[1])]
        return np.concatenate(hot, axis=1).astype(np.float64)

    def sample(self, rng: Rng, indices: NDArray[np.int64]) -> Attributes:
        label = indices % len(_ROWS)
        return {
            "label": label,
            **{column: _ROWS[label, c] for c, column in enumerate(_COLUMNS)},
            "season": rng.integers("season", 2),
            "patch": rng.integers("patch", 3),
            "run": rng.integers("run", 3),
            "shore": rng.integers("shore", 4),
        }

    def paint(self, rng: Rng, attributes: Attributes, side: int) -> Canvas:
        """The ground of a season, then the cover: bands, water, fields, dots and roofs, along a run."""
        a = attributes
        n = len(rng)
        cv = Canvas(n, side)
        ground = np.asarray(_GROUND, dtype=np.float32)[a["season"], a["ground"]]
        cv.rgb = torch.from_numpy(ground + 0.04 * (rng.uniform("hue", 3) - 0.5)).view(n, 3, 1, 1).expand_as(cv.rgb)
        cv.subject += 1.0
        cv.shade(0.86 + 0.28 * noise(rng, "ground", 6, side))
        slant = np.where(rng.uniform("sign") < 0.5, -1.0, 1.0) * (0.7 + 0.16 * (rng.uniform("slant") - 0.5))
        angle = np.choose(a["run"], [0.0, np.pi / 2, slant]) + 0.16 * (rng.uniform("angle") - 0.5)
        u, v = rotate(cv.x, cv.y, rng.uniform("cx", low=-0.2, high=0.2), rng.uniform("cy", low=-0.2, high=0.2), angle)
        # Hedges and crowns grow where they like; roads, roofs and crops follow straight lines.
        wild = torch.from_numpy(np.where((a["fields"] == 1) | (a["dots"] == 2), 0.2, 0.0)).float().view(n, 1, 1)
        u, v = u + wild * noise(rng, "wild u", 4, side), v + wild * noise(rng, "wild v", 4, side)
        self._fields(rng.fork("fields"), cv, a, u, v)
        self._dots(rng.fork("dots"), cv, a, u, v)
        self._roofs(rng.fork("roofs"), cv, a, u, v)
        self._bands(rng.fork("bands"), cv, a, u, v)
        self._water(rng.fork("water"), cv, a)
        cx = np.where(a["patch"] == 2, 0.62, -0.62) + rng.uniform("sx", low=-0.06, high=0.06)
        wobble = 0.12 * (noise(rng, "sand", 5, side) - 0.5)
        sand = ellipse(cv, cx, rng.uniform("sy", low=-0.55, high=0.55), 0.24, 0.2, rng.uniform("sa", high=3.0))
        cv.paint(sand + wobble, _SAND, a["patch"] > 0)
        return cv

    def _fields(self, rng: Rng, cv: Canvas, a: Attributes, u: Tensor, v: Tensor) -> None:
        """Strips of crops, or a few meadows of nearly one green with hedges between them."""
        crop = a["fields"] == 2
        cells = Cells(rng, u, v, np.where(crop, 1.6, 0.95), np.where(crop, rng.uniform("w", low=0.36, high=0.5), 0.85))
        furrow = 0.9 + 0.1 * torch.sign(torch.sin(cells.v * 42.0))
        cv.paint(cells.u * 0.0 - 1.0, cells.colour("crop", _CROPS) * furrow.unsqueeze(1), 0.85 * crop)
        inside = torch.maximum(cells.u.abs() - 0.475, cells.v.abs() - 0.425)
        cv.paint(-0.05 - inside, (0.12, 0.28, 0.12), 0.9 * (a["fields"] == 1))

    def _dots(self, rng: Rng, cv: Canvas, a: Attributes, u: Tensor, v: Tensor) -> None:
        """Bushes here and there, crowns everywhere, or trees in rows; each crown is lighter at the top left."""
        kind = a["dots"]
        pitch_u, pitch_v = choose([1, 0.3, 0.21, 0.2], kind), choose([1, 0.3, 0.21, 0.38], kind)
        cells = Cells(rng, u, v, pitch_u, pitch_v)
        loose = torch.from_numpy(choose([0, 0.13, 0.09, 0.0], kind)).view(-1, 1, 1)
        du, dv = cells.u - loose * (cells.value("u") - 0.5), cells.v - loose * (cells.value("v") - 0.5)
        size = torch.from_numpy(choose([0, 0.08, 0.1, 0.085], kind)).view(-1, 1, 1)
        present = torch.from_numpy(choose([0, 0.62, 1.0, 1.0], kind)).view(-1, 1, 1)
        radius = size * (0.85 + 0.3 * cells.value("r")) - (cells.value("gone") > present).float()
        distance = torch.hypot(du, dv) - radius
        light = 1.0 + 3.0 * (torch.relu(-distance))
        colour = torch.from_numpy(choose(_DOTS, kind)).view(-1, 3, 1, 1) * light.unsqueeze(1)
        cv.paint(distance, colour.clamp(0, 1), kind > 0)

    def _roofs(self, rng: Rng, cv: Canvas, a: Attributes, u: Tensor, v: Tensor) -> None:
        """A few large halls on concrete, or rows of small houses along streets."""
        hall = a["roofs"] == 1
        street = torch.remainder(v + 0.3, 0.72) - 0.36
        cv.paint(street.abs() - 0.07, (0.66, 0.65, 0.64), a["roofs"] == 2)
        cells = Cells(rng, u, v, np.where(hall, 0.78, 0.24), np.where(hall, 0.62, 0.24))
        palette = torch.where(
            torch.from_numpy(hall).view(-1, 1, 1, 1), cells.colour("c", _HALLS), cells.colour("c", _HOUSES)
        )
        half_u = torch.from_numpy(np.where(hall, 0.33, 0.09)).float().view(-1, 1, 1) * (0.8 + 0.2 * cells.value("u"))
        half_v = torch.from_numpy(np.where(hall, 0.24, 0.075)).float().view(-1, 1, 1) * (0.8 + 0.2 * cells.value("v"))
        roof = torch.maximum(cells.u.abs() - half_u, cells.v.abs() - half_v)
        off_street = torch.where(torch.from_numpy(hall).view(-1, 1, 1), -1.0, 0.09 - street.abs())
        cv.paint(both(roof, off_street), palette * (1.0 - 0.2 * (cells.v > 0)).unsqueeze(1), a["roofs"] > 0)

    def _bands(self, rng: Rng, cv: Canvas, a: Attributes, u: Tensor, v: Tensor) -> None:
        """A straight road with a marked middle, or a wide river that winds."""
        river = a["band"] == 2
        phase = torch.from_numpy(rng.uniform("phase", high=6.28)).view(-1, 1, 1)
        swing = torch.from_numpy(np.where(river, 0.26, 0.0)).float().view(-1, 1, 1)
        middle = (v - swing * torch.sin(3.4 * u + phase)).abs()
        width = np.where(river, rng.uniform("width", low=0.17, high=0.23), 0.15)
        half = torch.from_numpy(width).float().view(-1, 1, 1)
        cv.paint(
            middle - half - 0.04, choose([(0, 0, 0), (0.80, 0.78, 0.70), (0.20, 0.40, 0.20)], a["band"]), a["band"] > 0
        )
        cv.paint(middle - half, choose([(0, 0, 0), (0.36, 0.36, 0.38), _WATER], a["band"]), a["band"] > 0)
        cv.paint(middle - 0.025, (0.95, 0.95, 0.92), a["band"] == 1)

    def _water(self, rng: Rng, cv: Canvas, a: Attributes) -> None:
        """Open water with one shore."""
        turn = a["shore"] * (np.pi / 2) + 0.4 * (rng.uniform("turn") - 0.5)
        along, _ = rotate(cv.x, cv.y, 0.0, 0.0, turn)
        level = torch.from_numpy(rng.uniform("level", low=0.45, high=0.62)).view(-1, 1, 1)
        distance = -(along + level) + 0.35 * (noise(rng, "shore", 4, cv.side) - 0.5)
        ripple = 0.9 + 0.2 * noise(rng, "ripple", 9, cv.side)
        colour = torch.tensor(_WATER).view(1, 3, 1, 1) * ripple.unsqueeze(1)
        cv.paint(distance, colour, a["water"])

    def shift(self, rng: Rng, canvas: Canvas) -> Tensor:
        n = len(rng)
        low, high = SENSOR_STRENGTH
        strength = torch.from_numpy(rng.uniform("strength", low=low, high=high)).view(n, 1, 1)
        # Near-infrared composites show plants red: red follows green and the other channels move down by one.
        composite = torch.tensor([(-0.5, 1.7, -0.2), (0.75, -0.1, 0.35), (0.1, 0.7, 0.2)])
        jitter = torch.from_numpy(rng.uniform("jitter", 3, 3, low=-0.25, high=0.25))
        mix = torch.lerp(torch.eye(3).expand(n, 3, 3), composite + jitter, strength)
        rgb = (mix.unsqueeze(-1) * canvas.rgb.flatten(2).unsqueeze(1)).sum(2).view_as(canvas.rgb)
        haze = HAZE * noise(rng, "haze", 3, canvas.side).unsqueeze(1)
        return torch.lerp(blur(rgb.clamp(0.0, 1.0), 0.022), torch.full_like(rgb, 0.88), haze)

    def facts(self, attributes: Attributes, i: int) -> tuple[Fact, ...]:
        """Cover and edges say the class; season, patch, shore and run vary within it."""
        a = {k: int(v[i]) for k, v in attributes.items()}
        edges = (
            1 if a["roofs"] or a["fields"] or a["band"] == 1 or a["dots"] == 3 else 2 if a["band"] or a["water"] else 0
        )
        found = [
            Fact("cover", _COVER[a["fields"], a["dots"], a["roofs"], a["band"], a["water"]], False),
            Fact("edges", _EDGES[edges], False),
            Fact("season", _SEASONS[a["season"]], True),
            Fact("patch", _PATCHES[a["patch"]], True),
        ]
        if a["water"]:
            found.append(Fact("shore", _SHORES[a["shore"]], True))
        elif a["band"] or a["fields"] == 2 or a["dots"] == 3 or a["roofs"] == 2:
            found.append(Fact("run", _RUNS[a["run"]], True))
        return tuple(found)
