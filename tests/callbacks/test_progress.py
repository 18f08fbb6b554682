"""The line of progress: where a run is and how long it still takes."""

from __future__ import annotations

import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from callbacks import progress
from craft_lightning.cli.run import build_cli

SMOKE = str(Path(__file__).resolve().parents[2] / "experiments" / "smoke.yaml")


@pytest.fixture
def clock(monkeypatch: Any) -> SimpleNamespace:
    now = SimpleNamespace(seconds=100.0)
    monkeypatch.setattr(progress, "time", SimpleNamespace(monotonic=lambda: now.seconds))
    return now


def lines_of(capsys: Any) -> list[str]:
    return [line for line in capsys.readouterr().err.splitlines() if re.match(r"(step|batch) ", line)]


def test_a_line_every_five_seconds_with_the_time_left(clock: SimpleNamespace, capsys: Any) -> None:
    bar = progress.Progress()
    trainer: Any = SimpleNamespace(global_step=100, estimated_stepping_batches=300)
    bar.on_train_start(trainer, trainer)
    for step in range(101, 301):
        trainer.global_step = step
        clock.seconds += 2.0
        bar.on_train_batch_end(trainer, trainer, {"loss": 0.5}, None, 0)
    lines = lines_of(capsys)
    assert lines[0] == "step 103/300  loss 0.5  0.5 steps/s  6:34 left"
    assert lines[1].startswith("step 106/300")
    assert lines[-1] == "step 300/300  loss 0.5  0.5 steps/s  6:40 in all"
    assert len(lines) == 67


def test_a_terminal_shows_one_line(clock: SimpleNamespace, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(progress.sys.stderr, "isatty", lambda: True, raising=False)
    bar = progress.Progress()
    trainer: Any = SimpleNamespace(num_test_batches=[2])
    bar.on_test_start(trainer, trainer)
    for index in range(2):
        clock.seconds += 3600.0
        bar.on_test_batch_end(trainer, trainer, None, None, index)
    first, second = capsys.readouterr().err.split("\r")[1:]
    assert first == "batch 1/2  0.000278 batches/s  1:00:00 left"
    assert second == "batch 2/2  0.000278 batches/s  2:00:00 in all\n"


def test_disabled_says_nothing(clock: SimpleNamespace, capsys: Any) -> None:
    bar = progress.Progress()
    bar.disable()
    bar.on_test_start(SimpleNamespace(), SimpleNamespace())  # type: ignore[arg-type]
    clock.seconds += 60.0
    bar.on_test_batch_end(SimpleNamespace(num_test_batches=[1]), SimpleNamespace(), None, None, 0)  # type: ignore[arg-type]
    assert capsys.readouterr().err == ""


def test_runs_say_where_they_are(checkpoints: Path, tmp_path: Path, capsys: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(progress, "INTERVAL", {False: 0.0})
    small = ["--data.train_size=16", "--data.val_size=6", "--data.eval_batch_size=4", "--trainer.max_steps=3"]
    where = [f"--model.backbone.name={checkpoints / 'host'}", f"--trainer.default_root_dir={tmp_path}"]
    build_cli(["fit", "--config", SMOKE, *where, *small, "--trainer.val_check_interval=2", "--trainer.logger=false"])
    captured = capsys.readouterr()
    lines = [line for line in captured.err.splitlines() if line.startswith("step ")]
    assert [line.split("  ")[0] for line in lines] == [f"step {n}/3" for n in (1, 2, 2, 2, 3, 3, 3)]
    assert "validating 1/2" in lines[2]
    assert "val/accuracy" not in lines[1]
    assert "val/accuracy" in lines[4]
    assert all(line.endswith(" left") for line in lines[:4])
    assert lines[4].endswith(" in all")
    assert "validating 2/2" in lines[6]  # the last step has its validation, whatever the interval
    assert "Epoch" not in captured.out + captured.err
    test = ["test", "--config", SMOKE, *where, *small, "--data.test_size=6"]
    build_cli([*test, f"--trainer.default_root_dir={tmp_path / 'test'}"])
    assert [line.split("  ")[0] for line in lines_of(capsys)] == ["batch 1/2", "batch 2/2"]
