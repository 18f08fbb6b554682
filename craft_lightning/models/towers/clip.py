"""CLIP as a continuous tower: the eyes of VILA-7B."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPVisionModel

from craft_lightning.models.image_processing import CLIP_MEAN, CLIP_STD
from craft_lightning.types import VisualTokens


class ClipTower(nn.Module):
    """Patch features of CLIP's second-to-last block; its class token takes part, but is no visual token.

    The last block and the final norm are held and never run, as in :class:`.siglip.VisionTower`, whose surface this is
    except for [CLS].

    Args:
        vision: the CLIP vision model.

    Attributes:
        grid: (rows, columns) of patches, raster order. width: d. image_size: side of the input in pixels.
    """

    quantizer = None
    base_hash: str | None = None

    def __init__(self, vision: CLIPVisionModel) -> None:
        super().__init__()
        config: Any = vision.config
        self.vision = vision
        self.width: int = config.hidden_size
        self.image_size: int = config.image_size
        side = config.image_size // config.patch_size
        self.grid: tuple[int, int] = (side, side)

    @property
    def num_tokens(self) -> int:
        """N, patches per picture."""
        return self.grid[0] * self.grid[1]

    @property
    def depth(self) -> int:
        """Number of blocks that run: all but the last."""
        return len(self.vision.encoder.layers) - 1

    def used_parameters(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Names and parameters of the embeddings and of every block but the last."""
        unused = (f"encoder.layers.{self.depth}.", "post_layernorm.")
        for name, parameter in self.vision.named_parameters():
            if not name.startswith(unused):
                yield f"vision.{name}", parameter

    def features(self, pixel_values: Tensor) -> Tensor:
        """``[B, N, d]`` for pixels ``[B, 3, S, S]`` in [-1, 1], which are re-normalised to CLIP's statistics."""
        return self.features_after((self.depth,), pixel_values)[0]

    def features_after(self, blocks: Sequence[int], pixel_values: Tensor) -> tuple[Tensor, ...]:
        """As :meth:`.siglip.VisionTower.features_after`."""
        mean, std = (torch.tensor(v, device=pixel_values.device).view(1, 3, 1, 1) for v in (CLIP_MEAN, CLIP_STD))
        hidden = self.vision.pre_layrnorm(self.vision.embeddings((pixel_values * 0.5 + 0.5 - mean) / std))
        found = {0: hidden} if 0 in blocks else {}
        for number, layer in enumerate(self.vision.encoder.layers[:-1], start=1):
            hidden = layer(hidden, attention_mask=None)
            if number in blocks:
                found[number] = hidden
        return tuple(found[number][:, 1:] for number in blocks)

    def encode(self, pixel_values: Tensor) -> VisualTokens:
        """Continuous tokens: the features themselves."""
        z = self.features(pixel_values)
        return VisualTokens(z, z, None, None, self.grid)
