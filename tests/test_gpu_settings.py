"""What a run asks of a GPU, read off without one."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from callbacks.prune_at_validation import PruneAtValidation
from craft_lightning.checkpoints.load import load_tower
from craft_lightning.models.vlm_spec import VlmSpec
from data_modules.datamodule import VqaDataModule


def test_the_patch_embedding_is_not_rounded_to_tf32(checkpoints: Path) -> None:
    tower, seen = load_tower(checkpoints / "host"), list[str]()
    convolutions: Any = torch.backends.cudnn.conv
    usual = convolutions.fp32_precision
    tower.vision.embeddings.patch_embedding.register_forward_hook(lambda *_: seen.append(convolutions.fp32_precision))
    tower.encode(torch.zeros(1, 3, 32, 32))
    assert (usual, seen, convolutions.fp32_precision) == ("tf32", ["ieee"], "tf32")


def test_memory_is_pinned_for_a_gpu_alone(checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    data = VqaDataModule(VlmSpec(str(checkpoints / "host")), "eurosat", test_size=4)
    data.setup("test")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert not data.stored("test").pin_memory
    for kind in ("cpu", "cuda"):
        data.trainer = SimpleNamespace(strategy=SimpleNamespace(root_device=torch.device(kind)))
        assert data.stored("test").pin_memory == (kind == "cuda")


def test_what_processes_reduce_is_on_their_device() -> None:
    logged: dict[str, torch.Tensor] = {}
    place = torch.device("meta")
    module = SimpleNamespace(device=place, token_keep=0.8, log_dict=lambda values, sync_dist: logged.update(values))
    trainer: Any = SimpleNamespace(sanity_checking=False, strategy=SimpleNamespace(reduce=lambda sums, reduce_op: sums))
    PruneAtValidation(enabled=True)._log(trainer, module, "val", "accuracy")
    assert {name: value.device for name, value in logged.items()} == {"val/prune/keep": place}
