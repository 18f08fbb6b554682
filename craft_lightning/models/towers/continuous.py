"""Continuous towers, in whose place no quantiser stands: CLIP, the eyes of VILA-7B, and any timm vision transformer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from craft_lightning.errors import CraftError
from craft_lightning.models.image_processing import CLIP_MEAN, CLIP_STD
from craft_lightning.models.towers.tower import Tower, TransformersTower


class ClipTower(TransformersTower):
    """CLIP's vision model as a tower; its class token takes part, but is no visual token."""

    def features_after(self, blocks: Sequence[int], pixel_values: Tensor) -> tuple[Tensor, ...]:
        """In CLIP's own normalisation; the class token is left out."""
        mean, std = (torch.tensor(v, device=pixel_values.device).view(1, 3, 1, 1) for v in (CLIP_MEAN, CLIP_STD))
        hidden = self.vision.pre_layrnorm(self.vision.embeddings((pixel_values * 0.5 + 0.5 - mean) / std))
        return tuple(found[:, 1:] for found in self._after(blocks, hidden))


class TimmTower(Tower):
    """Any timm ViT as a tower; its prefix tokens are no visual tokens. Raises CraftError: no such model, or no blocks
    in it.

    Args:
        name: timm model name, for example ``"vit_small_patch16_dinov3.lvd1689m"``. Its weights are random; nothing is
            downloaded.
        image_size: input side in pixels; None takes the model's own.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, name: str, image_size: int | None = None) -> None:
        import timm  # which takes a second and is rarely needed

        sized: dict[str, Any] = {} if image_size is None else {"img_size": image_size}
        try:
            vision: Any = timm.create_model(name, pretrained=False, num_classes=0, **sized)
        except (RuntimeError, TypeError, ValueError) as error:
            raise CraftError(f"timm has no vision transformer {name!r} ({error})") from error
        if not hasattr(vision, "blocks") or not hasattr(vision, "forward_intermediates"):
            raise CraftError(f"timm model {name!r} has no transformer blocks to read patch features from")
        depth = len(vision.blocks) - 1
        super().__init__(
            vision,
            width=vision.embed_dim,
            image_size=vision.patch_embed.img_size[0],
            grid=tuple(vision.patch_embed.grid_size),
            depth=depth,
            unused=(f"blocks.{depth}.", "norm.", "fc_norm.", "head.", "attn_pool."),
        )
        self.name = name
        for statistic in ("mean", "std"):
            values = torch.tensor(vision.default_cfg[statistic]).view(1, 3, 1, 1)
            self.register_buffer(statistic, values, persistent=False)

    @property
    def blocks(self) -> Any:
        return self.vision.blocks

    def features_after(self, blocks: Sequence[int], pixel_values: Tensor) -> tuple[Tensor, ...]:
        """Through timm's ``forward_intermediates``; prefix tokens are left out."""
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
        found = dict(zip(numbers, [embedded[0][:, self.vision.num_prefix_tokens :], *after], strict=True))
        return tuple(found[number] for number in blocks)
