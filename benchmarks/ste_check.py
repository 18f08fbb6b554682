"""What SteCheck costs: fits of a pocket model with and without it, in turn, and the medians of their training times.

    python benchmarks/ste_check.py [--pairs 7] [--steps 100]

CRAFT on drawn satellite tiles with the protocol's batch, the check at its default interval, one thread. Processor time
from the first step to the last: other work on the machine does not count, nor do imports and loading.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback

from craft_lightning.cli import build_cli

EXPERIMENTS = Path(__file__).resolve().parents[1] / "experiments"


class Stopwatch(Callback):
    """Seconds between the first and the last step."""

    seconds = 0.0

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Start."""
        self.seconds = -time.process_time()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Stop."""
        self.seconds += time.process_time()


def fit(folder: Path, steps: int, watched: bool, *flags: str) -> float:
    """Seconds of one training."""
    files = ("base.yaml", "methods/craft.yaml", "backbones/pocket-vila-u.yaml", "datasets/eurosat.yaml")
    argv = ["fit", *(f"--config={EXPERIMENTS / file}" for file in (*files, "callbacks/ste_check.yaml"))]
    argv += [f"--ste_check.enabled={str(watched).lower()}", f"--trainer.max_steps={steps}", "--overwrite=true"]
    argv += ["--data.val_size=16", f"--trainer.val_check_interval={steps}", "--trainer.enable_progress_bar=false"]
    watch = Stopwatch()
    build_cli([*argv, f"--trainer.default_root_dir={folder}", *flags], callbacks=[watch])
    return watch.seconds


def main() -> None:
    """Print every pair and the medians."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pairs", type=int, default=7, help="runs of each kind")
    parser.add_argument("--steps", type=int, default=100, help="of each run")
    args = parser.parse_args()
    torch.set_num_threads(1)
    shares, without = [], []
    with tempfile.TemporaryDirectory() as folder:
        fit(Path(folder), args.steps, False)  # the first run of a process draws pictures and warms up
        for pair in range(args.pairs):
            order = (False, True) if pair % 2 == 0 else (True, False)  # neither kind is always the second
            seconds = {watched: fit(Path(folder), args.steps, watched) for watched in order}
            without.append(seconds[False])
            shares.append(seconds[True] / seconds[False] - 1.0)
            print(
                f"pair {pair}: {seconds[False]:.2f} s without, {seconds[True]:.2f} s with, {shares[-1]:+.2%}",
                flush=True,
            )
    print(f"median of {args.pairs}: {statistics.median(shares):+.2%} of {statistics.median(without):.2f} s")


if __name__ == "__main__":
    main()
