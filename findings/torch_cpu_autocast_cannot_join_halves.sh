#!/usr/bin/env bash
# torch 2.14.1: inside of CPU autocast to bfloat16, torch.cat and torch.stack of float16 tensors are a RuntimeError.
#
# Expected: autocast changes the type of operations that gain by it; joining tensors of one type, as the rows of a
#   feature store kept in half precision, goes on as outside of it.
# Found: "Unexpected floating ScalarType in at::autocast::prioritize", also where all tensors are of that one type.
#   float32 and bfloat16 are joined; so is float16 when autocast's type is float16.
# Where: cat and stack are on autocast's promote list, and the CPU's promotion knows float32 and autocast's own type
#   alone (aten/src/ATen/autocast_mode.h, prioritize). Who trains with precision "bf16-mixed" and reads stored halves
#   in the step meets it.
# What to do: join outside of autocast, or make the rows float32 first.
# Output seen, 30 November 2026:
#   torch 2.14.1: outside float16; autocast to bfloat16: float16 RuntimeError, float32 float32, bfloat16 bfloat16;
#   autocast to float16: float16 float16
#   As found: halves cannot be joined there.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet torch==2.14.1 numpy==2.4.6
cd "$work"
venv/bin/python -I -W ignore - <<'PY'
import torch


def joined(kind, cast=None):
    rows = [torch.zeros(2, dtype=kind)] * 2
    with torch.autocast("cpu", dtype=cast or torch.bfloat16, enabled=cast is not None):
        try:
            assert torch.stack(rows).dtype == torch.cat(rows).dtype
            return str(torch.stack(rows).dtype).removeprefix("torch.")
        except RuntimeError as error:
            assert "autocast::prioritize" in str(error)
            return "RuntimeError"


half, single, brain = torch.float16, torch.float32, torch.bfloat16
seen = [joined(half), joined(half, brain), joined(single, brain), joined(brain, brain), joined(half, half)]
print(f"torch {torch.__version__.split('+')[0]}: outside {seen[0]}; autocast to bfloat16: float16 {seen[1]}, float32 {seen[2]}, bfloat16 {seen[3]};")
print(f"autocast to float16: float16 {seen[4]}")
if seen != ["float16", "RuntimeError", "float32", "bfloat16", "float16"]:
    raise SystemExit("Changed: see what is joined now.")
print("As found: halves cannot be joined there.")
PY
