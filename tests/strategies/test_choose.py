"""``strategy: auto``: what is chosen on a dozen machines, who wins over it, and what the run's config then says."""

from __future__ import annotations

import functools
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from benchmarks.strategies import MACHINES, batch_on, numbers
from callbacks.run_banner import StrategyAdvisor
from craft_lightning.cli.run import build_cli
from craft_lightning.errors import CraftError
from craft_lightning.strategies import choose as strategy
from craft_lightning.strategies.choose import Choice, Given, Machine, choose, this_machine
from craft_lightning.strategies.memory import Profile

ROOT = Path(__file__).resolve().parents[2]
GIB = 2**30


POCKET, HALF, SEVEN = "pocket-vila-u", "qwen2-0.5b", "vila-u-7b-256"

FULL, BF16 = "32-true", "bf16-mixed"
TABLE = [
    # model, machine, kind, precision, parts, rows of a pass, recompute, fits
    (POCKET, "laptop", "single", FULL, 1, 24, False, True),
    (POCKET, "1x8gb", "single", FULL, 1, 24, False, True),
    (POCKET, "2x40gb", "ddp", FULL, 1, 12, False, True),
    (POCKET, "8x40gb", "ddp", FULL, 1, 3, False, True),
    (POCKET, "2x8x40gb", "ddp", FULL, 1, 2, False, True),
    (HALF, "laptop", "single", FULL, 1, 24, True, True),
    (HALF, "1x8gb", "single", BF16, 2, 12, True, True),
    (HALF, "1x24gb", "single", BF16, 1, 24, False, True),
    (HALF, "2x24gb", "ddp", BF16, 1, 12, False, True),
    (HALF, "8x40gb", "ddp", BF16, 1, 3, False, True),
    (HALF, "8x8gb", "fsdp2", BF16, 1, 3, False, True),
    (HALF, "8x8gb, deepspeed", "zero2", BF16, 1, 3, False, True),
    (SEVEN, "laptop", "single", FULL, 24, 1, True, False),
    (SEVEN, "1x8gb", "single", BF16, 24, 1, True, False),
    (SEVEN, "1x24gb", "single", BF16, 12, 2, False, True),
    (SEVEN, "1x40gb", "single", BF16, 3, 8, False, True),
    (SEVEN, "1x80gb", "single", BF16, 1, 24, False, True),
    (SEVEN, "2x24gb", "ddp", BF16, 12, 1, False, True),
    (SEVEN, "2x40gb", "ddp", BF16, 2, 6, False, True),
    (SEVEN, "8x40gb", "ddp", BF16, 1, 3, False, True),
    (SEVEN, "8x8gb", "fsdp2", BF16, 3, 1, False, True),
    (SEVEN, "8x8gb, deepspeed", "fsdp2", BF16, 3, 1, False, True),
    (SEVEN, "8x19gb, deepspeed", "zero2", BF16, 3, 1, False, True),
    (SEVEN, "2x8x40gb", "ddp", BF16, 1, 2, False, True),
]


@functools.cache
def known(name: str) -> Profile:
    return numbers(name)


@pytest.mark.parametrize(("model", "machine", "kind", "precision", "parts", "rows", "recompute", "fits"), TABLE)
def test_the_table(
    model: str, machine: str, kind: str, precision: str, parts: int, rows: int, recompute: bool, fits: bool
) -> None:
    where = MACHINES[machine]
    batch = batch_on(where)
    found = choose(known(model), where, batch)
    assert (found.kind, found.precision, found.parts, found.rows, found.recompute, found.fits) == (
        *(kind, precision, parts, rows, recompute, fits),
    ), found.reason
    assert found.rows * found.parts * where.processes == batch
    assert fits == (found.estimate.peak <= where.room)
    assert found.dtype == ("bfloat16" if precision == BF16 else "float32")
    assert 1 <= found.eval_rows <= 64


def test_the_fragment_for_two_nodes_is_a_machine_of_the_table() -> None:
    files = [ROOT / "experiments" / name for name in ("base.yaml", "methods/craft.yaml", "hardware/2x8x40gb.yaml")]
    config = build_cli(["fit", *(f"--config={file}" for file in files)], run=False).config["fit"]
    machine = MACHINES["2x8x40gb"]
    assert config.trainer.strategy == "auto"
    assert (config.trainer.devices, config.trainer.num_nodes) in {
        (kind(machine.devices), machine.nodes) for kind in (int, str)
    }
    assert (config.trainer.accelerator, config.data.batch_size) == ("gpu", batch_on(machine))


def test_the_reason_says_what_was_decided() -> None:
    found = choose(known(SEVEN), MACHINES["1x24gb"], 24)
    assert found.reason.startswith("one device, ")
    assert "12 accumulated batches of 2 rows; bfloat16 with float32 master weights" in found.reason
    assert "cut in 8" in choose(known(SEVEN), MACHINES["8x8gb"], 24).reason
    assert "does not fit by the estimate" in choose(known(SEVEN), MACHINES["1x8gb"], 24).reason


def test_a_language_model_in_4_bits_is_counted_proposed_and_never_cut() -> None:
    small, card = numbers(SEVEN, "nf4"), MACHINES["1x12gb"]
    found, whole = choose(small, card, 24), choose(known(SEVEN), card, 24)
    assert (found.kind, found.fits, whole.fits) == ("single", True, False)
    assert "; with --model.backbone.language_dtype nf4 it would; " in whole.reason
    assert "language_dtype" not in found.reason
    assert small.packed == small.matrices == 32 * (4 * 4096**2 + 3 * 4096 * 11008)
    assert whole.estimate.weights - found.estimate.weights == pytest.approx((2 - 0.5159) * small.packed, rel=1e-4)
    assert {choose(small, MACHINES[name], 24).kind for name in ("8x8gb", "8x8gb, deepspeed")} == {"ddp"}


def test_a_batch_stays_what_the_config_says_or_is_refused() -> None:
    with pytest.raises(CraftError, match="24 rows cannot be shared equally by 16 devices"):
        choose(known(POCKET), MACHINES["2x8x40gb"], 24)
    with pytest.raises(CraftError, match="by 2 devices x 5 accumulated batches"):
        choose(known(POCKET), MACHINES["2x40gb"], 24, given=Given(parts=5))


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (Given(precision="32-true"), {"precision": "32-true", "dtype": "float32"}),
        (Given(dtype="float32"), {"precision": "bf16-mixed", "dtype": "float32"}),
        (Given(parts=24), {"parts": 24, "rows": 1}),
        (Given(parts=1), {"parts": 1, "rows": 24}),
        (Given(recompute=True), {"recompute": True}),
        (Given(recompute=False), {"recompute": False, "parts": 12}),
        (Given(eval_rows=64), {"eval_rows": 64}),
    ],
    ids=str,
)
def test_what_the_user_named_wins(given: Given, expected: dict[str, Any]) -> None:
    found = choose(known(SEVEN), MACHINES["1x24gb"], 24, given=given)
    assert {name: getattr(found, name) for name in expected} == expected


def test_evaluation_takes_as_many_rows_as_fit() -> None:
    small, large = (choose(known(SEVEN), MACHINES[m], 24, eval_rows=64) for m in ("1x24gb", "1x80gb"))
    assert small.eval_rows < large.eval_rows == 64
    frozen = known(SEVEN)
    frozen = type(frozen)(**{**vars(frozen), "trained": 0, "frozen": frozen.parameters, "tower_trains": False})
    tested = choose(frozen, MACHINES["1x24gb"], 24)
    assert (tested.kind, tested.parts, tested.recompute, tested.estimate.activations) == ("single", 1, False, 0)
    assert tested.eval_rows >= small.eval_rows


def test_old_gpus_get_no_bfloat16() -> None:
    found = choose(known(HALF), Machine("cuda", 1, 1, 32 * GIB, bf16=False), 24)
    assert (found.precision, found.dtype) == ("32-true", "float32")


@pytest.mark.parametrize(("devices", "count"), [("2", 2), (2, 2), (1, 1), ("auto", 1)])
def test_devices_arrive_in_many_forms(devices: Any, count: int) -> None:
    """A flag's value is a string; deciding by its type chose one device while two were used."""
    found = this_machine("cpu", devices, 3)
    assert found is not None
    assert (found.kind, found.devices, found.nodes) == ("cpu", count, 3)
    assert GIB < found.memory * count < 2**50


@pytest.mark.parametrize(("devices", "count"), [("2", 2), ([1, 3], 2), ("0,1,2", 3), (-1, 4), ("auto", 4)])
@pytest.mark.parametrize("accelerator", ["gpu", "cuda", "auto"])
def test_gpus_are_counted_and_measured(monkeypatch: Any, accelerator: str, devices: Any, count: int) -> None:
    """As they would be: four pretended GPUs."""
    monkeypatch.setattr(strategy.CUDAAccelerator, "is_available", lambda: True)
    monkeypatch.setattr(strategy.CUDAAccelerator, "auto_device_count", lambda: 4)
    for module in ("lightning.fabric.utilities.device_parser", "lightning.fabric.accelerators.cuda"):
        monkeypatch.setattr(f"{module}._get_all_visible_cuda_devices", lambda: [0, 1, 2, 3], raising=False)
        monkeypatch.setattr(f"{module}.num_cuda_devices", lambda: 4, raising=False)
    facts = SimpleNamespace(total_memory=24 * GIB, major=8)
    monkeypatch.setattr(strategy.torch.cuda, "get_device_properties", lambda device: facts)
    found = this_machine(accelerator, devices, 1)
    assert found == Machine("cuda", count, 1, 24 * GIB, True, found.deepspeed)
    facts.major = 7
    assert this_machine(accelerator, devices, 1).bf16 is False


def test_devices_that_are_not_there_are_one_line(monkeypatch: Any) -> None:
    for accelerator in (strategy.CUDAAccelerator, strategy.MPSAccelerator):
        monkeypatch.setattr(accelerator, "is_available", lambda: False)
    with pytest.raises(CraftError, match=r"--trainer\.devices 0"):
        this_machine("cpu", 0, 1)
    with pytest.raises(CraftError, match=r"--trainer\.accelerator gpu: there is none here"):
        this_machine("gpu", 1, 1)
    assert this_machine("tpu", 1, 1) is None


@pytest.fixture
def run(checkpoints: Path, tmp_path: Path, monkeypatch: Any) -> Callable[..., Any]:
    """A fit on a machine that is pretended; returns the command line's object."""

    def fit(*flags: str, machine: Machine | None = None, verb: str = "fit") -> Any:
        if machine is not None:
            monkeypatch.setattr(strategy, "this_machine", lambda *args: machine)
        where = [f"--model.backbone.name={checkpoints / 'host'}", f"--trainer.default_root_dir={tmp_path / 'run'}"]
        small = ["--data.train_size=16", "--data.val_size=6", "--data.test_size=6", "--trainer.max_steps=2"]
        quiet = ["--trainer.enable_progress_bar=false", "--trainer.val_check_interval=2"]
        config = ["--config", str(ROOT / "experiments" / "smoke.yaml")]
        return build_cli([verb, *config, *where, *small, *quiet, *flags])

    return fit


def tight(rows: int) -> Callable[..., Choice]:
    """The chooser, on a device that holds just ``rows`` rows of the tiny model at a time."""
    known = strategy.choose

    def chosen(numbers: Profile, machine: Machine, batch: int, *args: Any, **options: Any) -> Choice:
        peak = known(numbers, machine, batch, given=Given(parts=batch // rows, eval_rows=1)).estimate.peak
        room = (peak + 1024 + strategy.OUTSIDE["cpu"] * GIB) / strategy.USABLE["cpu"]
        return known(numbers, Machine("cpu", 1, 1, int(room)), batch, *args, **options)

    return chosen


def test_the_choice_is_in_the_run_s_config_banner_and_result(run: Any, tmp_path: Path, capsys: Any) -> None:
    cli = run()
    saved = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text(encoding="utf-8"))
    assert saved["trainer"]["precision"] == "32-true"
    assert saved["trainer"]["accumulate_grad_batches"] == 1
    said = capsys.readouterr().err
    assert "strategy  SingleDevice, precision 32-true: 1 cpu device (one device, " in said
    assert "memory    estimated " in said
    assert " in the first step" in said
    result = yaml.safe_load((tmp_path / "run" / "result.json").read_text(encoding="utf-8"))
    assert "one device" in result["strategy"]
    advisor = next(c for c in cli.trainer.callbacks if isinstance(c, StrategyAdvisor))
    assert 0 < advisor.measured < 2 * GIB


def test_a_device_too_small_accumulates_and_counts_steps_as_before(run: Any, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setattr(strategy, "choose", tight(2))
    monkeypatch.setattr(strategy, "BUSY", 1)
    cli = run("--data.batch_size=8", "--data.eval_batch_size=1")
    assert cli.trainer.accumulate_grad_batches == 4
    assert cli.trainer.global_step == 2
    assert cli.trainer.val_check_batch == 8
    assert cli.trainer.callback_metrics["val/accuracy"] >= 0.0
    saved = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text(encoding="utf-8"))
    assert saved["trainer"]["accumulate_grad_batches"] == 4
    assert saved["data"]["batch_size"] == 8
    assert saved["trainer"]["val_check_interval"] == 8
    again = build_cli(["fit", "--config", str(tmp_path / "run" / "config.yaml"), "--overwrite=true"])
    assert again.trainer.accumulate_grad_batches == 4
    assert again.trainer.val_check_batch == 8


def test_named_settings_win_on_the_command_line(run: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(strategy, "choose", tight(2))
    monkeypatch.setattr(strategy, "BUSY", 1)
    cli = run("--data.batch_size=8", "--trainer.accumulate_grad_batches=1")
    assert cli.trainer.accumulate_grad_batches == 1
    assert cli.trainer.val_check_batch == 2


def test_a_large_model_on_a_gpu_would_get_bfloat16(run: Any, tmp_path: Path, monkeypatch: Any) -> None:
    """The settings reach the model: frozen weights in bfloat16, trained ones in float32, activations recomputed."""
    monkeypatch.setattr(strategy, "LARGE", 1)
    cli = run("--model.backbone.gradient_checkpointing=true", machine=Machine("cpu", 1, 1, 16 * GIB, bf16=True))
    assert cli.trainer.precision == "bf16-mixed"
    dtypes = {(p.requires_grad, str(p.dtype)) for p in cli.model.parameters()}
    assert dtypes == {(True, "torch.float32"), (False, "torch.bfloat16")}
    saved = yaml.safe_load((tmp_path / "run" / "config.yaml").read_text(encoding="utf-8"))
    backbone = saved["model"]["init_args"]["backbone"]
    assert (backbone["dtype"], backbone["gradient_checkpointing"]) == ("bfloat16", True)
    # The data's backbone follows, in what is hashed too: whoever runs the saved config runs the same.
    assert cli.datamodule.backbone == cli.model.backbone
    assert cli.config["fit"].data.backbone == cli.config["fit"].model.init_args.backbone


def test_a_named_strategy_is_left_alone(run: Any) -> None:
    cli = run("--trainer.strategy=single_device")
    assert not any(isinstance(c, StrategyAdvisor) for c in cli.trainer.callbacks)


def test_an_evaluation_is_laid_out_too(run: Any) -> None:
    cli = run(verb="test", machine=Machine("cpu", 1, 1, 16 * GIB))
    assert cli.trainer.accumulate_grad_batches == 1
    assert cli.trainer.callback_metrics["test/exact_match"] >= 0.0
