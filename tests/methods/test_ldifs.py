"""LDIFS: Vision FT held near the features that it began with."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from craft_lightning.losses import feature_distance
from craft_lightning.methods.ldifs import FRACTIONS, Ldifs
from craft_lightning.methods.vision_ft import VisionFineTuning
from craft_lightning.optim import OptimSpec
from craft_lightning.types import VqaBatch

FAST = OptimSpec(lr=1e-2)


def moved(method: Ldifs) -> Ldifs:
    with torch.no_grad():
        for _, parameter in method.trainable():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return method.train()


def test_the_slices_of_the_paper_s_tower() -> None:
    assert [math.ceil(fraction * 23) for fraction in FRACTIONS] == [0, 6, 12, 18, 23]


@pytest.mark.parametrize("axis", ["token", "channel"])
def test_value_and_gradient_are_zero_at_the_start(axis: str, build: Any, batch: VqaBatch) -> None:
    method = build(Ldifs, axis=axis).train()
    term = method.losses(batch, method(batch))["ldifs"]
    term.backward()
    assert term.item() == 0.0
    assert all(float(p.grad.abs().max()) == 0.0 for _, p in method.trainable())


def test_the_term_is_the_weighted_distance_to_the_start(build: Any, batch: VqaBatch) -> None:
    method = moved(build(Ldifs, lambda_ldifs=3.0))
    start = build(VisionFineTuning)
    now, then = (
        [m.vlm.tower.vision.embeddings(batch.pixel_values), *blocks(m.vlm.tower, batch.pixel_values)]
        for m in (method, start)
    )
    five = [0, 1, 1, 2, 2]  # two blocks run here
    expected = feature_distance([now[n] for n in five], [then[n] for n in five])
    out = method(batch)
    terms = method.losses(batch, out)
    torch.testing.assert_close(terms["ldifs"], 3.0 * expected)
    assert expected.item() > 0.0
    assert torch.equal(terms["sal"], out.answer_loss)
    assert torch.equal(out.visual.features, now[2])


def blocks(tower: Any, pixels: torch.Tensor) -> list[torch.Tensor]:
    """The output of every block that runs, by hooks."""
    seen: list[torch.Tensor] = []
    hooks = [b.register_forward_hook(lambda *args: seen.append(args[-1])) for b in tower.vision.encoder.layers]
    tower.features(pixels)
    for hook in hooks:
        hook.remove()
    return seen


def test_the_start_is_frozen_and_not_stored(build: Any, batch: VqaBatch) -> None:
    method = build(Ldifs)
    assert not any(module.training for module in method.start.modules())
    moved(method)
    sum(method.losses(batch, method(batch)).values()).backward()
    assert all(p.grad is None and not p.requires_grad for p in method.start.parameters())
    stored: dict[str, Any] = {"state_dict": method.state_dict()}
    method.on_save_checkpoint(stored)
    assert not any(name.startswith("start.") for name in stored["state_dict"])


@pytest.mark.parametrize("weight", [0.0, 100.0])
def test_a_weight_of_zero_is_vision_ft_step_for_step(weight: float, build: Any, data: Any, trainer: Any) -> None:
    methods = [build(VisionFineTuning, optim=FAST), build(Ldifs, optim=FAST, lambda_ldifs=weight)]
    for method in methods:
        trainer(max_steps=4).fit(method, data("continuous"))
    one, other = (method.vlm.tower.state_dict() for method in methods)
    equal = all(torch.equal(value, other[name]) for name, value in one.items())
    assert equal == (weight == 0.0)
    assert hasattr(methods[1], "start") == (weight != 0.0)


def test_it_holds_the_features_near_their_start(build: Any, data: Any, trainer: Any, batch: VqaBatch) -> None:
    far = []
    for weight in (0.01, 1000.0):
        method = build(Ldifs, optim=FAST, lambda_ldifs=weight)
        trainer(max_steps=8).fit(method, data("continuous"))
        method.train()
        far.append(float(method.losses(batch, method(batch))["ldifs"].detach()) / weight)
    assert far[1] < 0.5 * far[0]
