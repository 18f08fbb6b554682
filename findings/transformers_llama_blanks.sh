#!/usr/bin/env bash
# transformers 5.24.0: AutoTokenizer can give a sentencepiece model other ids for runs of blanks.
#
# Expected: a folder with a sentencepiece BPE model and tokenizer_class LlamaTokenizer is encoded as sentencepiece
#   encodes it.
# Found: if the pieces of several blanks share one score below all others, "an  assistant" is split as _an __ a ssist
#   ant by AutoTokenizer, as _an _ _assistant by sentencepiece. PreTrainedTokenizerFast agrees there, yet not on three
#   blanks before a word. Text with single blanks is the same everywhere, so short checks pass. No warning.
# Where: transformers/tokenization_utils_tokenizers.py, _convert_from_sentencepiece turns the model into a table of
#   merges (convert_slow_tokenizer.py, SentencePieceExtractor.extract: by id, scores dropped; the general class: by
#   score). Of equal scores sentencepiece takes the leftmost pair in the text, and a table that ranks pairs cannot say
#   that.
# What to do: encode by sentencepiece itself, e.g. a subclass of SentencePieceBackend; compare ids on runs of blanks.
# Output seen, 30 November 2026:
#   transformers 5.24.0 sentencepiece 0.2.3
#   'an assistant': sentencepiece ['▁an', '▁assistant']
#       AutoTokenizer (LlamaTokenizer) ['▁an', '▁assistant']: same ids
#       PreTrainedTokenizerFast (TokenizersBackend) ['▁an', '▁assistant']: same ids
#   'an  assistant': sentencepiece ['▁an', '▁', '▁assistant']
#       AutoTokenizer (LlamaTokenizer) ['▁an', '▁▁', 'a', 'ssist', 'ant']: OTHER ids
#       PreTrainedTokenizerFast (TokenizersBackend) ['▁an', '▁', '▁assistant']: same ids
#   '   three': sentencepiece ['▁▁▁', '▁t', 'hree']
#       AutoTokenizer (LlamaTokenizer) ['▁▁▁', 't', 'hree']: OTHER ids
#       PreTrainedTokenizerFast (TokenizersBackend) ['▁▁', '▁t', 'hree']: OTHER ids
#   As found: runs of blanks get other ids.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet transformers==5.24.0 tokenizers==0.23.3 sentencepiece==0.2.3 \
    protobuf==7.36.2
cd "$work"
HF_HOME="$work/cache" TRANSFORMERS_VERBOSITY=error venv/bin/python -I -W ignore - <<'PY'
import io, json, sys
from pathlib import Path

import sentencepiece
import transformers
from sentencepiece.sentencepiece_model_pb2 import ModelProto
from transformers import AutoTokenizer, PreTrainedTokenizerFast

print("transformers", transformers.__version__, "sentencepiece", sentencepiece.__version__)
lines = ["an assistant gives a helpful answer", "the assistant sees a river and a forest", "three assistants answer"]
model = io.BytesIO()
sentencepiece.SentencePieceTrainer.train(
    sentence_iterator=iter(lines * 20),
    model_writer=model,
    vocab_size=310,
    model_type="bpe",
    byte_fallback=True,
    minloglevel=2,
    hard_vocab_limit=False,
    normalization_rule_name="identity",
    remove_extra_whitespaces=False,
)
proto = ModelProto.FromString(model.getvalue())
blanks = [proto.SentencePiece(piece="\u2581" * n, score=-1e9) for n in (2, 4, 8, 3, 5, 6, 7)]
pieces = [*proto.pieces[:259], *blanks, *proto.pieces[259:]]  # after the special pieces and the bytes
del proto.pieces[:]
proto.pieces.extend(pieces)
folder = Path("tokenizer")
folder.mkdir()
(folder / "tokenizer.model").write_bytes(proto.SerializeToString())
(folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "LlamaTokenizer", "legacy": False}))

reference = sentencepiece.SentencePieceProcessor(model_file="tokenizer/tokenizer.model")
readers = [AutoTokenizer.from_pretrained(folder), PreTrainedTokenizerFast.from_pretrained(folder)]
found = {  # text: do AutoTokenizer and PreTrainedTokenizerFast agree with sentencepiece
    "an assistant": [True, True],
    "an  assistant": [False, True],
    "   three": [False, False],
}
changed = []
for text, expected in found.items():
    print(f"{text!r}: sentencepiece {reference.encode(text, out_type=str)}")
    same = [reader.encode(text, add_special_tokens=False) == reference.encode(text) for reader in readers]
    for name, reader, equal in zip(("AutoTokenizer", "PreTrainedTokenizerFast"), readers, same):
        print(f"    {name} ({type(reader).__name__}) {reader.tokenize(text)}: {'same' if equal else 'OTHER'} ids")
    if same != expected:
        changed.append(f"{text!r}: same ids {same}, were {expected}")
if changed:
    sys.exit("CHANGED: " + "; ".join(changed))
print("As found: runs of blanks get other ids.")
PY
