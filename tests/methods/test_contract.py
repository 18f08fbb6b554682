"""What every method promises, whatever it computes."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from safetensors.torch import load_file
from torch import Tensor

from craft_lightning.checkpoints.codebook_growth import write_growth
from craft_lightning.checkpoints.load import load_vlm
from craft_lightning.errors import CraftError
from craft_lightning.evaluation.generate import scored_replies
from craft_lightning.methods import METHODS, base, load_method
from craft_lightning.methods._support.subset import SubsetMethod
from craft_lightning.methods.base import FINAL, HOOKS, BaseMethod
from craft_lightning.methods.craft import Craft
from craft_lightning.models.quantizer import subset
from craft_lightning.models.vlm import DiscreteVlm
from craft_lightning.models.vlm_spec import VlmSpec
from craft_lightning.optim import OptimSpec
from craft_lightning.text.scoring import MAX_NEW_TOKENS
from tiny import write_tiny

TRAINED = [name for name in METHODS if name != "zero_shot"]
PLACE = {name: "continuous" if METHODS[name].continuous else "host" for name in METHODS}
FAST = OptimSpec(lr=1e-2)

MOVES = {
    "craft": {"vlm.tower", "cls", "log_temperature"},
    "vision_ft": {"vlm.tower"},
    "projector_ft": {"vlm.projector"},
    "ldifs": {"vlm.tower"},
    "llm_lora": {"vlm.language_model"},
    "lorsu": {"vlm.tower"},
    "craft_lorsu": {"vlm.tower", "cls", "log_temperature"},
}
"""The parts, of which each method's paper says that they learn."""


CHOSEN = (".rows", ".entries")
"""Ends of the names of what a checkpoint holds besides parameters: the places that a subset's updates are at."""


def parameters(names: Iterable[str]) -> set[str]:
    return {name for name in names if not name.endswith(CHOSEN)}


def tensors(module: torch.nn.Module) -> list[Tensor]:
    return [*module.parameters(), *module.buffers()]


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
    assert METHODS[name].name == name


@pytest.mark.parametrize("name", TRAINED)
def test_exactly_the_declared_parameters_change(name: str, build: Any, data: Any, trainer: Any) -> None:
    method = build(METHODS[name], optim=FAST)
    before = snapshot(method)
    declared = {n for n, _ in method.trainable()}
    trainer().fit(method, data(PLACE[name]))
    changed = {n for n, v in method.state_dict().items() if not torch.equal(v, before[n])}
    assert parameters(changed) == declared
    frozen = [n for n, p in method.named_parameters() if n not in declared]
    for part in ("language_model", "projector", "tower"):
        assert any(f"vlm.{part}." in n for n in frozen + sorted(declared)), part
    assert all(p.grad is None for n, p in method.named_parameters() if n in frozen)
    assert ("vlm.tower.quantizer.codebooks" in before) == (PLACE[name] == "host")


class Norms(Callback):
    """The norm of the gradient that each step was taken with."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        held = [p.grad.norm() for p in pl_module.parameters() if p.grad is not None]
        self.seen.append(float(torch.stack(held).norm()))


def test_gradients_are_clipped_to_the_spec_s_norm(build: Any, data: Any, trainer: Any) -> None:
    assert OptimSpec().clip == 1.0
    norms = {}
    for clip in (None, 1e-3):
        watch = Norms()
        method = build(Craft, optim=OptimSpec(lr=1e-4, clip=clip))
        trainer(max_steps=2, callbacks=[watch]).fit(method, data())
        norms[clip] = watch.seen
    assert min(norms[None]) > 1e-2
    assert norms[1e-3] == pytest.approx([1e-3] * 2, rel=1e-3)


def test_a_reply_that_never_ends_is_cut_after_five_tokens(build: Any, batch: Any, monkeypatch: Any) -> None:
    assert MAX_NEW_TOKENS == 5
    vlm = build(METHODS["zero_shot"]).vlm
    monkeypatch.setattr(DiscreteVlm, "_stop_ids", lambda self: {-7})
    visual = vlm.encode(batch.pixel_values)
    ids = vlm._greedy(visual, batch, 5)[0]
    assert [len(row) for row in ids] == [5] * len(batch)
    texts = [text.strip() for text in vlm.tokenizer.batch_decode(ids, skip_special_tokens=True)]
    assert [p.text for p in scored_replies(vlm, visual, batch)] == texts


@pytest.mark.parametrize("name", MOVES)
def test_a_method_moves_what_its_paper_says(name: str, build: Any) -> None:
    method = build(METHODS[name])
    assert {".".join(n.split(".")[:2]) for n, _ in method.trainable()} == MOVES[name]
    tower = {f"vlm.tower.{n}" for n, _ in method.vlm.tower.used_parameters()}
    moved = {n for n, p in method.named_parameters() if p.requires_grad}
    if not isinstance(method, SubsetMethod):
        assert moved & tower in (set(), tower), "all of the blocks that run, or none"
    assert not any(".layers.2." in n for n in moved & tower), "the last block never runs"


@pytest.mark.parametrize("name", METHODS)
def test_the_first_loss_is_the_zero_shot_loss(name: str, build: Any, batch: Any) -> None:
    method = build(METHODS[name]).train()
    untouched = build(METHODS["zero_shot"], PLACE[name])
    torch.testing.assert_close(method(batch).answer_loss, untouched(batch).answer_loss, atol=0.0, rtol=0.0)


@pytest.mark.parametrize("name", [name for name in METHODS if PLACE[name] == "continuous"])
def test_a_method_for_continuous_models_refuses_a_codebook(name: str, build: Any) -> None:
    with pytest.raises(CraftError, match=f"{name} is for continuous models, and .*host has a codebook; take --model"):
        build(METHODS[name], "host")


@pytest.mark.parametrize("name", TRAINED)
def test_frozen_modules_stay_in_eval_mode(name: str, build: Any, data: Any, trainer: Any, monkeypatch: Any) -> None:
    modes = []
    monkeypatch.setattr(base, "load_vlm", lambda spec: load_vlm(spec).train())

    class Look(Callback):
        def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
            modes.append({n for n, module in pl_module.named_modules() if module.training})

    method = build(METHODS[name])
    trainer(max_steps=2, callbacks=[Look()]).fit(method, data(PLACE[name]))
    whole = {n for n, m in method.named_modules() if (held := tensors(m)) and not any(t.requires_grad for t in held)}
    assert len(whole) > 10
    assert all(not whole & training and "" in training for training in modes)
    # What holds no tensor follows its owner, so a frozen language model's dropout would be off, too.
    inside = {n for n, _ in method.named_modules() if any(n.startswith(f"{owner}.") for owner in whole)}
    assert not any(inside & training for training in modes)
    assert len(modes) == 2


def test_zero_shot_refuses_to_fit(build: Any, data: Any, trainer: Any) -> None:
    with pytest.raises(CraftError, match="zero_shot trains nothing"):
        trainer().fit(build(METHODS["zero_shot"]), data())


@pytest.mark.parametrize(
    ("name", "place"), [*PLACE.items(), *((n, "continuous") for n in ("zero_shot", "projector_ft", "llm_lora"))]
)
def test_every_method_tests(name: str, place: str, build: Any, data: Any, trainer: Any) -> None:
    run = trainer()
    run.test(build(METHODS[name], place), data(place), verbose=False)
    found = {k: float(v) for k, v in run.callback_metrics.items()}
    assert {"test/exact_match", "test/letter_likelihood", "test/well_formed", "test/lenient"} <= set(found)
    assert 0.0 <= found["test/exact_match"] <= found["test/lenient"] <= 1.0
    if place == "host":
        assert 1.0 <= found["test/codebook_perplexity"] <= 64.0
    else:
        assert not any("codebook" in metric for metric in found)


@pytest.mark.parametrize("name", TRAINED)
def test_a_reloaded_method_is_the_same(name: str, build: Any, data: Any, trainer: Any, tmp_path: Any) -> None:
    method = build(METHODS[name], optim=FAST)
    run = trainer()
    run.fit(method, data(PLACE[name]))
    run.save_checkpoint(tmp_path / "m.ckpt")
    stored = torch.load(tmp_path / "m.ckpt", weights_only=True)
    assert parameters(stored["state_dict"]) == {n for n, _ in method.trainable()}
    again = load_method(tmp_path / "m.ckpt")
    assert type(again) is type(method)
    assert again.optim == FAST
    assert all(torch.equal(v, method.state_dict()[n]) for n, v in again.state_dict().items())
    runs = [trainer(default_root_dir=tmp_path / name) for name in ("first", "again")]
    rows = [r.predict(m, data(PLACE[name])) for r, m in zip(runs, (method, again), strict=True)]
    assert rows[0] == rows[1]


@pytest.mark.parametrize("name", TRAINED)
def test_resuming_equals_going_on(name: str, build: Any, data: Any, trainer: Any, tmp_path: Any) -> None:
    whole = build(METHODS[name], optim=FAST)
    # Step 5 of 6 is in the middle of the second epoch of four batches.
    trainer(max_steps=6, callbacks=[SaveAt(5, tmp_path / "5.ckpt")]).fit(whole, data(PLACE[name]))
    torch.manual_seed(99)
    again = build(METHODS[name], optim=FAST)
    trainer(max_steps=6).fit(again, data(PLACE[name]), ckpt_path=tmp_path / "5.ckpt", weights_only=True)
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


def test_a_training_with_a_share_of_the_codebook_says_so(build: Any, data: Any, trainer: Any) -> None:
    """Its encoder and its checkpoint fit models that search the same share; codebook and readers stay bit for bit."""
    whole = build(Craft)
    half = Craft(backbone=replace(whole.backbone, codebook_share=0.5), optim=FAST)
    run = trainer()
    run.fit(half, data())
    readers = ("vlm.projector", "vlm.language_model", "vlm.tower.quantizer")
    before = {name: tensor for name, tensor in whole.state_dict().items() if name.startswith(readers)}
    assert all(torch.equal(half.state_dict()[name], tensor) for name, tensor in before.items())
    facts = json.loads((Path(run.default_root_dir) / "encoder/config.json").read_text())
    assert facts["codebook_share"] == facts["run"]["settings"]["share of the codebook"] == 0.5
    assert facts["codebook_hash"] == whole.vlm.codebook_hash
    prior = load_file(Path(run.default_root_dir) / "encoder/token_prior.safetensors")["counts"]
    assert len(prior) == 64
    assert set(prior.nonzero().flatten().tolist()) <= set(subset(64, 0.5).tolist())
    with pytest.raises(CraftError, match=r"adapted to 0.5 of the codebook, .* searches 1 of it; take --model.backbone"):
        whole.on_load_checkpoint(checkpoint(half))


def test_a_checkpoint_of_a_grown_codebook_says_how_it_grew(build: Any, tmp_path: Path) -> None:
    old = build(Craft)
    file = tmp_path / "more.safetensors"
    write_growth(
        file, old.vlm.tower.quantizer, torch.ones(len(old.vlm.tower.quantizer.codebooks), 3, old.vlm.tower.width)
    )
    new = Craft(backbone=replace(old.backbone, codebook_growth=str(file)), optim=FAST)
    new.configure_model()
    assert new.vlm.tower.quantizer.entries == 67
    for this, other, growth in ((new, old, file), (old, new, "null")):
        with pytest.raises(CraftError, match=f"adapted to .*; take --model.backbone.codebook_growth {growth}$"):
            other.on_load_checkpoint(checkpoint(this))


def test_a_checkpoint_fits_another_language_model_on_the_same_codebook(build: Any) -> None:
    made = checkpoint(build(Craft))
    small = build(Craft, "small")
    small.on_load_checkpoint(made)
    assert not small.load_state_dict(made["state_dict"], strict=False).unexpected_keys


@pytest.mark.parametrize("name", ["projector_ft", "llm_lora"])
def test_a_trained_reader_belongs_to_its_own_language_model(name: str, build: Any, tmp_path: Path) -> None:
    write_tiny(tmp_path / "a")
    (tmp_path / "b").mkdir()
    write_tiny(tmp_path / "b", tower="../a/vision_tower", seed=5)
    ours, other = (build(METHODS[name], str(tmp_path / model)) for model in "ab")
    held = checkpoint(ours)
    build(METHODS[name], str(tmp_path / "a")).on_load_checkpoint(held)
    with pytest.raises(CraftError, match=r"belong to another projector and language model than that of .*b"):
        other.on_load_checkpoint(held)


def test_a_continuous_tower_belongs_to_its_own_projector(build: Any, tmp_path: Path) -> None:
    for seed in (0, 1):
        write_tiny(tmp_path / str(seed), continuous=True, seed=seed)
    ours, other = (build(METHODS["vision_ft"], str(tmp_path / seed)) for seed in "01")
    held = checkpoint(ours)
    with pytest.raises(CraftError, match=f"another tower: .*{ours.vlm.tower.base_hash}.*{other.vlm.tower.base_hash}"):
        other.on_load_checkpoint(held)


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


@pytest.mark.parametrize("name", METHODS)
def test_settings_have_names(name: str) -> None:
    """A model given by place would be taken for another setting, and the error would name a model nobody asked for."""
    with pytest.raises(TypeError, match="positional argument"):
        METHODS[name](VlmSpec("pocket-vila"))
