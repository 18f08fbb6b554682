"""Vision FT, and its ablation with CRAFT's contrastive term."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from craft_lightning.methods._support.contrastive import PAPER_CONTRASTIVE
from craft_lightning.methods.craft import Craft
from craft_lightning.methods.vision_ft import VisionFineTuning
from craft_lightning.models.quantizer import ResidualQuantizer
from craft_lightning.optim import OptimSpec
from craft_lightning.types import VqaBatch

FAST = OptimSpec(lr=1e-2)


def test_the_quantiser_is_never_called(build: Any, data: Any, trainer: Any, monkeypatch: Any) -> None:
    def called(*args: Any, **kwargs: Any) -> None:
        raise AssertionError("quantised")

    for name in ("forward", "encode", "decode", "partial_sums"):
        monkeypatch.setattr(ResidualQuantizer, name, called)
    method = build(VisionFineTuning, optim=FAST)
    assert not any(isinstance(module, ResidualQuantizer) for module in method.modules())
    run = trainer(limit_val_batches=1.0)
    run.fit(method, data("continuous"))
    run.test(method, data("continuous"), verbose=False)
    visual = method.visual_tokens(torch.zeros(1, 3, 32, 32))
    assert visual.codes is None
    assert visual.tokens is visual.features


def test_it_has_neither_cls_nor_captions(build: Any, data: Any, trainer: Any, batch: VqaBatch) -> None:
    method = build(VisionFineTuning)
    trainer(max_steps=1).fit(method, data("continuous"))
    assert not hasattr(method, "cls")
    assert method.captions is None
    assert set(method.losses(batch, method(batch))) == {"sal"}


@pytest.mark.parametrize(("dataset", "kind"), [("eurosat", "classification"), ("vqa_rad", "question")])
def test_the_contrastive_ablation_is_craft_without_its_codebook(
    dataset: str, kind: str, build: Any, data: Any, trainer: Any, checkpoints: Any
) -> None:
    """The same [CLS], captions and weights: on a continuous tower both are one method, step for step."""
    states = []
    for cls, options in ((VisionFineTuning, {}), (Craft, {"lambda_commitment": 0.0})):
        torch.manual_seed(3)
        method = cls(backbone=build(VisionFineTuning).backbone, optim=FAST, lambda_contrastive=None, **options)
        run = trainer(max_steps=4)
        run.fit(method, data("continuous", dataset=dataset))
        assert method.lambda_contrastive == PAPER_CONTRASTIVE[kind]
        assert float(run.callback_metrics["train/contrastive"]) > 0.0
        states.append(method.state_dict())
    assert states[0].keys() == states[1].keys()
    assert "cls" in states[0]
    assert all(torch.equal(value, states[1][name]) for name, value in states[0].items())
