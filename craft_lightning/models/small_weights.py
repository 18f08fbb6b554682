"""Language models that stay frozen, with their matrices held in 8 or 4 bits by bitsandbytes.

The matrices give gradients to their input and take none. Embeddings, norms, biases and the output layer, whose logits
are read, stay as they are.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Self

import bitsandbytes as bnb
import torch
from bitsandbytes.autograd._functions import MatMul8bitFp
from torch import Tensor, nn
from transformers import PreTrainedModel


def pack(language_model: PreTrainedModel, kind: str) -> None:
    """Put a quantised layer in the place of every linear layer but the output layer; ``kind``: ``int8``, a scale for
    each row, or ``nf4``, in blocks of 64 with scales that are quantised, too (QLoRA).

    On CPUs, bitsandbytes 0.50.2 scales blocks wrongly that run over the end of a row: rows that 64 does not divide have
    blocks of 32, and a matrix with rows that 32 does not divide stays as it is.
    """
    head = language_model.get_output_embeddings()
    for parent in [*language_model.modules()]:
        for name, layer in parent.named_children():
            if not isinstance(layer, nn.Linear) or layer is head:
                continue
            if kind == "int8" or layer.in_features % 32 == 0:
                setattr(parent, name, _packed(layer, kind).eval())
    setattr(language_model, "is_loaded_in_8bit" if kind == "int8" else "is_loaded_in_4bit", True)  # which peft reads


def _packed(layer: nn.Linear, kind: str) -> nn.Module:
    shape, weight = (layer.in_features, layer.out_features, layer.bias is not None), layer.weight.detach()
    new: Any
    with torch.device("meta"):
        if kind == "int8":
            new = Int8Linear(*shape, has_fp16_weights=False)
        else:
            new = bnb.nn.Linear4bit(*shape, compute_dtype=weight.dtype, quant_type="nf4")
    if kind == "int8":
        new.weight = bnb.nn.Int8Params(weight, requires_grad=False).to(weight.device)
        new.init_8bit_state()
    else:
        blocks = 32 if layer.in_features % 64 else 64
        new.weight = bnb.nn.Params4bit(weight, blocksize=blocks, quant_type="nf4", module=new).to(weight.device)
        # On CPUs with AVX512-BF16 a pass without gradients would pack the weight anew, and no gradient passes that.
        new.support_avx512bf16_for_cpu = False
    new.bias = layer.bias
    return new


class Int8Linear(bnb.nn.Linear8bitLt):
    """bitsandbytes', but its inputs keep their precision, as theirs do in training on CPUs alone (in 8 bits they cost
    the gradient through a whole model a percent), and its scales go along where the model around it moves."""

    def forward(self, x: Tensor) -> Tensor:
        return MatMul8bitFp.apply(x, self.weight, None, self.bias, self.state)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)
        self.state.CB, self.state.SCB = self.weight.data, self.state.SCB.to(self.weight.device)
        return self
