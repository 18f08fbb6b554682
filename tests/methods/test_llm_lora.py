"""LLM-LoRA: low-rank updates of the language model, zero at the start."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from peft.tuners.lora import LoraLayer
from torch import nn

from craft_lightning.errors import CraftError
from craft_lightning.methods import load_method
from craft_lightning.methods.llm_lora import LlmLora
from craft_lightning.methods.projector_ft import ProjectorFineTuning
from craft_lightning.methods.zero_shot import ZeroShot
from craft_lightning.optim import OptimSpec
from craft_lightning.types import VqaBatch

FAST = OptimSpec(lr=1e-2)


def logits(method: Any, batch: VqaBatch) -> torch.Tensor:
    with torch.no_grad():
        return method(batch).logits


def moved(method: LlmLora) -> LlmLora:
    with torch.no_grad():
        for _, parameter in method.trainable():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return method.eval()


@pytest.mark.parametrize("place", ["host", "small", "continuous"])
def test_it_starts_with_identical_logits(place: str, build: Any, data: Any) -> None:
    module = data(place)
    module.setup("fit")
    batch = next(iter(module.train_dataloader()))
    method = build(LlmLora, place).train()
    assert torch.equal(logits(method, batch), logits(build(ZeroShot, place), batch))


@pytest.mark.parametrize(("place", "r"), [("host", 16), ("small", 3)])
def test_every_linear_layer_but_the_head_has_its_two_factors(place: str, r: int, build: Any) -> None:
    model = build(ZeroShot, place).vlm.language_model
    head = model.get_output_embeddings()
    targets = {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear) and m is not head}
    assert len(targets) == 2 * 7
    method = build(LlmLora, place, r=r)
    parameters = dict(method.trainable())
    assert sum(p.numel() for p in parameters.values()) == sum(
        r * (m.in_features + m.out_features) for m in targets.values()
    )
    owners = {n.removeprefix("vlm.language_model.").split(".lora_")[0] for n in parameters}
    assert owners == set(targets)
    factors = {n.split(".")[-3] for n in parameters}
    assert factors == {"lora_A", "lora_B"}
    assert all(float(p.abs().max()) == 0.0 for n, p in parameters.items() if ".lora_B." in n)
    bound = {n: p.shape[1] ** -0.5 for n, p in parameters.items() if ".lora_A." in n}
    assert all(0.7 * b < float(parameters[n].abs().max()) <= b for n, b in bound.items()), "Kaiming, a = sqrt 5"


def test_merged_and_unmerged_agree(build: Any, batch: VqaBatch) -> None:
    method = moved(build(LlmLora))
    before = logits(method, batch)
    assert float((before - logits(build(ZeroShot), batch)).abs().max()) > 1e-2
    layers = [m for m in method.modules() if isinstance(m, LoraLayer)]
    weights = [m.get_base_layer().weight.clone() for m in layers]
    for layer in layers:
        layer.merge()
    torch.testing.assert_close(logits(method, batch), before, atol=1e-5, rtol=0.0)
    # W' = W + (alpha / r) B A
    update = 2.0 * layers[0].lora_B["default"].weight @ layers[0].lora_A["default"].weight
    torch.testing.assert_close(layers[0].get_base_layer().weight, weights[0] + update)


def test_the_adapters_alone_are_stored_and_bring_back_the_outputs(
    build: Any, data: Any, trainer: Any, batch: VqaBatch, tmp_path: Any
) -> None:
    method = build(LlmLora, optim=FAST, r=4, alpha=4, dropout=0.0)
    run = trainer(max_steps=4)
    run.fit(method, data())
    run.save_checkpoint(tmp_path / "m.ckpt")
    stored = torch.load(tmp_path / "m.ckpt", weights_only=True)["state_dict"]
    assert stored
    assert all(".lora_" in name for name in stored)
    again = load_method(tmp_path / "m.ckpt")
    assert torch.equal(logits(again.eval(), batch), logits(method.eval(), batch))
    assert not torch.equal(logits(again, batch), logits(build(ZeroShot), batch))
    visual = again.visual_tokens(batch.pixel_values)
    # Generation with a cache, the first reply's logits and the loss read one and the same model.
    first = [row[0] for row in again.vlm._greedy(visual, batch, 1)[0]]
    assert first == again.vlm.answer_logits(visual, batch).argmax(dim=-1).tolist()


def test_dropout_acts_in_training_and_nowhere_else(build: Any, data: Any, trainer: Any, batch: VqaBatch) -> None:
    method = build(LlmLora, dropout=0.5)
    trainer(max_steps=2).fit(method, data())
    moved(method)
    assert torch.equal(logits(method, batch), logits(method, batch))
    fresh = build(LlmLora, dropout=0.5)
    fresh.load_state_dict({n: p for n, p in method.state_dict().items() if ".lora_" in n}, strict=False)
    assert not torch.equal(logits(fresh, batch), logits(fresh, batch))
    dropouts = [m for m in fresh.modules() if isinstance(m, nn.Dropout)]
    assert len(dropouts) == 14
    assert all(m.training for m in dropouts)


@pytest.mark.parametrize("method", [LlmLora, ProjectorFineTuning])
def test_a_training_begins_with_what_another_has_left(
    method: Any, build: Any, data: Any, trainer: Any, batch: VqaBatch, tmp_path: Any
) -> None:
    """Its weights alone: no step, no optimiser; and what it leaves stands without it."""
    first, run, path = build(method, optim=FAST), trainer(), tmp_path / "first.ckpt"
    run.fit(first, data())
    run.save_checkpoint(path)
    second = build(method, optim=FAST, start_from=str(path))
    assert torch.equal(logits(second.eval(), batch), logits(first.eval(), batch))
    again = trainer(max_steps=2)
    again.fit(second, data(dataset="kvasir"))
    assert again.global_step == 2
    assert not torch.equal(logits(second.eval(), batch), logits(first, batch))
    again.save_checkpoint(tmp_path / "second.ckpt")
    path.unlink()
    assert torch.equal(logits(load_method(tmp_path / "second.ckpt").eval(), batch), logits(second, batch))


@pytest.mark.parametrize(
    ("place", "options", "told"),
    [
        ("small", {}, "belong to another .*language model than that of"),
        ("host", {"r": 3}, r"lora_A.*is \(16, \d+\) in the checkpoint, \(3, \d+\) here"),
    ],
)
def test_what_another_model_s_training_has_left_is_refused(
    place: str, options: Any, told: str, build: Any, data: Any, trainer: Any, tmp_path: Any
) -> None:
    run = trainer(max_steps=1)
    run.fit(build(LlmLora), data())
    run.save_checkpoint(tmp_path / "first.ckpt")
    with pytest.raises(CraftError, match=told):
        build(LlmLora, place, start_from=str(tmp_path / "first.ckpt"), **options)
