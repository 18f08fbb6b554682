"""Any timm vision transformer as a continuous tower."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import timm
import torch
from torch import Tensor, nn

from craft_lightning.errors import CraftError
from craft_lightning.types import VisualTokens


class TimmTower(nn.Module):
    """Any timm ViT as a continuous tower: patch features of its second-to-last block, prefix tokens stripped.

    Args:
        name: timm model name, for example ``"vit_small_patch16_dinov3.lvd1689m"``. Its weights are random; nothing is
            downloaded.
        image_size: input side in pixels; None takes the model's own.

    Raises:
        CraftError: no such model, or no blocks in it.
    """

    vision: Any
    mean: Tensor
    std: Tensor
    quantizer = None
    base_hash: str | None = None

    def __init__(self, name: str, image_size: int | None = None) -> None:
        super().__init__()
        sized: dict[str, Any] = {} if image_size is None else {"img_size": image_size}
        try:
            self.vision = timm.create_model(name, pretrained=False, num_classes=0, **sized)
        except (RuntimeError, TypeError, ValueError) as error:
            raise CraftError(f"timm has no vision transformer {name!r} ({error})") from error
        if not hasattr(self.vision, "blocks") or not hasattr(self.vision, "forward_intermediates"):
            raise CraftError(f"timm model {name!r} has no transformer blocks to read patch features from")
        self.name = name
        self.grid: tuple[int, int] = tuple(self.vision.patch_embed.grid_size)
        self.width: int = self.vision.embed_dim
        self.image_size: int = self.vision.patch_embed.img_size[0]
        facts = self.vision.default_cfg
        self.register_buffer("mean", torch.tensor(facts["mean"]).view(1, 3, 1, 1), persistent=False)
        self.register_buffer("std", torch.tensor(facts["std"]).view(1, 3, 1, 1), persistent=False)

    @property
    def num_tokens(self) -> int:
        """N, patches per picture."""
        return self.grid[0] * self.grid[1]

    def used_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Names and parameters of the embeddings and of every block but the last."""
        last = f"blocks.{len(self.vision.blocks) - 1}."
        for name, parameter in self.vision.named_parameters():
            if not name.startswith((last, "norm.", "fc_norm.", "head.", "attn_pool.")):
                yield f"vision.{name}", parameter

    @property
    def depth(self) -> int:
        """Number of blocks that run: all but the last."""
        return len(self.vision.blocks) - 1

    def features(self, pixel_values: Tensor) -> Tensor:
        """``[B, N, d]`` for pixels ``[B, 3, S, S]`` in [-1, 1], which are re-normalised to the model's statistics."""
        return self.features_after((self.depth,), pixel_values)[0]

    def features_after(self, blocks: Sequence[int], pixel_values: Tensor) -> tuple[Tensor, ...]:
        """As :meth:`.siglip.VisionTower.features_after`; the embeddings are what the first block reads."""
        numbers = sorted({0, self.depth, *blocks})
        embedded: list[Tensor] = []
        # timm hands out what blocks return, and its families differ in what comes before the first one.
        handle = self.vision.blocks[0].register_forward_pre_hook(lambda _, inputs: embedded.append(inputs[0]))
        try:
            after = self.vision.forward_intermediates(
                (pixel_values * 0.5 + 0.5 - self.mean) / self.std,
                indices=[number - 1 for number in numbers[1:]],
                stop_early=True,
                output_fmt="NLC",
                intermediates_only=True,
            )
        finally:
            handle.remove()
        prefix = self.vision.num_prefix_tokens
        found = dict(zip(numbers, [embedded[0][:, prefix:], *after], strict=True))
        return tuple(found[number] for number in blocks)

    def encode(self, pixel_values: Tensor) -> VisualTokens:
        """Continuous tokens: the features themselves."""
        z = self.features(pixel_values)
        return VisualTokens(z, z, None, None, self.grid)
