"""Each fault is planted and caught with its own sentence; a clean run raises none, and watching changes nothing."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from torch import Tensor

from callbacks import ste_check
from callbacks.ste_check import SteCheck
from craft_lightning.cli.run import build_cli
from craft_lightning.errors import CraftError
from craft_lightning.methods import METHODS
from craft_lightning.methods.craft import Craft
from craft_lightning.models import quantizer as quantizers
from craft_lightning.models.quantizer import Quantized, ResidualQuantizer
from craft_lightning.models.towers.siglip import SiglipTower
from craft_lightning.types import VisualTokens

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"


@pytest.fixture
def fit(checkpoints: Path, tmp_path: Path) -> Callable[..., Any]:
    def run(*flags: str, method: str = "craft", backbone: str = "host", verb: str = "fit", **plants: Any) -> Any:
        configs = [f"--config={EXPERIMENTS / f}" for f in ("base.yaml", f"methods/{method}.yaml", CHECK)]
        small = ["--data.train_size=16", "--data.val_size=6", "--data.test_size=4", "--data.batch_size=8"]
        steps = ["--trainer.max_steps=3", "--trainer.val_check_interval=3", "--ste_check.every=1"]
        where = [f"--model.backbone.name={checkpoints / backbone}", f"--trainer.default_root_dir={tmp_path / 'run'}"]
        quiet = ["--trainer.enable_progress_bar=false", "--trainer.logger=false"]
        quiet += [] if any(flag.startswith("--ckpt_path") for flag in flags) else ["--overwrite=true"]
        rate = [] if verb == "test" else ["--model.optim.lr=0.01"]
        extra = [Plant(plants)] if plants else []
        return build_cli([verb, *configs, *small, *steps, *where, *quiet, *rate, *flags], callbacks=extra)

    return run


CHECK = "callbacks/ste_check.yaml"


class Plant(Callback):
    """Does something to the method at a hook of the trainer; keywords are names of hooks."""

    def __init__(self, plants: dict[str, Callable[[Any], Any]]) -> None:
        for hook, act in plants.items():
            setattr(self, hook, lambda trainer, module, *args, act=act: act(module))


def watcher(cli: Any) -> SteCheck:
    return next(c for c in cli.trainer.callbacks if isinstance(c, SteCheck))


# -- clean runs --------------------------------------------------------------------------------------------------------


PAIRS = [
    (method, backbone)
    for method in METHODS
    for backbone in ("host", "continuous")
    if backbone == "continuous" or not METHODS[method].continuous
]


@pytest.mark.parametrize(("method", "backbone"), PAIRS)
def test_a_clean_run_raises_nothing(fit: Any, method: str, backbone: str) -> None:
    flags = ["--model.lambda_commitment=0"] if method.startswith("craft") and backbone == "continuous" else []
    cli = fit(*flags, method=method, backbone=backbone, verb="test" if method == "zero_shot" else "fit")
    if method == "zero_shot":
        return
    assert cli.trainer.global_step == 3
    check = watcher(cli)
    assert (set(check.logged) == NAMES) == (backbone == "host")
    if backbone == "host":
        assert check.logged["ste/gradient_ratio"] == pytest.approx(1.0, abs=1e-5)
        assert check.logged["ste/gradient_cosine"] == pytest.approx(1.0, abs=1e-5)


NAMES = {
    f"ste/{name}"
    for name in (*("gradient_ratio", "gradient_cosine", "codebook_perplexity", "codes_changed", "commitment_distance"),)
}


@pytest.mark.parametrize(
    "flags",
    [
        ("--data.dataset=vqa_rad",),
        ("--trainer.accumulate_grad_batches=2",),
        ("--trainer.precision=bf16-mixed",),
        ("--trainer.precision=bf16-mixed", "--model.backbone.dtype=bfloat16"),
        ("--model.backbone.quantizer_dtype=bfloat16",),
        ("--model.backbone.gradient_checkpointing=true",),
        ("--model.cls_attention=bidirectional", "--model.commitment_level=cumulative"),
        ("--model.lambda_commitment=100",),  # its gradient at z is not the quantiser's
        ("--trainer.limit_val_batches=0",),
    ],
    ids=" ".join,
)
def test_settings_that_are_no_faults(fit: Any, flags: tuple[str, ...]) -> None:
    cli = fit(*flags)
    assert cli.trainer.global_step == 3
    assert watcher(cli).logged["ste/gradient_ratio"] == pytest.approx(1.0, abs=5e-3)
    assert ("ste/codes_changed" in watcher(cli).logged) == ("limit_val" not in flags[0])


def test_what_is_logged_is_the_probe_s(fit: Any) -> None:
    seen: list[Any] = []

    @torch.no_grad()
    def look(module: Any) -> None:
        first = next(iter(module.trainer.datamodule.stored("val")))
        seen.append((first.keys[:5], module.vlm.tower.encode(first.pixel_values[:5])))

    four = ["--trainer.max_steps=4", "--trainer.val_check_interval=4"]
    cli = fit(*four, "--ste_check.every=3", "--ste_check.pictures=5", on_train_batch_start=look)
    tower, (_, start), (keys, visual) = cli.model.vlm.tower, seen[0], seen[3]
    before = torch.stack([watcher(cli).reference(cli.trainer).before[key] for key in keys])
    assert torch.equal(before, start.codes[..., 0].int())
    logged = watcher(cli).logged
    codes = visual.codes[..., 0]
    assert logged["ste/codes_changed"] == pytest.approx(float((before != codes).float().mean()))
    assert 0.0 < logged["ste/codes_changed"] < 1.0
    distance = (visual.features - tower.quantizer.decode(visual.codes)).norm(dim=-1).mean()
    assert logged["ste/commitment_distance"] == pytest.approx(float(distance), rel=1e-4)
    shares = torch.bincount(codes.flatten()).float() / codes.numel()
    assert logged["ste/codebook_perplexity"] == pytest.approx(float(torch.special.entr(shares).sum().exp()), rel=1e-5)


def test_watching_changes_no_weight(fit: Any) -> None:
    watched = fit().model.state_dict()
    alone = fit("--ste_check.enabled=false")
    assert watcher(alone).logged == {}
    assert all(torch.equal(value, watched[name]) for name, value in alone.model.state_dict().items())


def test_it_looks_at_the_first_step_and_every_n(fit: Any, monkeypatch: Any) -> None:
    seen = []
    monkeypatch.setattr(ste_check.checks, "check_codebook", lambda module: seen.append(module.global_step) or iter(()))
    fit("--trainer.max_steps=7", "--trainer.val_check_interval=7", "--ste_check.every=3")
    assert seen == [0, 3, 6, 7]  # and once more at the end
    seen.clear()
    fit("--trainer.max_steps=4", "--trainer.val_check_interval=4", "--ste_check.every=50")
    fit("--trainer.max_steps=6", "--trainer.val_check_interval=6", "--ste_check.every=50", "--ckpt_path=last")
    assert seen == [0, 4, 4, 6]


# -- planted faults ----------------------------------------------------------------------------------------------------


def per_level(self: ResidualQuantizer, z: Tensor) -> tuple[Tensor, Quantized]:
    """The R-times bug: an estimator at each level, on residuals that are detached from each other."""
    found, total, tokens = self.encode(z), torch.zeros_like(z), torch.zeros_like(z)
    for level in range(self.levels):
        word = self.table(level)[found.codes[..., level]]
        residual = z - total
        tokens = tokens + residual + (word - residual).detach()
        total = total + word
    return tokens, found


QUANTISER: dict[str, tuple[Any, str, Any, str]] = {
    "an estimator per level": (
        *(ResidualQuantizer, "forward", per_level),
        r"4\.00 times the identity: a straight-through estimator at each of the 4 levels",
    ),
    "no estimator": (
        *(quantizers, "straight_through", lambda z, quantized: quantized),
        "no gradient passes the quantiser: .* straight_through is missing",
    ),
    "half the gradient": (
        *(quantizers, "straight_through", lambda z, quantized: z / 2 + (quantized - z / 2).detach()),
        r"not the identity \(ratio 0\.500, cosine 1\.000\)",
    ),
    "a rotation": (
        *(quantizers, "straight_through", lambda z, quantized: (y := z.roll(1, -1)) + (quantized - y).detach()),
        r"not the identity \(ratio -?0\.\d+, cosine -?0\.\d+\): .* as a rotation or a scale",
    ),
    "no quantiser": (
        *(SiglipTower, "encode", lambda self, pixels, cls=None, attention="one_way": bypass(self, pixels, cls)),
        "not the sum of the codewords of its codes .*: the tokens bypass the quantiser",
    ),
    "codes of another table": (
        *(ResidualQuantizer, "encode", lambda self, z: known(self, z)._replace(codes=known(self, z).codes + 64)),
        r"codes run from \d+ to \d+, but the codebook has 64 entries",
    ),
    "no codes": (
        *(SiglipTower, "encode", lambda self, pixels, cls=None, attention="one_way": bypass(self, pixels, cls, False)),
        "the tokens come without codes although the tower has a codebook",
    ),
}
known = ResidualQuantizer.encode


def bypass(tower: SiglipTower, pixels: Tensor, cls: Tensor | None, codes: bool = True) -> VisualTokens:
    z, readout = (tower.features(pixels), None) if cls is None else tower.features_and_cls(pixels, cls)
    return VisualTokens(z, z, tower.quantizer.encode(z).codes if codes else None, readout, tower.grid)


@pytest.mark.parametrize("fault", QUANTISER)
def test_a_broken_quantiser_is_caught_before_the_first_step(fit: Any, monkeypatch: Any, fault: str) -> None:
    where, name, broken, said = QUANTISER[fault]
    monkeypatch.setattr(where, name, broken)
    # Only counting codes would fail otherwise, before the check has its turn.
    steps: list[int] = []
    with pytest.raises(CraftError, match=f"step 0: .*{said}"):
        fit("--trainer.limit_val_batches=0", on_train_batch_end=lambda module: steps.append(1))
    assert steps == []


def move(module: Any) -> None:
    module.vlm.tower.quantizer.codebooks.mul_(1.001)


def thaw(part: str) -> Callable[[Any], None]:
    return lambda module: next(module.vlm.get_submodule(part).parameters()).requires_grad_(True)


MODEL: dict[str, tuple[dict[str, Any], str]] = {
    "a codebook that moves": (
        {"on_train_batch_end": move},
        r"step 1: the codebook has moved since it was loaded \(SHA-256 \w{12} is now \w{12}\)",
    ),
    "a codebook with a gradient": (
        {"on_train_start": lambda m: m.vlm.tower.quantizer.codebooks.requires_grad_(True)},
        "step 0: a gradient reaches the codebook",
    ),
    "a thawed projector": (
        {"on_train_start": thaw("projector")},
        r"step 0: a gradient reaches vlm\.projector\.layers\.0\.weight, .* something unfroze the projector",
    ),
    "a thawed language model": (
        {"on_train_start": thaw("language_model")},
        r"step 0: a gradient reaches vlm\.language_model\..*, which craft does not .* unfroze the language model",
    ),
    "a thawed last block": (
        {"on_train_start": thaw("tower.vision.encoder.layers.2")},
        r"step 0: a gradient reaches vlm\.tower\..*layers\.2.*, which craft does not .* unfroze the tower",
    ),
    "a language model in train mode": (
        {"on_train_start": lambda m: m.vlm.language_model.train()},
        r"step 0: vlm\.language_model has nothing to train but is in train mode",
    ),
    "a quantiser in train mode": (
        {"on_train_start": lambda m: m.vlm.tower.quantizer.train()},
        r"step 0: vlm\.tower\.quantizer has nothing to train but is in train mode, .* codebook of moving averages",
    ),
    "a last block in train mode": (
        {"on_train_start": lambda m: m.vlm.tower.vision.encoder.layers[2].train()},
        r"step 0: vlm\.tower\.vision\.encoder\.layers\.2 has nothing to train",
    ),
}


@pytest.mark.parametrize("fault", MODEL)
def test_a_model_that_is_not_frozen_is_caught(fit: Any, fault: str) -> None:
    plants, said = MODEL[fault]
    with pytest.raises(CraftError, match=said):
        fit(**plants)


def test_a_declared_parameter_without_a_gradient_is_caught(fit: Any, monkeypatch: Any) -> None:
    declared = Craft.trainable

    def trainable(self: Craft) -> Any:
        yield from declared(self)
        yield from ((n, p) for n, p in self.named_parameters() if ".encoder.layers.2.mlp" in n)

    monkeypatch.setattr(Craft, "trainable", trainable)
    with pytest.raises(
        CraftError, match=r"no gradient reached vlm\.tower\..*layers\.2\.mlp\.\S+ \(and 3 more\), which craft declares"
    ):
        fit()


def test_a_codebook_that_moves_after_the_last_check_is_caught(fit: Any) -> None:
    with pytest.raises(CraftError, match="step 3: the codebook has moved"):
        fit("--ste_check.every=50", on_train_batch_end=move)


def test_a_warning_is_said_once_and_the_run_goes_on(fit: Any, capsys: Any) -> None:
    cli = fit("--ste_check.action=warn", on_train_start=thaw("projector"))
    assert cli.trainer.global_step == 3
    (found,) = watcher(cli).found
    assert found.startswith("a gradient reaches vlm.projector.layers.0.weight")
    assert capsys.readouterr().err.count("warning   step 0: a gradient reaches vlm.projector") == 1


def test_it_is_off_unless_it_is_asked_for(fit: Any) -> None:
    assert fit("--ste_check.enabled=false", on_train_start=thaw("projector")).trainer.global_step == 3
    assert SteCheck().enabled is False
    with pytest.raises(CraftError, match="at least 1"):
        SteCheck(every=0)
