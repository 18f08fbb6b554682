"""``train/grad_z/<term>``: what each term pulls at z with, before the first step."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lightning.pytorch.loggers import TensorBoardLogger
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from craft_lightning.methods.craft import Craft
from craft_lightning.methods.zero_shot import ZeroShot
from craft_lightning.types import VqaBatch


def test_norms_of_the_weighted_terms(build: Any, data: Any, trainer: Any, batch: VqaBatch, tmp_path: Any) -> None:
    base = build(ZeroShot)
    visual = base.visual_tokens(batch.pixel_values)
    method = build(Craft, lambda_sal=0.5, lambda_commitment=0.3)
    logger = TensorBoardLogger(tmp_path, name="", version="")
    # Step 0 is logged although the loggers come by every tenth step only.
    run = trainer(max_steps=2, logger=logger, log_every_n_steps=10)
    run.fit(method, data())
    found = method.first_gradients
    # The read-out leaves the tower beside z, not through it: a norm of the contrastive term would be 0 by construction.
    assert set(found) == {"train/grad_z/sal", "train/grad_z/commitment"}
    z = visual.features.detach()
    residual = float((z - base.vlm.tower.quantizer.encode(z).quantized).norm())
    assert found["train/grad_z/commitment"] == pytest.approx(0.3 * 2 * residual / z.numel(), rel=1e-5)
    features = z.clone().requires_grad_()
    tokens = base.vlm.tower.quantizer(features)[0]
    out = base.vlm(type(visual)(features, tokens, visual.codes, None, visual.grid), batch)
    expected = torch.autograd.grad(0.5 * out.answer_loss, features)[0].norm()
    assert found["train/grad_z/sal"] == pytest.approx(float(expected), rel=1e-4)
    events = EventAccumulator(str(tmp_path)).Reload()
    for name, value in found.items():
        assert [(e.step, e.value) for e in events.Scalars(name)] == [(0, pytest.approx(value, rel=1e-6))]


def test_a_resumed_run_keeps_the_norms_of_step_0(build: Any, data: Any, trainer: Any, tmp_path: Any) -> None:
    first = build(Craft)
    run = trainer(max_steps=2)
    run.fit(first, data())
    run.save_checkpoint(tmp_path / "2.ckpt")
    again = build(Craft)
    trainer(max_steps=3).fit(again, data(), ckpt_path=tmp_path / "2.ckpt", weights_only=True)
    assert again.first_gradients == first.first_gradients
    assert first.first_gradients["train/grad_z/sal"] > 0.0
