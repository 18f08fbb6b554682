"""A training that goes on is the one that its checkpoint is of; what differs is refused, or told, before any step."""

from __future__ import annotations

import hashlib
import inspect
import json
import shlex
import shutil
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch import Callback
from PIL import Image
from safetensors.torch import load_file, save_file

from craft_lightning import __main__ as entry
from craft_lightning.checkpoints.load import load_vlm
from craft_lightning.cli.run import build_cli
from craft_lightning.errors import CraftError
from craft_lightning.methods import base
from craft_lightning.methods._support import resuming
from craft_lightning.methods._support.resuming import weight_hashes
from craft_lightning.models.vlm_spec import VlmSpec
from data_modules.datamodule import VqaDataModule
from tiny import write_tiny

SMOKE = str(Path(__file__).resolve().parents[2] / "experiments" / "smoke.yaml")


CLIP = ["--model.optim.clip=null"]


class Seen(Callback):
    """The rows of every step, and its learning rate."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, ...]] = []
        self.rates: list[float] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.rows.append(batch.keys)
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])


def pictures(folder: Path) -> Path:
    """Three classes of eight training images and two test images of each, in a format of fixed size."""
    for split, count in (("train", 8), ("test", 2)):
        for label in ("forest", "lake", "river"):
            (folder / split / label).mkdir(parents=True)
            for number in range(count):
                place = folder / split / label / f"{number}.bmp"
                seed = int.from_bytes(f"{split}{label}{number}".encode(), "big")
                Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(place)
    return folder


def argv(*flags: str) -> list[str]:
    own = ["--data.dataset=folder", "--data.source=folder", "--data.root=data", "--data.train_size=null"]
    sizes = ["--data.batch_size=4", "--data.val_size=4", "--data.test_size=null", "--data.holdout=0"]
    where = ["--model.backbone.name=model", "--trainer.default_root_dir=run"]
    quiet = ["--trainer.enable_progress_bar=false", "--trainer.logger=false"]
    steps = ["--trainer.max_steps=6", "--trainer.val_check_interval=3", "--checkpoint.every_n_train_steps=3"]
    return ["fit", "--config", SMOKE, *own, *sizes, *where, *quiet, *steps, *flags]


class Cut(Callback):
    """A kill in the fourth step: the checkpoint is that of the third."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == 3:
            raise RuntimeError("killed")


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``data``, ``model`` and an interrupted ``run``, whose checkpoint is of step 3 of 6."""
    root = tmp_path_factory.mktemp("cut")
    pictures(root / "data")
    write_tiny(root / "model")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(root)
        with pytest.raises(RuntimeError, match="killed"):
            build_cli(argv(), callbacks=[Cut()])
    return root


@pytest.fixture
def root(cut: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of it, in which the test runs."""
    copy = Path(shutil.copytree(cut, tmp_path / "root"))
    monkeypatch.chdir(copy)
    return copy


@pytest.fixture
def said(capsys: pytest.CaptureFixture[str]) -> Callable[..., list[str]]:
    """Our lines of a run on the command line, whose exit code is compared."""

    def run(arguments: list[str], code: int = 0) -> list[str]:
        capsys.readouterr()
        assert entry.main(arguments) == code
        lines = capsys.readouterr().err.splitlines()
        return [line for line in lines if line.startswith(("craft_lightning: ", "the run's settings"))]

    return run


def files(folder: Path) -> dict[str, tuple[str, int]]:
    """Contents and times of every file."""
    found = (p for p in folder.rglob("*") if p.is_file())
    return {str(p): (hashlib.sha256(p.read_bytes()).hexdigest(), p.stat().st_mtime_ns) for p in found}


BOUND = [
    ("--data.batch_size=6", "data.batch_size 4 (given: 6)", "--data.batch_size 4"),
    ("--seed_everything=3", "data.seed 0 (given: 3)", "--seed_everything 0"),
    ("--data.train_size=12", "data.train_size null (given: 12)", "--data.train_size null"),
    ("--data.train_unit=picture", "data.train_unit null (given: picture)", "--data.train_unit null"),
    ("--data.val_size=3", "data.val_size 4 (given: 3)", "--data.val_size 4"),
    ("--data.holdout=0.4", "data.holdout 0.0 (given: 0.4)", "--data.holdout 0.0"),
    ("--data.dataset=eurosat", "data.dataset folder (given: eurosat)", "--data.dataset folder"),
    ("--data.source=twin", "data.source folder (given: twin)", "--data.source folder"),
    ("--data.look=grey", "data.look field (given: grey)", "--data.look field"),
    ("--data.query=What is it?", "data.query null (given: 'What is it?')", "--data.query null"),
    ("--data.domain=map", "data.domain null (given: map)", "--data.domain null"),
    ("--data.apart=true", "data.apart false (given: true)", "--data.apart false"),
    ("--data.distractors=random", "data.distractors null (given: random)", "--data.distractors null"),
    ("--data.captioner=a/b", "data.captioner null (given: a/b)", "--data.captioner null"),
    ("--model.lambda_commitment=0.3", "model.lambda_commitment 0.1 (given: 0.3)", "--model.lambda_commitment 0.1"),
    ("--model.optim.lr=0.1", "model.optim.lr 0.0003 (given: 0.1)", "--model.optim.lr 0.0003"),
    ("--model.optim.betas=[0.9,0.99]", "model.optim.betas [0.9, 0.999]", "--model.optim.betas [0.9, 0.999]"),
    ("--model.backbone.quantizer_dtype=bfloat16", "quantizer_dtype float32 (given: bfloat16)", "dtype float32"),
]


@pytest.mark.parametrize(("flag", "told", "mends"), BOUND, ids=[flag.split("=")[0][2:] for flag, *_ in BOUND])
def test_another_setting_is_refused_before_anything_is_loaded(
    flag: str, told: str, mends: str, cut: Path, said: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(base, "load_vlm", lambda spec: pytest.fail("a model was loaded"))
    monkeypatch.setattr(VqaDataModule, "prepare_data", lambda self: pytest.fail("the data were opened"))
    monkeypatch.chdir(cut)
    before = files(cut)
    (line,) = said(argv(flag, "--ckpt_path=last"), code=2)
    assert line.startswith("craft_lightning: run/checkpoints/last.ckpt was trained with ")
    assert told in line
    assert mends in line
    assert files(cut) == before


def test_a_checkpoint_says_what_it_was_trained_on(cut: Path) -> None:
    """Every setting of the data, and digests of what they gave, in values that need no pickle."""
    held = torch.load(cut / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    settings = held["datamodule_hyper_parameters"]
    assert settings.keys() >= inspect.signature(VqaDataModule).parameters.keys()
    assert (settings["batch_size"], settings["root"], settings["seed"]) == (4, "data", 0)
    facts = held["craft_lightning"]
    assert {split: digest["count"] for split, digest in facts["data"].items()} == {"train": 21, "val": 3}
    hashes = [digest[what] for digest in facts["data"].values() for what in ("items", "pictures")]
    assert len({*hashes, *facts["weights"].values()}) == 7
    assert facts["steps"] == 6


def test_an_evaluation_says_what_differs_and_has_data_of_its_own(root: Path, said: Any) -> None:
    flags = argv("--ckpt_path=last", "--model.lambda_commitment=0.9", "--data.batch_size=6", "--data.val_size=3")[1:]
    (line,) = said(["test", *flags])
    told = "model.lambda_commitment=0.9 (checkpoint: 0.1)"
    assert line == f"the run's settings hold, not the checkpoint's: {told}"


def test_null_for_a_number_is_another_setting_too(root: Path, said: Any) -> None:
    (line,) = said(argv("--ckpt_path=last", "--model.optim.clip=null"), code=2)
    assert "model.optim.clip 1.0 (given: null): resume with --model.optim.clip 1.0, or start again" in line


def test_the_flags_that_are_told_mend_it(root: Path, said: Any) -> None:
    wrong = argv("--ckpt_path=last", "--data.batch_size=6", "--seed_everything=1", "--model.optim.warmup=0.5")
    (line,) = said(wrong, code=2)
    flags = shlex.split(line.partition("resume with ")[2].partition(", or start again")[0])
    assert len(flags) == 6
    assert said([*wrong, *flags]) == []
    assert json.loads((root / "run" / "result.json").read_text())["steps"] == 6


@pytest.mark.parametrize("flag", ["--data.eval_batch_size=3", "--data.test_size=3", "--data.on_bad=skip"])
def test_what_no_training_depends_on_may_differ(flag: str, root: Path, said: Any) -> None:
    assert said(argv("--ckpt_path=last", flag, "--trainer.limit_val_batches=0")) == []


def test_places_and_precision_may_differ_and_are_told(root: Path, said: Any) -> None:
    """The same images and weights elsewhere: what they are is compared, not where they lie."""
    for name in ("data", "model"):
        (root / name).rename(root / f"{name}2")
    moved = ["--data.root=data2", "--model.backbone.name=./model2"]
    (line,) = said(argv("--ckpt_path=last", *moved, "--model.backbone.dtype=bfloat16"))
    assert line.startswith("the run's settings hold, not the checkpoint's: ")
    assert "data.root=data2 (checkpoint: data)" in line
    assert "model.backbone.name=./model2 (checkpoint: model)" in line
    assert "model.backbone.dtype=bfloat16 (checkpoint: float32)" in line
    assert json.loads((root / "run" / "result.json").read_text())["steps"] == 6


def more(data: Path) -> None:
    shutil.copy(data / "train/lake/0.bmp", data / "train/lake/8.bmp")


def repainted(data: Path) -> None:
    """Another image in a file of the same name and size."""
    for file in (data / "train").rglob("*.bmp"):
        file.write_bytes(file.read_bytes()[:-1] + b"\x00")


def relabelled(data: Path) -> None:
    (data / "train/lake").rename(data / "train/pond")
    (data / "test/lake").rename(data / "test/pond")


CHANGES: dict[Callable[[Path], None], tuple[str, str]] = {
    more: ("train", "(train: 22 items, then 21, other images)"),
    repainted: ("train and val", "(train: other images; val: other images)"),
    relabelled: ("train and val", "(train: other labels, questions, answers or captions"),
}


@pytest.mark.parametrize("change", CHANGES, ids=lambda change: change.__name__)
def test_changed_data_are_refused_before_a_step(change: Callable[[Path], None], root: Path, said: Any) -> None:
    change(root / "data")
    before = files(root / "run" / "checkpoints")
    lines = said(argv("--ckpt_path=last"), code=2)
    assert f"the {CHANGES[change][0]} data are not those that run/checkpoints/last.ckpt was trained with" in lines[-1]
    assert CHANGES[change][1] in lines[-1]
    assert files(root / "run" / "checkpoints") == before
    assert not (root / "run" / "result.json").exists()


def test_one_split_that_differs_is_named_alone() -> None:
    held = {name: {"count": 2, "items": "a", "pictures": "b"} for name in ("train", "val")}
    own = {**held, "val": {"count": 1, "items": "a", "pictures": "c"}}
    resuming.check_data(held, held, "x.ckpt")
    with pytest.raises(CraftError, match=r"^the val data are .+ \(val: 1 items, then 2, other images\)"):
        resuming.check_data(held, own, "x.ckpt")


def test_test_pictures_are_none_of_a_training_s_business(root: Path, said: Any) -> None:
    (root / "data/test/lake/0.bmp").unlink()
    assert said(argv("--ckpt_path=last")) == []


@pytest.mark.parametrize("part", ["language model", "projector", "tower"])
def test_other_frozen_weights_are_refused(part: str, root: Path, said: Any) -> None:
    file = {"language model": "llm", "projector": "mm_projector", "tower": "vision_tower"}[part]
    place = root / "model" / file / "model.safetensors"
    state = load_file(place)
    # Of the tower no codeword: that is another codebook, and another line.
    name = next(n for n, value in state.items() if value.dim() == 2 and "codebooks" not in n and "text" not in n)
    save_file({**state, name: state[name] * 1.01}, place, {"format": "pt"})
    lines = said(argv("--ckpt_path=last"), code=2)
    assert f"the {part} of model is not what" in lines[-1]


def test_weights_have_one_hash_in_any_precision_that_is_compared(cut: Path) -> None:
    found = [weight_hashes(load_vlm(VlmSpec(str(cut / "model"), dtype=d))) for d in ("float32", "bfloat16", "float16")]
    assert found[0] == found[1]
    assert len(set(found[0].values())) == 3
    assert found[2] == {}, "it rounds otherwise"


def test_a_checkpoint_of_before_says_that_it_cannot_be_checked(root: Path, said: Any) -> None:
    """Its settings are known; and what it knows of validation images still ends no run in the middle."""
    place = Path("run/checkpoints/last.ckpt")
    held = torch.load(place, weights_only=True)
    for name in ("weights", "data", "steps", "base_hash"):
        del held["craft_lightning"][name]
    torch.save(held, place)
    shutil.copytree("run", "run2")
    assert "data.val_size 4" in said(argv("--ckpt_path=last", "--data.val_size=5"), code=2)[0]
    (line,) = said(argv(f"--ckpt_path={place}"))
    assert line.startswith(f"craft_lightning: {place} says nothing of its data and weights")
    relabelled(root / "data")
    line = said(argv("--ckpt_path=last", "--trainer.default_root_dir=run2"), code=2)[-1]
    assert "are none of those that this training began with" in line


def test_a_finished_run_says_so_and_keeps_its_result(root: Path, said: Any) -> None:
    assert said(argv("--ckpt_path=last")) == []
    before = files(root / "run")
    assert {"result.json", "predictions.jsonl", "config.yaml"} <= {Path(name).name for name in before}
    (line,) = said(argv("--ckpt_path=last"))
    told = "craft_lightning: run is finished after 6 steps, its result is kept; to go on, raise "
    assert line == f"{told}--trainer.max_steps"
    epochs = ["--trainer.max_steps=-1", "--trainer.max_epochs=1"]
    assert said(argv("--ckpt_path=last", *epochs)) == [f"{told}--trainer.max_epochs"]
    assert files(root / "run") == before
    assert "data.batch_size" in said(argv("--ckpt_path=last", "--data.batch_size=6"), code=2)[0]


def test_of_a_finished_run_nothing_else_is_told(root: Path, said: Any) -> None:
    """Settings that may differ change nothing where nothing is computed."""
    assert said(argv("--ckpt_path=last")) == []
    (root / "data").rename("data2")
    (line,) = said(argv("--ckpt_path=last", "--data.root=data2"))
    assert line.startswith("craft_lightning: run is finished after 6 steps")


def test_a_run_is_not_removed_and_gone_on_with(root: Path, said: Any) -> None:
    before = files(root / "run")
    (line,) = said(argv("--ckpt_path=last", "--overwrite=true"), code=2)
    assert line == (
        "craft_lightning: --overwrite true would remove run/checkpoints/last.ckpt, which --ckpt_path resumes from: "
        "give one of the two"
    )
    assert files(root / "run") == before
    (root / "again.yaml").write_text("overwrite: true\n")  # as a run's own config says it
    assert said(argv("--config=again.yaml", "--ckpt_path=last")) == []


def test_more_steps_are_the_same_run(root: Path, said: Any, tmp_path: Path) -> None:
    """Its batches are those of a run that was as long from the start; what was planned otherwise is told."""
    whole, rest = Seen(), Seen()
    build_cli(argv("--trainer.max_steps=8", f"--trainer.default_root_dir={tmp_path / 'whole'}"), callbacks=[whole])
    assert said(argv("--ckpt_path=last")) == []
    before = json.loads((root / "run" / "result.json").read_text())
    build_cli(argv("--ckpt_path=last", "--trainer.max_steps=8"), callbacks=[rest])
    assert rest.rows == whole.rows[6:]
    assert rest.rates[1:] == pytest.approx(whole.rates[7:])
    after = json.loads((root / "run" / "result.json").read_text())
    assert (before["steps"], after["steps"]) == (6, 8)
    line = "craft_lightning: the learning rate was planned for 8 steps, and continues as one planned for 9"
    assert said(argv("--ckpt_path=last", "--trainer.max_steps=9")) == [line]


LIMIT, NORM = "--trainer.limit_train_batches", "--trainer.gradient_clip_val"
BY_VALUE = "--trainer.gradient_clip_algorithm=value"

TRAINER = [
    # flags of the interrupted training, of the one that goes on, and what is told
    ([], [f"{LIMIT}=2"], "trainer.limit_train_batches null (given: 2)"),
    ([], [f"{LIMIT}=0.5"], "trainer.limit_train_batches null (given: 0.5)"),
    ([f"{LIMIT}=1"], [], "trainer.limit_train_batches 1 (given: null)"),
    ([*CLIP], [*CLIP, f"{NORM}=0.5"], "trainer.gradient_clip_val null (given: 0.5)"),
    ([*CLIP, f"{NORM}=0.5"], [*CLIP], "trainer.gradient_clip_val 0.5 (given: null)"),
    ([*CLIP, f"{NORM}=0.5"], [*CLIP, f"{NORM}=0.5", BY_VALUE], "gradient_clip_algorithm norm (given: value)"),
]


@pytest.mark.parametrize(("before", "given", "told"), TRAINER, ids=range(len(TRAINER)))
def test_a_trainer_that_clips_or_ends_epochs_otherwise_is_refused_before_a_step(
    before: list[str], given: list[str], told: str, root: Path, said: Any
) -> None:
    """What was clipped goes on clipped; the flags of the trainer stand in no setting of method or data."""
    ends = ["--trainer.limit_val_batches=0", "--trainer.default_root_dir=other"]
    with pytest.raises(RuntimeError, match="killed"):
        build_cli(argv(*before, *ends), callbacks=[Cut()])
    held = files(root / "other" / "checkpoints")
    lines = said(argv("--ckpt_path=last", *ends, *given), code=2)
    assert lines[-1].startswith("craft_lightning: other/checkpoints/last.ckpt was trained with ")
    assert told in lines[-1]
    assert files(root / "other" / "checkpoints") == held
    flags = shlex.split(lines[-1].partition("resume with ")[2].partition(", or start again")[0])
    assert said(argv("--ckpt_path=last", *ends, *given, *flags)) == []
    assert json.loads((root / "other" / "result.json").read_text())["steps"] == 6


def test_precision_and_parts_of_a_step_may_differ_and_are_told(root: Path, said: Any) -> None:
    flags = ["--trainer.precision=bf16-mixed", "--trainer.accumulate_grad_batches=2", "--trainer.val_check_interval=6"]
    (line,) = said(argv("--ckpt_path=last", *flags, "--trainer.check_val_every_n_epoch=null"))
    assert "trainer.precision=bf16-mixed (checkpoint: 32-true)" in line
    assert "trainer.accumulate_grad_batches=2 (checkpoint: 1)" in line
    assert json.loads((root / "run" / "result.json").read_text())["steps"] == 6


def test_a_limit_counts_batches_and_is_compared_in_steps() -> None:
    """Two whole steps of an epoch are four halves; one batch is not the whole."""

    def told(limit: float, parts: int) -> dict[str, Any]:
        none = {"gradient_clip_val": None, "gradient_clip_algorithm": None, "precision": "32-true"}
        trainer = SimpleNamespace(limit_train_batches=limit, accumulate_grad_batches=parts, **none)
        return resuming.of_trainer(trainer, 1.0)

    def limits(held: dict[str, Any], given: dict[str, Any]) -> Any:
        found = resuming.changes({"craft_lightning": {"trainer": held}}, given)
        return found.get("trainer.limit_train_batches")

    assert limits(told(2, 1), told(4, 2)) is None
    assert limits(told(4, 2), told(2, 1)) is None
    assert limits(told(4, 2), told(4, 1)) == (2, 4)
    assert limits(told(1, 1), told(1.0, 1)) == (1, None)


def test_a_rehearsal_from_a_checkpoint_takes_one_batch_of_anything(root: Path, said: Any) -> None:
    before = files(root / "run")
    (line,) = said(argv("--ckpt_path=run/checkpoints/last.ckpt", "--trainer.fast_dev_run=true"))
    assert "the learning rate was planned for 6 steps" in line
    assert files(root / "run") == before


@pytest.mark.parametrize("folder", ["run", "run/checkpoints"])
@pytest.mark.parametrize("verb", ["fit", "test"])
def test_a_run_s_folder_stands_for_its_checkpoint(verb: str, folder: str, root: Path, said: Any) -> None:
    checkpoint, where = f"--ckpt_path={folder}", "run" if verb == "fit" else "tested"
    assert "run/checkpoints/last.ckpt was trained with data.batch_size 4" in "".join(
        said(argv(checkpoint, "--data.batch_size=6"), code=2)
    )
    assert said([verb, *argv(checkpoint, f"--trainer.default_root_dir={where}")[1:]]) == []
    assert json.loads((root / where / "result.json").read_text())["steps"] == (6 if verb == "fit" else 0)


@pytest.mark.parametrize("verb", ["fit", "validate", "test", "predict"])
def test_a_folder_without_a_checkpoint_is_one_line(verb: str, root: Path, said: Any) -> None:
    (root / "data" / "old.ckpt").touch()
    (line,) = said([verb, *argv("--ckpt_path=data", "--trainer.default_root_dir=new")[1:]], code=2)
    assert line == (
        "craft_lightning: no checkpoint of a run in data; there is data/old.ckpt: --ckpt_path takes a file, or last"
    )


def test_of_a_checkpoint_in_parts_it_is_said_that_nothing_is_compared_yet(root: Path, said: Any) -> None:
    (root / "parts" / "checkpoint").mkdir(parents=True)
    given = argv("--ckpt_path=parts", "--trainer.default_root_dir=new")
    (line,) = said(given, code=2)
    assert line == "craft_lightning: parts is in parts, which only --trainer.strategy deepspeed_stage_2 reads"
    line, *_ = said([*given, "--trainer.strategy=deepspeed_stage_2"], code=2)
    assert line == "craft_lightning: parts is in parts that its strategy reads: what differs is told once it has"


def validated(*flags: str) -> dict[str, float]:
    """Metrics of a validation of the checkpoint, in the folder ``seen``."""
    where = ["--trainer.default_root_dir=seen", "--overwrite=true", "--ckpt_path=run/checkpoints/last.ckpt"]
    build_cli(["validate", *argv(*where, *flags)[1:]])
    found: dict[str, float] = json.loads(Path("seen/result.json").read_text())["metrics"]
    assert "val/accuracy" in found
    return found


def test_codes_are_compared_with_those_before_training_on_the_same_pictures_alone(root: Path, said: Any) -> None:
    """On others there is nothing to compare with: keys may be equal, and images not."""
    assert said(argv("--ckpt_path=last")) == []
    known = json.loads((root / "run" / "result.json").read_text())["metrics"]["val/codes_changed"]
    assert validated()["val/codes_changed"] == pytest.approx(known)
    (root / "data").rename("elsewhere")
    assert validated("--data.root=elsewhere")["val/codes_changed"] == pytest.approx(known)
    assert "val/codes_changed" not in validated("--data.root=elsewhere", "--data.look=grey")
    assert "val/codes_changed" not in validated("--data.source=twin", "--data.dataset=kvasir")
    repainted(root / "elsewhere")
    assert "val/codes_changed" not in validated("--data.root=elsewhere")


@pytest.mark.parametrize("other", ["--data.val_size=12", "--data.look=studio", "--data.look=grey", "--data.holdout=0"])
def test_drawn_pictures_of_the_same_keys_are_others(other: str, root: Path) -> None:
    drawn = ["--data.source=twin", "--data.dataset=eurosat", "--data.train_size=8", "--data.holdout=0.5"]
    drawn += ["--trainer.max_steps=2", "--trainer.val_check_interval=2", "--data.val_size=6"]
    build_cli(argv(*drawn, "--overwrite=true"))
    known = json.loads((root / "run" / "result.json").read_text())["metrics"]["val/codes_changed"]
    assert validated(*drawn)["val/codes_changed"] == pytest.approx(known)
    assert "val/codes_changed" not in validated(*drawn, other)


def test_another_run_s_folder_is_not_written_over(root: Path, said: Any, tmp_path: Path) -> None:
    """A checkpoint of one folder does not permit to write into another one that is used."""
    shutil.copytree("run", "other")
    checkpoint = "--ckpt_path=run/checkpoints/last.ckpt"
    before = files(root / "other")
    (line,) = said(argv(checkpoint, "--trainer.default_root_dir=other"), code=2)
    assert line.startswith("craft_lightning: other holds a run")
    assert files(root / "other") == before
    assert said(argv(checkpoint, f"--trainer.default_root_dir={tmp_path / 'new'}")) == []
    assert json.loads((tmp_path / "new" / "result.json").read_text())["steps"] == 6


def test_another_method_is_refused_before_anything_is_loaded(root: Path, said: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(base, "load_vlm", lambda spec: pytest.fail("a model was loaded"))
    base_config = str(Path(SMOKE).parent / "base.yaml")
    method = str(Path(SMOKE).parent / "methods" / "projector_ft.yaml")
    _, _, _, *flags = argv("--ckpt_path=run/checkpoints/last.ckpt")
    for verb, folder in (("fit", "run"), ("test", "tested")):
        configs = ["--config", base_config, "--config", method, *flags, f"--trainer.default_root_dir={folder}"]
        (line,) = said([verb, *configs], code=2)
        assert line == "craft_lightning: the checkpoint is of method 'craft', the config names 'projector_ft'"
