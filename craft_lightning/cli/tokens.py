"""``tokens``: draws the visual tokens of one's own images, and what adaptation and pruning do to them."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import Path

import torch
from PIL import Image
from torch import Tensor

from craft_lightning.checkpoints.encoder import codebook_of
from craft_lightning.cli import verbs
from craft_lightning.errors import CraftError
from craft_lightning.inference import VisualTokenizer
from craft_lightning.io import check_file, fresh_file
from craft_lightning.models.image_files import find_images, read_squares
from craft_lightning.models.pruning import budget_of
from craft_lightning.visualization import MUTED, TokenView, code_colours, draw_tokens, stack

AT_ONCE = 16
"""Images that the tower reads at a time."""


def main(argv: Sequence[str]) -> int:
    """The verb; returns the exit code."""
    args = verbs.tokens().parse_args(argv)
    budget_of(args.keep, 1)
    check_file(args.output, "--output")
    if args.output.suffix.lower() != ".png":
        raise CraftError(f"--output {args.output} is no .png file")
    model = VisualTokenizer.from_pretrained(args.backbone, attention="sdpa", codebook=codebook_of(args.encoder))
    files = find_images(args.images)
    views, source = _look(model, files, args.number, args.encoder, args.keep, args.workers)
    assert model.tower.quantizer is not None
    colours = code_colours(model.tower.quantizer.table(0))
    with fresh_file(args.output) as temporary:
        stack([draw_tokens(view, colours) for view in views]).save(temporary, optimize=True)
    more = f" of {len(files)}" if len(files) > len(views) else ""
    print(f"{args.output}: {len(views)}{more} images; keep {args.keep:g}, how common a code is: {source}")
    return 0


def spread(files: Sequence[Path], number: int) -> list[Path]:
    """So many files, from as many folders (classes) as can be and evenly many of each, in their order."""
    folders: dict[Path, list[Path]] = {}
    for file in files:
        folders.setdefault(file.parent, []).append(file)
    some = list(folders.values())[:: max(1, len(folders) // number)]
    in_turn = [file for row in zip_longest(*some) for file in row if file is not None]
    return sorted(in_turn[:number], key=list(files).index)


@torch.no_grad()
def _look(
    model: VisualTokenizer,
    files: Sequence[Path],
    number: int,
    encoder: str | None,
    keep: float,
    workers: int | None,
) -> tuple[list[TokenView], str]:
    """What is drawn of some of the images, and where the prior comes from.

    An encoder brings the counts of its training images; without them, all images given are counted.
    """
    tower = model.tower

    def read(some: Sequence[Path]) -> Iterator[tuple[Path, Tensor]]:
        return read_squares(some, tower.image_size, model.aspect, workers)

    names, squares = zip(*read(spread(files, number)), strict=True)
    shown = torch.cat(list(model.pixels(squares, AT_ONCE)))
    before, source = None, "the encoder's training images"
    if encoder is not None:
        before = model.encode(shown.split(AT_ONCE))["codes"]
        model.plug_in(encoder)
    if model.prior is None:
        model.prior = model.counts(model.pixels((square for _, square in read(files)), AT_ONCE))
        source = f"the {len(files)} images given"
    after = model.encode(shown.split(AT_ONCE), keep)
    kept = None
    if "kept" in after:
        kept = torch.zeros(len(shown), tower.num_tokens, dtype=torch.bool).scatter_(1, after["kept"].long(), True)
    # As the tower sees it, so that squares and tokens fit.
    bytes_of = ((shown + 1.0) * 127.5).round().byte().permute(0, 2, 3, 1)
    views = [
        TokenView(
            image=Image.fromarray(bytes_of[i].numpy()),
            grid=tower.grid,
            codes=after["codes"][i, :, 0],
            before=None if before is None else before[i, :, 0],
            kept=None if kept is None else kept[i],
            lines=[(name.as_posix(), MUTED)],
        )
        for i, name in enumerate(names)
    ]
    return views, source
