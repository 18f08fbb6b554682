"""Vision towers: SigLIP with a residual quantiser behind the second-to-last block."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from transformers import SiglipVisionConfig, SiglipVisionModel
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS
from transformers.models.siglip.modeling_siglip import SiglipEncoderLayer, eager_attention_forward

from craft_lightning.errors import CraftError
from craft_lightning.models.quantizer import ResidualQuantizer
from craft_lightning.types import VisualTokens

Attention = Literal["one_way", "bidirectional"]


class ReadoutLayer(SiglipEncoderLayer):
    """A SigLIP block that can carry one more query, [CLS], beside the patches (methods.md 1.3, OD-2).

    [CLS] attends to itself and to every patch; no patch attends to it, so the patch stream is bit-identical to the
    plain block's. It runs inside ``forward`` because sharded training gathers the block's weights only there.
    """

    def forward(
        self, hidden_states: Tensor, attention_mask: Tensor | None = None, cls: Tensor | None = None, **kwargs: Any
    ) -> Tensor | tuple[Tensor, Tensor]:
        """Patches ``[B, N, d]`` to patches; with ``cls`` ``[B, 1, d]``, the pair (patches, [CLS])."""
        if cls is None:
            return super().forward(hidden_states, attention_mask, **kwargs)
        normed = self.layer_norm1(hidden_states)
        query, key, value = self._heads(normed)
        patches = hidden_states + self._attend(query, key, value)
        patches = patches + self.mlp(self.layer_norm2(patches))
        cls_query, cls_key, cls_value = self._heads(self.layer_norm1(cls))
        key, value = torch.cat([cls_key, key], dim=2), torch.cat([cls_value, value], dim=2)
        cls = cls + self._attend(cls_query, key, value)
        return patches, cls + self.mlp(self.layer_norm2(cls))

    def _heads(self, normed: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, each ``[B, heads, n, d / heads]``."""
        attention = self.self_attn
        shape = (*normed.shape[:-1], -1, attention.head_dim)
        query, key, value = (
            projection(normed).view(shape).transpose(1, 2)
            for projection in (attention.q_proj, attention.k_proj, attention.v_proj)
        )
        return query, key, value

    def _attend(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """The block's own attention and output projection, ``[B, n, d]``."""
        attention = self.self_attn
        function = ALL_ATTENTION_FUNCTIONS.get_interface(attention.config._attn_implementation, eager_attention_forward)
        dropout = attention.dropout if self.training else 0.0
        mixed, _ = function(
            attention, query, key, value, None, is_causal=False, scaling=attention.scale, dropout=dropout
        )
        return attention.out_proj(mixed.reshape(*mixed.shape[:2], -1).contiguous())


class VisionTower(nn.Module):
    """SigLIP up to its second-to-last block, then the quantiser (host facts 2.2, methods.md 0).

    The last block, the final norm and the pooling head are held (their owner may need them to pre-train the tower)
    and never run here.

    Args:
        vision: the SigLIP vision model; its blocks become :class:`ReadoutLayer` (same parameters, same names).
        quantizer: None makes the continuous twin, whose tokens are the features themselves.

    Attributes:
        grid: (rows, columns) of patches, raster order. width: d. image_size: side of the input in pixels.
        base_hash: of a continuous tower's weights as they were stored, see :func:`.encoder.weights_hash`; None unless
            it was read from a checkpoint.

    Raises:
        ValueError: fewer than two blocks, or a quantiser of another width.
    """

    base_hash: str | None = None

    def __init__(self, vision: SiglipVisionModel, quantizer: ResidualQuantizer | None = None) -> None:
        super().__init__()
        config: Any = vision.config
        if config.num_hidden_layers < 2:
            raise ValueError("a tower needs at least two blocks: the last one never runs")
        if quantizer is not None and quantizer.width != config.hidden_size:
            raise ValueError(f"codewords of width {quantizer.width} do not fit a tower of width {config.hidden_size}")
        for layer in vision.encoder.layers:
            layer.__class__ = ReadoutLayer
        self.vision = vision
        self.quantizer = quantizer
        self.width: int = config.hidden_size
        self.image_size: int = config.image_size
        side = config.image_size // config.patch_size
        self.grid: tuple[int, int] = (side, side)

    @classmethod
    def from_config(
        cls, config: SiglipVisionConfig, quantizer: ResidualQuantizer | None = None, attention: str = "sdpa"
    ) -> VisionTower:
        """A tower with fresh weights (SigLIP's own initialisation), in eval mode."""
        vision = SiglipVisionModel._from_config(config, attn_implementation=attention)
        return cls(vision, quantizer).eval()

    @property
    def num_tokens(self) -> int:
        """N, patches per picture."""
        return self.grid[0] * self.grid[1]

    def used_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Names (relative to the tower) and parameters of the embeddings and blocks 0..L-2: what adaptation trains."""
        last = f"encoder.layers.{self.depth}."
        for name, parameter in self.vision.named_parameters():
            if name.startswith(("embeddings.", "encoder.")) and not name.startswith(last):
                yield f"vision.{name}", parameter

    @property
    def depth(self) -> int:
        """Number of blocks that run, L-1."""
        return len(self.vision.encoder.layers) - 1

    def features(self, pixel_values: Tensor) -> Tensor:
        """``[B, N, d]`` output of the second-to-last block for pixels ``[B, 3, S, S]`` in [-1, 1]."""
        return self.features_after((self.depth,), pixel_values)[0]

    def features_after(self, blocks: Sequence[int], pixel_values: Tensor) -> tuple[Tensor, ...]:
        """``[B, N, d]`` after each of these numbers of blocks, from 0 (the embeddings) to :attr:`depth`."""
        hidden = self._embed(pixel_values)
        found = {0: hidden} if 0 in blocks else {}
        for number, layer in enumerate(self.vision.encoder.layers[:-1], start=1):
            hidden = layer(hidden, attention_mask=None)
            if number in blocks:
                found[number] = hidden
        return tuple(found[number] for number in blocks)

    def features_and_cls(
        self, pixel_values: Tensor, cls: Tensor, attention: Attention = "one_way"
    ) -> tuple[Tensor, Tensor]:
        """Patch features ``[B, N, d]`` and the read-out of a [CLS] vector, ``[B, d]``, after the same block.

        Args:
            pixel_values: ``[B, 3, S, S]`` in [-1, 1].
            cls: ``[1, 1, d]``, learnable; enters the first block without a position embedding.
            attention: ``"one_way"`` leaves the patch features bit-identical to :meth:`features`;
                ``"bidirectional"`` is a literal prepend, where every patch also attends to [CLS].
        """
        hidden = self._embed(pixel_values)
        readout = cls.to(hidden.dtype).expand(len(hidden), 1, self.width)
        if attention == "one_way":
            for layer in self.vision.encoder.layers[:-1]:
                hidden, readout = layer(hidden, attention_mask=None, cls=readout)
            return hidden, readout[:, 0]
        if attention != "bidirectional":
            raise CraftError(f"cls attention is 'one_way' or 'bidirectional', not {attention!r}")
        joint = torch.cat([readout, hidden], dim=1)
        for layer in self.vision.encoder.layers[:-1]:
            joint = layer(joint, attention_mask=None)
        return joint[:, 1:], joint[:, 0]

    def encode(self, pixel_values: Tensor, cls: Tensor | None = None, attention: Attention = "one_way") -> VisualTokens:
        """Pixels ``[B, 3, S, S]`` to tokens; straight-through sums of codewords, in evaluation too.

        Args:
            cls: if given, ``image_embedding`` is its read-out (see :meth:`features_and_cls`); never quantised.
        """
        readout = None
        if cls is None:
            z = self.features(pixel_values)
        else:
            z, readout = self.features_and_cls(pixel_values, cls, attention)
        if self.quantizer is None:
            return VisualTokens(z, z, None, readout, self.grid)
        tokens, found = self.quantizer(z)
        return VisualTokens(z, tokens, found.codes, readout, self.grid, found.first_residual_energy)

    def _embed(self, pixel_values: Tensor) -> Tensor:
        if tuple(pixel_values.shape[1:]) != (3, self.image_size, self.image_size):
            side = self.image_size
            raise CraftError(
                f"pixel_values of shape {tuple(pixel_values.shape)}: this tower reads [B, 3, {side}, {side}]"
            )
        return self.vision.embeddings(pixel_values)
