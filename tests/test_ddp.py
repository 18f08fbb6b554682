"""Two processes on one machine train what one process trains."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from PIL import Image

from craft_lightning.cli import build_cli

ROOT = Path(__file__).resolve().parent.parent


def test_two_processes_equal_one(checkpoints: Path, tmp_path: Path) -> None:
    """Batches, gathered captions, answer loss over all tokens and keyed scores: the same as on one device."""

    def argv(name: str, batch: int) -> list[str]:
        sizes = ["--data.train_size=32", "--data.val_size=6", f"--data.batch_size={batch}"]
        steps = ["--trainer.max_steps=3", "--trainer.val_check_interval=3", "--trainer.enable_progress_bar=false"]
        where = [f"--model.backbone.name={checkpoints / 'host'}", f"--trainer.default_root_dir={tmp_path / name}"]
        maps = ["--token_map.enabled=true"]
        return ["fit", "--config", str(ROOT / "experiments" / "smoke.yaml"), *where, *sizes, *steps, *maps]

    build_cli(argv("one", 8))
    two = [*argv("two", 4), "--trainer.devices=2", "--trainer.strategy=ddp"]
    command = [sys.executable, "-m", "craft_lightning", *two]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    states = [torch.load(tmp_path / n / "checkpoints" / "last.ckpt", weights_only=True) for n in ("one", "two")]
    for name, value in states[0]["state_dict"].items():
        torch.testing.assert_close(states[1]["state_dict"][name], value, atol=1e-4, rtol=0.0)
    results = [json.loads((tmp_path / n / "result.json").read_text()) for n in ("one", "two")]
    assert results[0]["rows"] == results[1]["rows"] == 6
    assert results[0]["metrics"]["val/accuracy"] == results[1]["metrics"]["val/accuracy"]
    # Each process saw half of the items that are drawn.
    sheets = [Image.open(tmp_path / n / "token_map.fit.png") for n in ("one", "two")]
    assert sheets[0].size == sheets[1].size
