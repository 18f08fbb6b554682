"""An adapter that learnt with one language model is tested in front of another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from craft_lightning import __main__ as entry
from craft_lightning.checkpoints.load import load_vlm
from craft_lightning.methods import load_method
from craft_lightning.models.vlm_spec import VlmSpec

METHODS = "experiments/methods"
SMALL = (
    *("--config", "experiments/base.yaml", "--data.dataset=eurosat", "--data.batch_size=6", "--data.train_size=24"),
    *("--data.val_size=4", "--data.test_size=4", "--trainer.enable_progress_bar=false", "--trainer.max_steps=2"),
    *("--trainer.val_check_interval=2", "--model.optim.lr=0.1", "--trainer.accelerator=cpu"),
)


def run(verb: str, folder: Path, method: str, backbone: Path, *more: str) -> Any:
    where = [f"--config={METHODS}/{method}.yaml", f"--backbone={backbone}", f"--trainer.default_root_dir={folder}"]
    assert entry.main([verb, *where, *SMALL, *more]) == 0
    return json.loads((folder / "result.json").read_text())


@pytest.fixture(scope="module")
def adapted(bridged: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of Projector FT on ``bridged``."""
    folder = tmp_path_factory.mktemp("adapted")
    result = run("fit", folder, "projector_ft", bridged / "bridged")
    assert list(result["trained"]["parts"]) == ["vlm.projector"]
    return folder


def test_the_folder_says_what_it_reads_and_how_it_came_about(adapted: Path, bridged: Path) -> None:
    facts = json.loads((adapted / "adapter" / "config.json").read_text())
    tower = load_vlm(VlmSpec(str(bridged / "bridged"))).tower
    assert (facts["method"], facts["base"]) == ("projector_ft", str(bridged / "bridged"))
    assert (facts["codebook_hash"], facts["base_hash"]) == (None, tower.base_hash)
    assert (facts["run"]["dataset"], facts["run"]["steps"]) == ("eurosat", 2)
    stored = load_method(adapted / "checkpoints" / "last.ckpt").vlm.projector.state_dict()
    held = load_file(adapted / "adapter" / "model.safetensors")
    assert held.keys() == stored.keys()
    assert all(torch.equal(held[name], value) for name, value in stored.items())


def test_another_language_model_is_tested_behind_it(adapted: Path, bridged: Path, tmp_path: Path) -> None:
    result = run("test", tmp_path, "zero_shot", bridged / "receiver", f"--adapter={adapted / 'adapter'}")
    assert result["method"] == "projector_ft"
    assert result["adapter"]["base"] == str(bridged / "bridged")
    assert result["encoder"] is None
    assert result["settings"]["backbone"]["adapter"] == str(adapted / "adapter")
    plain = run("test", tmp_path / "swap", "zero_shot", bridged / "receiver", f"--adapter={bridged / 'bridged'}")
    assert (plain["method"], plain["adapter"]["mm_projector_type"]) == ("zero_shot", "langbridge")
    bare = run("test", tmp_path / "bare", "zero_shot", bridged / "receiver")
    assert (bare["method"], bare["adapter"]) == ("zero_shot", None)


@pytest.mark.parametrize(("method", "model"), [("projector_ft", "receiver"), ("vision_ft", "bridged")])
def test_what_is_no_adapted_langbridge_is_not_written(method: str, model: str, bridged: Path, tmp_path: Path) -> None:
    more = ("--model.lambda_contrastive=0",) if method == "vision_ft" else ()
    run("fit", tmp_path, method, bridged / model, *more)
    assert not (tmp_path / "adapter").exists()
    assert (tmp_path / "encoder").exists() == (method == "vision_ft")


def test_an_adapter_learnt_behind_an_adapted_encoder_is_not_written(bridged: Path, tmp_path: Path) -> None:
    run("fit", tmp_path / "seen", "vision_ft", bridged / "bridged", "--model.lambda_contrastive=0")
    run("fit", tmp_path, "projector_ft", bridged / "bridged", f"--encoder={tmp_path / 'seen/encoder'}")
    assert not (tmp_path / "adapter").exists()


def test_the_first_lines_name_the_adapter(
    adapted: Path, bridged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    adapter = str(adapted / "adapter")
    run("test", tmp_path, "zero_shot", bridged / "receiver", f"--adapter={adapter}")
    told = capsys.readouterr().err
    assert f"{bridged / 'receiver'} with adapter {adapter}" in told
    assert entry.main(["test", f"--config={METHODS}/zero_shot.yaml", *SMALL, f"--adapter={tmp_path / 'none'}"]) == 2
    assert "no checkpoint folder" in capsys.readouterr().err
