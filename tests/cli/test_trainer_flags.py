"""Every flag of the trainer and of the verbs: it has the effect that it promises, or is refused in one line."""

from __future__ import annotations

import inspect
import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import LearningRateMonitor
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from craft_lightning import __main__ as entry
from craft_lightning.cli import trainer_flags as flags
from craft_lightning.cli.run import CraftCLI, build_cli
from craft_lightning.errors import CraftError

ROOT = Path(__file__).resolve().parents[2]
SMOKE = str(ROOT / "experiments" / "smoke.yaml")
SMALL = ["--data.train_size=16", "--data.val_size=4", "--data.test_size=4", "--data.eval_batch_size=2"]
STEPS = ["--trainer.max_steps=2", "--trainer.val_check_interval=2"]
"""Two steps of eight rows are an epoch; two batches of two items are a validation."""


class Watch(Callback):
    """What a run did: keys of the rows it trained on, norms of the gradients it stepped with, its validations."""

    def __init__(self, stop: int | None = None) -> None:
        self.stop = stop
        self.keys: list[tuple[str, ...]] = []
        self.norms: list[float] = []
        self.largest: list[float] = []
        self.validated: list[int] = []
        self.anomaly = self.inference = False

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == self.stop:
            raise RuntimeError("stopped")
        self.keys.append(batch.keys)
        self.anomaly = torch.is_anomaly_enabled()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *args: Any) -> None:
        gradients = torch.cat([p.grad.flatten() for _, p in pl_module.trainable() if p.grad is not None])
        self.norms.append(float(gradients.norm()))
        self.largest.append(float(gradients.abs().max()))

    def on_validation_start(self, trainer: Any, pl_module: Any) -> None:
        if not trainer.sanity_checking:
            self.validated.append(trainer.global_step)

    def on_test_batch_end(self, *args: Any) -> None:
        self.inference = torch.is_inference_mode_enabled()


@dataclass
class Run:
    """A run that ended well."""

    cli: CraftCLI
    folder: Path
    watch: Watch
    out: str
    err: str

    @property
    def trainer(self) -> Trainer:
        return self.cli.trainer

    @property
    def result(self) -> dict[str, Any]:
        found: dict[str, Any] = json.loads((self.folder / "result.json").read_text())
        return found

    @property
    def weights(self) -> torch.Tensor:
        return torch.cat([p.detach().flatten() for _, p in self.cli.model.trainable()])

    def rows(self, name: str = "predictions.jsonl") -> int:
        return len((self.folder / name).read_text().splitlines())

    def scalars(self, name: str) -> list[int]:
        """Steps at which a scalar stands in the event files."""
        events = EventAccumulator(str(self.folder / "events")).Reload()
        return [e.step for e in events.Scalars(name)] if name in events.Tags()["scalars"] else []


Runs = Callable[..., Run]


@pytest.fixture
def run(checkpoints: Path, tmp_path: Path, capfd: Any, caplog: Any, monkeypatch: Any) -> Iterator[Runs]:
    """Runs a verb with flags on the smallest model, in the folder ``run``; what it sets in torch is set back."""
    monkeypatch.chdir(tmp_path)

    def start(*flags: str, verb: str = "fit", stop: int | None = None) -> Run:
        watch = Watch(stop)
        where = [f"--model.backbone.name={checkpoints / 'host'}", f"--trainer.default_root_dir={tmp_path / 'run'}"]
        argv = [verb, "--config", SMOKE, *SMALL, *(STEPS if verb == "fit" else []), *where, *flags]
        cli = build_cli(argv, callbacks=[watch])
        out, err = capfd.readouterr()
        return Run(cli, tmp_path / "run", watch, out + caplog.text, err)

    yield start
    torch.use_deterministic_algorithms(False)
    torch.backends.cudnn.benchmark = False


@pytest.fixture(scope="module")
def usual(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Run:
    """The run of no flag at all."""
    folder, watch = tmp_path_factory.mktemp("usual"), Watch()
    where = [f"--model.backbone.name={checkpoints / 'host'}", f"--trainer.default_root_dir={folder}"]
    return Run(build_cli(["fit", "--config", SMOKE, *SMALL, *STEPS, *where], callbacks=[watch]), folder, watch, "", "")


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str], tmp_path: Path, checkpoints: Path) -> Callable[..., str]:
    """Runs a verb with flags, which must end in one line; returns the line."""

    def start(verb: str, *flags: str) -> str:
        where = [f"--model.backbone.name={checkpoints / 'host'}", f"--trainer.default_root_dir={tmp_path / 'run'}"]
        capsys.readouterr()
        assert entry.main([verb, "--config", SMOKE, *SMALL, *where, *flags]) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1 or (tmp_path / "run" / "config.yaml").exists(), lines  # it begins to say what it does
        return lines[-1].removeprefix("craft_lightning: ")

    return start


def fragment(folder: Path, content: dict[str, Any]) -> str:
    path = folder / "fragment.yaml"
    path.write_text(yaml.safe_dump(content), encoding="utf-8")
    return f"--config={path}"


REFUSED = [
    # flags, what the line begins with, and what it goes on to say
    ("--seed_everything=-1", "--seed_everything -1: a run has one seed, a whole number from 0 to 4294967295", ""),
    ("--seed_everything=4294967296", "--seed_everything 4294967296: a run has one seed", ""),
    ("--seed_everything=true", "--seed_everything true: a run has one seed", ""),
    ("--seed_everything=false", "--seed_everything false: a run has one seed", ""),
    ("--trainer.accelerator=tpu", "trainer: Requirement 'torch_xla", ""),
    ("--trainer.accelerator=gpus", "trainer: You selected an invalid accelerator name", "gpus"),
    ("--trainer.accelerator=mps", "--trainer.accelerator mps: there is none here", ""),
    ("--trainer.strategy=ddpp", "trainer: You selected an invalid strategy name", "ddpp"),
    ("--trainer.strategy=ddp_spawn", "--trainer.strategy ddp_spawn: processes are started by ddp", ""),
    ("--trainer.strategy=ddp_notebook", "--trainer.strategy ddp_notebook: processes are started by ddp", ""),
    ("--trainer.strategy=fsdp", "--trainer.strategy fsdp: weights are sharded by fsdp2", ""),
    ("--trainer.strategy=deepspeed_stage_3", "--trainer.strategy deepspeed_stage_3: weights are sharded by fsdp2", ""),
    ("--trainer.strategy=deepspeed", "To use the `DeepSpeedStrategy`, you must have DeepSpeed installed", ""),
    ("--trainer.devices=0", "--trainer.devices 0", "int > 0"),
    ("--trainer.devices=x", "--trainer.devices x", "int > 0"),
    ("--trainer.devices=3", "a batch of 8 rows cannot be shared equally by 3 devices", "--trainer.devices"),
    *(
        (f"--trainer.precision={name}", f"--trainer.precision {name}: trained weights are float32", "bf16-mixed")
        for name in ("bf16-true", "16-true", "64-true", "64", "transformer-engine", "transformer-engine-float16")
    ),
    ("--trainer.precision=16", "--trainer.precision 16-mixed: this machine would compute in bf16-mixed", ""),
    ("--trainer.logger=CSVLoger", "no trainer.logger class 'CSVLoger'; did you mean 'CSVLogger'?", ""),
    ("--trainer.logger=CSVLogger", "trainer.logger needs save_dir: --trainer.logger.save_dir VALUE", ""),
    ("--trainer.logger=WandbLogger", "Problem with given class_path", "pip install -U 'wandb"),
    ("--trainer.callbacks=LernRateMonitor", "no trainer.callbacks class 'LernRateMonitor'", "'LearningRateMonitor'"),
    ("--trainer.callbacks=OnExceptionCheckpoint", "trainer.callbacks needs dirpath: --trainer.callbacks.dirpath", ""),
    (
        "--trainer.callbacks+=LearningRateMonitor --trainer.callbacks.loging_interval=step",
        "trainer.callbacks: no setting 'loging_interval' of its class",
        "",
    ),
    ("--trainer.callbacks=Timer --trainer.callbacks.duration=5m", "`Timer(duration='5m')` is not a valid", ""),
    ("--trainer.callbacks=BatchSizeFinder", "--trainer.callbacks BatchSizeFinder: ", "--data.batch_size"),
    ("--trainer.callbacks=LearningRateFinder", "--trainer.callbacks LearningRateFinder: ", "--model.optim.lr"),
    ("--trainer.callbacks=BackboneFinetuning", "--trainer.callbacks BackboneFinetuning: the method says", ""),
    ("--trainer.callbacks=EMAWeightAveraging", "--trainer.callbacks EMAWeightAveraging: results are those of", ""),
    (
        "--trainer.callbacks=ModelPruning --trainer.callbacks.pruning_fn=l1_unstructured",
        "--trainer.callbacks ModelPruning: what is frozen stays as it is",
        "",
    ),
    (
        "--trainer.callbacks=EarlyStopping --trainer.callbacks.monitor=val/acc --trainer.max_steps=1",
        "--trainer.callbacks EarlyStopping: ",
        "`val/accuracy`",
    ),
    ("--trainer.callbacks=ModelCheckpoint --trainer.callbacks.monitor=val/acc", "`ModelCheckpoint(monitor='val/a", ""),
    ("--trainer.logger=false --trainer.callbacks=LearningRateMonitor", "Cannot use `LearningRateMonitor`", "no logger"),
    ("--trainer.plugins=HalfPrecision", "--trainer.plugins HalfPrecision: set --trainer.precision instead", ""),
    ("--trainer.max_epochs=0", "--trainer.max_epochs 0: that leaves nothing to fit", ""),
    ("--trainer.max_steps=0", "--trainer.max_steps 0: that leaves nothing to fit", ""),
    ("--trainer.max_steps=-1", "--trainer.max_steps -1: a training needs an end", "--trainer.max_epochs"),
    ("--trainer.min_epochs=3", "the training ends after 4 steps", "at least 6"),
    ("--trainer.min_steps=5", "the training ends after 4 steps", "at least 5"),
    ("--trainer.max_time=5m", "--trainer.max_time 5m: days, hours, minutes, seconds", "00:12:30:00"),
    ("--trainer.limit_train_batches=0", "--trainer.limit_train_batches 0: that leaves nothing to fit", ""),
    ("--trainer.limit_train_batches=0.01", "You requested to check 0.01 of the `train_dataloader`", "=0.5"),
    ("--trainer.limit_train_batches=-1", "You have passed invalid value -1 for limit_train_batches", ""),
    (
        "--trainer.limit_train_batches=3 --trainer.accumulate_grad_batches=2",
        "--trainer.limit_train_batches 3 leaves 3 batches of an epoch, and a step takes 2",
        "",
    ),
    ("validate --trainer.limit_val_batches=0", "--trainer.limit_val_batches 0: that leaves nothing to validate", ""),
    ("test --trainer.limit_test_batches=0", "--trainer.limit_test_batches 0: that leaves nothing to test", ""),
    ("predict --trainer.limit_predict_batches=0", "--trainer.limit_predict_batches 0: that leaves nothing to pre", ""),
    ("--trainer.overfit_batches=1", "--trainer.overfit_batches 1: ", "--data.train_size N"),
    ("--trainer.val_check_interval=0", "--trainer.val_check_interval 0: ", "--trainer.limit_val_batches 0"),
    ("--trainer.val_check_interval=0.5", "`val_check_interval` should be an integer", "check_val_every_n_epoch=None"),
    (
        "--trainer.val_check_interval=100 --trainer.check_val_every_n_epoch=1",
        "--trainer.val_check_interval 100: an epoch has 2 batches",
        "--trainer.check_val_every_n_epoch null",
    ),
    ("--trainer.accumulate_grad_batches=0", "--trainer.accumulate_grad_batches 0: at least 1", ""),
    ("--trainer.accumulate_grad_batches=3", "a batch of 8 rows cannot be shared equally", "3 accumulated batches"),
    (
        "--trainer.gradient_clip_val=0.5",
        "--trainer.gradient_clip_val 0.5, but --model.optim.clip 1.0: set --model.optim.clip 0.5 alone",
        "null",
    ),
    ("--trainer.gradient_clip_algorithm=value", "--trainer.gradient_clip_algorithm value clips with --tra", "null"),
    ("--model.optim.clip=0", "--model.optim.clip 0.0: above 0; null does not clip", ""),
    ("--model.optim.lr=-1", "--model.optim.lr -1.0: a number, at least 0", ""),
    *(
        (f"--{name}={value}", f"--{name} {value.replace('.', '')}: a number is wanted", "")
        for name, value in (
            *((f"model.optim.{name}", ".nan") for name in ("lr", "weight_decay", "eps", "warmup", "clip")),
            *(
                (name, ".nan")
                for name in ("data.holdout", "prune.keep", "prune.rule.alpha", "prune.rule.residual_weight")
            ),
            *((f"model.lambda_{name}", ".nan") for name in ("sal", "commitment", "contrastive")),
            *(
                (f"trainer.{name}", ".nan")
                for name in ("limit_train_batches", "val_check_interval", "gradient_clip_val")
            ),
            *(("model.optim.lr", ".inf"), ("model.lambda_sal", "-.inf"), ("prune.rule.alpha", ".inf")),
        )
    ),
    ("--model.optim.betas=[.nan,0.9]", "model.optim.betas: expected a number, got 'nan'", ""),
    ("--prune.also=[.nan]", "--prune.also nan: a number is wanted", ""),
    ("--seed_everything=1.5", "seed_everything: expected a whole number, got '1.5'", ""),
    ("--seed_everything=null", "seed_everything: expected a whole number, got null", ""),
    ("--seed_everything=x", "seed_everything: expected a whole number, got 'x'", ""),
    ("--model.optim.betas=[0.9,1.5]", "--model.optim.betas [0.9, 1.5]: in [0, 1)", ""),
    ("--model.optim.warmup=2", "--model.optim.warmup 2.0: a share of the steps, in [0, 1]", ""),
    ("--trainer.profiler=foo", "When passing string value for the `profiler` parameter", "'simple'"),
    ("--trainer.barebones=true", "--trainer.barebones True: without metrics and checkpoints there is no result", ""),
    ("--trainer.reload_dataloaders_every_n_epochs=-1", "`reload_dataloaders_every_n_epochs` should be an int", ""),
    ("--trainer.default_root_dir=s3://bucket/x", "--trainer.default_root_dir s3://bucket/x: a run writes to this", ""),
    ("--trainer.model_registry=mine", "--trainer.model_registry mine: nothing is uploaded", ""),
    ("--weights_only=false", "no setting 'weights_only'", ""),
    ("test --ckpt_path=best", "no checkpoint best", "a file, or last"),
    ("--verbose=true", "no setting 'verbose'", ""),
]


@pytest.mark.parametrize(("given", "begins", "says"), REFUSED, ids=[given for given, *_ in REFUSED])
def test_a_flag_that_a_run_cannot_follow_is_one_line(given: str, begins: str, says: str, fails: Any) -> None:
    verb, *others = given.split() if not given.startswith("-") else ["fit", *given.split()]
    line = fails(verb, *others)
    assert line.startswith(begins)
    assert says in line


def test_one_batch_is_no_share_of_them_whatever_order_the_union_has(monkeypatch: pytest.MonkeyPatch) -> None:
    counted = ["limit_train_batches", "limit_val_batches", "limit_test_batches", "limit_predict_batches"]
    kinds = inspect.unwrap(Trainer.__init__).__annotations__
    for name in counted:
        monkeypatch.setitem(kinds, name, float | int | None)
    flags_of_one = [f"--trainer.{name}=1" for name in counted]
    trainer = build_cli(["fit", "--config", SMOKE, *flags_of_one], run=False).config["fit"].trainer
    assert [type(trainer[name]) for name in counted] == [int] * 4
    trainer = build_cli(["fit", "--config", SMOKE, "--trainer.limit_val_batches=0.5"], run=False).config["fit"].trainer
    assert trainer.limit_val_batches == 0.5


def test_a_value_below_the_least_is_one_line() -> None:
    parsed = build_cli(["fit", "--config", SMOKE], run=False).config["fit"].trainer
    for name, least in flags.LEAST.items():
        trainer = parsed.clone()
        flags.check("fit", trainer, 1.0)
        trainer[name] = least - 1
        with pytest.raises(CraftError, match=f"^--trainer.{name} {least - 1}: at least {least}$"):
            flags.check("fit", trainer, 1.0)


def same(found: Run, usual: Run) -> bool:
    """The same training and validation, to the last bit."""
    metrics = {k: v for k, v in found.result["metrics"].items() if not k.startswith("lr")}
    return torch.equal(found.weights, usual.weights) and metrics == usual.result["metrics"]


EFFECTS: dict[str, Callable[[Run, Run], Any]] = {
    "--trainer.accelerator=auto": lambda r, usual: r.trainer.strategy.root_device.type == "cpu" or usual,
    "--trainer.devices=auto --trainer.num_nodes=1": lambda r, usual: r.trainer.world_size == 1 and same(r, usual),
    "--trainer.precision=32": lambda r, usual: r.trainer.precision == "32-true" and same(r, usual),
    "--trainer.precision=bf16": lambda r, usual: (
        "precision bf16-mixed" in r.result["strategy"]
        and r.weights.dtype is torch.float32
        and 0 < (r.weights - usual.weights).abs().max() < 2e-3
    ),
    "--trainer.logger=false": lambda r, usual: not (r.folder / "events").exists() and same(r, usual),
    "--trainer.logger=CSVLogger --trainer.logger.save_dir=logs": lambda r, usual: (
        "val/accuracy" in next(Path("logs").rglob("metrics.csv")).read_text()
        and (r.folder / "checkpoints" / "last.ckpt").exists()
        and not list(Path("logs").rglob("*.ckpt"))
        and same(r, usual)
    ),
    "--trainer.callbacks=LearningRateMonitor": lambda r, usual: (
        any(isinstance(c, LearningRateMonitor) for c in r.trainer.callbacks) and same(r, usual)
    ),
    "--trainer.callbacks=RichProgressBar": lambda r, usual: "2/2" in r.out and "step 2/2" not in r.err,
    "--trainer.callbacks+=ModelSummary --trainer.callbacks.max_depth=1": lambda r, usual: "Trainable params" in r.out,
    "--trainer.callbacks=TokenMap --trainer.callbacks.enabled=true": lambda r, usual: (
        (r.folder / "token_map.fit.png").exists() and same(r, usual)
    ),
    "--trainer.callbacks=ModelCheckpoint --trainer.callbacks.monitor=val/accuracy --trainer.logger=false": (
        lambda r, usual: len(list((r.folder / "checkpoints").glob("epoch*.ckpt"))) == 1
    ),
    # It stops at the second step, which the interval of 50 does not validate.
    "--trainer.callbacks=EarlyStopping --trainer.callbacks={monitor: train/loss, patience: 1, min_delta: 100, "
    "check_on_train_epoch_end: true} --trainer.max_steps=50 --trainer.val_check_interval=50": lambda r, usual: (
        r.result["steps"] == 4 and r.watch.validated == [4] and r.rows() == 4
    ),
    "--trainer.max_epochs=1": lambda r, usual: r.result["steps"] == 2 and same(r, usual),
    "--trainer.max_epochs=2 --trainer.max_steps=-1 --trainer.val_check_interval=-1": lambda r, usual: (
        r.result["steps"] == 4 and r.watch.validated == [4] and _ends(r)
    ),
    "--trainer.min_steps=2 --trainer.min_epochs=1": lambda r, usual: same(r, usual),
    "--trainer.max_time=00:00:00:00": lambda r, usual: r.result["steps"] == 0 and r.watch.validated == [0],
    "--trainer.limit_train_batches=1": lambda r, usual: (
        r.trainer.current_epoch == 2
        and r.watch.keys[0] == usual.watch.keys[0]
        and r.watch.keys[1] != usual.watch.keys[1]
    ),
    "--trainer.limit_train_batches=0.5": lambda r, usual: (
        r.trainer.current_epoch == 2 and r.result["steps"] == 2 and r.result["data"]["limits"] == {"train": 0.5}
    ),
    "--trainer.limit_val_batches=1": lambda r, usual: (
        r.result["rows"] == r.rows() == 2 and torch.equal(r.weights, usual.weights)
    ),
    "--trainer.limit_val_batches=0": lambda r, usual: (
        r.result["rows"] == 0 and r.watch.validated == [] and "val/accuracy" not in r.result["metrics"]
    ),
    "--trainer.val_check_interval=1": lambda r, usual: r.watch.validated == [1, 2],
    "--trainer.val_check_interval=100": lambda r, usual: r.watch.validated == [2] and same(r, usual),
    "--trainer.val_check_interval=0.5 --trainer.check_val_every_n_epoch=1": lambda r, _: r.watch.validated == [1, 2],
    "--trainer.val_check_interval=00:01:00:00": lambda r, usual: r.watch.validated == [2] and same(r, usual),
    "--trainer.val_check_interval=null --trainer.check_val_every_n_epoch=2 --trainer.max_steps=4": lambda r, _: (
        r.watch.validated == [4]
    ),
    "--trainer.num_sanity_val_steps=-1": lambda r, usual: same(r, usual),
    "--trainer.log_every_n_steps=1": lambda r, usual: r.scalars("train/loss") == [0, 1],
    "--trainer.log_every_n_steps=2": lambda r, usual: r.scalars("train/loss") == [1] and same(r, usual),
    "--trainer.log_every_n_steps=0": lambda r, usual: r.scalars("train/loss") == [] and same(r, usual),
    "--trainer.enable_checkpointing=false": lambda r, usual: (
        not (r.folder / "checkpoints").exists() and (r.folder / "encoder").exists() and same(r, usual)
    ),
    "--trainer.enable_progress_bar=false": lambda r, usual: "step 2/2" not in r.err and same(r, usual),
    "--trainer.enable_model_summary=true": lambda r, usual: "Trainable params" in r.out and same(r, usual),
    "--trainer.accumulate_grad_batches=2": lambda r, usual: (
        r.result["steps"] == 2 and len(r.watch.keys) == 4 and _loss(r) == pytest.approx(_loss(usual), rel=1e-5)
    ),
    "--trainer.gradient_clip_val=0.01 --model.optim.clip=null": lambda r, usual: (
        r.watch.norms == pytest.approx([0.01, 0.01], rel=1e-3)
    ),
    "--trainer.gradient_clip_val=0.01 --model.optim.clip=0.01": lambda r, usual: (
        r.watch.norms == pytest.approx([0.01, 0.01], rel=1e-3)
    ),
    "--model.optim.clip=0.01": lambda r, usual: r.watch.norms == pytest.approx([0.01, 0.01], rel=1e-3),
    "--model.optim.clip=null": lambda r, usual: min(r.watch.norms) > 1.5 > max(usual.watch.norms),
    "--trainer.gradient_clip_val=0 --model.optim.clip=null": lambda r, usual: min(r.watch.norms) > 1.5,
    "--trainer.gradient_clip_val=0.001 --trainer.gradient_clip_algorithm=value --model.optim.clip=null": lambda r, _: (
        r.watch.largest == pytest.approx([0.001, 0.001]) and min(r.watch.norms) > 0.002
    ),
    "--trainer.deterministic=true": lambda r, usual: torch.are_deterministic_algorithms_enabled() and same(r, usual),
    "--trainer.deterministic=warn": lambda r, usual: (
        torch.is_deterministic_algorithms_warn_only_enabled() and same(r, usual)
    ),
    "--trainer.benchmark=true": lambda r, usual: torch.backends.cudnn.benchmark and same(r, usual),
    "--trainer.use_distributed_sampler=false --trainer.sync_batchnorm=true": lambda r, usual: same(r, usual),
    "--trainer.profiler=simple": lambda r, usual: "FIT Profiler Report" in r.out and same(r, usual),
    "--trainer.detect_anomaly=true": lambda r, usual: r.watch.anomaly and not usual.watch.anomaly and same(r, usual),
    "--trainer.plugins=LightningEnvironment": lambda r, usual: same(r, usual),
    "--trainer.enable_autolog_hparams=false": lambda r, usual: same(r, usual),
    "--seed_everything=4294967295": lambda r, usual: (
        r.result["seed"] == r.result["data"]["seed"] == 2**32 - 1 and r.watch.keys != usual.watch.keys
    ),
    "test --trainer.limit_test_batches=1": lambda r, usual: (
        r.result["rows"] == r.rows() == 2 and r.result["data"]["limits"] == {"test": 1}
    ),
    "test --trainer.limit_test_batches=0.5": lambda r, usual: r.result["rows"] == r.rows() == 2,
    "predict --trainer.limit_predict_batches=1 --return_predictions=false": lambda r, usual: r.rows() == 2,
    "validate --trainer.limit_val_batches=1": lambda r, usual: r.result["rows"] == r.rows() == 2,
    "test --trainer.inference_mode=false": lambda r, usual: not r.watch.inference,
    "test --trainer.inference_mode=true": lambda r, usual: r.watch.inference,
    "test --verbose=false": lambda r, usual: "test/exact_match" not in r.out and r.rows() == 4,
}


def _loss(run: Run) -> float:
    return float(run.result["metrics"]["train/loss"])


def _ends(run: Run) -> bool:
    """The learning rate has come to its end, so the schedule knew the number of steps."""
    (rate,) = {group["lr"] for group in run.trainer.optimizers[0].param_groups}
    return math.isclose(rate, 0.0, abs_tol=1e-12)


@pytest.mark.parametrize("given", list(EFFECTS))
def test_a_flag_does_what_it_says(given: str, run: Runs, usual: Run) -> None:
    verb, _, rest = given.partition(" ") if not given.startswith("-") else ("fit", "", given)
    argv = [f"--{flag.strip()}" for flag in f" {rest}".split(" --")[1:]]
    assert EFFECTS[given](run(*argv, verb=verb), usual)


def test_every_flag_of_the_trainer_is_here() -> None:
    told = " ".join([*EFFECTS, *(given for given, *_ in REFUSED), "--trainer.fast_dev_run=true"])
    names = [name for name in inspect.signature(Trainer).parameters if f"--trainer.{name}=" not in told]
    assert names == []


def test_two_loggers_of_a_config_file_both_log(run: Runs, usual: Run, tmp_path: Path) -> None:
    loggers = [
        {"class_path": name, "init_args": {"save_dir": str(tmp_path / name)}}
        for name in ("CSVLogger", "TensorBoardLogger")
    ]
    found = run(fragment(tmp_path, {"trainer": {"logger": loggers}}))
    assert len(list((tmp_path / "CSVLogger").rglob("metrics.csv"))) == 1
    assert len(list((tmp_path / "TensorBoardLogger").rglob("events.out.tfevents*"))) == 1
    assert (found.folder / "checkpoints" / "last.ckpt").exists()
    assert same(found, usual)


@pytest.mark.parametrize("verb", ["fit", "test"])
def test_fast_dev_run_goes_through_everything_and_keeps_nothing(verb: str, run: Runs) -> None:
    found = run("--trainer.fast_dev_run=true", verb=verb)
    assert not found.folder.exists()
    assert "none: fast_dev_run keeps nothing" in found.err
    assert found.trainer.global_step == (verb == "fit")
    assert not Path(found.trainer.default_root_dir).exists()


def test_reloading_the_data_each_epoch_changes_nothing(run: Runs) -> None:
    longer = ["--trainer.max_steps=4", "--trainer.val_check_interval=4", "--overwrite=true"]
    first, second = run(*longer), run(*longer, "--trainer.reload_dataloaders_every_n_epochs=1")
    assert first.watch.keys == second.watch.keys
    assert torch.equal(first.weights, second.weights)


@pytest.mark.parametrize("name", ["craft", "ldifs", "llm_lora", "projector_ft", "vision_ft"])
def test_the_shipped_examples_train_one_epoch(name: str, checkpoints: Path, tmp_path: Path) -> None:
    model = checkpoints / ("continuous" if name in ("ldifs", "vision_ft") else "host")
    where = [f"--model.backbone.name={model}", f"--trainer.default_root_dir={tmp_path / 'run'}"]
    epoch = ["--trainer.max_epochs=1", "--trainer.max_steps=-1", "--data.batch_size=8"]
    watch = Watch()
    example = str(ROOT / "experiments" / "examples" / f"{name}.yaml")
    cli = build_cli(["fit", "--config", example, *SMALL, *where, *epoch], callbacks=[watch])
    found = Run(cli, tmp_path / "run", watch, "", "")
    assert found.result["steps"] == 2
    assert watch.validated == [2]
    assert _ends(found)
    again = yaml.safe_load((found.folder / "config.yaml").read_text())["trainer"]
    assert (again["max_epochs"], again["val_check_interval"], again["check_val_every_n_epoch"]) == (1, 1.0, 1)


def test_a_limited_epoch_is_resumed_as_what_it_is(run: Runs) -> None:
    """The next epoch begins, where the rows that were left out of the last one would come otherwise."""
    limited = ["--trainer.limit_train_batches=1", "--trainer.limit_val_batches=0"]
    whole = run(*limited, "--trainer.max_steps=3").watch.keys
    run(*limited, "--trainer.max_steps=2", "--overwrite=true")
    assert run(*limited, "--trainer.max_steps=3", "--ckpt_path=last").watch.keys == whole[2:]


def test_a_step_of_accumulated_batches_is_counted_whole_by_limits(run: Runs) -> None:
    found = run("--trainer.limit_train_batches=2", "--trainer.accumulate_grad_batches=2")
    assert found.trainer.current_epoch == 2
    assert len(found.watch.keys) == 4


@pytest.mark.parametrize(
    ("given", "at"),
    [
        # The checkpoint of an epoch's end: half a step would be taken of an epoch that has no more.
        (["--trainer.accumulate_grad_batches=2", "--trainer.max_steps=4"], 2),
        # The number of steps is asked of the data before the checkpoint is read.
        (["--trainer.max_epochs=2", "--trainer.max_steps=-1", "--checkpoint.every_n_train_steps=1"], 3),
    ],
    ids=["accumulated batches", "epochs"],
)
def test_what_was_interrupted_goes_on_with_the_rows_that_come(given: list[str], at: int, run: Runs) -> None:
    given = [*given, "--trainer.limit_val_batches=0"]
    whole = run(*given)
    with pytest.raises(RuntimeError, match="stopped"):
        run(*given, "--overwrite=true", stop=at)
    rest = run(*given, "--ckpt_path=last")
    assert rest.watch.keys == whole.watch.keys[-len(rest.watch.keys) :]
    assert len(rest.watch.keys) == len(whole.watch.keys) * (4 - at) // 4
    assert torch.equal(rest.weights, whole.weights)
