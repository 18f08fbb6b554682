"""Projector FT: the projector alone learns."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from craft_lightning.methods.projector_ft import ProjectorFineTuning
from craft_lightning.types import VqaBatch


@pytest.mark.parametrize("place", ["host", "continuous"])
def test_cached_features_give_identical_losses(place: str, build: Any, batch: VqaBatch) -> None:
    """The encoder is frozen: what it saw before the projector moved it still sees after."""
    method = build(ProjectorFineTuning, place).train()
    visual = method.visual_tokens(batch.pixel_values)
    assert not visual.tokens.requires_grad
    optimizer = torch.optim.SGD([p for _, p in method.trainable()], lr=1.0)
    losses = []
    for _ in range(3):
        out = method(batch)
        assert torch.equal(method.vlm(visual, batch).answer_loss, out.answer_loss)
        optimizer.zero_grad()
        method.losses(batch, out)["sal"].backward()
        optimizer.step()
        losses.append(float(out.answer_loss.detach()))
    assert losses[2] < losses[0]
