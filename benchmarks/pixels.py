"""Images of one megapixel a second: read by two processes, beside one that reads and computes in turn.

    python benchmarks/pixels.py [--quick]

JPEG files of noise that is smooth as photographs are, on the pocket tower; each row is a whole call, from the start of
its processes to their end. It stops where codes or squares differ by a bit.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from craft_lightning.inference import VisualTokenizer
from craft_lightning.models.image_workers import in_order
from craft_lightning.pretraining.paper_scale import codes_of
from data_modules.datamodule import VqaDataModule
from data_modules.sources.images import file_image, read_square
from timing import Row, alternate, program

WIDTH, HEIGHT, DISTINCT = 1152, 864, 16
WORKERS, LEAST = 2, 1.7


def write(folder: Path, count: int) -> list[Path]:
    """So many files in two classes, of few distinct images."""
    rng, whole = np.random.default_rng(0), list[bytes]()
    for number in range(DISTINCT):
        noise = rng.integers(0, 256, (HEIGHT // 4, WIDTH // 4, 3), dtype=np.uint8)
        file = folder / f"{number}.jpg"
        Image.fromarray(noise).resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC).save(file, quality=90)
        whole.append(file.read_bytes())
        file.unlink()
    files = [folder / "test" / ("brick", "cork")[number % 2] / f"{number:04}.jpg" for number in range(count)]
    for number, file in enumerate(files):
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(whole[number % DISTINCT])
    return files


def tokenized(tokenizer: VisualTokenizer, files: list[Path], workers: int) -> Tensor:
    """What ``tokenize`` stores."""
    return tokenizer.tokenize(files, workers=workers)["codes"]


def cached(tokenizer: VisualTokenizer, files: list[Path], workers: int) -> Tensor:
    """What a surrogate's cache of codes is made of."""
    read = partial(read_square, side=tokenizer.tower.image_size, aspect=tokenizer.aspect)
    images = [file_image(file.name, file) for file in files]
    squares = (found for found in in_order(read, images, workers) if isinstance(found, Tensor))
    return codes_of(tokenizer.tower, squares)["codes"]


def evaluated(root: Path, files: list[Path], workers: int) -> Tensor:
    """The images of a folder as a test sees them."""
    data = VqaDataModule(dataset="folder", source="folder", root=str(root), num_workers=workers, test_size=len(files))
    data.setup("test")
    return torch.cat([batch.pixel_values for batch in data.test_dataloader()])


def rows(quick: bool) -> list[Row]:
    """Milliseconds an image of the three ways that images of a folder are read."""
    count = 32 if quick else 256
    tokenizer = VisualTokenizer.from_pretrained("pocket-vila-u", device="cpu")
    found = []
    with tempfile.TemporaryDirectory() as folder:
        files = write(Path(folder), count)
        ways: dict[str, Callable[[int], Tensor]] = {
            "`tokenize`": partial(tokenized, tokenizer, files),
            "codes for a surrogate": partial(cached, tokenizer, files),
            "`test` of a folder, before its model": partial(evaluated, Path(folder), files),
        }
        for name, way in ways.items():
            if not torch.equal(way(0), way(WORKERS)):
                raise SystemExit(f"{name}: processes read other images")
            one, two = alternate([partial(way, 0), partial(way, WORKERS)], 1 if quick else 3, warm_up=0)
            figure = f"JPEGs of {WIDTH} x {HEIGHT} pixels, {name}: an image"
            found.append(
                Row(9, figure, "read in the same process", one / count * 1e3, two / count * 1e3, "ms", least=LEAST)
            )
    return found


if __name__ == "__main__":
    raise SystemExit(program(__doc__, rows))
