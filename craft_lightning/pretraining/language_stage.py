"""Stages 1 and 2: language models that read a frozen codebook (appendix 8), after a text-only stage for new ones.

The tower is frozen, so every picture's codes are computed once and stored as integers (features, for a continuous
twin); a stage then sees token rows only. The loss is the text loss on replies, nothing else (OD-28).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from craft_lightning.models.towers.base import Tower
from craft_lightning.models.vlm import DiscreteVlm
from craft_lightning.pretraining.attention import FLOAT32_SDPA
from craft_lightning.pretraining.turns import TokenizedTurns, collate
from craft_lightning.types import IGNORED_LABEL, VisualTokens, VqaBatch


@dataclass(frozen=True)
class LanguageSpec:
    """Shape of a new language model.

    Attributes:
        style: Llama or Qwen2 architecture (and the tokenizer's manner).
        width, layers, heads, kv_heads, mlp: of the decoder. context: positions. rope_base: of the rotary embedding.
    """

    style: Literal["llama", "qwen2"] = "llama"
    width: int = 128
    layers: int = 4
    heads: int = 4
    kv_heads: int = 4
    mlp: int = 352
    context: int = 1024
    rope_base: float = 1000.0


def new_language_model(spec: LanguageSpec, tokenizer: Any, seed: int) -> PreTrainedModel:
    """A decoder with fresh weights, made for small widths (see :func:`start_lookups`)."""
    torch.manual_seed(seed)
    shape: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": spec.width,
        "intermediate_size": spec.mlp,
        "num_hidden_layers": spec.layers,
        "num_attention_heads": spec.heads,
        "num_key_value_heads": spec.kv_heads,
        "max_position_embeddings": spec.context,
        "initializer_range": spec.width**-0.5,
        "tie_word_embeddings": False,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "rope_parameters": {"rope_type": "default", "rope_theta": spec.rope_base},
    }
    if spec.style == "llama":
        model: Any = LlamaForCausalLM._from_config(LlamaConfig(**shape), attn_implementation=FLOAT32_SDPA)
    else:
        model = Qwen2ForCausalLM._from_config(Qwen2Config(**shape), attn_implementation=FLOAT32_SDPA)
    start_lookups(model)
    return model


@torch.no_grad()
def start_lookups(model: Any, common: float = 0.7, sharpness: float = 4.0) -> None:
    """Re-scale and tie fresh weights so that a small decoder learns to look an option's letter up.

    That is a two-step circuit: every word of the list has to know the letter that stands two tokens before it, and
    the word that is asked for has to find its equal in the list. From the usual initial weights it does not form
    within thousands of steps at width 128; from these it forms within two hundred. Matrices start at ``width ** -0.5``
    (the config's ``initializer_range``), and

    * embeddings at 1, outputs of attention and MLP at ``(2 layers) ** -0.5`` of theirs, so that the words are not
      drowned by what the first block adds;
    * the heads of the first block look 1, 2, 3 ... tokens back: all embeddings share one direction (``common``), which
      queries and keys read into the fast rotary planes, turned by the offset; ``sharpness`` is by how much the wanted
      offset's score exceeds its neighbours';
    * queries of the other blocks equal their keys, so that equal words attend to each other.
    """
    config = model.config
    width, heads, groups = config.hidden_size, config.num_attention_heads, config.num_key_value_heads
    size = width // heads
    shared = torch.full((width,), width**-0.5)
    table = model.get_input_embeddings().weight
    table.mul_(width**0.5)
    table.sub_((table @ shared)[:, None] * shared).add_(common * width**0.5 * shared)
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.mul_((2 * config.num_hidden_layers) ** -0.5)
        layer.mlp.down_proj.weight.mul_((2 * config.num_hidden_layers) ** -0.5)
    first, *others = (layer.self_attn for layer in model.model.layers)
    turn = model.model.rotary_emb.inv_freq[: size // 2].float()
    fast = (turn > 0.1).float()
    along = width**0.5 * common / (1 + common**2) ** 0.5
    strength = (sharpness * size**0.5 / (along**2 * ((1 - turn.cos()) * fast).sum())) ** 0.5
    first.k_proj.weight.mul_(0.1)
    first.q_proj.weight.mul_(0.1)
    for group in range(groups):
        pattern = torch.cat([fast, torch.zeros_like(fast)])
        first.k_proj.weight[group * size : (group + 1) * size] += strength * pattern[:, None] * shared
    for head in range(heads):
        angle = turn * (head + 1)
        pattern = torch.cat([angle.cos() * fast, -angle.sin() * fast])
        first.q_proj.weight[head * size : (head + 1) * size] += strength * pattern[:, None] * shared
        for attention in others:
            group = head * groups // heads
            key = attention.k_proj.weight[group * size : (group + 1) * size]
            attention.q_proj.weight[head * size : (head + 1) * size] = key


class TextStage(nn.Module):
    """The text-only stage: mean next-token loss on replies of conversations without pictures.

    Its forward takes a :class:`VqaBatch` whose prompts hold no placeholder.
    """

    def __init__(self, language_model: PreTrainedModel) -> None:
        super().__init__()
        self.language_model = language_model

    def forward(self, batch: VqaBatch) -> dict[str, Tensor]:
        """The one term of the loss. Rows are right-padded, so causal attention needs no mask."""
        hidden = self.language_model.get_decoder()(input_ids=batch.input_ids, use_cache=False).last_hidden_state
        row, column = (batch.labels != IGNORED_LABEL).nonzero(as_tuple=True)
        head = self.language_model.get_output_embeddings()
        with torch.autocast(hidden.device.type, enabled=False):
            logits = head(hidden[row, column - 1].to(head.weight.dtype)).float()
            return {"text": F.cross_entropy(logits, batch.labels[row, column])}


class CodeRows(Protocol):
    """Codes by row: a tensor, or what reads them from files."""

    def __getitem__(self, rows: Any, /) -> Tensor: ...


@dataclass(frozen=True)
class StoredTokens:
    """What the frozen tower made of a pool of pictures, ready to be looked up.

    Attributes:
        codes: ``[n, N, R]`` int16 or int32 (or what is indexed like it), or None for a continuous tower.
        features: ``[n, N, d]`` float16 for a continuous tower, else None.
        decode: codes -> ``[..., N, d]`` float32 sums of codewords. grid: (rows, columns).
    """

    codes: CodeRows | None
    features: Tensor | None
    decode: Callable[[Tensor], Tensor] | None
    grid: tuple[int, int]

    def take(self, rows: Sequence[int], device: torch.device | str = "cpu") -> VisualTokens:
        """Visual tokens of some pictures, without gradients, on the device where ``decode`` has its codewords."""
        if self.codes is not None and self.decode is not None:
            codes = self.codes[rows].to(device).long()
            tokens = self.decode(codes)
            return VisualTokens(tokens, tokens, codes, None, self.grid)
        assert self.features is not None
        features = self.features[rows].to(device).float()
        return VisualTokens(features, features, None, None, self.grid)


@torch.no_grad()
def store_tokens(tower: Tower, images: Callable[[Sequence[int]], Tensor], count: int, chunk: int = 100) -> StoredTokens:
    """Run the frozen tower once over pictures ``0..count-1``; ``images`` maps rows to pixels in [-1, 1]."""
    parts = []
    for start in range(0, count, chunk):
        visual = tower.encode(images(range(start, min(start + chunk, count))))
        parts.append(visual.features.half() if visual.codes is None else visual.codes.to(torch.int16))
    stored = torch.cat(parts)
    if tower.quantizer is None:
        return StoredTokens(None, stored, None, tower.grid)
    return StoredTokens(stored, None, tower.quantizer.decode, tower.grid)


class Shown(NamedTuple):
    """What a pass of a stage reads.

    Attributes:
        rows: pictures of the pool. conversations: one about each. weight: of the mean over the pass's reply tokens; a
            step of several passes or processes weighs each by its share of the step's tokens.
    """

    rows: Sequence[int]
    conversations: Sequence[TokenizedTurns]
    weight: float = 1.0


class VisionLanguageStage(nn.Module):
    """Stage 1 (projector) or stage 2 (projector and language model) on stored visual tokens."""

    def __init__(self, vlm: DiscreteVlm, stored: StoredTokens, train_language: bool) -> None:
        super().__init__()
        self.projector, self.language_model = vlm.projector, vlm.language_model
        self.language_model.requires_grad_(train_language)
        self._vlm, self._stored = [vlm], stored  # in a list: the frozen tower is no part of this stage's checkpoint

    def forward(self, batch: Shown) -> dict[str, Tensor]:
        """The one term of the loss."""
        (vlm,) = self._vlm
        text = collate(batch.conversations, vlm.tokenizer.pad_token_id).to(vlm.device)
        return {"reply": batch.weight * vlm(self._stored.take(batch.rows, vlm.device), text).answer_loss}
