#!/usr/bin/env bash
# torch 2.14.1, transformers 5.24.0: on a CPU, FlopCounterMode counts nothing of scaled_dot_product_attention.
#
# Expected: what FlopCounterMode counts of a forward pass is the arithmetic of its matrix products, attention's among them, whichever
#   kernel runs them: its registry has formulas for the flash, the memory-efficient and the cuDNN kernel.
# Found: the kernel that a CPU takes by itself has none, and what has none counts as zero, without a warning. A transformers model at its
#   default (attn_implementation "sdpa") then looks linear in its length: eight times the positions, eight times the FLOPs, where the
#   same model with "eager" takes 17 times as many; at 512 positions 62 % of the arithmetic are missing. Lightning's measure_flops and
#   the FLOPs of its ModelSummary are this counter's. The same call under sdpa_kernel(SDPBackend.MATH) is counted in full.
# Where: torch/utils/flop_counter.py, flop_registry: no aten._scaled_dot_product_flash_attention_for_cpu, nor its backward.
# What to do: count with attn_implementation "eager", or inside of sdpa_kernel(SDPBackend.MATH); or give FlopCounterMode a
#   custom_mapping for the two operators. What token pruning or a longer context costs cannot be read off otherwise.
# Output seen, 1 December 2026:
#   torch 2.14.1, transformers 5.24.0: forward MFLOP at 64 and 512 positions
#     sdpa 10.49, 83.89; sdpa, math kernel 12.58, 218.10; eager 12.58, 218.10
#   with backward: sdpa 31.46, 251.66; sdpa, math kernel 37.75, 654.31; eager 37.75, 654.31
#   As found: attention is not counted on a CPU.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet torch==2.14.1 torchvision==0.29.1 transformers==5.24.0
cat > "$work/count.py" <<'PY'
from contextlib import nullcontext

import torch
import transformers
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaModel

WIDTH, MLP, LAYERS, LENGTHS = 64, 128, 2, (64, 512)
KINDS = {"sdpa": ("sdpa", None), "sdpa, math kernel": ("sdpa", SDPBackend.MATH), "eager": ("eager", None)}
shape = {"hidden_size": WIDTH, "intermediate_size": MLP, "num_hidden_layers": LAYERS, "num_attention_heads": 4}


def count(name, positions, backward):
    attention, kernel = KINDS[name]
    model = LlamaModel(LlamaConfig(vocab_size=64, attn_implementation=attention, **shape))
    rows = torch.randn(1, positions, WIDTH, requires_grad=True)
    with FlopCounterMode(display=False) as counter, sdpa_kernel(kernel) if kernel else nullcontext():
        hidden = model(inputs_embeds=rows, use_cache=False).last_hidden_state
        if backward:
            hidden.sum().backward()
    return counter.get_total_flops()


def told(backward):
    found = {name: [count(name, n, backward) for n in LENGTHS] for name in KINDS}
    return found, "; ".join(f"{name} " + ", ".join(f"{flops / 1e6:.2f}" for flops in each) for name, each in found.items())


forward, text = told(False)
trained, more = told(True)
print(f"torch {torch.__version__.split('+')[0]}, transformers {transformers.__version__}: forward MFLOP at 64 and 512 positions")
print(f"  {text}\nwith backward: {more}")
weights = LAYERS * (4 * WIDTH**2 + 3 * WIDTH * MLP)
linear = [2 * n * weights for n in LENGTHS]
whole = [flops + 4 * LAYERS * n**2 * WIDTH for flops, n in zip(linear, LENGTHS)]
assert forward == {"sdpa": linear, "sdpa, math kernel": whole, "eager": whole}, "Changed."
assert trained == {name: [3 * flops for flops in each] for name, each in forward.items()}, "Changed."
print("As found: attention is not counted on a CPU.")
PY
HF_HUB_OFFLINE=1 HF_HOME="$work/home" "$work/venv/bin/python" "$work/count.py"
