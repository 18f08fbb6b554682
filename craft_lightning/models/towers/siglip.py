"""SigLIP: the tower of VILA-U, a residual quantiser behind its second-to-last block, and the text tower beside it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase, SiglipTextModel, SiglipVisionConfig, SiglipVisionModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.siglip.modeling_siglip import SiglipEncoderLayer, eager_attention_forward

from craft_lightning.errors import CraftError
from craft_lightning.models.quantizer import ResidualQuantizer
from craft_lightning.models.towers.tower import Attention, TransformersTower

TEXTS_AT_A_TIME = 256


class ReadoutLayer(SiglipEncoderLayer):
    """A SigLIP block that can carry one more query per image, [CLS], beside the patches.

    [CLS] attends to itself and to every patch; no patch attends to it, so the patch stream is the plain block's: a
    [CLS] that is merely prepended would change every code before training. It runs inside ``forward`` because sharded
    training gathers the block's weights only there.
    """

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, cls: int = 0, **kwargs: Any
    ) -> Tensor:
        """Patches ``[B, N, d]`` to patches; or rows ``[B * N + B, d]``, of which the last ``cls = B`` are [CLS]: norms
        and products take all of them at once."""
        if not cls:
            return super().forward(hidden_states, attention_mask, **kwargs)
        attention, normed = self.self_attn, self.layer_norm1(hidden_states)
        shape = (cls, -1, attention.num_heads, attention.head_dim)
        (query, own_query), (key, own_key), (value, own_value) = (
            [part.view(shape).transpose(1, 2) for part in project(normed).tensor_split((-cls,))]
            for project in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        patches = self._mixed(query, key, value)
        own = self._mixed(own_query, torch.cat([own_key, key], dim=2), torch.cat([own_value, value], dim=2))
        hidden_states = hidden_states + attention.out_proj(torch.cat([patches, own]))
        return hidden_states + self.mlp(self.layer_norm2(hidden_states))

    def _mixed(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """What the block's own attention makes of values: rows ``[B * n, d]``."""
        attention = self.self_attn
        function = ALL_ATTENTION_FUNCTIONS.get_interface(attention.config._attn_implementation, eager_attention_forward)
        dropout = attention.dropout if self.training else 0.0
        mixed, _ = function(
            attention, query, key, value, None, is_causal=False, scaling=attention.scale, dropout=dropout
        )
        return mixed.reshape(-1, attention.embed_dim)


class SiglipTower(TransformersTower):
    """SigLIP's vision model as a tower; its blocks become :class:`ReadoutLayer` (same parameters, same names)."""

    def __init__(self, vision: SiglipVisionModel, quantizer: ResidualQuantizer | None = None) -> None:
        super().__init__(vision, ("head.",), quantizer)
        for layer in vision.encoder.layers:
            layer.__class__ = ReadoutLayer

    @classmethod
    def from_config(
        cls, config: SiglipVisionConfig, quantizer: ResidualQuantizer | None = None, attention: str = "sdpa"
    ) -> SiglipTower:
        """A tower with fresh weights (SigLIP's own initialisation), in eval mode."""
        vision = SiglipVisionModel._from_config(config, attn_implementation=attention)
        return cls(vision, quantizer).eval()

    def features_after(self, blocks: Sequence[int], pixel_values: Tensor) -> tuple[Tensor, ...]:
        return self._after(blocks, self._embed(pixel_values))

    def features_and_cls(
        self, pixel_values: Tensor, cls: Tensor, attention: Attention = "one_way"
    ) -> tuple[Tensor, Tensor]:
        """Features and [CLS] after the blocks: ``one_way``, it looks at the patches and they do not see it, so they are
        those of :meth:`features`; ``bidirectional``, it stands among them."""
        hidden = self._embed(pixel_values)
        readout = cls.to(hidden.dtype).expand(len(hidden), 1, self.width)
        if attention == "one_way":
            rows = torch.cat([hidden.flatten(0, 1), readout[:, 0]])
            for layer in self.blocks[:-1]:
                rows = layer(rows, attention_mask=None, cls=len(hidden))
            hidden, readout = rows.tensor_split((-len(hidden),))
            return hidden.view(len(readout), -1, self.width), readout
        if attention != "bidirectional":
            raise CraftError(f"cls attention is 'one_way' or 'bidirectional', not {attention!r}")
        joint = torch.cat([readout, hidden], dim=1)
        (joint,) = self._after((self.depth,), joint)
        return joint[:, 1:], joint[:, 0]

    def features_and_pooled(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        features = self.features(pixel_values)
        return features, self.pooled(features)

    def pooled(self, features: Tensor) -> Tensor:
        """``[B, d]``, the embedding of images with these patch features, or tokens: last block, final norm, attention
        pooling."""
        hidden = self.blocks[-1](features, attention_mask=None)
        return self.vision.head(self.vision.post_layernorm(hidden))

    def _embed(self, pixel_values: Tensor) -> Tensor:
        side = self.image_size
        if tuple(pixel_values.shape[1:]) != (3, side, side):
            shape = tuple(pixel_values.shape)
            raise CraftError(f"pixel_values of shape {shape}: this tower reads [B, 3, {side}, {side}]")
        with _whole_convolutions():
            return self.vision.embeddings(pixel_values)


@contextmanager
def _whole_convolutions() -> Iterator[None]:
    """Convolutions of float32 are of float32 on GPUs as well: cuDNN's default rounds to TF32, which changes codes."""
    convolutions: Any = torch.backends.cudnn.conv  # type: ignore[attr-defined]
    usual, convolutions.fp32_precision = convolutions.fp32_precision, "ieee"
    try:
        yield
    finally:
        convolutions.fp32_precision = usual


class TextTower(nn.Module):
    """SigLIP's frozen text half, which embeds captions.

    Args:
        model: the text model. tokenizer: its tokenizer, with a pad token.
        logit_scale, logit_bias: scalars of its contrastive training (scale before the exponential).

    Attributes:
        width: dT, of the embeddings. positions: longest text in tokens (64).
    """

    def __init__(
        self, model: SiglipTextModel, tokenizer: PreTrainedTokenizerBase, logit_scale: float, logit_bias: float
    ) -> None:
        super().__init__()
        self.model, self.tokenizer = model, tokenizer
        self.logit_scale, self.logit_bias = logit_scale, logit_bias
        self.width: int = model.head.out_features
        self.positions: int = model.config.max_position_embeddings

    def token_ids(self, text: str) -> list[int]:
        """Ids of a lower-cased text, unpadded: their number is what has to fit ``positions``."""
        return list(self.tokenizer(text.lower())["input_ids"])

    @torch.no_grad()
    def embed_texts(self, texts: Sequence[str]) -> Tensor:
        """``[n, dT]`` embeddings, not normalised; texts are lower-cased and padded to the full length, as in training.
        Raises CraftError: a text longer than ``positions`` (cutting is the caller's: only it knows the task
        sentence)."""
        rows, device = [], self.model.head.weight.device
        for text in texts:
            ids = self.token_ids(text)
            if len(ids) > self.positions:
                raise CraftError(f"caption of {len(ids)} tokens, {self.positions} fit: {text!r}")
            rows.append(ids + [self.tokenizer.pad_token_id] * (self.positions - len(ids)))
        if not rows:
            return torch.empty(0, self.width, device=device)
        parts = torch.tensor(rows, device=device).split(TEXTS_AT_A_TIME)
        with torch.autocast(device.type, enabled=False):  # no precision of a training makes other sentences
            return torch.cat([self.model(part).pooler_output for part in parts])
