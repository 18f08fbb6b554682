"""Shapes without weights equal the shapes of the real thing."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from craft_lightning.checkpoints.load import skeleton
from craft_lightning.checkpoints.tensors import TensorFiles
from craft_lightning.errors import CraftError
from craft_lightning.methods import METHODS
from craft_lightning.models.vlm_spec import VlmSpec
from craft_lightning.strategies.memory import Stack, profile

PAIRS = [
    (name, backbone)
    for name in METHODS
    for backbone in ("host", "small", "continuous")
    if backbone == "continuous" or not METHODS[name].continuous
]


@pytest.mark.parametrize(("name", "backbone"), PAIRS)
def test_a_sketch_is_the_method_without_values(checkpoints: Path, name: str, backbone: str) -> None:
    craft = name.startswith("craft") and backbone == "continuous"
    options: dict[str, Any] = {"lambda_commitment": 0.0} if craft else {}
    method = METHODS[name](backbone=VlmSpec(str(checkpoints / backbone)), **options)
    sketch = method.sketch()
    method.configure_model()

    def shapes(module: Any) -> dict[str, Any]:
        return {n: (tuple(p.shape), p.requires_grad) for n, p in module.named_parameters()}

    assert shapes(sketch) == shapes(method)
    assert all(p.is_meta for p in sketch.parameters())
    assert not any(p.is_meta for p in method.parameters())
    assert profile(sketch, sketch.vlm) == profile(method, method.vlm)


def test_no_weight_file_is_opened_or_needed(checkpoints: Path, tmp_path: Path, monkeypatch: Any) -> None:
    folder = shutil.copytree(checkpoints / "host", tmp_path / "bare", ignore=shutil.ignore_patterns("*.safetensors"))
    assert not list(folder.rglob("*.safetensors"))
    monkeypatch.setattr(TensorFiles, "__init__", lambda *args: pytest.fail("a weight file was opened"))
    found = skeleton(VlmSpec(str(folder)))
    assert found.tower.quantizer.codebooks.shape == (1, 64, 32)
    shutil.rmtree(folder / "llm")
    with pytest.raises(CraftError, match="cannot be read as the config of a language model"):
        skeleton(VlmSpec(str(folder)))


def test_the_profile_counts_what_runs(checkpoints: Path) -> None:
    method = METHODS["craft"](backbone=VlmSpec(str(checkpoints / "host")))
    sketch = method.sketch()
    found = profile(sketch, sketch.vlm)
    assert found.trained == sum(p.numel() for _, p in sketch.trainable())
    assert found.parameters == sum(p.numel() for p in sketch.parameters())
    assert found.tower == Stack(2, 32, 32, 64)
    assert found.language == Stack(2, 48, 16, 96)
    assert (found.tokens, found.vocabulary) == (16, sketch.vlm.language_model.config.vocab_size)
    assert (found.tower_trains, found.language_trains) == (True, False)
    assert found.tables == 64 * 32 * 4 + 64 * 4
    assert found.outside + 3 * 8544 + 2 * found.block == found.parameters
