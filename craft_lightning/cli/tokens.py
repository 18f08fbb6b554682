"""``tokens``: draws the visual tokens of one's own images, and what adaptation and pruning do to them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from PIL import Image

from craft_lightning.cli.arguments import verb_parser
from craft_lightning.errors import CraftError
from craft_lightning.inference import VisualTokenizer
from craft_lightning.io import check_file, fresh_file
from craft_lightning.models.image_files import find_images
from craft_lightning.models.pruning import PruneRule, budget_of, count_codes, prune
from craft_lightning.visualization import MUTED, TokenView, code_colours, draw_tokens, stack

DRAWN = 16
"""Images on the sheet; further ones only count for the prior. Also the number read at a time."""


def main(argv: Sequence[str]) -> int:
    """The verb; returns the exit code."""
    parser = verb_parser(
        "tokens",
        "Draw the first-level codes of images, and the tokens that pruning keeps.",
        "A code has the same colour in every image, and similar codewords have similar colours. With --encoder the "
        "sheet also shows the codes before adaptation, and which ones changed.",
    )
    parser.shared("--backbone", required=True)
    parser.shared("--images", required=True)
    parser.shared("--encoder")
    parser.shared("--keep", default=0.8)
    parser.shared("--output", help="PNG file to write")
    args = parser.parse_args(argv)
    budget_of(args.keep, 1)
    check_file(args.output, "--output")
    if args.output.suffix.lower() != ".png":
        raise CraftError(f"--output {args.output} is no .png file")
    model = VisualTokenizer.from_pretrained(args.backbone, attention="sdpa")
    files = find_images(args.images)
    views, source = _look(model, files, args.encoder, args.keep)
    assert model.tower.quantizer is not None
    colours = code_colours(model.tower.quantizer.table(0))
    with fresh_file(args.output) as temporary:
        stack([draw_tokens(view, colours) for view in views]).save(temporary, optimize=True)
    more = f" (the first of {len(files)})" if len(files) > DRAWN else ""
    print(f"{args.output}: {len(views)} images{more}; keep {args.keep:g}, how common a code is: {source}")
    return 0


@torch.no_grad()
def _look(
    model: VisualTokenizer, files: Sequence[Path], encoder: str | None, keep: float
) -> tuple[list[TokenView], str]:
    """What is drawn of the first :data:`DRAWN` images, and where the prior comes from.

    An encoder brings the counts of its training images; without them, all images given are counted.
    """
    tower = model.tower
    shown = next(model.batches(files, DRAWN))
    before, source = None, "the encoder's training images"
    if encoder is not None:
        before = model.encode([shown])["codes"]
        model.plug_in(encoder)
    if model.prior is None:
        assert tower.quantizer is not None
        codes = (tower.encode(pixels).codes for pixels in model.batches(files, DRAWN))
        model.prior = count_codes(codes, tower.quantizer.entries)
        source = f"the {len(files)} images given"
    names = [file.as_posix() for file in files[:DRAWN]]
    after = prune(tower.encode(shown), keep, model.prior, PruneRule(), names)
    assert after.codes is not None
    kept = None if after.selection is None else after.selection.mask(tower.num_tokens)
    # As the tower sees it, so that squares and tokens fit.
    bytes_of = ((shown + 1.0) * 127.5).round().byte().permute(0, 2, 3, 1)
    views = [
        TokenView(
            image=Image.fromarray(bytes_of[i].numpy()),
            grid=tower.grid,
            codes=after.codes[i, :, 0],
            before=None if before is None else before[i, :, 0],
            kept=None if kept is None else kept[i],
            lines=[(name, MUTED)],
        )
        for i, name in enumerate(names)
    ]
    return views, source
