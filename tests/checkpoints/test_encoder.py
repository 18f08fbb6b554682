"""An adapted encoder of a continuous tower fits models of that very tower, and says so where it cannot be told."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from craft_lightning import __main__ as entry
from craft_lightning.checkpoints.encoder import apply_encoder, write_encoder
from craft_lightning.checkpoints.load import load_tower, load_vlm
from craft_lightning.errors import CraftError
from craft_lightning.models.towers.continuous import TimmTower
from craft_lightning.models.vlm_spec import VlmSpec
from tiny import write_timm_tower, write_tiny

SMOKE = str(Path(__file__).resolve().parents[2] / "experiments" / "smoke.yaml")


def siglip(folder: Path, seed: int) -> Path:
    return write_tiny(folder, continuous=True, seed=seed)


def timm(folder: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    write_timm_tower(folder, TimmTower("test_vit"))
    return folder


def clip(folder: Path, seed: int) -> Path:
    from transformers import CLIPVisionConfig, CLIPVisionModel

    torch.manual_seed(seed)
    sizes: Any = {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_attention_heads": 2,
        "image_size": 28,
        "patch_size": 14,
    }
    vision = CLIPVisionModel(CLIPVisionConfig(**sizes, num_hidden_layers=3))
    (folder / "vision_tower").mkdir(parents=True)
    save_file(vision.state_dict(), folder / "vision_tower" / "model.safetensors")
    facts = {"model_type": "clip_vision_model", **vision.config.to_dict()}
    (folder / "vision_tower" / "config.json").write_text(json.dumps(facts))
    (folder / "config.json").write_text(json.dumps({"mm_vision_tower": "vision_tower"}))
    return folder


def adapted(tower: Any, folder: Path, **facts: Any) -> Path:
    state = {name: p.detach() + 0.1 for name, p in tower.used_parameters()}
    write_encoder(folder, state, base="the first", codebook_hash=None, method="vision_ft", **facts)
    return folder


@pytest.mark.parametrize("write", [siglip, timm, clip])
def test_another_tower_of_the_same_shape_is_refused(write: Callable[[Path, int], Path], tmp_path: Path) -> None:
    own, other = (load_tower(write(tmp_path / str(seed), seed)) for seed in (0, 1))
    encoder = adapted(own, tmp_path / "encoder", base_hash=own.base_hash)
    with pytest.raises(CraftError, match=f"tower of the first .{own.base_hash}., this model has .*{other.base_hash}"):
        apply_encoder(other, encoder)
    apply_encoder(own, encoder)
    state = load_file(encoder / "encoder.safetensors")
    assert all(torch.equal(p, state[name]) for name, p in own.used_parameters())


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_tower_is_the_same_in_any_precision(dtype: str, tmp_path: Path) -> None:
    tower = load_tower(siglip(tmp_path / "model", 0))
    assert load_tower(tmp_path / "model", dtype=dtype).base_hash == tower.base_hash


def test_one_weight_makes_another_tower(tmp_path: Path) -> None:
    tower = load_tower(siglip(tmp_path / "model", 0))
    file = tmp_path / "model" / "vision_tower" / "model.safetensors"
    state = load_file(file)
    state["rqvaesiglip.siglip_model.vision_model.encoder.layers.0.layer_norm1.bias"][3] += 1e-6
    save_file(state, file)
    assert load_tower(tmp_path / "model").base_hash != tower.base_hash


def test_an_encoder_of_before_says_that_it_cannot_be_checked(tmp_path: Path, caplog: Any) -> None:
    tower = load_tower(siglip(tmp_path / "model", 0))
    encoder = adapted(tower, tmp_path / "encoder")
    with caplog.at_level(logging.WARNING):
        apply_encoder(tower, encoder)
    assert [r.getMessage() for r in caplog.records] == [
        f"{encoder} does not say which tower it was adapted from: whether it fits this model cannot be checked (its "
        "base is the first)"
    ]


def test_a_codebook_makes_two_towers_one(tmp_path: Path, caplog: Any) -> None:
    """Whoever reads codewords needs no particular tower: its hash is neither made nor asked for."""
    tower = load_tower(write_tiny(tmp_path / "model"))
    assert tower.base_hash is None
    assert tower.quantizer is not None
    state = {name: p.detach() + 0.1 for name, p in tower.used_parameters()}
    write_encoder(tmp_path / "e", state, base="x", codebook_hash=tower.quantizer.hash(), method="craft")
    assert "base_hash" not in apply_encoder(tower, tmp_path / "e")[0]
    assert not caplog.records


def test_an_encoder_without_a_codebook_is_none_for_a_model_with_one(tmp_path: Path) -> None:
    """Names and shapes fit where both read one tower; its features were never drawn to codewords."""
    tower = load_tower(write_tiny(tmp_path / "model"))
    state = {name: p.detach() + 0.1 for name, p in tower.used_parameters()}
    write_encoder(tmp_path / "e", state, base="x", codebook_hash=None, method="vision_ft")
    with pytest.raises(CraftError, match=r"adapted to codebook none, this model has \w+"):
        apply_encoder(tower, tmp_path / "e")


def test_a_training_names_the_tower_that_it_began_with(tmp_path: Path, capsys: Any) -> None:
    """Also where it goes on from an encoder; the larger model on that tower takes both, another tower's takes none."""
    siglip(tmp_path / "own", 0)
    (tmp_path / "small").mkdir()
    write_tiny(tmp_path / "small", llm="qwen2", width=32, tower="../own/vision_tower", continuous=True)
    siglip(tmp_path / "foreign", 1)
    base = load_tower(tmp_path / "own").base_hash
    small = ["--data.train_size=16", "--data.val_size=2", "--data.test_size=2", "--trainer.enable_progress_bar=false"]
    argv = ["--config", SMOKE, *small, "--trainer.logger=false", "--model.lambda_commitment=0"]

    def run(verb: str, backbone: str, folder: str, *flags: str) -> int:
        where = [f"--model.backbone.name={tmp_path / backbone}", f"--trainer.default_root_dir={tmp_path / folder}"]
        return entry.main([verb, *argv, *where, *flags])

    first, second = tmp_path / "1" / "encoder", tmp_path / "2" / "encoder"
    assert run("fit", "small", "1", "--trainer.max_steps=1") == 0
    assert run("fit", "small", "2", "--trainer.max_steps=1", f"--encoder={first}") == 0
    for number, encoder in enumerate((first, second)):
        assert json.loads((encoder / "config.json").read_text())["base_hash"] == base
        assert run("test", "own", f"own{number}", f"--encoder={encoder}") == 0
        capsys.readouterr()
        assert run("test", "foreign", f"foreign{number}", f"--encoder={encoder}") == 2
        assert f"adapted from the tower of {tmp_path / 'small'} ({base})" in capsys.readouterr().err.splitlines()[-1]
    changed = load_file(first / "encoder.safetensors")["vision.embeddings.position_embedding.weight"]
    assert not torch.equal(
        changed, load_vlm(VlmSpec(str(tmp_path / "own"))).tower.vision.embeddings.position_embedding.weight
    )
