"""The progress bar: where a whole run is and how long it still takes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from callbacks import progress
from craft_lightning.cli.run import build_cli

SMOKE = str(Path(__file__).resolve().parents[2] / "experiments" / "smoke.yaml")


@pytest.mark.parametrize("interval", [0.0, 3600.0])
def test_a_run_says_where_it_is_of_all_its_steps(
    interval: float, checkpoints: Path, tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    monkeypatch.setattr(progress, "INTERVAL", interval)
    small = ["--data.train_size=16", "--data.val_size=6", "--data.eval_batch_size=4", "--trainer.max_steps=3"]
    where = [f"--model.backbone.name={checkpoints / 'host'}", f"--trainer.default_root_dir={tmp_path}"]
    build_cli(["fit", "--config", SMOKE, *where, *small, "--trainer.val_check_interval=2", "--trainer.logger=false"])
    text = capsys.readouterr().out
    steps = re.findall(r"(\d)/3 \[\d\d:\d\d<\d\d:\d\d, [^\]]*train/loss=[\d.]+", text)
    # Two epochs of two steps each: the count goes on. In a log file lines are rare, but for the first and the last.
    assert sorted(set(steps)) == (["1", "2", "3"] if interval == 0.0 else ["1", "3"])
    assert re.search(r"3/3 \[[^\]]*val/accuracy=[\d.]+", text)
    assert "Epoch" not in text
    build_cli(["test", "--config", SMOKE, *where, *small, "--data.test_size=6"])
    assert "2/2" in capsys.readouterr().out


def test_none_is_shown_where_none_is_wanted(checkpoints: Path, tmp_path: Path, capsys: Any) -> None:
    where = [f"--model.backbone.name={checkpoints / 'host'}", f"--trainer.default_root_dir={tmp_path}"]
    build_cli(["test", "--config", SMOKE, *where, "--data.test_size=6", "--trainer.enable_progress_bar=false"])
    assert "1/1" not in capsys.readouterr().out
