"""``PruneAtValidation`` (paper 3.3): what it sets and when, what it logs, and where the prior comes from."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback
from safetensors.torch import load_file, save_file
from torch import Tensor

from craft_lightning.checkpoints.load import load_vlm
from craft_lightning.cli.run import build_cli
from craft_lightning.errors import CraftError
from craft_lightning.models.pruning import PruneRule, count_codes, prune
from craft_lightning.models.vlm import DiscreteVlm
from craft_lightning.models.vlm_spec import VlmSpec
from craft_lightning.text.scoring import exact_match
from data_modules.datamodule import VqaDataModule

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"
N, K = 16, 64


ZERO_SHOT = "examples/zero_shot.yaml"


def cli_of(
    checkpoints: Path,
    verb: str,
    folder: Path,
    *flags: str,
    config: str = "smoke.yaml",
    backbone: str = "host",
    callbacks: Any = (),
) -> Any:
    configs = ["--config", str(EXPERIMENTS / config), "--config", str(EXPERIMENTS / "callbacks/prune.yaml")]
    small = ["--data.train_size=16", "--data.val_size=6", "--data.test_size=10", "--data.eval_batch_size=4"]
    where = [f"--model.backbone.name={checkpoints / backbone}", f"--trainer.default_root_dir={folder}"]
    quiet = ["--trainer.enable_progress_bar=false", "--trainer.logger=false"]
    if verb == "fit":
        quiet += ["--trainer.max_steps=2", "--trainer.val_check_interval=1", "--model.optim.lr=0.01"]
    return build_cli([verb, *configs, *where, *small, *quiet, *flags], callbacks=callbacks)


@pytest.fixture
def run(checkpoints: Path, tmp_path: Path) -> Any:
    def make(verb: str, folder: str, *flags: str, **options: Any) -> Any:
        return cli_of(checkpoints, verb, tmp_path / folder, *flags, **options)

    return make


@pytest.fixture(scope="module")
def fitted(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a training of two steps."""
    folder = tmp_path_factory.mktemp("fitted")
    cli_of(checkpoints, "fit", folder)
    return folder


@pytest.fixture
def encoder(fitted: Path) -> Path:
    return fitted / "encoder"


class Watch(Callback):
    """Which visual tokens the language model read, by stage."""

    def __init__(self) -> None:
        self.kept: list[tuple[str, int]] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        self.kept.append(("train", pl_module.token_keep))

    def on_validation_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *args: Any) -> None:
        self.kept.append(("val", outputs["read"].tokens.shape[1]))


def metrics(cli: Any) -> dict[str, float]:
    return {name: float(value) for name, value in cli.trainer.callback_metrics.items()}


def pixels_of(loader: Any) -> Tensor:
    return torch.cat([batch.pixel_values for batch in loader])


def test_validation_is_pruned_and_training_is_not(run: Any, monkeypatch: Any) -> None:
    seen: list[int] = []
    forward = DiscreteVlm.forward
    monkeypatch.setattr(DiscreteVlm, "forward", lambda s, v, b: (seen.append(v.tokens.shape[1]), forward(s, v, b))[1])
    watch = Watch()
    found = metrics(run("fit", "fit", callbacks=[watch]))
    assert seen == [N, N]
    assert {kept for stage, kept in watch.kept if stage == "val"} == {13}  # 0.8 of 16
    assert {keep for stage, keep in watch.kept if stage == "train"} == {1.0}
    assert found["val/prune/keep"] == pytest.approx(0.8)
    assert found["val/prune/tokens"] == pytest.approx(13 / 16)
    assert not any(name.startswith("val/keep") for name in found)


def test_pruning_changes_no_training(run: Any, tmp_path: Path) -> None:
    run("fit", "with")
    run("fit", "without", "--prune.enabled=false")
    one, other = (load_file(tmp_path / f / "encoder/encoder.safetensors") for f in ("with", "without"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_the_encoder_comes_with_the_counts_of_its_training_split(run: Any, tmp_path: Path) -> None:
    cli = run("fit", "fit", "--prune.enabled=false")
    facts = json.loads((tmp_path / "fit/encoder/config.json").read_text())
    counts = load_file(tmp_path / "fit/encoder" / facts["token_prior"])["counts"]
    with torch.no_grad():
        codes = [cli.model.vlm.encode(pixels).codes for pixels in cli.datamodule.training_images()]
    assert sum(len(c) for c in codes) == 16
    assert torch.equal(counts, count_codes(codes, K))
    assert int(counts.sum()) == 16 * N
    # Those of the adapted encoder: the untouched one counts otherwise.
    before = load_vlm(VlmSpec(cli.model.backbone.name))
    with torch.no_grad():
        old = [before.encode(pixels).codes for pixels in cli.datamodule.training_images()]
    assert not torch.equal(counts, count_codes(old, K))
    # Counting leaves every part in its mode.
    assert cli.model.training
    assert not cli.model.vlm.language_model.training


def test_a_pruned_test_equals_pruning_by_hand(run: Any, encoder: Path, tmp_path: Path) -> None:
    cli = run("test", "test", f"--encoder={encoder}", "--prune.also=[0.3,1.0]")
    found = metrics(cli)
    prior = load_file(encoder / "token_prior.safetensors")["counts"]
    vlm, names = cli.model.vlm, {0.8: "predictions", 0.3: "predictions.keep0.3", 1.0: "predictions.keep1.0"}
    for keep, name in names.items():
        lines = [json.loads(line) for line in (tmp_path / "test" / f"{name}.jsonl").read_text().splitlines()]
        said, right, shares, gammas = [], [], [], []
        for batch in cli.datamodule.test_dataloader():
            visual = prune(vlm.encode(batch.pixel_values), keep, prior, PruneRule(), batch.keys)
            texts = vlm.generate(visual, batch)
            said += texts
            right += [exact_match(text, answer) for text, answer in zip(texts, batch.answers, strict=True)]
            if visual.selection is not None:
                mask, codes = visual.selection.mask(N), visual.codes[..., 0]
                shares += [len(c[m].unique()) / len(c.unique()) for c, m in zip(codes, mask, strict=True)]
                gammas += visual.selection.gamma.tolist()
        assert [line["prediction"] for line in lines] == said
        assert [line["correct"] for line in lines] == right
        record = "test/exact_match" if keep == 0.8 else f"test/keep{keep}/exact_match"
        assert found[record] == pytest.approx(sum(right) / 10)
        if keep == 0.8:
            finite = [g for g in gammas if g != float("inf")]
            assert found["test/prune/codes"] == pytest.approx(sum(shares) / 10)
            assert found["test/prune/beyond"] == pytest.approx(1 - len(finite) / 10)
            if finite:
                assert found["test/prune/gamma"] == pytest.approx(sum(finite) / len(finite))
    assert found["test/keep0.3/exact_match_seen"] is not None


def test_several_ratios_encode_each_picture_once(run: Any, encoder: Path, monkeypatch: Any) -> None:
    from craft_lightning.models.towers.siglip import SiglipTower

    calls: list[int] = []
    encode = SiglipTower.encode
    monkeypatch.setattr(SiglipTower, "encode", lambda s, p, *a: (calls.append(len(p)), encode(s, p, *a))[1])
    run("test", "test", f"--encoder={encoder}", "--prune.also=[0.2,0.4,0.6,1.0]")
    assert calls == [4, 4, 2]


def test_keep_one_is_the_run_without_pruning(run: Any, encoder: Path, tmp_path: Path) -> None:
    pruned = metrics(run("test", "a", f"--encoder={encoder}"))
    whole = metrics(run("test", "b", f"--encoder={encoder}", "--prune.enabled=false"))
    for name, value in whole.items():
        if name.startswith("test/exact_match"):
            assert pruned[name.replace("test/", "test/keep1.0/")] == value
    a, b = (tmp_path / "a/predictions.keep1.0.jsonl"), (tmp_path / "b/predictions.jsonl")
    assert a.read_text() == b.read_text()


def test_other_methods_are_not_pruned_unless_asked(run: Any, tmp_path: Path) -> None:
    plain = run("test", "zero", config=ZERO_SHOT)
    assert metrics(plain)["test/prune/keep"] == 1.0
    assert not any("keep1.0" in name or "tokens" in name for name in metrics(plain))
    asked = run("test", "asked", "--prune.keep=0.5", "--prune.also=[]", config=ZERO_SHOT)
    assert metrics(asked)["test/prune/tokens"] == 0.5
    # Without an encoder's counts, the training images are counted with the encoder as it is.
    assert int(asked.model.token_prior.sum()) == 16 * N
    assert metrics(run("test", "cont", config=ZERO_SHOT, backbone="continuous"))["test/prune/keep"] == 1.0


def test_the_encoder_s_own_counts_serve_other_data(run: Any, encoder: Path) -> None:
    cli = run("test", "other", f"--encoder={encoder}", "--data.dataset=kvasir")
    assert torch.equal(cli.model.token_prior, load_file(encoder / "token_prior.safetensors")["counts"])


def test_a_checkpoint_is_counted_anew(run: Any, fitted: Path, tmp_path: Path) -> None:
    shutil.copytree(fitted / "encoder", tmp_path / "other")
    counts = load_file(fitted / "encoder/token_prior.safetensors")["counts"]
    save_file({"counts": torch.ones_like(counts)}, tmp_path / "other/token_prior.safetensors")
    cli = run("test", "test", f"--encoder={tmp_path}/other", f"--ckpt_path={fitted}/checkpoints/last.ckpt")
    assert torch.equal(cli.model.token_prior, counts)


def test_each_step_is_counted_once(run: Any, monkeypatch: Any) -> None:
    calls: list[int] = []
    pictures = VqaDataModule.training_images
    monkeypatch.setattr(VqaDataModule, "training_images", lambda s: (calls.append(1), pictures(s))[1])
    run("fit", "fit")
    assert len(calls) == 2  # two validations; the export after the second asks for the same


def test_the_generic_prior_is_that_of_studio_pictures(run: Any, encoder: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr("data_modules.sources.drawn.STUDIO_IMAGES", 2)
    cli = run("test", "test", f"--encoder={encoder}", "--prune.prior=generic")
    assert int(cli.model.token_prior.sum()) == 2 * 10 * N
    pictures = torch.cat(list(cli.datamodule.generic_images()))
    assert pictures.shape == (20, 3, 32, 32)
    with torch.no_grad():
        assert torch.equal(cli.model.token_prior, count_codes([cli.model.vlm.encode(pictures).codes], K))


def test_a_file_of_counts(run: Any, encoder: Path, tmp_path: Path) -> None:
    save_file({"counts": torch.arange(K)}, tmp_path / "counts.safetensors")
    cli = run("test", "test", f"--encoder={encoder}", f"--prune.prior={tmp_path}/counts.safetensors")
    assert torch.equal(cli.model.token_prior, torch.arange(K))
    save_file({"counts": torch.arange(5)}, tmp_path / "counts.safetensors")
    with pytest.raises(CraftError, match="counts of 5 codes, this codebook has 64"):
        run("test", "short", f"--encoder={encoder}", f"--prune.prior={tmp_path}/counts.safetensors")
    with pytest.raises(CraftError, match="no prior nowhere: 'domain', 'generic', or a file"):
        run("test", "nowhere", f"--encoder={encoder}", "--prune.prior=nowhere")


@pytest.mark.parametrize("flag", ["variant=random", "variant=quota", "variant=quota+residual", "variant=none"])
def test_every_variant_runs(run: Any, encoder: Path, flag: str) -> None:
    found = metrics(run("test", "test", f"--encoder={encoder}", f"--prune.rule.{flag}", "--prune.also=[]"))
    assert found.get("test/prune/tokens", 1.0) == pytest.approx(1.0 if flag == "variant=none" else 13 / 16)


def test_the_printed_rule_keeps_at_least_one_of_each_code(run: Any, encoder: Path) -> None:
    flags = ["--prune.rule.budget=ceil_only", "--prune.keep=0.1", "--prune.also=[]"]
    found = metrics(run("test", "test", f"--encoder={encoder}", *flags))
    assert found["test/prune/codes"] == 1.0
    assert found["test/prune/tokens"] > 0.1


def test_random_orders_follow_the_run_s_seed(run: Any, encoder: Path) -> None:
    flags = [f"--encoder={encoder}", "--prune.rule.variant=random", "--prune.also=[]"]
    seeds = [run("test", f"s{n}", *flags, f"--seed_everything={n}").model.token_rule.seed for n in (0, 7)]
    assert seeds == [0, 7]


@pytest.mark.parametrize(
    ("flag", "message"),
    [
        ("--prune.keep=0", r"a keep ratio lies in \(0, 1\], not 0"),
        ("--prune.also=[1.5]", r"a keep ratio lies in \(0, 1\], not 1.5"),
        ("--prune.rule.alpha=0", "alpha must be positive"),
        ("--prune.kep=0.8", "did you mean 'prune.keep'"),
        ("--prune.rule.varient=random", "did you mean 'prune.rule.variant'"),
    ],
)
def test_mistakes_are_one_line(run: Any, flag: str, message: str) -> None:
    with pytest.raises(CraftError, match=message) as error:
        run("test", "test", flag, config=ZERO_SHOT)
    assert "\n" not in str(error.value)


def test_a_continuous_tower_has_no_codes_to_prune_by(run: Any) -> None:
    model = {"config": ZERO_SHOT, "backbone": "continuous"}
    with pytest.raises(CraftError, match=r"has no codes to prune by; use --prune\.rule\.variant random"):
        run("test", "test", "--prune.keep=0.5", **model)
    found = metrics(run("test", "test", "--prune.keep=0.5", "--prune.rule.variant=random", **model))
    assert found["test/prune/tokens"] == 0.5


def test_a_run_says_what_it_pruned(run: Any, encoder: Path, tmp_path: Path, capsys: Any) -> None:
    run("test", "test", f"--encoder={encoder}")
    told = json.loads((tmp_path / "test/result.json").read_text())["pruning"]
    assert (told["keep"], told["also"], told["prior"], told["rule"]["variant"]) == (0.8, [1.0], "domain", "full")
    assert (
        "keep 0.8 of the visual tokens outside of training (also 1.0); full, prior: domain" in capsys.readouterr().err
    )
