"""What SteCheck costs: fits of a pocket model with and without it, in turn, and the medians of their training times.

    python benchmarks/ste_check.py [--pairs 7] [--steps 100]

CRAFT on drawn satellite tiles with the protocol's batch, the check at its default interval, one thread. Processor time
from the first step to the last: other work on the machine does not count, nor do imports and loading. Two figures: the
median of the differences, and the median of what the check's own hooks take, which no noise between runs can hide.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback

from callbacks.ste_check import SteCheck
from craft_lightning.cli.run import build_cli

EXPERIMENTS = Path(__file__).resolve().parents[1] / "experiments"


HOOKS = ("on_train_batch_start", "on_before_optimizer_step", "on_train_end")


class Stopwatch(Callback):
    """Seconds between the first and the last step, and those in the hooks of SteCheck."""

    seconds = inside = 0.0

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Start."""
        (check,) = [callback for callback in trainer.callbacks if isinstance(callback, SteCheck)]
        for name in HOOKS:
            setattr(check, name, self._timed(getattr(check, name)))
        self.seconds = -time.process_time()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        """Stop."""
        self.seconds += time.process_time()

    def _timed(self, hook: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any) -> Any:
            began = time.process_time()
            hook(*args)
            self.inside += time.process_time() - began

        return timed


def fit(folder: Path, steps: int, watched: bool, *flags: str) -> Stopwatch:
    """One training."""
    files = ("base.yaml", "methods/craft.yaml", "callbacks/ste_check.yaml")
    argv = ["fit", *(f"--config={EXPERIMENTS / file}" for file in files)]
    argv += [f"--ste_check.enabled={str(watched).lower()}", f"--trainer.max_steps={steps}", "--overwrite=true"]
    argv += ["--data.val_size=16", f"--trainer.val_check_interval={steps}", "--trainer.enable_progress_bar=false"]
    watch = Stopwatch()
    build_cli([*argv, f"--trainer.default_root_dir={folder}", *flags], callbacks=[watch])
    return watch


def main() -> None:
    """Print every pair and the medians."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--pairs", type=int, default=7, help="runs of each kind")
    parser.add_argument("--steps", type=int, default=100, help="of each run")
    args = parser.parse_args()
    torch.set_num_threads(1)
    shares, inside, without = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        fit(Path(folder), args.steps, False)  # the first run of a process draws images and warms up
        for pair in range(args.pairs):
            order = (False, True) if pair % 2 == 0 else (True, False)  # neither kind is always the second
            found = {watched: fit(Path(folder), args.steps, watched) for watched in order}
            without.append(found[False].seconds)
            shares.append(found[True].seconds / found[False].seconds - 1.0)
            inside.append(found[True].inside / found[True].seconds)
            print(f"pair {pair}: {shares[-1]:+.2%} of {without[-1]:.2f} s, {inside[-1]:.2%} in the check", flush=True)
    middle = statistics.median
    print(
        f"medians of {args.pairs}: {middle(shares):+.2%} of {middle(without):.2f} s, {middle(inside):.2%} in the check"
    )


if __name__ == "__main__":
    main()
