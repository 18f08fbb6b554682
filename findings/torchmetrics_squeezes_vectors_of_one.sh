#!/usr/bin/env bash
# torchmetrics 1.9.0: a vector of one element that Metric.compute returns, even inside a dict, loses its dimension.
#
# Expected: compute() of one's own Metric gives back what it returned: {"recall": [classes]} has shape [3], [2], [1]
#   for 3, 2 and 1 classes.
# Found: for one class the shape is []. Code that indexes, loops over or concatenates the vectors works for every
#   number of classes but one. Nested dicts, lists and tuples are reached too.
# Where: torchmetrics/metric.py, Metric._wrap_compute puts every result through _squeeze_if_scalar of
#   torchmetrics/utilities/data.py, which squeezes each tensor of one element in a collection. Meant for scalars.
# What to do: do not trust the shape after compute(): torch.atleast_1d(value) or value.reshape(-1) where it is read.
# Output seen, 30 November 2026:
#   torchmetrics 1.9.0 torch 2.14.1+cu130
#   3 classes: tensor([1., 1., 1.]), shape (3,)
#   2 classes: tensor([1., 1.]), shape (2,)
#   1 classes: 1.0, shape ()
#   first class: IndexError('invalid index of a 0-dim tensor. Use `tensor.item()` in Python or `tensor.item<T>()` in C++ to convert a 0-dim tensor to a number')
#   As found: a vector per class is a scalar for one class.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet torch==2.14.1 torchmetrics==1.9.0
cd "$work"
venv/bin/python -I - <<'PY'
import sys

import torch
import torchmetrics
from torch import Tensor

print("torchmetrics", torchmetrics.__version__, "torch", torch.__version__)


class Recall(torchmetrics.Metric):
    def __init__(self, classes: int) -> None:
        super().__init__()
        self.add_state("hits", torch.zeros(classes), dist_reduce_fx="sum")
        self.add_state("rows", torch.zeros(classes), dist_reduce_fx="sum")

    def update(self, hits: Tensor) -> None:
        self.hits += hits
        self.rows += 1

    def compute(self) -> dict[str, Tensor]:
        return {"recall": self.hits / self.rows}


shapes = {}
for classes in (3, 2, 1):
    metric = Recall(classes)
    metric.update(torch.ones(classes))
    recall = metric.compute()["recall"]
    shapes[classes] = tuple(recall.shape)
    print(f"{classes} classes: {recall}, shape {shapes[classes]}")
try:
    print("first class:", recall[0])
except IndexError as error:
    print("first class:", repr(error))
if shapes != {3: (3,), 2: (2,), 1: ()}:
    sys.exit(f"CHANGED: shapes {shapes}")
print("As found: a vector per class is a scalar for one class.")
PY
