"""What callers may rely on in any tower, whichever library holds the transformer."""

import re

import pytest
import torch
from transformers import CLIPVisionConfig, CLIPVisionModel, SiglipVisionConfig

from craft_lightning.errors import CraftError
from craft_lightning.models.towers.continuous import ClipTower, TimmTower
from craft_lightning.models.towers.siglip import SiglipTower
from craft_lightning.models.towers.tower import Tower

SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2}
SIDES = {"image_size": 32, "patch_size": 8}


@pytest.fixture(params=["siglip", "clip", "timm"], scope="module")
def tower(request: pytest.FixtureRequest) -> Tower:
    torch.manual_seed(0)
    if request.param == "siglip":
        return SiglipTower.from_config(SiglipVisionConfig(**SHAPE, **SIDES))
    if request.param == "clip":
        return ClipTower(CLIPVisionModel(CLIPVisionConfig(**SHAPE, **SIDES))).eval()
    return TimmTower("test_vit", image_size=64).eval()


@pytest.fixture
def pixels(tower: Tower) -> torch.Tensor:
    return torch.rand(2, 3, tower.image_size, tower.image_size) * 2 - 1


def test_the_features_are_those_of_the_second_to_last_block(tower: Tower, pixels: torch.Tensor) -> None:
    with torch.no_grad():
        found = tower.features_after((0, tower.depth), pixels)
        features = tower.features(pixels)
    assert features.shape == (2, tower.num_tokens, tower.width) == found[0].shape
    assert tower.grid[0] * tower.grid[1] == tower.num_tokens
    assert torch.equal(found[1], features)
    assert not torch.equal(found[0], features)


def test_the_parameters_that_are_used_are_those_that_a_gradient_reaches(tower: Tower, pixels: torch.Tensor) -> None:
    tower.zero_grad()
    tower.features(pixels).square().sum().backward()
    reached = {name for name, p in tower.named_parameters() if p.grad is not None}
    named = dict(tower.used_parameters())
    assert reached == named.keys()
    assert any(re.search(rf"\.{tower.depth - 1}\.", name) for name in named)
    assert not any(re.search(rf"\.{tower.depth}\.", name) for name in named)


def test_a_continuous_towers_tokens_are_its_features(tower: Tower, pixels: torch.Tensor) -> None:
    with torch.no_grad():
        visual = tower.encode(pixels)
        assert torch.equal(visual.tokens, tower.features(pixels))
    assert (visual.codes, visual.energy, visual.image_embedding, visual.grid) == (None, None, None, tower.grid)


def test_cls_is_read_by_siglip_alone(tower: Tower, pixels: torch.Tensor) -> None:
    cls = torch.zeros(1, 1, tower.width)
    if isinstance(tower, SiglipTower):
        assert tower.encode(pixels, cls).image_embedding.shape == (2, tower.width)
    else:
        with pytest.raises(CraftError, match=rf"{type(tower).__name__} reads no \[CLS\]"):
            tower.encode(pixels, cls)


def test_a_tower_of_one_block_is_refused() -> None:
    config = CLIPVisionConfig(**{**SHAPE, "num_hidden_layers": 1}, **SIDES)
    with pytest.raises(ValueError, match="at least two blocks"):
        ClipTower(CLIPVisionModel(config))
