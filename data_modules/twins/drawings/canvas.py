"""Painting with signed distances: a batch of pictures, layer by layer, anti-aliased at any side length.

Coordinates run from -1 (left, top) to 1 (right, bottom) whatever the side. A *distance* is ``[B, S, S]``, negative
inside a shape; parameters are ``[B]`` arrays or plain numbers. All work is batched; there is no loop over pictures.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

from data_modules.twins.rng import Rng

Number = float | NDArray[np.floating] | NDArray[np.integer] | NDArray[np.bool_] | Tensor
Colour = Sequence[float] | NDArray[np.floating] | Tensor


def per_picture(value: Number) -> Tensor:
    """A number for each picture, ``[B, 1, 1]`` (or ``[1, 1, 1]`` for a plain number), float32."""
    return torch.as_tensor(value, dtype=torch.float32).reshape(-1, 1, 1)


class Canvas:
    """A batch of pictures being painted.

    Attributes:
        rgb: ``[B, 3, S, S]`` float32 in [0, 1].
        subject: ``[B, S, S]`` coverage by what the picture is about, in [0, 1]; a shift may change the rest only.
        x, y: ``[1, S, S]`` pixel centres in [-1, 1].
    """

    def __init__(self, batch: int, side: int, colour: Colour = (1.0, 1.0, 1.0)) -> None:
        self.side = side
        axis = (torch.arange(side, dtype=torch.float32) + 0.5) * (2.0 / side) - 1.0
        self.x, self.y = axis.view(1, 1, side), axis.view(1, side, 1)
        self.rgb = _colour(colour).expand(batch, 3, side, side).clone()
        self.subject = torch.zeros(batch, side, side)

    def coverage(self, distance: Tensor, softness: float = 1.0) -> Tensor:
        """How much of each pixel lies inside, ``[B, S, S]`` in [0, 1]: a ramp of ``softness`` pixels at the edge."""
        return (0.5 - distance * (self.side / (2.0 * softness))).clamp(0.0, 1.0)

    def paint(
        self,
        distance: Tensor,
        colour: Colour,
        opacity: Number = 1.0,
        *,
        softness: float = 1.0,
        subject: bool = True,
    ) -> None:
        """Lay a shape over the picture.

        Args:
            distance: ``[B, S, S]`` or broadcastable.
            colour: (3,), ``[B, 3]`` or a texture ``[B, 3, S, S]``, in [0, 1].
            opacity: 0 to 1, a number or ``[B]``; 0 hides the shape for that picture.
            softness: width of the edge in pixels.
            subject: whether the shape belongs to the subject (clutter does not).
        """
        alpha = self.coverage(distance, softness) * per_picture(opacity)
        self.rgb = torch.lerp(self.rgb, _colour(colour), alpha.unsqueeze(1).expand(-1, -1, self.side, self.side))
        if subject:
            self.subject = torch.maximum(self.subject, alpha.expand_as(self.subject))

    def shade(self, factor: Tensor) -> None:
        """Multiply brightness by ``[B, S, S]`` (or broadcastable) and clip."""
        self.rgb = (self.rgb * factor.unsqueeze(1)).clamp(0.0, 1.0)


def _colour(colour: Colour) -> Tensor:
    t = torch.as_tensor(np.asarray(colour) if not isinstance(colour, Tensor) else colour, dtype=torch.float32)
    return t.reshape(-1, 3, 1, 1) if t.ndim < 4 else t


def rotate(x: Tensor, y: Tensor, cx: Number, cy: Number, angle: Number) -> tuple[Tensor, Tensor]:
    """Coordinates in a frame centred at (cx, cy) whose first axis points along ``angle`` (radians, clockwise)."""
    a = per_picture(angle)
    dx, dy = x - per_picture(cx), y - per_picture(cy)
    return dx * a.cos() + dy * a.sin(), dy * a.cos() - dx * a.sin()


def disc(cv: Canvas, cx: Number, cy: Number, radius: Number) -> Tensor:
    """Filled circle."""
    return torch.hypot(cv.x - per_picture(cx), cv.y - per_picture(cy)) - per_picture(radius)


def ellipse(cv: Canvas, cx: Number, cy: Number, rx: Number, ry: Number, angle: Number = 0.0) -> Tensor:
    """Filled ellipse with half-axes rx and ry (distance is approximate away from the edge)."""
    u, v = rotate(cv.x, cv.y, cx, cy, angle)
    rx, ry = per_picture(rx), per_picture(ry)
    return (torch.hypot(u / rx, v / ry) - 1.0) * torch.minimum(rx, ry)


def box(
    cv: Canvas, cx: Number, cy: Number, half_w: Number, half_h: Number, angle: Number = 0.0, round_: float = 0.0
) -> Tensor:
    """Filled rectangle, corners rounded by ``round_``."""
    u, v = rotate(cv.x, cv.y, cx, cy, angle)
    qx, qy = u.abs() - per_picture(half_w) + round_, v.abs() - per_picture(half_h) + round_
    outside = torch.hypot(qx.clamp_min(0.0), qy.clamp_min(0.0))
    return outside + torch.maximum(qx, qy).clamp_max(0.0) - round_


def capsule(cv: Canvas, x0: Number, y0: Number, x1: Number, y1: Number, radius: Number) -> Tensor:
    """Thick line with round ends."""
    ax, ay = per_picture(x0), per_picture(y0)
    bx, by = per_picture(x1) - ax, per_picture(y1) - ay
    px, py = cv.x - ax, cv.y - ay
    t = ((px * bx + py * by) / (bx * bx + by * by).clamp_min(1e-8)).clamp(0.0, 1.0)
    return torch.hypot(px - t * bx, py - t * by) - per_picture(radius)


def polygon(cv: Canvas, cx: Number, cy: Number, radius: Number, sides: Number, angle: Number = 0.0) -> Tensor:
    """Regular polygon with circumscribed ``radius``; ``sides`` may differ by picture."""
    u, v = rotate(cv.x, cv.y, cx, cy, angle)
    wedge = 2.0 * math.pi / per_picture(sides)
    theta = torch.atan2(u, -v)
    folded = theta - wedge * torch.round(theta / wedge)
    apothem = per_picture(radius) * (wedge / 2.0).cos()
    folded = (theta - wedge / 2) - wedge * torch.round((theta - wedge / 2) / wedge)
    return torch.hypot(u, v) * folded.cos() - apothem


def petals(
    cv: Canvas, cx: Number, cy: Number, radius: Number, count: Number, depth: Number, angle: Number = 0.0
) -> Tensor:
    """Rosette of ``count`` lobes reaching ``radius``; ``depth`` in (0, 1) is how far the gaps cut inwards."""
    u, v = rotate(cv.x, cv.y, cx, cy, angle)
    lobes = (torch.atan2(u, -v) * per_picture(count) / 2.0).cos().abs()
    edge = per_picture(radius) * (1.0 - per_picture(depth) * (1.0 - lobes))
    return torch.hypot(u, v) - edge


def ring(distance: Tensor, width: Number) -> Tensor:
    """The outline of a shape, ``width`` thick, centred on its edge."""
    return distance.abs() - per_picture(width) / 2.0


def both(*distances: Tensor) -> Tensor:
    """Intersection of shapes."""
    out = distances[0]
    for d in distances[1:]:
        out = torch.maximum(out, d)
    return out


def either(*distances: Tensor) -> Tensor:
    """Union of shapes."""
    out = distances[0]
    for d in distances[1:]:
        out = torch.minimum(out, d)
    return out


def noise(rng: Rng, name: str, cells: int, side: int) -> Tensor:
    """Smooth value noise ``[B, S, S]`` in [0, 1] with ``cells`` cells along a side (the same at any side length)."""
    lattice = torch.from_numpy(rng.uniform(name, 1, cells + 1, cells + 1))
    return F.interpolate(lattice, size=(side, side), mode="bicubic", align_corners=False).squeeze(1).clamp(0.0, 1.0)


def grain(rng: Rng, name: str, side: int, channels: int = 1) -> Tensor:
    """Independent standard normal noise for each pixel, ``[B, channels, S, S]``."""
    u = rng.uniform(name, channels, side, side, 2).astype(np.float32)
    # The sum of two uniforms is close enough to a bell curve for sensor noise and several times cheaper.
    return torch.from_numpy((u.sum(-1) - 1.0) * np.float32(math.sqrt(6.0)))


def blur(rgb: Tensor, sigma: float) -> Tensor:
    """Gaussian blur of ``[B, C, S, S]``; ``sigma`` as a share of half the side (alike at any side length)."""
    pixels = sigma * rgb.shape[-1] / 2.0
    reach = max(1, math.ceil(2.5 * pixels))
    k = torch.exp(-0.5 * (torch.arange(-reach, reach + 1) / pixels) ** 2)
    weights = (k / k.sum()).tolist()
    # Adding shifted copies is ten times faster on one core than a convolution with one channel.
    for dim, margin in ((2, (0, 0, reach, reach)), (3, (reach, reach, 0, 0))):
        padded, size = F.pad(rgb, margin, mode="replicate"), rgb.shape[dim]
        rgb = padded.narrow(dim, 0, size) * weights[0]
        for shift, weight in enumerate(weights[1:], start=1):
            rgb.add_(padded.narrow(dim, shift, size), alpha=weight)
    return rgb


def choose(
    table: Sequence[Sequence[float]] | Sequence[float] | NDArray[np.floating], index: NDArray[np.int64]
) -> NDArray[np.float32]:
    """Rows of a table (colours, sizes) for each picture: ``[B, ...]``."""
    return np.asarray(table, dtype=np.float32)[index]
