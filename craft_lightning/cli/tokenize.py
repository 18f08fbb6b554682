"""``tokenize``: images to discrete visual tokens, with the vision tower alone."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.progress import track
from safetensors import SafetensorError, safe_open
from torch import Tensor

from craft_lightning.checkpoints.tensors import save_tensors
from craft_lightning.cli import verbs
from craft_lightning.errors import CraftError
from craft_lightning.inference import VisualTokenizer
from craft_lightning.io import check_file
from craft_lightning.models.image_files import find_images, read_squares


def main(argv: Sequence[str]) -> int:
    """The verb; returns the exit code."""
    args = verbs.tokenize().parse_args(argv)

    output = args.output or args.counts
    check_file(output, "--output" if args.output else "--counts")
    model = VisualTokenizer.from_pretrained(args.backbone, args.encoder, dtype=args.dtype, attention=args.attention)
    count, names, batches = open_images(args.images, model, args.batch_size, args.workers)
    console, total = Console(stderr=True), math.ceil(count / args.batch_size)
    shown = track(batches, "batches", total, console=console, transient=True, disable=not sys.stderr.isatty())
    quantizer = model.tower.quantizer
    assert quantizer is not None
    if args.counts is not None:
        counts = model.counts(shown)
        save_tensors(output, {"counts": counts}, {"codebook_hash": quantizer.hash()})
        print(f"{output}: {int((counts > 0).sum())} codes in {len(names)} images")
        return 0
    tensors = model.encode(shown, args.keep)
    told = {"codebook_hash": quantizer.hash(), "dtype": args.dtype}
    save_tensors(output, tensors, {**told, "image_names": json.dumps(names, ensure_ascii=False)})
    shape = "x".join(map(str, tensors["codes"].shape))
    print(f"{output}: codes {shape}, codebook {told['codebook_hash'][:12]}, {args.dtype}")
    return 0


def open_images(
    inputs: Sequence[Path], model: VisualTokenizer, batch_size: int, workers: int | None
) -> tuple[int, list[str], Iterator[Tensor]]:
    """Number of the images, broken ones included; names of those that are read, relative to the one folder that was
    given or as given, which fill while their pixels are read batch by batch. Raises CraftError: an input that does not
    exist, holds no image, or mixes pixels with images."""
    if any(path.suffix == ".safetensors" for path in inputs):
        if len(inputs) > 1:
            raise CraftError("--images takes one safetensors file, or images, not both")
        return _open_pixels(inputs[0], batch_size)
    files = find_images(inputs)
    top = inputs[0] if len(inputs) == 1 and inputs[0].is_dir() else None
    names: list[str] = []

    def read() -> Iterator[Tensor]:
        for file, square in read_squares(files, model.tower.image_size, model.aspect, workers):
            names.append((file.relative_to(top) if top else file).as_posix())
            yield square

    return len(files), names, model.pixels(read(), batch_size)


def _open_pixels(path: Path, batch_size: int) -> tuple[int, list[str], Iterator[Tensor]]:
    if not path.is_file():
        raise CraftError(f"no file {path}")
    try:
        with safe_open(path, "pt") as file:
            if "pixel_values" not in file.keys():  # noqa: SIM118 - the handle is no mapping
                raise CraftError(f"{path}: no pixel_values; it holds {', '.join(file.keys())}")
            shape = file.get_slice("pixel_values").get_shape()
    except SafetensorError as error:
        raise CraftError(f"{path}: not a readable safetensors file ({error})") from error
    if len(shape) != 4 or shape[0] == 0:
        raise CraftError(f"{path}: pixel_values is {shape}, expected [B, 3, H, W]")

    def batches() -> Iterator[Tensor]:
        with safe_open(path, "pt") as file:
            pixels = file.get_slice("pixel_values")
            for start in range(0, shape[0], batch_size):
                batch = pixels[start : start + batch_size]
                if not batch.is_floating_point() or not bool(batch.isfinite().all()):
                    raise CraftError(f"{path}: pixel_values must be finite floating-point numbers, -1 black to 1 white")
                yield batch

    return shape[0], [f"{path.name}:{index}" for index in range(shape[0])], batches()
