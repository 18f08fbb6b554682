"""Frozen language models in 8 and 4 bits: what they weigh, the gradients that pass them, and what they never touch."""

from __future__ import annotations

import copy
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from craft_lightning.checkpoints import load as loading
from craft_lightning.checkpoints.load import load_vlm
from craft_lightning.errors import CraftError
from craft_lightning.methods import METHODS, load_method
from craft_lightning.methods._support import resuming
from craft_lightning.methods.craft import Craft
from craft_lightning.methods.llm_lora import LlmLora
from craft_lightning.models.vlm_spec import VlmSpec
from craft_lightning.optim import OptimSpec
from craft_lightning.strategies.memory import profile
from craft_lightning.types import VqaBatch
from tiny import write_tiny

KINDS = ("int8", "nf4")
needs_package = pytest.mark.skipif(not loading.find_spec("bitsandbytes"), reason="bitsandbytes is not installed")


@pytest.fixture(scope="module")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``host`` and ``continuous``, of a width that has whole blocks."""
    root = tmp_path_factory.mktemp("checkpoints")
    write_tiny(root / "host", width=64)
    write_tiny(root / "continuous", width=64, continuous=True)
    return root


@pytest.fixture(params=[pytest.param(kind, marks=needs_package) for kind in KINDS])
def kind(request: Any) -> str:
    return str(request.param)


def made(checkpoints: Path, method: Any, kind: str, place: str = "host", **options: Any) -> Any:
    spec = VlmSpec(str(checkpoints / place), language_dtype=kind)
    found = method(backbone=spec, **options)
    found.configure_model()
    return found


def matrices(model: nn.Module) -> dict[str, Any]:
    """The linear layers of a language model but its head, whatever holds them."""
    head = model.get_output_embeddings()
    return {n: m for n, m in model.named_modules() if isinstance(m, nn.Linear) and m is not head and "lora_" not in n}


def held(layer: Any) -> Iterator[Tensor]:
    """The tensors of a quantised matrix."""
    yield layer.weight.data
    state = getattr(layer.weight, "quant_state", None)
    if state is None:
        yield layer.state.SCB
    else:
        yield from (state.absmax, state.offset, state.state2.absmax)


def frozen(model: nn.Module) -> dict[str, list[Tensor]]:
    return {name: [t.clone() for t in held(layer)] for name, layer in matrices(model).items()}


def unchanged(before: dict[str, list[Tensor]], model: nn.Module) -> bool:
    return all(
        torch.equal(old, new) for n, m in matrices(model).items() for old, new in zip(before[n], held(m), strict=True)
    )


def image_gradient(vlm: Any, batch: VqaBatch) -> Tensor:
    """Of the answer loss, to the visual tokens."""
    with torch.no_grad():
        visual = vlm.encode(batch.pixel_values)
    visual.tokens.requires_grad_()
    vlm(visual, batch).answer_loss.backward()
    return visual.tokens.grad


def test_a_matrix_gives_its_gradient_and_weighs_little(kind: str) -> None:
    """The pocket model's: cosines of gradients to each matrix's input, and bytes beside bfloat16's."""
    least, most = {"int8": (0.999, 0.55), "nf4": (0.99, 0.3)}[kind]
    whole, small = (load_vlm(VlmSpec("pocket-vila-u", language_dtype=d)).language_model for d in ("same", kind))
    packed, bytes_of = matrices(small), {"packed": 0, "bfloat16": 0}
    torch.manual_seed(0)
    for name, layer in matrices(whole).items():
        inputs = [torch.randn(3, 7, layer.in_features).requires_grad_() for _ in range(2)]
        inputs[1].data.copy_(inputs[0])
        seen = torch.randn(3, 7, layer.out_features)
        for each, given in zip((layer, packed[name]), inputs, strict=True):
            each(given).backward(seen)
        assert F.cosine_similarity(inputs[0].grad.flatten(), inputs[1].grad.flatten(), 0) >= least, name
        bytes_of["packed"] += sum(t.nbytes for t in held(packed[name]))
        bytes_of["bfloat16"] += 2 * layer.weight.numel()
    assert len(packed) == 7 * len(whole.model.layers)
    assert bytes_of["packed"] <= most * bytes_of["bfloat16"]
    assert {p.dtype for n, p in small.named_parameters() if n.rpartition(".")[0] not in packed} == {torch.float32}
    assert torch.equal(small.get_output_embeddings().weight, whole.get_output_embeddings().weight)


def test_the_encoder_s_gradient_is_nearly_that_of_the_whole_model(kind: str, data: Any) -> None:
    """Through all blocks, and the same after a pass without gradients, behind which some kernels pack weights anew."""
    module = data()
    module.backbone = VlmSpec("pocket-vila-u")
    module.setup("fit")
    batch = next(iter(module.train_dataloader()))
    wanted = image_gradient(load_vlm(VlmSpec("pocket-vila-u")), batch)
    vlm = load_vlm(VlmSpec("pocket-vila-u", language_dtype=kind))
    before, first = frozen(vlm.language_model), image_gradient(vlm, batch)
    assert F.cosine_similarity(first.flatten(), wanted.flatten(), 0) >= {"int8": 0.995, "nf4": 0.9}[kind]
    with torch.no_grad():
        vlm.generate(vlm.encode(batch.pixel_values), batch)
    assert torch.equal(image_gradient(vlm, batch), first)
    assert unchanged(before, vlm.language_model)


@pytest.mark.parametrize("name", METHODS)
def test_every_method_trains_in_front_of_it(
    name: str, kind: str, checkpoints: Path, data: Any, trainer: Any, tmp_path: Path
) -> None:
    """Packed weights stay as they are, validation in between; a checkpoint brings the training's outputs back."""
    cls = METHODS[name]
    place = "continuous" if cls.continuous else "host"
    torch.manual_seed(0)
    method = made(checkpoints, cls, kind, place, optim=OptimSpec(lr=1e-2))
    if name == "zero_shot":
        return
    before = frozen(method.vlm.language_model)
    trained = {n: p.detach().clone() for n, p in method.trainable()}
    run = trainer(max_steps=3, val_check_interval=1, limit_val_batches=1)
    run.fit(method, data(place))
    assert unchanged(before, method.vlm.language_model)
    assert any(not torch.equal(p, trained[n]) for n, p in method.trainable() if n in trained)
    run.save_checkpoint(tmp_path / "last.ckpt")
    again = load_method(tmp_path / "last.ckpt").eval()
    batch = next(iter(data(place).setup("fit") or run.train_dataloader))
    method.eval()
    with torch.no_grad():
        assert torch.equal(again(batch).answer_loss, method(batch).answer_loss)
    encoder = Path(run.default_root_dir) / "encoder" / "config.json"
    if encoder.is_file():
        assert json.loads(encoder.read_text())["run"]["settings"]["language model in"] == kind


def test_what_was_trained_in_front_of_it_works_in_front_of_the_whole_model(
    kind: str, checkpoints: Path, data: Any, trainer: Any, tmp_path: Path
) -> None:
    method = made(checkpoints, LlmLora, kind, dropout=0.0)
    assert {type(m).__name__ for n, m in method.vlm.language_model.named_modules() if n.endswith("q_proj")} == {
        {"int8": "Linear8bitLt", "nf4": "Linear4bit"}[kind]
    }, "peft's own for such weights"
    run = trainer()
    run.fit(method, data())
    run.save_checkpoint(tmp_path / "last.ckpt")
    whole = load_method(tmp_path / "last.ckpt", backbone=VlmSpec(str(checkpoints / "host")))
    assert whole.weights == method.weights
    assert {p.dtype for p in whole.vlm.language_model.parameters()} == {torch.float32}
    given = resuming.named(copy.deepcopy(whole.hparams), {})
    found = resuming.changes(torch.load(tmp_path / "last.ckpt", weights_only=True), given)
    with pytest.raises(CraftError, match=f"resume with --model.backbone.language_dtype {kind}"):
        resuming.check_settings(found, "last.ckpt")


def test_copies_and_moves_keep_weights_and_scales_together(kind: str, checkpoints: Path, batch: VqaBatch) -> None:
    method = made(checkpoints, Craft, kind)
    with torch.no_grad():
        wanted = method(batch).answer_loss
        moved = copy.deepcopy(method)._apply(lambda t: t.clone())
        assert torch.equal(moved(batch).answer_loss, wanted)
    for layer in matrices(moved.vlm.language_model).values():
        assert kind == "nf4" or layer.state.CB.data_ptr() == layer.weight.data_ptr()


class TrainsNorms(Craft):
    """Trains a part of the language model itself."""

    name = "trains_norms"

    def trainable(self) -> Iterator[tuple[str, nn.Parameter]]:
        yield "vlm.language_model.model.norm.weight", self.vlm.language_model.model.norm.weight


@pytest.mark.parametrize("kind", KINDS)
def test_refusals_are_one_line(kind: str, checkpoints: Path, monkeypatch: Any) -> None:
    told = rf"^trains_norms trains the language model: .*language_dtype {kind} is for a frozen one, take same$"
    with pytest.raises(CraftError, match=told):
        TrainsNorms(backbone=VlmSpec(str(checkpoints / "host"), language_dtype=kind)).sketch()
    with pytest.raises(CraftError, match=f"^--model.backbone.dtype {kind}: in 8 and 4 bits .* the tower .* never; set"):
        VlmSpec(dtype=kind)
    monkeypatch.setattr(loading, "find_spec", lambda name: None)
    with pytest.raises(CraftError, match=f"language_dtype {kind} needs bitsandbytes: `pip install 'bitsandbytes>="):
        made(checkpoints, Craft, kind)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("method", [Craft, LlmLora])
def test_the_accounting_counts_the_matrices(kind: str, method: Any, checkpoints: Path) -> None:
    spec = VlmSpec(str(checkpoints / "host"), language_dtype=kind)
    sketch = method(backbone=spec).sketch()
    found = profile(sketch, sketch.vlm, spec.language_dtype)
    assert found.packed == sum(m.weight.numel() for m in matrices(load_vlm(VlmSpec(spec.name)).language_model).values())
    assert found.packed < found.frozen
