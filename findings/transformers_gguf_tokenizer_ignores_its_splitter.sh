#!/usr/bin/env bash
# transformers 5.24.0: a tokenizer read from a GGUF file does not split text as the file says.
#
# Expected: GGUF names the rule that splits text before byte-pair merging (tokenizer.ggml.pre); it is there because
#   byte-level tokenizers differ in nothing else. With "smollm" each digit stands alone before anything is merged, so
#   the merge of "1" and "2" never applies to a12.
# Found: AutoTokenizer.from_pretrained(folder, gguf_file=...) builds the same byte-level splitter for every value of
#   the key; a12 becomes a, 12. Numbers get ids that the model saw in no such place, and nothing is said.
# Where: the converter of GPT-2-like GGUF tokenizers never reads the key (transformers/integrations/ggml.py).
# What to do: put the splitter in by hand, or take the tokenizer from the model's own repository.
# Output seen, 30 November 2026:
#   transformers 5.24.0: smollm ['a', '12'], default ['a', '12']
#   As found: the rule that the file names is not applied.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet torch==2.14.1 transformers==5.24.0 gguf==0.19.0
cd "$work"
HF_HUB_OFFLINE=1 venv/bin/python -I -W ignore - <<'PY'
from pathlib import Path

import gguf
import transformers
from transformers import AutoTokenizer
from transformers.convert_slow_tokenizer import bytes_to_unicode

tokens = ["<end>", *bytes_to_unicode().values(), "12"]
found = {}
for rule in ("smollm", "default"):
    Path(rule).mkdir()
    writer = gguf.GGUFWriter(f"{rule}/tiny.gguf", "llama")
    writer.add_block_count(1)
    writer.add_context_length(64)
    writer.add_embedding_length(8)
    writer.add_feed_forward_length(8)
    writer.add_head_count(1)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre(rule)
    writer.add_token_list(tokens)
    writer.add_token_types([3] + [1] * (len(tokens) - 1))
    writer.add_token_merges(["1 2"])
    writer.add_bos_token_id(0)
    writer.add_eos_token_id(0)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    found[rule] = AutoTokenizer.from_pretrained(rule, gguf_file="tiny.gguf").tokenize("a12")
print(f"transformers {transformers.__version__}: " + ", ".join(f"{rule} {pieces}" for rule, pieces in found.items()))
if found != dict.fromkeys(found, ["a", "12"]):
    raise SystemExit("Changed: see which splitter the file gets now.")
print("As found: the rule that the file names is not applied.")
PY
