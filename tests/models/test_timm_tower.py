from pathlib import Path

import pytest
import torch

from craft_lightning.checkpoints.load import load_tower
from craft_lightning.errors import CraftError
from craft_lightning.models.towers.continuous import TimmTower
from tiny import write_timm_tower

NAME = "test_vit"


def test_patch_features_of_the_second_to_last_block() -> None:
    tower = TimmTower(NAME).eval()
    pixels = torch.rand(2, 3, tower.image_size, tower.image_size) * 2 - 1
    visual = tower.encode(pixels)
    assert visual.tokens.shape == (2, tower.num_tokens, tower.width)
    assert visual.codes is None
    seen = []
    handle = tower.vision.blocks[-2].register_forward_hook(lambda *args: seen.append(args[-1]))
    tower.vision((pixels * 0.5 + 0.5 - tower.mean) / tower.std)
    handle.remove()
    prefix = tower.vision.num_prefix_tokens
    assert prefix > 0
    torch.testing.assert_close(visual.features, seen[0][:, prefix:])
    visual.tokens.sum().backward()
    graded = {name for name, p in tower.named_parameters() if p.grad is not None}
    assert graded == {name for name, _ in tower.used_parameters()}


def test_features_on_the_way() -> None:
    tower = TimmTower(NAME).eval()
    pixels = torch.rand(2, 3, tower.image_size, tower.image_size) * 2 - 1
    seen = []
    hooks = [b.register_forward_hook(lambda _, inputs, out: seen.append((inputs[0], out))) for b in tower.vision.blocks]
    tower.vision((pixels * 0.5 + 0.5 - tower.mean) / tower.std)
    for hook in hooks:
        hook.remove()
    prefix = tower.vision.num_prefix_tokens
    expected = [seen[0][0], *(out for _, out in seen[: tower.depth])]
    numbers = (0, 1, 1, tower.depth)
    for features, number in zip(tower.features_after(numbers, pixels), numbers, strict=True):
        torch.testing.assert_close(features, expected[number][:, prefix:])
    assert torch.equal(tower.features_after((0,), pixels)[0], seen[0][0][:, prefix:])


def test_folder_round_trip(tmp_path: Path) -> None:
    tower = TimmTower(NAME, image_size=64).eval()
    write_timm_tower(tmp_path / "tower", tower)
    again = load_tower(tmp_path / "tower")
    pixels = torch.randn(1, 3, 64, 64)
    assert torch.equal(again.features(pixels), tower.features(pixels))
    assert again.grid == tower.grid


def test_unknown_models_are_refused() -> None:
    with pytest.raises(CraftError, match="no_such_vit"):
        TimmTower("no_such_vit")
    with pytest.raises(CraftError, match="resnet18"):
        TimmTower("resnet18")


def test_a_missing_weight_file_is_named(tmp_path: Path) -> None:
    write_timm_tower(tmp_path, TimmTower(NAME))
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(CraftError, match=r"no weights in .*model\.safetensors"):
        load_tower(tmp_path)
