"""What every vision tower offers: patch features of its second-to-last block, and tokens made of them."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Any, Literal

from torch import Tensor, nn
from torch.func import functional_call
from transformers import PreTrainedModel

from craft_lightning.errors import CraftError
from craft_lightning.models.quantizer import ResidualQuantizer
from craft_lightning.models.sharding import whole
from craft_lightning.types import VisualTokens

Attention = Literal["one_way", "bidirectional"]


class Tower(nn.Module, ABC):
    """A vision transformer up to its second-to-last block, then a quantiser if it has one.

    The last block, the final norm and a pooling head are held (their owner may pre-train the tower) and never run.
    Raises ValueError: fewer than two blocks, or a quantiser of another width.

    Args:
        vision: the transformer. unused: beginnings of the names in it of what never runs.
        quantizer: makes tokens of features; without one, in a continuous tower, the features are the tokens.

    Attributes:
        width: d, of features. image_size: side of the input in pixels. depth: number of blocks that run, L-1.
        grid: (rows, columns) of patches, raster order. mlp: hidden width of a block's MLP; None where it is not known.
        base_hash: of a continuous tower's stored weights, see :func:`.encoder.weights_hash`; None unless it was read
            from a checkpoint.
    """

    base_hash: str | None = None

    def __init__(
        self,
        vision: nn.Module,
        *,
        width: int,
        image_size: int,
        grid: tuple[int, int],
        depth: int,
        unused: Sequence[str],
        mlp: int | None = None,
        quantizer: ResidualQuantizer | None = None,
    ) -> None:
        super().__init__()
        if depth < 1:
            raise ValueError("a tower needs at least two blocks: the last one never runs")
        if quantizer is not None and quantizer.width != width:
            raise ValueError(f"codewords of width {quantizer.width} do not fit a tower of width {width}")
        self.vision: Any = vision
        self.quantizer = quantizer
        self.width, self.image_size, self.grid, self.depth, self.mlp = width, image_size, grid, depth, mlp
        self._unused = tuple(unused)

    @property
    @abstractmethod
    def blocks(self) -> Any:
        """All transformer blocks, in a ModuleList; the last one never runs."""

    @property
    def num_tokens(self) -> int:
        """N, patches per image."""
        return self.grid[0] * self.grid[1]

    def used_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Names (relative to the tower) and parameters of what runs: what adaptation trains and an encoder holds."""
        for name, parameter in self.vision.named_parameters():
            if not name.startswith(self._unused):
                yield f"vision.{name}", parameter

    def used_weights(self) -> Iterator[tuple[str, Tensor]]:
        """Names and values of what an encoder holds: :meth:`used_parameters`, gathered where they are sharded, and with
        what a method adds to them (as parametrizations) merged."""
        for name, parameter in self.used_parameters():
            layer, added, field = name.partition(".parametrizations.")
            value = whole(parameter.detach())
            if not added:
                yield name, value
            elif field.endswith(".original"):
                field = field.removesuffix(".original")
                owner: Any = self.get_submodule(layer)
                for update in owner.parametrizations[field]:
                    factors = {n: whole(p.detach()) for n, p in update.named_parameters()}
                    value = functional_call(update, factors, (value,))
                yield f"{layer}.{field}", value

    @abstractmethod
    def features_after(self, blocks: Sequence[int], pixel_values: Tensor) -> tuple[Tensor, ...]:
        """``[B, N, d]`` after each of these numbers of blocks, from 0 (the embeddings) to :attr:`depth`, for pixels
        ``[B, 3, S, S]`` in [-1, 1]; a tower of other statistics re-normalises them itself."""

    def features(self, pixel_values: Tensor) -> Tensor:
        """``[B, N, d]`` output of the second-to-last block for pixels ``[B, 3, S, S]`` in [-1, 1]."""
        return self.features_after((self.depth,), pixel_values)[0]

    def features_and_cls(
        self, pixel_values: Tensor, cls: Tensor, attention: Attention = "one_way"
    ) -> tuple[Tensor, Tensor]:
        """Patch features ``[B, N, d]`` and the read-out ``[B, d]`` of a learnable [CLS] ``[1, 1, d]``, after the same
        block.

        [CLS] enters the first block without a position embedding; ``"one_way"`` leaves the patch features those of
        :meth:`features`, up to the rounding of products with more rows; ``"bidirectional"`` is a literal prepend, where
        every patch also attends to [CLS]. Raises CraftError: a tower that reads no [CLS] beside its patches.
        """
        raise CraftError(f"a {type(self).__name__} reads no [CLS] beside its patches")

    def features_and_pooled(self, pixel_values: Tensor) -> tuple[Tensor, Tensor]:
        """Patch features ``[B, N, d]``, and image embeddings ``[B, dT]`` that last block and head make of them, beside
        which the tower's text half was trained. Raises CraftError: a tower without such a half."""
        raise CraftError(f"a {type(self).__name__} has no text half that its image embeddings were aligned with")

    def encode(self, pixel_values: Tensor, cls: Tensor | None = None, attention: Attention = "one_way") -> VisualTokens:
        """Pixels ``[B, 3, S, S]`` to tokens: straight-through sums of codewords, in evaluation too, or the features.
        With ``cls``, ``image_embedding`` is its read-out (see :meth:`features_and_cls`), which is never quantised."""
        readout = None
        if cls is None:
            z = self.features(pixel_values)
        else:
            z, readout = self.features_and_cls(pixel_values, cls, attention)
        if self.quantizer is None:
            return VisualTokens(z, z, None, readout, self.grid)
        tokens, found = self.quantizer(z)
        return VisualTokens(z, tokens, found.codes, readout, self.grid, found.first_residual_energy)


class TransformersTower(Tower):
    """A tower around a vision model of transformers, whose SigLIP and CLIP differ in few names. ``unused``: what never
    runs besides the last block and the norm behind it."""

    def __init__(
        self, vision: PreTrainedModel, unused: Sequence[str] = (), quantizer: ResidualQuantizer | None = None
    ) -> None:
        config: Any = vision.config
        side, depth = config.image_size // config.patch_size, config.num_hidden_layers - 1
        super().__init__(
            vision,
            width=config.hidden_size,
            image_size=config.image_size,
            grid=(side, side),
            depth=depth,
            unused=(f"encoder.layers.{depth}.", "post_layernorm.", *unused),
            mlp=config.intermediate_size,
            quantizer=quantizer,
        )

    @property
    def blocks(self) -> Any:
        return self.vision.encoder.layers

    def _after(self, blocks: Sequence[int], hidden: Tensor) -> tuple[Tensor, ...]:
        """Hidden states ``[B, n, d]`` after each of these numbers of blocks, 0 being ``hidden`` itself."""
        found = {0: hidden}
        for number, layer in enumerate(self.blocks[:-1], start=1):
            hidden = layer(hidden, attention_mask=None)
            if number in blocks:
                found[number] = hidden
        return tuple(found[number] for number in blocks)
