"""Pictures to pixels, as VILA-U does it (host facts 2.1), and pictures from disk without surprises."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from craft_lightning.errors import CraftError

MAX_PIXELS = 100_000_000
"""A picture with more is refused: decoded, it would take more than 300 MB."""

SUFFIXES = {".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm"}
"""What makes a file in a folder a picture."""

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

Aspect = Literal["resize", "pad", "pad_clip"]
PAD_COLOURS = {"pad": (127, 127, 127), "pad_clip": (122, 116, 104)}
"""The mean colour of the tower's pre-training."""


def find_pictures(inputs: Sequence[Path]) -> list[Path]:
    """The pictures that a person named: files as given, folders with all that is below them, sorted.

    Raises:
        CraftError: an input that does not exist, or a folder without a picture.
    """
    files: list[Path] = []
    for path in inputs:
        if path.is_dir():
            found = sorted(f for f in path.rglob("*") if f.suffix.lower() in SUFFIXES and f.is_file())
            if not found:
                raise CraftError(f"no picture in {path} ({', '.join(sorted(SUFFIXES))})")
            files += found
        elif path.is_file():
            files.append(path)
        else:
            raise CraftError(f"no picture or folder {path}")
    return files


def read_image(path: str | Path, root: str | Path | None = None) -> Image.Image:
    """An RGB picture from a file, decoded completely.

    Args:
        path: the file; relative paths start at ``root`` if one is given.
        root: folder that the file must lie in, symbolic links resolved.

    Raises:
        CraftError: no such file, outside ``root``, no picture, truncated, or more than :data:`MAX_PIXELS`; the
            message names the file.
    """
    file = Path(path) if root is None else Path(root) / path
    if root is not None and not file.resolve().is_relative_to(Path(root).resolve()):
        raise CraftError(f"{path}: leaves its root {root}")
    if not file.is_file():
        raise CraftError(f"no picture {file}")
    with opened(file, str(file)) as image:
        return image.convert("RGB")


@contextmanager
def opened(source: Path | BinaryIO, name: str) -> Iterator[Image.Image]:
    """A picture whose header is read and whose size is allowed; it is decoded where it is used.

    Args:
        source: a file or its bytes. name: of the picture, for messages.

    Raises:
        CraftError: no picture, more than :data:`MAX_PIXELS`, or broken (also while it is used).
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(source) as image:
                width, height = image.size
                if width * height > MAX_PIXELS:
                    raise CraftError(f"{name}: {width} x {height} pixels, more than {MAX_PIXELS:,}; scale it down")
                yield image
    except Image.DecompressionBombError as error:
        raise CraftError(f"{name}: more than {MAX_PIXELS:,} pixels; scale it down") from error
    except (OSError, SyntaxError, ValueError, EOFError) as error:
        raise CraftError(f"{name}: broken picture ({error})") from error


def preprocess(image: Image.Image, side: int, aspect: Aspect = "resize") -> Tensor:
    """``[3, side, side]`` float32 in [-1, 1].

    The picture is made RGB first, then resized as a whole with PIL's antialiased bicubic filter.

    Args:
        image: any mode, any size.
        side: in pixels.
        aspect: ``"resize"`` squashes to a square; ``"pad"`` first centres it on a square of grey (127), ``"pad_clip"``
            on one of CLIP's mean colour.
    """
    image = image.convert("RGB")
    if aspect != "resize" and image.width != image.height:
        square = max(image.size)
        canvas = Image.new("RGB", (square, square), PAD_COLOURS[aspect])
        canvas.paste(image, ((square - image.width) // 2, (square - image.height) // 2))
        image = canvas
    if image.size != (side, side):
        image = image.resize((side, side), Image.Resampling.BICUBIC)
    pixels = np.asarray(image, dtype=np.float32) / np.float32(255)
    return torch.from_numpy((pixels - np.float32(0.5)) / np.float32(0.5)).permute(2, 0, 1).contiguous()


def picture_batches(files: Sequence[Path], side: int, aspect: Aspect, size: int) -> Iterator[Tensor]:
    """:func:`preprocess` of picture files, ``[size, 3, side, side]`` at a time (the last batch may be smaller).

    Raises:
        CraftError: see :func:`read_image`.
    """
    for start in range(0, len(files), size):
        yield torch.stack([preprocess(read_image(file), side, aspect) for file in files[start : start + size]])
