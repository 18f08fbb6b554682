"""What every method promises, whatever it computes."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from torch import Tensor

from craft_lightning.errors import CraftError
from craft_lightning.methods import METHODS, base, method_class
from craft_lightning.methods.base import FINAL, HOOKS, BaseMethod, load_method
from craft_lightning.methods.craft import Craft
from craft_lightning.models.loading import load_vlm
from craft_lightning.optim import OptimSpec

TRAINED = [name for name in METHODS if name != "zero_shot"]
FAST = OptimSpec(lr=1e-2)


def snapshot(method: BaseMethod) -> dict[str, Tensor]:
    return {name: value.clone() for name, value in method.state_dict().items()}


class SaveAt(Callback):
    """Saves a checkpoint after a step."""

    def __init__(self, step: int, path: Any) -> None:
        self.step, self.path = step, path

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        if trainer.global_step == self.step:
            trainer.save_checkpoint(self.path)


@pytest.mark.parametrize("name", METHODS)
def test_names_are_data(name: str) -> None:
    assert method_class(name).name == name


@pytest.mark.parametrize("name", TRAINED)
def test_exactly_the_declared_parameters_change(name: str, build: Any, data: Any, trainer: Any) -> None:
    method = build(method_class(name), optim=FAST)
    before = snapshot(method)
    declared = {n for n, _ in method.trainable()}
    trainer().fit(method, data())
    changed = {n for n, v in method.state_dict().items() if not torch.equal(v, before[n])}
    assert changed == declared
    frozen = [n for n, p in method.named_parameters() if n not in declared]
    assert any("language_model" in n for n in frozen)
    assert any("projector" in n for n in frozen)
    assert all(p.grad is None for n, p in method.named_parameters() if n in frozen)
    assert "vlm.tower.quantizer.codebooks" in before


@pytest.mark.parametrize("name", TRAINED)
def test_frozen_modules_stay_in_eval_mode(name: str, build: Any, data: Any, trainer: Any, monkeypatch: Any) -> None:
    modes = []
    monkeypatch.setattr(base, "load_vlm", lambda spec: load_vlm(spec).train())

    class Look(Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
            modes.append((pl_module.training, pl_module.vlm.language_model.training, pl_module.vlm.projector.training))

    trainer(max_steps=2, callbacks=[Look()]).fit(build(method_class(name)), data())
    assert modes == [(True, False, False)] * 2


def test_zero_shot_refuses_to_fit(build: Any, data: Any, trainer: Any) -> None:
    with pytest.raises(CraftError, match="zero_shot trains nothing"):
        trainer().fit(build(method_class("zero_shot")), data())


@pytest.mark.parametrize("name", METHODS)
def test_every_method_tests(name: str, build: Any, data: Any, trainer: Any) -> None:
    run = trainer()
    run.test(build(method_class(name)), data(), verbose=False)
    found = {k: float(v) for k, v in run.callback_metrics.items()}
    assert {"test/exact_match", "test/letter_likelihood", "test/well_formed", "test/lenient"} <= set(found)
    assert 0.0 <= found["test/exact_match"] <= found["test/lenient"] <= 1.0
    assert 1.0 <= found["test/codebook_perplexity"] <= 64.0


@pytest.mark.parametrize("name", TRAINED)
def test_a_reloaded_method_is_the_same(name: str, build: Any, data: Any, trainer: Any, tmp_path: Any) -> None:
    method = build(method_class(name), optim=FAST)
    run = trainer()
    run.fit(method, data())
    run.save_checkpoint(tmp_path / "m.ckpt")
    stored = torch.load(tmp_path / "m.ckpt", weights_only=True)
    assert set(stored["state_dict"]) == {n for n, _ in method.trainable()}
    again = load_method(tmp_path / "m.ckpt")
    assert type(again) is type(method)
    assert again.optim == FAST
    assert all(torch.equal(v, method.state_dict()[n]) for n, v in again.state_dict().items())
    rows = [r.predict(m, data()) for r, m in ((trainer(), method), (trainer(), again))]
    assert rows[0] == rows[1]


@pytest.mark.parametrize("name", TRAINED)
def test_resuming_equals_going_on(name: str, build: Any, data: Any, trainer: Any, tmp_path: Any) -> None:
    whole = build(method_class(name), optim=FAST)
    # Step 5 of 6 is in the middle of the second epoch of four batches.
    trainer(max_steps=6, callbacks=[SaveAt(5, tmp_path / "5.ckpt")]).fit(whole, data())
    torch.manual_seed(99)
    again = build(method_class(name), optim=FAST)
    trainer(max_steps=6).fit(again, data(), ckpt_path=tmp_path / "5.ckpt", weights_only=True)
    assert all(torch.equal(v, whole.state_dict()[n]) for n, v in again.state_dict().items())


def checkpoint(method: BaseMethod) -> dict[str, Any]:
    made: dict[str, Any] = {"state_dict": method.state_dict()}
    method.on_save_checkpoint(made)
    return made


def test_another_codebook_is_refused_with_both_hashes(build: Any) -> None:
    ours, other = build(Craft), build(Craft, "other")
    with pytest.raises(CraftError) as error:
        other.on_load_checkpoint(checkpoint(ours))
    assert ours.vlm.codebook_hash != other.vlm.codebook_hash
    assert str(ours.vlm.codebook_hash) in str(error.value)
    assert str(other.vlm.codebook_hash) in str(error.value)


def test_a_checkpoint_fits_another_language_model_on_the_same_codebook(build: Any) -> None:
    made = checkpoint(build(Craft))
    small = build(Craft, "small")
    small.on_load_checkpoint(made)
    assert not small.load_state_dict(made["state_dict"], strict=False).unexpected_keys


def test_what_does_not_fit_is_named(build: Any) -> None:
    method = build(Craft)
    made = checkpoint(method)
    missing = {**made, "state_dict": {k: v for k, v in made["state_dict"].items() if k != "cls"}}
    with pytest.raises(CraftError, match="lacks cls"):
        method.on_load_checkpoint(missing)
    with pytest.raises(CraftError, match=r"has vlm\.extra"):
        method.on_load_checkpoint({**made, "state_dict": {**made["state_dict"], "vlm.extra": torch.zeros(1)}})
    with pytest.raises(CraftError, match=r"cls is \(1, 1, 3\) in the checkpoint"):
        method.on_load_checkpoint({**made, "state_dict": {**made["state_dict"], "cls": torch.zeros(1, 1, 3)}})
    with pytest.raises(CraftError, match="of method 'ldifs', the config names 'craft'"):
        method.on_load_checkpoint({**made, "craft_lightning": {**made["craft_lightning"], "method": "ldifs"}})
    with pytest.raises(CraftError, match="not written by craft_lightning"):
        method.on_load_checkpoint({"state_dict": made["state_dict"]})


@pytest.mark.parametrize("name", FINAL)
def test_final_names_cannot_be_overridden(name: str) -> None:
    with pytest.raises(TypeError, match=f"overrides {name}; a method may override {', '.join(HOOKS)}"):
        type("Bad", (BaseMethod,), {name: lambda self: None})


def test_the_base_cannot_be_loaded_as_a_method(build: Any, data: Any, trainer: Any, tmp_path: Any) -> None:
    run = trainer(max_steps=1)
    run.fit(build(Craft), data())
    run.save_checkpoint(tmp_path / "m.ckpt")
    with pytest.raises(TypeError, match="abstract"):
        BaseMethod.load_from_checkpoint(tmp_path / "m.ckpt", weights_only=True)
