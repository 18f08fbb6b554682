import logging
import resource
import struct
import zlib
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image, ImageFile

from craft_lightning.errors import CraftError
from craft_lightning.models import image_processing as pixels
from craft_lightning.models.image_processing import (
    FORMATS,
    PAD_COLOURS,
    Aspect,
    opened,
    preprocess,
    read_image,
    square,
    suffixes,
    to_pixels,
    to_rgb,
)
from tests.picture_kit import TURNED


def picture(width: int = 40, height: int = 24, mode: str = "RGB") -> Image.Image:
    values = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return Image.fromarray(values).convert(mode)


def test_pixels_are_bicubic_and_in_range() -> None:
    image = picture()
    pixels = preprocess(image, 16)
    expected = np.asarray(image.resize((16, 16), Image.Resampling.BICUBIC), dtype=np.float64) / 255 * 2 - 1
    assert pixels.shape == (3, 16, 16)
    assert pixels.dtype == torch.float32
    np.testing.assert_allclose(pixels.permute(1, 2, 0).numpy(), expected, atol=2e-7)
    assert float(preprocess(Image.new("RGB", (8, 8), "white"), 8).min()) == 1.0
    assert float(preprocess(Image.new("RGB", (8, 8), "black"), 8).max()) == -1.0


@pytest.mark.parametrize("mode", ["P", "L", "RGBA", "1"])
def test_conversion_comes_before_resizing(mode: str) -> None:
    image = picture(mode=mode)
    assert torch.equal(preprocess(image, 16), preprocess(image.convert("RGB"), 16))


def test_bytes_become_pixels_as_the_original_computes_them() -> None:
    values = np.arange(256, dtype=np.uint8)
    wanted = (values.astype(np.float32) / np.float32(255) - np.float32(0.5)) / np.float32(0.5)
    assert torch.equal(to_pixels(torch.from_numpy(values)), torch.from_numpy(wanted))


def test_pad_keeps_the_aspect() -> None:
    pixels = preprocess(Image.new("RGB", (40, 20), "white"), 40, "pad")
    grey = 127 / 255 * 2 - 1
    torch.testing.assert_close(pixels[:, 0, 0], torch.full((3,), grey))
    assert torch.equal(pixels[:, 20, 20], torch.ones(3))
    assert int((pixels[0] > 0.9).sum()) == 40 * 20


@pytest.mark.parametrize("lenient", [False, True])
def test_broken_pictures_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lenient: bool) -> None:
    """Also where another library has told Pillow to read what there is."""
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", lenient)
    whole = tmp_path / "whole.png"
    picture(200, 200).save(whole)
    broken = tmp_path / "broken.png"
    broken.write_bytes(whole.read_bytes()[:5000])
    text = tmp_path / "text.jpg"
    text.write_text("no image")
    assert read_image(whole).size == (200, 200)
    for path in (broken, text, tmp_path / "absent.png"):
        with pytest.raises(CraftError, match=path.name):
            read_image(path)
    assert lenient == ImageFile.LOAD_TRUNCATED_IMAGES


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def test_bombs_are_refused_unread(tmp_path: Path) -> None:
    for side in (20_000, 11_000):
        header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
        bomb = tmp_path / f"bomb{side}.png"
        bomb.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")))
        with pytest.raises(CraftError, match=f"bomb{side}.png.*pixels"):
            read_image(bomb)


@pytest.fixture
def said(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    """The log of a process that has read nothing yet."""
    pixels._say_once.cache_clear()
    caplog.set_level(logging.WARNING, "craft_lightning.data")
    yield caplog
    pixels._say_once.cache_clear()


def stored(image: Image.Image, form: str, **options: Any) -> Image.Image:
    """An image of a file that holds the given one."""
    file = BytesIO()
    image.save(file, form, **options)
    return Image.open(file, formats=FORMATS)


def array(image: Image.Image) -> Any:
    return np.asarray(to_rgb(image)).astype(int)


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize("form", ["PNG", "TIFF", "WEBP", "JPEG"])
def test_pictures_are_upright(form: str, orientation: int) -> None:
    upright, turn = picture(), TURNED[orientation]
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    lying = upright if turn is None else upright.transpose(turn)
    options: dict[str, Any] = {"WEBP": {"lossless": True}, "JPEG": {"quality": 100, "subsampling": 0}}.get(form, {})
    found = array(stored(lying, form, exif=exif, **options))
    assert np.abs(found - np.asarray(upright)).max() <= (5 if form == "JPEG" else 0)


@pytest.mark.parametrize("orientation", TURNED)
@pytest.mark.parametrize("mode", ["L", "I;16", "RGB", "RGBA", "CMYK"])
def test_a_raw_tiff_is_upright_wherever_it_lies(mode: str, orientation: int, tmp_path: Path) -> None:
    """Pillow maps such a file into memory if it is given a path, as if it lay upright."""
    values = np.random.default_rng(0).integers(0, 1 << 16, (24, 40), dtype=np.uint16)
    upright, turn = Image.fromarray(values) if mode == "I;16" else picture(mode=mode), TURNED[orientation]
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    file = tmp_path / "raw.tiff"
    (upright if turn is None else upright.transpose(turn)).save(file, exif=exif)
    with opened(BytesIO(file.read_bytes()), "raw.tiff") as image:
        assert np.array_equal(to_rgb(image), to_rgb(upright))
    assert np.array_equal(read_image(file), to_rgb(upright))


def test_a_jpeg_with_a_second_picture_is_upright() -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    file = BytesIO()
    Image.new("RGB", (40, 24), "red").save(file, "MPO", save_all=True, append_images=[picture()], exif=exif)
    found = array(Image.open(file, formats=FORMATS))
    assert found.shape == (40, 24, 3)
    assert found[0, 0].tolist() == pytest.approx([255, 0, 0], abs=3)


def test_an_upright_picture_is_not_turned_again() -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 6
    once = to_rgb(stored(picture(), "PNG", exif=exif))
    assert np.array_equal(array(once), np.asarray(once))
    assert np.array_equal(np.asarray(once), np.rot90(np.asarray(picture()), -1))


def test_a_damaged_exif_block_leaves_the_picture_as_it_is() -> None:
    assert np.array_equal(array(stored(picture(), "PNG", exif=b"Exif\0\0MM no tags")), np.asarray(picture()))


GREYS = np.arange(64).repeat(3)[None].repeat(2, 0) / 63
"""64 steps from 0 to 1, ``[2, 192]``."""


def pgm(values: Any, most: int) -> Image.Image:
    header = f"P5 {values.shape[1]} {values.shape[0]} {most}\n".encode()
    return Image.open(BytesIO(header + values.astype(">u2").tobytes()))


def twelve_bits(values: Any) -> Image.Image:
    """A TIFF of 12 bits a pixel, two of them in three bytes."""
    high, low = values.reshape(-1, 2).T
    packed = np.stack([high >> 4, (high & 15) << 4 | low >> 8, low & 255], axis=-1).astype(np.uint8).tobytes()
    return Image.open(BytesIO(tiff(values.shape, packed, bits=12)))


def tiff(shape: tuple[int, ...], data: bytes, bits: int, form: int = 1, white_is_zero: bool = False) -> bytes:
    """An uncompressed grey TIFF; ``form`` is 1 for unsigned, 2 for signed numbers, 3 for floats."""
    height, width = shape
    tags = {256: width, 257: height, 258: bits, 259: 1, 262: int(not white_is_zero)}
    tags |= {273: 8, 277: 1, 278: height, 279: len(data), 339: form}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    body = data + b"\0" * (len(data) % 2)
    return b"II*\0" + struct.pack("<I", 8 + len(body)) + body + struct.pack("<H", len(tags)) + entries + b"\0" * 4


def deep(kind: str) -> Image.Image:
    """The gradient over the whole range of a type, from a file where there is such a file."""
    whole = np.rint(GREYS * 65535).astype(np.uint16)
    match kind.split():
        case ["PNG" | "TIFF" | "JPEG2000" as form]:
            return stored(Image.fromarray(whole), form)
        case ["TIFF", "compressed"]:
            return stored(Image.fromarray(whole), "TIFF", compression="tiff_lzw")
        case ["TIFF", "12"]:
            return twelve_bits(np.rint(GREYS * 4095).astype(int))
        case ["TIFF", "int16"]:
            return stored(Image.fromarray((whole.astype(np.int32) - 32768).astype(np.int16)), "TIFF")
        case ["TIFF", "int8"]:
            return Image.open(BytesIO(tiff(GREYS.shape, np.rint(GREYS * 255 - 128).astype(np.int8).tobytes(), 8, 2)))
        case ["TIFF", "white", "is", "zero"]:
            return Image.open(BytesIO(tiff(GREYS.shape, (65535 - whole).tobytes(), 16, white_is_zero=True)))
        case ["TIFF", "uint32"]:
            return Image.open(BytesIO(tiff(GREYS.shape, (whole.astype(np.uint32) * 65537).tobytes(), 32)))
        case ["I", least, most]:
            return Image.fromarray(np.rint(int(least) + GREYS * (int(most) - int(least))).astype(np.int32))
        case ["TIFF", "I"]:
            return stored(Image.fromarray(whole.astype(np.int32)), "TIFF")
        case ["PGM", most]:
            return pgm(np.rint(GREYS * int(most)).astype(int), int(most))
        case [mode]:
            return Image.frombytes(mode, GREYS.shape[::-1], whole.astype(">u2" if mode[-1] == "B" else "<u2").tobytes())
    raise AssertionError(kind)


DEEP = ["PNG", "TIFF", "TIFF compressed", "JPEG2000", "TIFF 12", "TIFF int8", "TIFF int16", "TIFF uint32", "TIFF I"]
DEEP += ["TIFF white is zero", "PGM 65535", "PGM 1000", "I 0 255", "I 0 65535", "I -32768 32767"]
DEEP += [f"I {-(2**31)} {2**31 - 1}", "I;16", "I;16B", "I;16L", "I;16N"]


@pytest.mark.parametrize("kind", DEEP)
def test_integers_are_scaled_by_their_range(kind: str, said: pytest.LogCaptureFixture) -> None:
    found = array(deep(kind))
    assert len(np.unique(found)) == 64
    np.testing.assert_allclose(found, (GREYS * 255)[..., None].repeat(3, 2), atol=0.65)
    to_rgb(deep("PNG"))
    assert [record.getMessage() for record in said.records if "more than 8 bits" in record.getMessage()] == [
        "images of more than 8 bits: integers are scaled by the range of their type to 0..255"
    ]


def test_a_dark_picture_of_16_bits_stays_dark() -> None:
    assert array(stored(Image.fromarray(np.full((2, 2), 257, np.uint16)), "PNG")).max() == 1
    assert array(pgm(np.full((2, 2), 257), 65535)).max() == 1


@pytest.mark.parametrize(("least", "most"), [(0, 1), (0, 65535), (-3, 7), (-1e-30, 1e-25), (0, 3e38), (0, 1.5)])
def test_floats_keep_their_steps(least: float, most: float, said: pytest.LogCaptureFixture) -> None:
    values = (least + GREYS * (most - least)).astype(np.float32)
    for image in (Image.fromarray(values), stored(Image.fromarray(values), "TIFF")):
        found = array(image)
        np.testing.assert_allclose(found, (GREYS * 255)[..., None].repeat(3, 2), atol=0.51)
    assert sum("images of floats" in record.getMessage() for record in said.records) == 1


@pytest.mark.parametrize(
    ("values", "grey"),
    [
        ([0.25, 0.5, 0.5], [64, 128, 128]),  # in [0, 1]: as they are
        ([7, 9, 200], [7, 9, 200]),  # bytes
        ([7.5, 7.5, 7.5], [0, 0, 0]),
        ([-2, -2, -2], [0, 0, 0]),
        ([np.nan, np.nan, np.nan], [0, 0, 0]),
        ([np.nan, 0.0, 1.0], [0, 0, 255]),
        ([-1.5, np.nan, 1.5], [0, 0, 255]),
        ([-np.inf, 10.5, np.inf], [0, 0, 255]),
        ([-3.4e38, -3.4e38, 3.4e38], [0, 0, 255]),  # the span is no float32: nothing is raised
    ],
)
def test_floats_that_are_odd(values: list[float], grey: list[int]) -> None:
    assert array(Image.fromarray(np.array([values], np.float32)))[0, :, 0].tolist() == grey


@pytest.mark.parametrize("mode", ["CMYK", "LAB", "YCbCr", "HSV", "L", "1", "P", "RGB", "RGBX"])
def test_other_modes_are_pillows_own(mode: str) -> None:
    image = picture().convert(mode)
    assert np.array_equal(array(image), np.asarray(image.convert("RGB")))


def png(depth: int, kind: int, row: bytes, key: bytes) -> Image.Image:
    """A PNG of two pixels in one row with a key colour."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 1, depth, kind, 0, 0, 0))
    body = chunk(b"tRNS", key) + chunk(b"IDAT", zlib.compress(b"\0" + row)) + chunk(b"IEND", b"")
    return Image.open(BytesIO(b"\x89PNG\r\n\x1a\n" + header + body))


def palette(alphas: int | bytes) -> Image.Image:
    image = Image.new("P", (2, 1))
    image.putpalette([200, 0, 0, 0, 0, 0])
    image.putpixel((1, 0), 1)
    return stored(image, "PNG", transparency=alphas)


def hidden(mode: str) -> Image.Image:
    """A red (or grey) pixel that is transparent, beside a black one that is not."""
    pixels = {"LA": ((200, 0), (0, 255)), "La": ((0, 0), (0, 255)), "RGBa": ((0, 0, 0, 0), (0, 0, 0, 255))}
    image = Image.new(mode, (2, 1))
    for x, value in enumerate(pixels.get(mode, ((200, 0, 0, 0), (0, 0, 0, 255)))):
        image.putpixel((x, 0), value)
    return image


TRANSPARENT = {
    "RGBA": lambda: stored(hidden("RGBA"), "PNG"),
    "RGBA in WebP": lambda: stored(hidden("RGBA"), "WEBP", lossless=True),
    "RGBA in TIFF": lambda: stored(hidden("RGBA"), "TIFF"),
    "LA": lambda: stored(hidden("LA"), "PNG"),
    "PA": lambda: hidden("RGBA").convert("PA"),
    "La": lambda: hidden("La"),
    "RGBa": lambda: hidden("RGBa"),
    "palette, one colour": lambda: palette(0),
    "palette, alphas": lambda: palette(b"\0\xff"),
    "GIF": lambda: stored(hidden("RGBA"), "GIF"),
    "key of 1 bit": lambda: png(1, 0, bytes([0b10000000]), struct.pack(">H", 1)),
    "key of 2 bits": lambda: png(2, 0, bytes([0b10000000]), struct.pack(">H", 2)),
    "key of 4 bits": lambda: png(4, 0, bytes([0x50]), struct.pack(">H", 5)),
    "key of 8 bits": lambda: png(8, 0, bytes([90, 0]), struct.pack(">H", 90)),
    "key of 16 bits": lambda: png(16, 0, struct.pack(">2H", 300, 0), struct.pack(">H", 300)),
    "key colour": lambda: png(8, 2, bytes([200, 0, 0, 0, 0, 0]), struct.pack(">3H", 200, 0, 0)),
    "key colour of 16 bits": lambda: png(
        16, 2, struct.pack(">6H", 4660, 22136, 9, 0, 0, 0), struct.pack(">3H", 4660, 22136, 9)
    ),
}


@pytest.mark.parametrize("kind", TRANSPARENT)
def test_transparency_is_white(kind: str) -> None:
    assert array(TRANSPARENT[kind]()).tolist() == [[[255] * 3, [0] * 3]]


def test_half_transparency_is_half_white() -> None:
    assert array(Image.new("RGBA", (1, 1), (255, 0, 0, 128))).tolist() == [[[255, 127, 127]]]


def test_the_first_picture_of_several_counts() -> None:
    frames = [Image.new("RGB", (4, 4), colour) for colour in ("red", "blue")]
    for form in ("GIF", "PNG", "WEBP", "TIFF"):
        image = stored(frames[0], form, save_all=True, append_images=frames[1:])
        assert array(image)[0, 0].tolist() == pytest.approx([255, 0, 0], abs=3)


def test_what_the_original_reads_is_left_as_it_is() -> None:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = 3
    odd = stored(hidden("RGBA"), "PNG", exif=exif)
    plain = Image.fromarray(np.asarray(odd.convert("RGB")))  # as stored: VILA-U's own code does no more
    assert np.asarray(plain).tolist() == [[[200, 0, 0], [0, 0, 0]]]
    assert to_rgb(plain) is plain
    assert not torch.equal(preprocess(plain, 2), preprocess(odd, 2))


LEFT_OUT = {"EPS", "WMF", "BUFR", "GRIB", "HDF5", "MPEG", "FITS", "FLI", "CUR", "DCX", "BLP", "FTEX", "GBR", "ICNS"}
LEFT_OUT |= {"IM", "IMT", "IPTC", "MCIDAS", "MSP", "PCD", "PIXAR", "SPIDER", "XVTHUMB"}


def test_every_format_of_pillow_is_decided_on() -> None:
    Image.init()
    assert set(FORMATS) | LEFT_OUT == set(Image.OPEN), "Pillow reads another format: image, or left out for a reason?"
    assert not set(FORMATS) & LEFT_OUT


def test_what_counts_as_a_picture() -> None:
    assert {".jpg", ".jpeg", ".jfif", ".jpe", ".mpo", ".png", ".apng", ".gif", ".webp", ".avif", ".bmp"} < suffixes()
    assert {".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".pfm", ".jp2", ".tga", ".qoi"} < suffixes()
    assert not suffixes() & {".eps", ".ps", ".wmf", ".emf", ".mpg", ".h5", ".fits", ".pdf", ".svg", ".txt", ".csv", ""}


def test_no_reader_that_starts_programs_is_tried(tmp_path: Path) -> None:
    file = tmp_path / "drawing.png"
    file.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n%%EOF\n")
    with Image.open(file) as image:
        assert image.format == "EPS", "Pillow itself goes by the content"
    with pytest.raises(CraftError, match=r"drawing.png: broken image, or of a format that is not read \(AVIF, BMP"):
        read_image(file)


def damaged(form: str) -> Iterator[bytes]:
    whole, draw = BytesIO(), np.random.default_rng(0)
    picture().save(whole, form)
    for _ in range(40):
        data = bytearray(whole.getvalue())
        for at in draw.integers(0, min(len(data), 400), 4):
            data[at] = draw.integers(256)
        yield bytes(data)


@pytest.mark.filterwarnings("ignore::UserWarning")
@pytest.mark.parametrize("form", ["AVIF", "DDS", "TIFF", "PNG", "JPEG", "WEBP", "GIF"])
def test_damage_is_one_line_whatever_pillow_raises(form: str, tmp_path: Path) -> None:
    file, told = tmp_path / "damaged", []
    for data in damaged(form):
        file.write_bytes(data)
        try:
            read_image(file)
        except CraftError as error:
            told.append(str(error))
    assert told
    assert all(line.startswith(f"{file}: ") and "\n" not in line for line in told)


@pytest.mark.parametrize("aspect", ["pad", "pad_clip"])
@pytest.mark.parametrize("size", [(90, 31), (31, 90), (200, 3), (3, 201), (64, 40)])
def test_strips_of_a_padded_picture_are_the_whole_one(
    size: tuple[int, int], aspect: Aspect, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = np.random.default_rng(0).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    image, longer = Image.fromarray(values), max(size)
    canvas = Image.new("RGB", (longer, longer), PAD_COLOURS[aspect])
    canvas.paste(image, ((longer - size[0]) // 2, (longer - size[1]) // 2))
    wanted = torch.from_numpy(np.array(canvas.resize((64, 64), Image.Resampling.BICUBIC))).permute(2, 0, 1)
    for strip in (pixels.STRIP, 7 * longer, 1):
        monkeypatch.setattr(pixels, "STRIP", strip)
        assert torch.equal(square(image, 64, aspect), wanted)


@pytest.mark.parametrize("size", [(20_000, 20), (20, 20_000)])
def test_a_long_thin_picture_is_padded_in_little_memory(size: tuple[int, int]) -> None:
    """The padded square would have 400 million pixels."""
    image = Image.new("RGB", size)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    square(image, 64, "pad")
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 200_000
