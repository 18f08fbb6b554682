import struct
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from craft_lightning.errors import CraftError
from craft_lightning.models.pixels import preprocess, read_image


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


def test_pad_keeps_the_aspect() -> None:
    pixels = preprocess(Image.new("RGB", (40, 20), "white"), 40, "pad")
    grey = 127 / 255 * 2 - 1
    torch.testing.assert_close(pixels[:, 0, 0], torch.full((3,), grey))
    assert torch.equal(pixels[:, 20, 20], torch.ones(3))
    assert int((pixels[0] > 0.9).sum()) == 40 * 20


def test_broken_pictures_are_named(tmp_path: Path) -> None:
    whole = tmp_path / "whole.png"
    picture(200, 200).save(whole)
    broken = tmp_path / "broken.png"
    broken.write_bytes(whole.read_bytes()[:5000])
    text = tmp_path / "text.jpg"
    text.write_text("no picture")
    assert read_image(whole).size == (200, 200)
    for path in (broken, text, tmp_path / "absent.png"):
        with pytest.raises(CraftError, match=path.name):
            read_image(path)


def test_bombs_are_refused_unread(tmp_path: Path) -> None:
    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    for side in (20_000, 11_000):
        header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
        bomb = tmp_path / f"bomb{side}.png"
        bomb.write_bytes(b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")))
        with pytest.raises(CraftError, match=f"bomb{side}.png.*pixels"):
            read_image(bomb)


def test_paths_stay_in_their_root(tmp_path: Path) -> None:
    root = tmp_path / "root"
    (root / "inside").mkdir(parents=True)
    picture().save(tmp_path / "secret.png")
    picture().save(root / "inside" / "a.png")
    (root / "link.png").symlink_to(tmp_path / "secret.png")
    assert read_image("inside/a.png", root).size == (40, 24)
    assert read_image("inside/../inside/a.png", root).size == (40, 24)
    for name in ("../secret.png", "link.png", str(tmp_path / "secret.png")):
        with pytest.raises(CraftError, match="leaves its root"):
            read_image(name, root)
