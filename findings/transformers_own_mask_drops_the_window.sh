#!/usr/bin/env bash
# transformers 5.24.0: a 4-D attention mask takes the sliding window away from the layers that have one.
#
# Expected: a model with a sliding window (Qwen2, Mistral, Gemma) attends within its window, whatever else a mask forbids: a causal
#   4-D mask of one's own, which says what the model does anyhow, changes nothing.
# Found: it changes the hidden states of every position beyond the window. A ready mask is handed on as it is, for windowed layers,
#   too, so they attend to everything before them. Positions within the window are equal. No warning.
# Where: transformers/masking_utils.py: _preprocess_mask_arguments returns early for a mask of four dimensions, before
#   create_sliding_window_causal_mask adds the window.
# What to do: give create_causal_mask's and_mask_function in place of a ready mask, or put the window into one's own.
# Output seen, 30 November 2026:
#   transformers 5.24.0, window of 4, 12 positions, own causal mask: equal at the first 4, differing at 8 of the last 8; with the window in the mask equal at 12
#   As found: the window is gone.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet torch==2.14.1 torchvision==0.29.1 transformers==5.24.0
cat > "$work/window.py" <<'PY'
import torch
import transformers
from transformers import Qwen2Config, Qwen2Model

LENGTH, WINDOW = 12, 4
torch.manual_seed(0)
shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1, "num_attention_heads": 2, "num_key_value_heads": 2}
window = {"use_sliding_window": True, "sliding_window": WINDOW, "max_window_layers": 0}
model = Qwen2Model(Qwen2Config(vocab_size=50, **shape, **window)).eval()
assert model.config.layer_types == ["sliding_attention"]
ids = torch.randint(0, 50, (1, LENGTH))
query, key = torch.arange(LENGTH)[:, None], torch.arange(LENGTH)
causal = (key <= query)[None, None]
within = causal & (key > query - WINDOW)


def hidden(mask=None):
    with torch.no_grad():
        return model(input_ids=ids, attention_mask=mask, use_cache=False).last_hidden_state[0]


def equal(mask):
    return [torch.allclose(a, b, atol=1e-5) for a, b in zip(hidden(), hidden(mask))]


own, windowed = equal(causal), equal(within)
print(
    f"transformers {transformers.__version__}, window of {WINDOW}, {LENGTH} positions, own causal mask: equal at the first "
    f"{sum(own[:WINDOW])}, differing at {own[WINDOW:].count(False)} of the last {LENGTH - WINDOW}; "
    f"with the window in the mask equal at {sum(windowed)}"
)
assert own == [True] * WINDOW + [False] * (LENGTH - WINDOW) and all(windowed), "Changed."
print("As found: the window is gone.")
PY
"$work/venv/bin/python" "$work/window.py"
