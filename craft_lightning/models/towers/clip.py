"""CLIP as a continuous tower: the eyes of VILA-7B."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from transformers import CLIPVisionModel

from craft_lightning.models.image_processing import CLIP_MEAN, CLIP_STD
from craft_lightning.models.towers.base import Tower, after_blocks


class ClipTower(Tower):
    """CLIP's vision model as a tower; its class token takes part, but is no visual token."""

    def __init__(self, vision: CLIPVisionModel) -> None:
        config: Any = vision.config
        side, depth = config.image_size // config.patch_size, config.num_hidden_layers - 1
        super().__init__(
            vision,
            width=config.hidden_size,
            image_size=config.image_size,
            grid=(side, side),
            depth=depth,
            unused=(f"encoder.layers.{depth}.", "post_layernorm."),
            mlp=config.intermediate_size,
        )

    def features_after(self, blocks: Sequence[int], pixel_values: Tensor) -> tuple[Tensor, ...]:
        mean, std = (torch.tensor(v, device=pixel_values.device).view(1, 3, 1, 1) for v in (CLIP_MEAN, CLIP_STD))
        hidden = self.vision.pre_layrnorm(self.vision.embeddings((pixel_values * 0.5 + 0.5 - mean) / std))
        return tuple(found[:, 1:] for found in after_blocks(self.vision.encoder.layers[:-1], hidden, blocks))
