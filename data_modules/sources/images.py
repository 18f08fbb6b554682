"""Picture files at the model's side, as bytes; reading and refusing them is :mod:`craft_lightning.models.pixels`'s."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from craft_lightning.errors import CraftError
from craft_lightning.models.pixels import MAX_PIXELS, Aspect, preprocess, read_image

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".bmp", ".gif", ".webp", ".tif", ".tiff"})


def read_square(path: Path, side: int, aspect: Aspect = "resize") -> Tensor:
    """``[3, side, side]`` uint8 of a file.

    Raises:
        CraftError: no picture, broken, or too large; the message names the file.
    """
    return to_bytes(preprocess(read_image(path), side, aspect))


def to_bytes(pixels: Tensor) -> Tensor:
    """Pixels in [-1, 1] as the bytes they came from (exact for pixels made by :func:`preprocess`)."""
    return ((pixels + 1.0) * 127.5).round().to(torch.uint8)


def to_pixels(images: Tensor) -> Tensor:
    """Bytes as float32 pixels in [-1, 1], with the same arithmetic as :func:`preprocess`."""
    return (images.float() / 255.0 - 0.5) / 0.5


def to_picture(images: Tensor) -> Image.Image:
    """A PIL picture of ``[3, S, S]`` uint8."""
    return Image.fromarray(images.permute(1, 2, 0).numpy())


def check_header(path: Path) -> None:
    """Refuse a file that is no picture or a far too large one, without decoding it.

    Raises:
        CraftError: see above.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as picture:
                width, height = picture.size
    except (Image.DecompressionBombError, OSError, SyntaxError, ValueError) as error:
        raise CraftError(f"{path}: broken picture ({error})") from error
    if width * height > MAX_PIXELS:
        raise CraftError(f"{path}: {width} x {height} pixels, more than {MAX_PIXELS:,}; scale it down")


class FileImages:
    """Pictures read when they are needed, for sets too large to keep in memory.

    Args:
        paths: files. side: side length of the result. aspect: how a picture becomes a square.
    """

    def __init__(self, paths: Sequence[Path], side: int, aspect: Aspect = "resize") -> None:
        self.paths = tuple(paths)
        self.side = side
        self.aspect: Aspect = aspect

    def __len__(self) -> int:
        return len(self.paths)

    def __getitem__(self, index: int) -> Tensor:
        """``[3, side, side]`` uint8.

        Raises:
            CraftError: the file is broken (where bad inputs are not skipped, its header alone was checked before).
        """
        return read_square(self.paths[index], self.side, self.aspect)
