"""``grow``: new entries for a codebook, where the images of a domain need them."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from craft_lightning.checkpoints.codebook_growth import grow, write_growth
from craft_lightning.checkpoints.encoder import check_whole
from craft_lightning.cli import verbs
from craft_lightning.cli.tokenize import open_images
from craft_lightning.errors import CraftError
from craft_lightning.inference import VisualTokenizer
from craft_lightning.io import check_file
from craft_lightning.models.new_entries import new_entries
from craft_lightning.models.quantizer import ResidualQuantizer
from craft_lightning.models.vlm_spec import VlmSpec
from data_modules.datamodule import VqaDataModule
from data_modules.datasets import DATASETS

ROWS = 50_000
"""Patches that are clustered, drawn from all at random."""
DRAWN = 100
"""Training images of each synthetic dataset, where no images are given."""


@torch.no_grad()
def main(argv: Sequence[str]) -> int:
    """The verb; returns the exit code."""
    args = verbs.grow().parse_args(argv)
    if not 0.0 < args.by < math.inf:
        raise CraftError(f"--by {args.by:g} is no share of new entries; take one above 0, as 0.25")
    check_file(args.output, "--output")
    check_whole(args.encoder, "new entries stand behind a model's own codebook: take an encoder of the whole of it")
    model = VisualTokenizer.from_pretrained(args.backbone, args.encoder, attention="sdpa")
    quantizer = model.tower.quantizer
    assert quantizer is not None
    read = open_images(args.images, model, 32, args.workers)[2] if args.images else _drawn(args.backbone)
    device = next(model.tower.parameters()).device
    rows = torch.cat([model.tower.encode(batch.to(device)).features.flatten(0, 1).float().cpu() for batch in read])
    chosen = torch.randperm(len(rows), generator=torch.Generator().manual_seed(args.seed))[:ROWS]
    quantizer, rows, count = quantizer.cpu(), rows[chosen], max(1, round(args.by * quantizer.entries))
    try:
        write_growth(args.output, quantizer, new_entries(quantizer, rows, count, args.seed))
    except ValueError as error:
        raise CraftError(f"--by {args.by:g}: {error}; take more images") from error
    before, after = _left(quantizer, rows), _left(grow(quantizer, args.output), rows)
    print(f"{args.output}: {count:,} entries behind {quantizer.entries:,} of codebook {quantizer.hash()[:12]}")
    print(f"left of {len(rows):,} patches, mean square a level: {before} before, {after} after")
    print(f"take it with --model.backbone.codebook_growth {args.output}")
    return 0


def _drawn(backbone: str) -> Iterator[Tensor]:
    """Pixels of training images of all synthetic datasets, in the target domain."""
    for dataset in DATASETS:
        data = VqaDataModule(VlmSpec(backbone), dataset, train_size=DRAWN, val_size=1)
        data.setup("fit")
        yield from data.training_images()


def _left(quantizer: ResidualQuantizer, rows: Tensor) -> str:
    sums = quantizer.partial_sums(quantizer.encode(rows).codes)
    return ", ".join(f"{(rows - total).pow(2).mean():.4g}" for total in sums)
