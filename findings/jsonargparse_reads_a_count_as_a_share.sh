#!/usr/bin/env bash
# jsonargparse 4.53.0, Python 3.11: the type of one parameter follows the spelling of another one elsewhere.
#
# Expected: a parameter `Optional[Union[int, float]]` reads 1 as the integer 1; jsonargparse tries the parts of a union
#   in the order written, and a library that takes a count or a share (Lightning's limit_train_batches) relies on it.
# Found: where `Optional[Union[float, int]]` was written before, in any module, 1 becomes 1.0. For Lightning that is all
#   batches in place of one. Only the order of imports decides, so adding an import far away changes what a flag means.
# Where: typing takes both unions for equal and gives out the one in its cache (functools.lru_cache of 128 entries in
#   typing._tp_cache), so the second annotation holds the parts in the first one's order before anyone parses it.
#   Lightning 2.6.6 itself writes both orders (fabric/fabric.py clip_gradients, pytorch/trainer/trainer.py).
# What to do: write `int | float | None`, which is never exchanged; or reorder the parts in the parser.
# Output seen, 30 November 2026:
#   jsonargparse 4.53.0: alone 1, after the other spelling 1.0, as int | float 1
#   As found: another annotation decides how 1 is read.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet jsonargparse==4.53.0
cd "$work"
cat > trainer.py <<'PY'
from typing import Optional, Union


def train(limit: Optional[Union[int, float]] = None):
    return limit
PY
cat > modern.py <<'PY'
def train(limit: int | float | None = None):
    return limit
PY
cat > clipping.py <<'PY'
from typing import Optional, Union


def clip(norm: Optional[Union[float, int]] = None): ...
PY
cat > read.py <<'PY'
import importlib
import sys

from jsonargparse import auto_cli

sys.path.insert(0, ".")
*before, last = sys.argv[1:]
for name in before:
    importlib.import_module(name)
print(repr(auto_cli(importlib.import_module(last).train, args=["--limit=1"])))
PY
alone=$(venv/bin/python -I read.py trainer)
after=$(venv/bin/python -I read.py clipping trainer)
modern=$(venv/bin/python -I read.py clipping modern)
echo "jsonargparse 4.53.0: alone $alone, after the other spelling $after, as int | float $modern"
[ "$alone $after $modern" = "1 1.0 1" ] || { echo "Changed: see what decides now."; exit 1; }
echo "As found: another annotation decides how 1 is read."
