#!/usr/bin/env bash
# bitsandbytes 0.50.2 on a CPU: a 4-bit matrix whose rows are no multiple of the block size is decoded with wrong scales.
#
# Expected: what quantize_4bit wrote, dequantize_4bit reads: four bits a value, one scale for each 64 values in a row, wherever rows
#   of the matrix end; the error is that of four bits (cosine to the weights 0.996) for every shape.
# Found: on a CPU it depends on the shape. With rows of 320 = 5 x 64 values the cosine is 0.996, with rows of 352 = 5.5 x 64 it falls
#   to 0.97, and so does whatever a Linear4bit of that width computes. The codes are right: read by hand, each with the scale of
#   its own block, they give 0.996. No warning.
# Where: the CPU kernel behind torch.ops.bitsandbytes.dequantize_4bit takes each row for whole blocks.
# What to do: a block size that divides the rows (blocksize=32 for 352).
# Output seen, 30 November 2026:
#   bitsandbytes 0.50.2, torch 2.14.1: cosine to the weights, rows of 320: 0.996 (by hand 0.996), of 352: 0.971 (by hand 0.996), of 352 in blocks of 32: 0.996
#   As found: rows that end within a block are decoded with the scales of others.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet torch==2.14.1 torchvision==0.29.1 bitsandbytes==0.50.2 numpy==2.4.0
cat > "$work/blocks.py" <<'PY'
from importlib.metadata import version

import torch
from bitsandbytes.functional import dequantize_4bit, quantize_4bit


def cosines(width, blocksize):
    weights = torch.randn(128, width, generator=torch.Generator().manual_seed(0))
    packed, state = quantize_4bit(weights, blocksize=blocksize, quant_type="nf4")
    pairs = packed.flatten().int()
    codes = torch.stack([pairs >> 4, pairs & 15], dim=1).flatten()
    by_hand = (state.code[codes].view(-1, blocksize) * state.absmax[:, None]).view_as(weights)
    return [
        torch.cosine_similarity(found.flatten().float(), weights.flatten(), dim=0).item()
        for found in (dequantize_4bit(packed, state), by_hand)
    ]


whole, broken, small = cosines(320, 64), cosines(352, 64), cosines(352, 32)
print(
    f"bitsandbytes {version('bitsandbytes')}, torch {version('torch')}: cosine to the weights, rows of 320: {whole[0]:.3f} "
    f"(by hand {whole[1]:.3f}), of 352: {broken[0]:.3f} (by hand {broken[1]:.3f}), of 352 in blocks of 32: {small[0]:.3f}"
)
assert min(*whole, broken[1], *small) > 0.99 and broken[0] < 0.98, "Changed."
print("As found: rows that end within a block are decoded with the scales of others.")
PY
"$work/venv/bin/python" "$work/blocks.py"
