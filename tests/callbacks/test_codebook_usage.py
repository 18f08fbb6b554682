"""``val/codes_changed``: what it counts, and that counting changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from callbacks.codebook_usage import CodesChanged
from craft_lightning.checkpoints.load import load_vlm
from craft_lightning.cli.run import build_cli
from craft_lightning.methods.base import BaseMethod
from craft_lightning.models.vlm_spec import VlmSpec

SMOKE = str(Path(__file__).resolve().parents[2] / "experiments" / "smoke.yaml")


@pytest.fixture
def fit(checkpoints: Path, tmp_path: Path) -> Any:
    def run(folder: str, *flags: str, backbone: str = "host") -> Any:
        small = ["--data.train_size=16", "--data.val_size=6", "--data.eval_batch_size=4", "--model.optim.lr=0.01"]
        where = [f"--model.backbone.name={checkpoints / backbone}", f"--trainer.default_root_dir={tmp_path / folder}"]
        quiet = ["--trainer.enable_progress_bar=false", "--trainer.logger=false", "--trainer.val_check_interval=1"]
        return build_cli(["fit", "--config", SMOKE, *where, *small, *quiet, "--trainer.max_steps=3", *flags])

    return run


@torch.no_grad()
def codes(cli: Any, vlm: Any) -> torch.Tensor:
    """First-level codes of a run's validation images."""
    return torch.cat([vlm.encode(b.pixel_values).codes[..., 0] for b in cli.datamodule.val_dataloader()])


def test_the_share_of_changed_codes(fit: Any, checkpoints: Path) -> None:
    cli = fit("a")
    old, new = codes(cli, load_vlm(VlmSpec(str(checkpoints / "host")))), codes(cli, cli.model.vlm)
    assert old.shape == (6, 16)
    share = float((old != new).float().mean())
    assert 0.0 < share < 1.0
    assert float(cli.trainer.callback_metrics["val/codes_changed"]) == pytest.approx(share)
    usage = torch.bincount(new.flatten()).float() / new.numel()
    perplexity = float((-torch.special.xlogy(usage, usage).sum()).exp())
    assert float(cli.trainer.callback_metrics["val/codebook_perplexity"]) == pytest.approx(perplexity, rel=1e-5)


def test_a_resumed_run_compares_with_the_codes_before_training(fit: Any, checkpoints: Path) -> None:
    fit("a", "--trainer.max_steps=2")
    resumed = fit("a", "--ckpt_path=last")
    assert resumed.trainer.global_step == 3
    old = codes(resumed, load_vlm(VlmSpec(str(checkpoints / "host"))))
    share = float((old != codes(resumed, resumed.model.vlm)).float().mean())
    assert share > 0.0
    assert float(resumed.trainer.callback_metrics["val/codes_changed"]) == pytest.approx(share)


def test_no_step_no_change_and_no_codebook_no_count(fit: Any) -> None:
    assert float(fit("a", "--model.optim.lr=0").trainer.callback_metrics["val/codes_changed"]) == 0.0
    found = fit("b", "--model.lambda_commitment=0", backbone="continuous").trainer.callback_metrics
    assert "val/codes_changed" not in found
    assert "val/accuracy" in found


def test_watching_changes_no_weight(fit: Any, monkeypatch: Any) -> None:
    watched = fit("a").model.state_dict()
    monkeypatch.setattr(CodesChanged, "on_fit_start", lambda *args: None)
    monkeypatch.setattr(BaseMethod, "_note_gradients", lambda *args: None)
    alone = fit("b").model
    assert alone.first_gradients == {}
    assert all(torch.equal(value, watched[name]) for name, value in alone.state_dict().items())


def test_rounding_is_no_change(fit: Any) -> None:
    same = ("--model.optim.lr=0", "--trainer.precision=bf16-mixed", "--data.val_size=60", "--trainer.max_steps=1")
    assert float(fit("a", *same).trainer.callback_metrics["val/codes_changed"]) == 0.0
