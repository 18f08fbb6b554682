#!/usr/bin/env bash
# torchao 0.18.0, transformers 5.24.0: through an int8 model with dynamic activations the gradient of image embeddings is zero.
#
# Expected: a frozen language model in 8 bits passes gradients to what is put before it (image embeddings of a tower that learns), as it
#   does with Int8WeightOnlyConfig; transformers' quantizer says is_trainable of Int8DynamicActivationInt8WeightConfig, too. A layer
#   that cannot raises an error.
# Found: the loss is that of the other model to 0.1 %, it has a grad_fn, backward() runs, and the gradient of every image embedding is a
#   tensor of zeros, not None: the tower is never trained. Each quantised layer's output is cut off from its input, so what is
#   left is the way past the layers (residual sum, norms, the head, which is not quantised), and that ends at the same position. No
#   warning. Only a frozen model whose last layer is quantised, too, says that there is no grad_fn.
# Where: torchao/quantization/quantize_/workflows/int8/int8_tensor.py, the linear of Int8Tensor: the input becomes integers there, and
#   nothing like a straight-through gradient is given. Int8DynamicActivationIntxWeightConfig alike. Seen on a CPU.
# What to do: quantise a model that gradients must cross with weights only (Int8WeightOnlyConfig, IntxWeightOnlyConfig), and look once
#   whether the first gradient is zero.
# Output seen, 30 November 2026:
#   torchao 0.18.0, transformers 5.24.0, torch 2.14.1+cu130: loss, gradients, trainable {'float32': (4.125, [1.05, 0.95, 0.8, 0.74, 0.64,
#     0.57], None), 'Int8WeightOnlyConfig': (4.126, [1.06, 0.95, 0.8, 0.74, 0.64, 0.57], True), 'Int8DynamicActivationInt8WeightConfig':
#     (4.125, [0.0, 0.0, 0.0, 0.0, 0.0, 0.0], True), 'Int8DynamicActivationIntxWeightConfig': (4.125, [0.0, 0.0, 0.0, 0.0, 0.0, 0.0],
#     False)}
#   As found: the gradient stops, and the loss does not tell.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet torch==2.14.1 torchvision==0.29.1 transformers==5.24.0 torchao==0.18.0 accelerate==1.15.0
cat > "$work/gradient.py" <<'PY'
import sys
from importlib.metadata import version

import torch
import torchao.quantization
import transformers
from transformers import LlamaConfig, LlamaForCausalLM, TorchAoConfig

IMAGES, QUESTION, ANSWER = 6, 3, 2
transformers.logging.disable_progress_bar()
torch.manual_seed(0)
shape = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 2, "num_attention_heads": 4}
LlamaForCausalLM(LlamaConfig(vocab_size=64, **shape)).save_pretrained(sys.argv[1])
images = torch.randn(1, IMAGES, 64) * 0.02
ids = torch.randint(0, 64, (1, QUESTION + ANSWER))
labels = torch.cat([torch.full((1, IMAGES + QUESTION), -100), ids[:, QUESTION:]], dim=1)


def run(name):
    """The loss of the answer, the norms of its gradients at the images, and whether the model is said to be trainable."""
    config = TorchAoConfig(getattr(torchao.quantization, name)()) if name else None
    model = LlamaForCausalLM.from_pretrained(sys.argv[1], dtype=torch.float32, quantization_config=config)
    model.eval().requires_grad_(False)
    learnt = images.clone().requires_grad_()
    embeddings = torch.cat([learnt, model.get_input_embeddings()(ids)], dim=1)
    loss = model(inputs_embeds=embeddings, labels=labels).loss
    loss.backward()
    norms = [round(norm, 2) for norm in learnt.grad[0].norm(dim=-1).tolist()]
    return round(loss.item(), 3), norms, model.hf_quantizer.is_trainable if name else None


names = ("", "Int8WeightOnlyConfig", "Int8DynamicActivationInt8WeightConfig", "Int8DynamicActivationIntxWeightConfig")
found = {name or "float32": run(name) for name in names}
whole = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.Linear(64, 64)).requires_grad_(False)
torchao.quantization.quantize_(whole, torchao.quantization.Int8DynamicActivationInt8WeightConfig())
assert not whole(images.clone().requires_grad_()).requires_grad, "Changed."
print(f"torchao {version('torchao')}, transformers {transformers.__version__}, torch {torch.__version__}: loss, gradients, trainable {found}")
loss, norms, _ = found["float32"]
assert all(abs(value[0] - loss) < 0.002 * loss for value in found.values()), "Changed."
assert all(abs(a - b) < 0.02 * b for a, b in zip(found[names[1]][1], norms)), "Changed."
assert found[names[2]][1] == found[names[3]][1] == [0] * IMAGES and found[names[2]][2], "Changed."
print("As found: the gradient stops, and the loss does not tell.")
PY
HF_HUB_OFFLINE=1 HF_HOME="$work/home" "$work/venv/bin/python" "$work/gradient.py" "$work/model"
