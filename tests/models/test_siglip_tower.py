import pytest
import torch
from transformers import SiglipVisionConfig

from craft_lightning.errors import CraftError
from craft_lightning.models.quantizer import ResidualQuantizer
from craft_lightning.models.towers.siglip import SiglipTower


def make(attention: str = "sdpa", levels: int = 4) -> SiglipTower:
    torch.manual_seed(0)
    config = SiglipVisionConfig(
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=4,
        num_attention_heads=2,
        image_size=32,
        patch_size=8,
    )
    return SiglipTower.from_config(config, ResidualQuantizer(torch.randn(1, 50, 32), levels), attention)


@pytest.fixture
def pixels() -> torch.Tensor:
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_features_are_the_penultimate_hidden_state_bit_for_bit(attention: str, pixels: torch.Tensor) -> None:
    tower = make(attention)
    hidden = tower.vision(pixels, output_hidden_states=True).hidden_states
    assert len(hidden) == 5
    assert torch.equal(tower.features(pixels), hidden[-2])
    assert tower.grid == (4, 4)
    assert tower.num_tokens == 16
    assert tower.width == 32


def test_features_on_the_way_are_the_hidden_states_bit_for_bit(pixels: torch.Tensor) -> None:
    tower = make()
    hidden = tower.vision(pixels, output_hidden_states=True).hidden_states
    assert tower.depth == 3
    found = tower.features_after((0, 1, 1, 3), pixels)
    assert all(torch.equal(f, hidden[n]) for f, n in zip(found, (0, 1, 1, 3), strict=True))


def test_sdpa_and_eager_agree(pixels: torch.Tensor) -> None:
    first, second = make("sdpa"), make("eager")
    second.load_state_dict(first.state_dict())
    torch.testing.assert_close(first.features(pixels), second.features(pixels), atol=1e-5, rtol=0)
    assert torch.equal(first.encode(pixels).codes, second.encode(pixels).codes)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("scale", [0.02, 1e4])
def test_one_way_cls_leaves_patches_as_they_are(attention: str, scale: float, pixels: torch.Tensor) -> None:
    tower = make(attention)
    cls = scale * torch.randn(1, 1, 32)
    with_cls, without = tower.encode(pixels, cls), tower.encode(pixels)
    torch.testing.assert_close(with_cls.features, without.features, atol=1e-5, rtol=0)
    assert torch.equal(with_cls.codes, without.codes)
    assert with_cls.image_embedding.shape == (3, 32)
    assert without.image_embedding is None


def test_one_way_cls_equals_the_masked_sequence(pixels: torch.Tensor) -> None:
    tower = make()
    cls = torch.randn(1, 1, 32)
    patches, readout = tower.features_and_cls(pixels, cls)
    joint = torch.cat([cls.expand(3, 1, 32), tower.vision.embeddings(pixels)], dim=1)
    mask = torch.zeros(1, 1, 17, 17)
    mask[..., 1:, 0] = float("-inf")
    for layer in tower.vision.encoder.layers[:-1]:
        joint = layer(joint, attention_mask=mask)
    torch.testing.assert_close(readout, joint[:, 0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(patches, joint[:, 1:], atol=1e-5, rtol=1e-5)
    weights = [parameter for _, parameter in tower.used_parameters()]
    ours, wanted = (
        torch.cat([g.flatten() for g in torch.autograd.grad(one.square().sum() + rest.sin().sum(), weights)])
        for one, rest in ((readout, patches), (joint[:, 0], joint[:, 1:]))
    )
    assert float((ours - wanted).norm()) < 1e-5 * float(wanted.norm())


def test_bidirectional_cls_is_a_literal_prepend(pixels: torch.Tensor) -> None:
    tower = make()
    cls = torch.randn(1, 1, 32)
    patches, readout = tower.features_and_cls(pixels, cls, "bidirectional")
    joint = torch.cat([cls.expand(3, 1, 32), tower.vision.embeddings(pixels)], dim=1)
    for layer in tower.vision.encoder.layers[:-1]:
        joint = layer(joint, attention_mask=None)
    assert torch.equal(patches, joint[:, 1:])
    assert torch.equal(readout, joint[:, 0])
    assert not torch.allclose(patches, tower.features(pixels))
    with pytest.raises(CraftError, match="one_way"):
        tower.features_and_cls(pixels, cls, "sideways")


def test_gradients_reach_early_blocks_but_never_the_last(pixels: torch.Tensor) -> None:
    tower = make()
    cls = torch.nn.Parameter(torch.randn(1, 1, 32))
    visual = tower.encode(pixels, cls)
    visual.image_embedding.pow(2).sum().backward()
    assert float(tower.vision.encoder.layers[0].self_attn.k_proj.weight.grad.abs().sum()) > 0
    assert float(tower.vision.embeddings.patch_embedding.weight.grad.abs().sum()) > 0
    assert float(cls.grad.abs().sum()) > 0
    used = {name for name, _ in tower.used_parameters()}
    graded = {name for name, p in tower.named_parameters() if p.grad is not None}
    assert graded <= used
    (visual_only := make()).encode(pixels).tokens.sum().backward()
    assert {name for name, p in visual_only.named_parameters() if p.grad is not None} == used
    assert not any(name.startswith("vision.encoder.layers.3.") for name in used)
    assert any(name.startswith("vision.encoder.layers.2.") for name in used)
    assert not any("post_layernorm" in name or "head" in name for name in used)


def test_tokens_are_straight_through_sums(pixels: torch.Tensor) -> None:
    tower = make()
    visual = tower.encode(pixels)
    assert torch.equal(
        visual.tokens, visual.features + (tower.quantizer.encode(visual.features).quantized - visual.features)
    )
    torch.testing.assert_close(visual.tokens, tower.quantizer.decode(visual.codes), atol=1e-5, rtol=0)


def test_continuous_twin_passes_features(pixels: torch.Tensor) -> None:
    discrete = make()
    twin = SiglipTower(discrete.vision).eval()
    visual = twin.encode(pixels)
    assert visual.codes is None
    assert torch.equal(visual.tokens, discrete.features(pixels))


def test_wrong_pixels_and_shapes_are_refused(pixels: torch.Tensor) -> None:
    tower = make()
    with pytest.raises(CraftError, match=r"reads \[B, 3, 32, 32\]"):
        tower.encode(pixels[..., :16])
    with pytest.raises(ValueError, match="width"):
        SiglipTower(tower.vision, ResidualQuantizer(torch.randn(1, 5, 8), 4))
