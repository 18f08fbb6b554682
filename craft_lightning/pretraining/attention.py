"""Attention in float32 inside bfloat16 pre-training.

On CPUs the bfloat16 kernel of fused attention is several times slower backwards than the float32 one, while matrix
products gain from bfloat16: so the products run in bfloat16 and attention alone in float32.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

FLOAT32_SDPA = "sdpa_float32"
"""Name of the implementation for ``attn_implementation``."""


def _forward(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    with torch.autocast(query.device.type, enabled=False):
        mixed, _ = sdpa_attention_forward(module, query.float(), key.float(), value.float(), attention_mask, **kwargs)
    return mixed.to(query.dtype), None


AttentionInterface.register(FLOAT32_SDPA, _forward)
AttentionMaskInterface.register(FLOAT32_SDPA, sdpa_mask)
