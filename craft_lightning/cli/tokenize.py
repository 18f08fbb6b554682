"""``tokenize``: images to discrete visual tokens, with the vision tower alone."""

from __future__ import annotations

import argparse
import json
import math
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import torch
from rich.console import Console
from rich.progress import track
from safetensors import SafetensorError, safe_open
from torch import Tensor

from craft_lightning.checkpoints.tensors import save_tensors
from craft_lightning.errors import CraftError
from craft_lightning.inference import VisualTokenizer
from craft_lightning.io import check_file
from craft_lightning.models.image_files import find_images
from craft_lightning.models.pruning import count_codes


def parser() -> argparse.ArgumentParser:
    """The command line."""
    p = argparse.ArgumentParser(
        prog="craft_lightning tokenize",
        description="Images to discrete visual tokens. Loads the vision tower alone.",
        epilog="The output holds codes [B,N,R] int32, features [B,N,d] before quantisation and quantized [B,N,d], and "
        "with --keep also kept [B,M] int32, the raster positions that pruning leaves; "
        "its metadata holds codebook_hash, dtype and image_names (JSON).",
    )
    p.add_argument("--checkpoint", required=True, help="folder in the VILA-U layout, or a known backbone's name")
    p.add_argument(
        "--input",
        required=True,
        nargs="+",
        type=Path,
        help="image files, a folder of images, or a safetensors file with pixel_values [B,3,H,W] in [-1,1]",
    )
    wanted = p.add_mutually_exclusive_group(required=True)
    wanted.add_argument("--output", type=Path, help="safetensors file to write")
    wanted.add_argument(
        "--counts", type=Path, help="safetensors file for counts [K] of first-level codes: a prior for --prune.prior"
    )
    p.add_argument("--keep", type=float, default=1.0, help="share of tokens that pruning keeps, by the encoder's prior")
    p.add_argument(
        "--dtype",
        default="float32",
        choices=["float32", "bfloat16"],
        help="of the tower, the code distances and the output (VILA-U's public code runs in bfloat16)",
    )
    p.add_argument("--encoder", type=Path, help="folder of an adapted encoder to plug in")
    p.add_argument(
        "--attention", default="eager", choices=["eager", "sdpa"], help="kernel; eager is the original's, bit for bit"
    )
    p.add_argument("--batch-size", default=32, type=int, help="images at a time")
    return p


def main(argv: Sequence[str]) -> int:
    """The verb; returns the exit code.

    Raises:
        CraftError: no such checkpoint or image, a broken one, a continuous tower, pixels of another size, or an
            output that cannot be a file.
    """
    args = parser().parse_args(argv)
    if args.batch_size < 1:
        raise CraftError(f"--batch-size must be at least 1, not {args.batch_size}")
    output = args.output or args.counts
    check_file(output, "--output" if args.output else "--counts")
    model = VisualTokenizer.from_pretrained(args.checkpoint, args.encoder, dtype=args.dtype, attention=args.attention)
    names, batches = open_input(args.input, model, args.batch_size)
    console, total = Console(stderr=True), math.ceil(len(names) / args.batch_size)
    shown = track(batches, "batches", total, console=console, transient=True, disable=not sys.stderr.isatty())
    quantizer = model.tower.quantizer
    assert quantizer is not None
    if args.counts is not None:
        with torch.no_grad():
            counts = count_codes((model.tower.encode(pixels).codes for pixels in shown), quantizer.entries)
        save_tensors(output, {"counts": counts}, {"codebook_hash": quantizer.hash()})
        print(f"{output}: {int((counts > 0).sum())} codes in {len(names)} images")
        return 0
    tensors = model.encode(shown, args.keep)
    metadata = {
        "codebook_hash": quantizer.hash(),
        "dtype": args.dtype,
        "image_names": json.dumps(names, ensure_ascii=False),
    }
    save_tensors(output, tensors, metadata)
    shape = "x".join(map(str, tensors["codes"].shape))
    print(f"{output}: codes {shape}, codebook {metadata['codebook_hash'][:12]}, {args.dtype}")
    return 0


def open_input(inputs: Sequence[Path], model: VisualTokenizer, batch_size: int) -> tuple[list[str], Iterator[Tensor]]:
    """Names of the images and their pixels, batch by batch.

    Raises:
        CraftError: an input that does not exist, holds no image, or mixes pixels with images.
    """
    if any(path.suffix == ".safetensors" for path in inputs):
        if len(inputs) > 1:
            raise CraftError("--input takes one safetensors file, or images, not both")
        return _open_pixels(inputs[0], batch_size)
    files = find_images(inputs)
    return [_name(file, inputs) for file in files], model.batches(files, batch_size)


def _name(file: Path, inputs: Sequence[Path]) -> str:
    """An image's name: relative to the one folder that was given, else its path as given."""
    if len(inputs) == 1 and inputs[0].is_dir():
        return file.relative_to(inputs[0]).as_posix()
    return file.as_posix()


def _open_pixels(path: Path, batch_size: int) -> tuple[list[str], Iterator[Tensor]]:
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

    return [f"{path.name}:{index}" for index in range(shape[0])], batches()
