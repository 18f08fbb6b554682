"""Images from disk to the pixels of a tower: a file becomes RGB bytes once, and these the model's floats.

An image is shown upright (EXIF), in 8 bits a channel, on white where it is transparent, in RGB; of an animation or of
several pages the first counts. Squares and pixels are made as VILA-U makes them.
"""

from __future__ import annotations

import functools
import logging
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, BinaryIO, Literal

import numpy as np
import torch
from PIL import ExifTags, Image, ImageFile, UnidentifiedImageError
from torch import Tensor

from craft_lightning.errors import CraftError

READING = "3"
"""Changes with what is read of the same file: a part of the key of whatever is kept of images."""
MAX_PIXELS = 100_000_000
"""An image with more is refused: decoded, it would take more than 300 MB."""
FORMATS = (
    *("AVIF", "BMP", "DDS", "DIB", "GIF", "ICO", "JPEG", "JPEG2000", "PCX", "PNG", "PPM", "PSD", "QOI", "SGI", "SUN"),
    *("TIFF", "WEBP", "XBM", "XPM", "TGA"),  # TGA last: it has no signature
)
"""Pillow's still images. None of its other readers is ever tried, whatever a file is named or holds: EPS starts
another program, only Windows draws WMF, BUFR, GRIB, HDF5 and MPEG have no decoder, of FITS the scale is ignored, FLI is
a film; BLP, CUR, DCX, FTEX, GBR, ICNS, IM, IMT, IPTC, MCIDAS, MSP, PCD, PIXAR, SPIDER and XVTHUMB hold no data sets."""
CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)

Aspect = Literal["resize", "pad", "pad_clip"]
STRIP = 10_000_000
"""Pixels of a padded image that are in memory at once."""
PAD_COLOURS = {"pad": (127, 127, 127), "pad_clip": (122, 116, 104)}
"""The mean colour of the tower's pre-training."""
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What undoes an EXIF orientation."""
_BROKEN = (
    *(OSError, SyntaxError, ValueError, EOFError, RuntimeError),
    *(struct.error, TypeError, LookupError, AttributeError),
)
"""What Pillow raises on damaged files."""
log = logging.getLogger("craft_lightning.data")


@functools.cache
def suffixes() -> frozenset[str]:
    """What makes a file in a folder an image: the endings that Pillow knows of :data:`FORMATS`, in small letters."""
    kinds = {*FORMATS, "MPO"}  # a JPEG with a second image behind it, which Pillow opens as JPEG
    return frozenset(ending for ending, kind in Image.registered_extensions().items() if kind in kinds)


def read_image(path: str | Path) -> Image.Image:
    """The image of a file as every verb sees it, see :func:`to_rgb`. Raises CraftError: no such file, or see
    :func:`opened`."""
    if not Path(path).is_file():
        raise CraftError(f"no image {path}")
    with opened(Path(path), str(path)) as image:
        return to_rgb(image)


@contextmanager
def opened(source: Path | BinaryIO, name: str) -> Iterator[Image.Image]:
    """An image (a file, or its bytes) whose header is read and whose size is allowed; it is decoded where it is used.
    ``name`` is for messages. Raises CraftError: no image, more than :data:`MAX_PIXELS`, or broken (also while it is
    used, and also where another library has told Pillow to read what there is, as lmms-eval 0.7.3 does)."""
    lenient, ImageFile.LOAD_TRUNCATED_IMAGES = ImageFile.LOAD_TRUNCATED_IMAGES, False
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            # Never a path: Pillow would map a raw TIFF of orientation 5 to 8 into memory as if it were upright already.
            with source.open("rb") if isinstance(source, Path) else nullcontext(source) as stream:
                if not stream.read(1):
                    raise CraftError(f"{name}: broken image (an empty file)")
                stream.seek(0)
                with Image.open(stream, formats=FORMATS) as image:
                    width, height = image.size
                    if width * height > MAX_PIXELS:
                        raise CraftError(f"{name}: {width} x {height} pixels, more than {MAX_PIXELS:,}; scale it down")
                    yield image
    except Image.DecompressionBombError as error:
        raise CraftError(f"{name}: more than {MAX_PIXELS:,} pixels; scale it down") from error
    except UnidentifiedImageError as error:
        raise CraftError(f"{name}: broken image, or of a format that is not read ({', '.join(FORMATS)})") from error
    except _BROKEN as error:
        raise CraftError(f"{name}: broken image ({error})") from error
    finally:
        ImageFile.LOAD_TRUNCATED_IMAGES = lenient


def to_rgb(image: Image.Image) -> Image.Image:
    """An image of any mode as a tower sees it: upright, 8 bits a channel, transparency on white, RGB; once.

    The result carries nothing that another reader would follow again (orientation, key colour), and is returned as it
    is when it is read again. Raises OSError, SyntaxError, ValueError: Pillow cannot decode it (:func:`opened` makes one
    line of these).
    """
    if type(image) is Image.Image and image.mode == "RGB" and not image.info and not image.getexif():
        return image
    _mend_key_colour(image)
    image.load()
    try:
        turn = _UPRIGHT.get(image.getexif().get(ExifTags.Base.Orientation, 1))
    except _BROKEN:  # damage beside the pixels
        turn = None
    image = _eight_bits(image)
    if image.has_transparency_data:
        image = image.convert("LA") if image.mode == "La" else image
        image = Image.alpha_composite(Image.new("RGBA", image.size, "white"), image.convert("RGBA"))
    image = (image if turn is None else image.transpose(turn)).convert("RGB")
    image.info = {}
    return image


def _mend_key_colour(image: Image.Image) -> None:
    """The one transparent colour of a PNG, in the numbers that Pillow decodes to: it hands on those of the file."""
    tiles: Any = getattr(image, "tile", None)
    raw = tiles[0].args if tiles and image.format == "PNG" else None
    key = image.info.get("transparency")
    if isinstance(key, int) and raw in ("L;2", "L;4"):
        most = 3 if raw == "L;2" else 15
        image.info["transparency"] = (key & most) * 255 // most
    elif isinstance(key, tuple) and raw == "RGB;16B":
        image.info["transparency"] = tuple(value >> 8 for value in key)


def _eight_bits(image: Image.Image) -> Image.Image:
    """Integers of another depth and floats as ``L`` (``LA`` with a key colour); all other modes as they are."""
    tags: Any = getattr(image, "tag_v2", {})
    wide = image.mode == "I" and image.format != "PPM"  # PPM's are 16 bits
    bits = tags.get(ExifTags.Base.BitsPerSample, (32 if wide else 16,))[0]
    signed = tags.get(ExifTags.Base.SampleFormat, (1,))[0] == 2 if tags else wide
    if not (image.mode == "F" or image.mode.startswith("I") or (image.mode == "L" and signed)):
        return image
    values = np.asarray(image)
    if image.mode == "F":
        grey = _grey_of_floats(values)
    else:
        grey = _grey_of_integers(values.view(np.int8) if image.mode == "L" else values, bits, signed)
    if tags.get(ExifTags.Base.PhotometricInterpretation) == 0:  # white is zero, which Pillow heeds up to 8 bits alone
        grey = 255 - grey
    found = Image.fromarray(grey)
    if isinstance(key := image.info.get("transparency"), int):
        found.putalpha(Image.fromarray(np.uint8(255) * (values != key)))
    return found


def _grey_of_integers(values: np.ndarray, bits: int, signed: bool) -> np.ndarray:
    """``[H, W]`` uint8: scaled by the range of the type, so that images of one camera stay comparable. 32 bits are a
    container: they count as the narrowest type that holds the image's values."""
    _say_once("images of more than 8 bits: integers are scaled by the range of their type to 0..255")
    if bits < 32:
        low = -(1 << bits - 1) if signed else 0
        high = low + (1 << bits) - 1
    else:
        values = values if signed else values.view(np.uint32)
        types: Any = (np.uint8, np.uint16, np.int16, np.uint32, np.int32)
        kinds = map(np.iinfo, types)
        low, high = next((k.min, k.max) for k in kinds if k.min <= values.min() and values.max() <= k.max)
    scaled = values.astype(np.float32)
    scaled -= low
    scaled *= 255 / (high - low)
    return np.rint(scaled, out=scaled).astype(np.uint8)


def _grey_of_floats(values: np.ndarray) -> np.ndarray:
    """``[H, W]`` uint8: values in [0, 1] are black to white, whole numbers up to 255 are bytes, others are stretched
    from the least finite value of the image, black, to the greatest, white; a constant image is black. NaN and -inf are
    black, inf is white."""
    _say_once(
        "images of floats: [0, 1] is black to white and whole numbers from 0 to 255 are bytes; others are stretched "
        "from the least to the greatest value of each image; NaN is black"
    )
    finite = np.isfinite(values)
    low, high = (float(f(values, where=finite, initial=i)) for f, i in ((np.min, np.inf), (np.max, -np.inf)))
    if low >= 0 and high <= 1:
        low, high = 0, 1
    elif low >= 0 and high <= 255 and bool((np.rint(values) == values).all(where=finite)):
        low, high = 0, 255
    with np.errstate(invalid="ignore", over="ignore"):
        scaled = values - np.float32(low)
        scaled *= 255 / (high - low) if high - low > _LEAST_SPAN else 1
    np.nan_to_num(scaled, copy=False, nan=0, posinf=255, neginf=0)
    return np.rint(scaled, out=scaled).clip(0, 255).astype(np.uint8)


_LEAST_SPAN = 1e-36
"""Of floats: 255 divided by less is no float32."""


@functools.cache
def _say_once(what: str) -> None:
    log.warning("%s", what)


def square(image: Image.Image, side: int, aspect: Aspect = "resize") -> Tensor:
    """``[3, side, side]`` uint8 of an image of any mode and size (:func:`to_rgb`), by PIL's antialiased bicubic filter;
    ``"resize"`` squashes it to a square, ``"pad"`` first centres it on a square of grey (127), ``"pad_clip"`` on one of
    CLIP's mean colour."""
    image = to_rgb(image)
    if aspect != "resize" and image.width != image.height:
        image = _padded(image, side, PAD_COLOURS[aspect])
    if image.size != (side, side):
        image = image.resize((side, side), Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


def _padded(image: Image.Image, side: int, colour: tuple[int, int, int]) -> Image.Image:
    """An image in the middle of a square, the square's rows already resized to ``side``: PIL resizes rows before
    columns, so all that follows is the same to the bit, and the square of a long thin image is never whole in memory.
    """
    longer = max(image.size)
    left, top, strip = (longer - image.width) // 2, (longer - image.height) // 2, max(1, STRIP // longer)
    found = Image.new("RGB", (side, longer), colour)
    for row in range(0, image.height, strip):
        rows = Image.new("RGB", (longer, min(strip, image.height - row)), colour)
        rows.paste(image.crop((0, row, image.width, row + rows.height)), (left, 0))
        found.paste(rows.resize((side, rows.height), Image.Resampling.BICUBIC), (0, top + row))
    return found


def to_pixels(images: Tensor) -> Tensor:
    """uint8 images as a tower takes them: float32 in [-1, 1], of the same shape."""
    return (images.float() / 255.0 - 0.5) / 0.5


def preprocess(image: Image.Image, side: int, aspect: Aspect = "resize") -> Tensor:
    """:func:`square` of an image, as :func:`to_pixels`: ``[3, side, side]`` float32 in [-1, 1]."""
    return to_pixels(square(image, side, aspect))
