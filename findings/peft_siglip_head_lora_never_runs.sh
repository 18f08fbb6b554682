#!/usr/bin/env bash
# peft 0.21.2, transformers 5.24.0: LoRA on a SigLIP tower's out_proj also wraps the pooling head's, which never runs it.
#
# Expected: target_modules=["q_proj", "v_proj", "out_proj"] adapts every layer of that name. What peft wraps and counts as trainable is
#   part of the forward pass, or peft refuses it or warns.
# Found: head.attention.out_proj gets updates like the others, without a word, and they are never computed: after a backward pass
#   their gradients are None, and filling them with ones leaves the output as it was to the bit. The layers of the encoder learn.
# Where: transformers' SiglipMultiheadAttentionPoolingHead holds a torch.nn.MultiheadAttention, which hands out_proj.weight to a
#   function and never calls out_proj. peft wraps MultiheadAttention as a whole where it is named, yet its inner layer by its own name.
# What to do: exclude_modules=[".*head.*"], or name the encoder's layers; after the first backward pass look for gradients that are None.
# Output seen, 30 November 2026:
#   peft 0.21.2, transformers 5.24.0, torch 2.14.1: 7 layers wrapped, without a gradient: base_model.model.head.attention.out_proj
#   updates of ones change the output: encoder True, head False
#   As found: the pooling head's update is trainable and never runs.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet torch==2.14.1 torchvision==0.29.1 transformers==5.24.0 peft==0.21.2
cat > "$work/adapt.py" <<'PY'
import warnings

import peft
import torch
import transformers
from peft.tuners.lora import LoraLayer
from transformers import SiglipVisionConfig, SiglipVisionModel

torch.manual_seed(0)
sizes = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
tower = SiglipVisionModel(SiglipVisionConfig(**sizes, image_size=16, patch_size=8))
with warnings.catch_warnings(record=True) as said:
    warnings.simplefilter("always")
    model = peft.get_peft_model(tower, peft.LoraConfig(r=4, target_modules=["q_proj", "v_proj", "out_proj"]))
about = [str(each.message) for each in said if "out_proj" in str(each.message)]
layers = {name: module for name, module in model.named_modules() if isinstance(module, LoraLayer)}
images = torch.randn(2, 3, 16, 16)
model(pixel_values=images).pooler_output.square().sum().backward()
still = [name for name, layer in layers.items() if layer.lora_B["default"].weight.grad is None]
libraries = f"peft {peft.__version__}, transformers {transformers.__version__}, torch {torch.__version__.split('+')[0]}"
print(f"{libraries}: {len(layers)} layers wrapped, without a gradient: {', '.join(still)}")


def changes(name):
    """Whether updates of ones in a layer change what the model makes of the images."""
    with torch.no_grad():
        before = model(pixel_values=images).pooler_output
        layers[name].lora_B["default"].weight.fill_(1.0)
        after = model(pixel_values=images).pooler_output
        layers[name].lora_B["default"].weight.zero_()
    return not torch.equal(before, after)


head, encoder = "base_model.model.head.attention.out_proj", "base_model.model.encoder.layers.1.self_attn.out_proj"
found = (changes(encoder), changes(head))
print(f"updates of ones change the output: encoder {found[0]}, head {found[1]}")
trainable = all(weight.requires_grad for weight in layers[head].lora_A.parameters())
assert (len(layers), still, about, trainable, found) == (7, [head], [], True, (True, False)), "Changed."
print("As found: the pooling head's update is trainable and never runs.")
PY
"$work/venv/bin/python" "$work/adapt.py" 2>/dev/null
