#!/usr/bin/env bash
# vector-quantize-pytorch 1.32.0: ResidualVQ(freeze_codebook=True) does not freeze its codebooks.
#
# Expected: freeze_codebook=True, which VectorQuantize's constructor takes and a forward pass may override, holds for all stages of a
#   ResidualVQ, which hands its further arguments on to them: in training mode the codes stay as they were.
# Found: VectorQuantize keeps every buffer. ResidualVQ and GroupedResidualVQ take the argument, each stage says freeze_codebook True,
#   and each training pass moves all codebooks to running means of what it sees. No warning. Tokens change meaning below a model that
#   was trained on them, and a checkpoint holds the moved codes.
# Where: vector_quantize_pytorch/residual_vq.py: forward has freeze_codebook=False and gives that to each stage, where only None means
#   "as constructed" (vector_quantize_pytorch.py, default(freeze_codebook, self.freeze_codebook)).
# What to do: ema_update=False in the constructor, without threshold_ema_dead_code; or freeze_codebook=True in each call. Not eval(): in
#   eval mode no gradient reaches the input. With shared_codebook and threshold_ema_dead_code codes are replaced even in such a call.
# Output seen, 30 November 2026:
#   vector-quantize-pytorch 1.32.0, torch 2.14.1+cu130: codes changed by (least, most) {'VectorQuantize': (0.0, 0.0), 'ResidualVQ': (5.1,
#     5.5), 'GroupedResidualVQ': (3.61, 4.69), 'in the call': (0.0, 0.0), 'ema_update=False': (0.0, 0.0), 'in the call, shared, expiring':
#     (15.99, 15.99)}
#   As found: the frozen residual codebooks move.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet torch==2.14.1 vector-quantize-pytorch==1.32.0
cat > "$work/freeze.py" <<'PY'
from importlib.metadata import version

import torch
from vector_quantize_pytorch import GroupedResidualVQ, ResidualVQ, VectorQuantize

torch.manual_seed(0)
x = torch.randn(4, 64, 16)
size = {"dim": 16, "codebook_size": 32}
stages = {**size, "num_quantizers": 3}


def moved(quantizer, **arguments):
    """The share by which the codes change in one training pass, the least and the most of all codebooks."""
    codes = [module.embed for module in quantizer.modules() if hasattr(module, "embed")]
    before = [code.clone() for code in codes]
    quantizer.train()(x, **arguments)
    shares = [((code - old).norm() / old.norm()).item() for code, old in zip(codes, before)]
    return round(min(shares), 2), round(max(shares), 2)


frozen = ResidualVQ(**stages, freeze_codebook=True)
assert all(stage.freeze_codebook for stage in frozen.layers)
found = {
    "VectorQuantize": moved(VectorQuantize(**size, freeze_codebook=True)),
    "ResidualVQ": moved(frozen),
    "GroupedResidualVQ": moved(GroupedResidualVQ(**stages, groups=2, freeze_codebook=True)),
    "in the call": moved(ResidualVQ(**stages), freeze_codebook=True),
    "ema_update=False": moved(ResidualVQ(**stages, ema_update=False)),
    "in the call, shared, expiring": moved(
        ResidualVQ(**stages, shared_codebook=True, threshold_ema_dead_code=2), freeze_codebook=True
    ),
}
print(f"vector-quantize-pytorch {version('vector-quantize-pytorch')}, torch {torch.__version__}: codes changed by (least, most) {found}")
still = ("VectorQuantize", "in the call", "ema_update=False")
assert all((share == (0, 0)) == (name in still) for name, share in found.items()), "Changed."
learnt = x.clone().requires_grad_()
assert not frozen.eval()(learnt)[0].requires_grad, "Changed: eval mode passes gradients."
print("As found: the frozen residual codebooks move.")
PY
"$work/venv/bin/python" "$work/freeze.py"
