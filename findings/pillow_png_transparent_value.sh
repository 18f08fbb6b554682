#!/usr/bin/env bash
# Pillow 13.0.0: the transparent colour of a PNG of 2, 4 or 16 bits is lost.
#
# Expected: a PNG names one transparent colour in its tRNS chunk, and convert("RGBA") makes its pixels transparent, as
#   it does for 1 and 8 bits.
# Found: pixels are brought to 8 bits as they are read (4-bit grey 5 becomes 85), info["transparency"] stays what the
#   file says (5). They are compared as they stand, so no pixel matches and the picture comes out opaque, without a
#   warning. Only black, 0, works at every depth.
# Where: PIL/PngImagePlugin.py, PngStream.chunk_tRNS scales the value for mode "1" only, not for the raw modes "L;2",
#   "L;4" and "RGB;16B"; PIL/Image.py, Image.convert compares it with scaled pixels.
# What to do: before convert, read the raw mode (im.tile[0].args) and scale info["transparency"]: times 85 for "L;2",
#   times 17 for "L;4", shifted right by 8 for each part of "RGB;16B".
# Output seen, 30 November 2026:
#   Pillow 13.0.0
#   1-bit grey: raw mode 1, first pixel 0, info {'transparency': 0}, alpha [0, 255]
#   2-bit grey: raw mode L;2, first pixel 85, info {'transparency': 1}, alpha [255, 255]
#   4-bit grey: raw mode L;4, first pixel 85, info {'transparency': 5}, alpha [255, 255]
#   8-bit grey: raw mode L, first pixel 5, info {'transparency': 5}, alpha [0, 255]
#   16-bit RGB: raw mode RGB;16B, first pixel (18, 86, 154), info {'transparency': (4660, 22136, 39612)}, alpha [255, 255]
#   4-bit grey, scaled by hand: alpha [0, 255]
#   As found: the transparent pixel of 2-bit, 4-bit and 16-bit pictures is opaque.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet pillow==13.0.0
cd "$work"
venv/bin/python -I - <<'PY'
import io, struct, sys, zlib

import PIL
from PIL import Image

print("Pillow", PIL.__version__)


def png(depth: int, colour: int, row: bytes, transparent: bytes) -> Image.Image:
    """Two pixels beside each other, the first of the transparent colour."""

    def chunk(name: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))

    header = struct.pack(">IIBBBBB", 2, 1, depth, colour, 0, 0, 0)
    parts = [(b"IHDR", header), (b"tRNS", transparent), (b"IDAT", zlib.compress(b"\0" + row)), (b"IEND", b"")]
    return Image.open(io.BytesIO(b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*part) for part in parts)))


def alphas(image: Image.Image) -> list[int]:
    rgba = image.convert("RGBA")
    return [rgba.getpixel((x, 0))[3] for x in (0, 1)]


colours = struct.pack(">6H", 0x1234, 0x5678, 0x9ABC, 1, 2, 3)
cases = {  # depth, colour type, row, tRNS, alphas as found
    "1-bit grey": (1, 0, b"\x40", b"\0\0", [0, 255]),
    "2-bit grey": (2, 0, b"\x60", b"\0\1", [255, 255]),
    "4-bit grey": (4, 0, b"\x5a", b"\0\5", [255, 255]),
    "8-bit grey": (8, 0, b"\x05\x0a", b"\0\5", [0, 255]),
    "16-bit RGB": (16, 2, colours, colours[:6], [255, 255]),
}
changed = []
for name, (*parts, found) in cases.items():
    image = png(*parts)
    raw = image.tile[0].args
    image.load()
    alpha = alphas(image)
    print(f"{name}: raw mode {raw}, first pixel {image.getpixel((0, 0))}, info {image.info}, alpha {alpha}")
    if alpha != found:
        changed.append(f"{name}: alpha {alpha}, was {found}")
image = png(*cases["4-bit grey"][:4])
image.info["transparency"] *= 17
print("4-bit grey, scaled by hand: alpha", alphas(image))
if alphas(image) != [0, 255]:
    changed.append("scaling by hand no longer helps")
if changed:
    sys.exit("CHANGED: " + "; ".join(changed))
print("As found: the transparent pixel of 2-bit, 4-bit and 16-bit pictures is opaque.")
PY
