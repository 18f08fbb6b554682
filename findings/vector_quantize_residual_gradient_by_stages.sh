#!/usr/bin/env bash
# vector-quantize-pytorch 1.32.0: ResidualVQ's straight-through gradient is as many times too large as it has stages.
#
# Expected: "the gradient flows around the VQ layer", as its readme says: with rotation_trick=False the gradient of the input is that of
#   the output, for one codebook and for eight stages of residual codebooks alike, as the output stands for the input.
# Found: with N stages each gradient is N times that, exactly: 8 stages, 8 times. With quantize_dropout the factor is drawn anew in each
#   pass, 1 to N. ResidualSimVQ and ResidualLFQ alike. A loss behind the quantiser so weighs N times against one before it (distance to
#   the old features, commitment), and clipping and SGD see another gradient; the number of stages changes the recipe. No warning.
# Where: vector_quantize_pytorch/residual_vq.py, forward: each stage's output is straight-through to its residual, the residual keeps the
#   whole gradient to the input (what is subtracted is detached by quant_grad_frac=0), and the outputs are summed.
# What to do: go around it oneself, x + (quantized - x).detach(), which leaves the commitment losses as they are. quant_grad_frac=1. gives
#   the factor 1, too, but then the commitment losses of all stages but the first reach the input no more.
# Output seen, 30 November 2026:
#   vector-quantize-pytorch 1.32.0, torch 2.14.1+cu130: VectorQuantize 1.0; ResidualVQ by stages {1: 1.0, 2: 2.0, 4: 4.0, 8: 8.0}, SimVQ {1:
#     1.0, 2: 2.0, 4: 4.0, 8: 8.0}, LFQ {1: 1.0, 2: 2.0, 4: 4.0, 8: 8.0}, with dropout [1.0, 2.0, 3.0, 4.0]; around {1: 1.0, 2: 1.0, 4: 1.0,
#     8: 1.0}, quant_grad_frac=1 {1: 1.0, 2: 1.0, 4: 1.0, 8: 1.0}
#   As found: the gradient is multiplied by the number of stages.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet torch==2.14.1 vector-quantize-pytorch==1.32.0
cat > "$work/gradient.py" <<'PY'
from importlib.metadata import version

import torch
from vector_quantize_pytorch import ResidualLFQ, ResidualSimVQ, ResidualVQ, VectorQuantize

torch.manual_seed(0)
x = torch.randn(4, 64, 8)
upstream = torch.randn_like(x)
size = {"dim": 8, "codebook_size": 256}
plain = {**size, "rotation_trick": False}


def factor(quantizer, around=False, **arguments):
    """The gradient of the input over that of the output; None where it is not the same number everywhere."""
    value = x.clone().requires_grad_()
    quantized = quantizer.train()(value, **arguments)[0]
    if around:
        quantized = value + (quantized - value).detach()
    (gradient,) = torch.autograd.grad(quantized, value, upstream)
    ratio = gradient / upstream
    return round(ratio.mean().item(), 3) if (ratio - ratio.mean()).abs().max() < 1e-3 else None


def commitment(quantizer):
    """Whether the last stage's commitment loss reaches the input."""
    value = x.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(quantizer.train()(value, freeze_codebook=True)[2].flatten()[-1], value)
    return bool(gradient.abs().max() > 1e-6)


frozen = {"freeze_codebook": True}
one = factor(VectorQuantize(**plain), **frozen)
residual, around, whole, sim, lfq = ({} for _ in range(5))
for stages in (1, 2, 4, 8):
    residual[stages] = factor(ResidualVQ(**plain, num_quantizers=stages), **frozen)
    around[stages] = factor(ResidualVQ(**plain, num_quantizers=stages), around=True, **frozen)
    whole[stages] = factor(ResidualVQ(**plain, num_quantizers=stages, quant_grad_frac=1.0), **frozen)
    sim[stages] = factor(ResidualSimVQ(**plain, num_quantizers=stages))
    lfq[stages] = factor(ResidualLFQ(**size, num_quantizers=stages))
dropping = ResidualVQ(**plain, num_quantizers=4, quantize_dropout=True)
drawn = sorted({factor(dropping, **frozen) for _ in range(60)})
losses = [commitment(ResidualVQ(**plain, num_quantizers=4, quant_grad_frac=part)) for part in (0.0, 1.0)]
print(
    f"vector-quantize-pytorch {version('vector-quantize-pytorch')}, torch {torch.__version__}: VectorQuantize {one}; "
    f"ResidualVQ by stages {residual}, SimVQ {sim}, LFQ {lfq}, with dropout {drawn}; around {around}, quant_grad_frac=1 {whole}"
)
assert one == 1 and set(around.values()) == set(whole.values()) == {1}, "Changed."
assert all(value == stages for table in (residual, sim, lfq) for stages, value in table.items()), "Changed."
assert drawn == [1, 2, 3, 4] and losses == [True, False], "Changed."
print("As found: the gradient is multiplied by the number of stages.")
PY
"$work/venv/bin/python" "$work/gradient.py"
