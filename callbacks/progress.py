"""Where a run is and how long it still takes, on a terminal and in a log file alike."""

from __future__ import annotations

import math
import sys
import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar

INTERVAL = {True: 0.2, False: 5.0}
"""Seconds between two lines: on a terminal, where each replaces the one before it, and elsewhere."""


def duration(seconds: float) -> str:
    """``m:ss``, or ``h:mm:ss`` from an hour on.

    >>> duration(65), duration(3600)
    ('1:05', '1:00:00')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Progress(ProgressBar):
    """One line on standard error: step of all steps, loss, last validation, speed, and the time left for the whole run.

    The estimate is the mean time of a step so far, validations included, times the steps to come.
    """

    def __init__(self) -> None:
        super().__init__()
        self._enabled = True
        self._began = self._told = -math.inf
        self._first = 0
        self._note = ""
        self._width = 0

    def disable(self) -> None:
        """Say nothing (Lightning calls it on all processes but the first)."""
        self._enabled = False

    def enable(self) -> None:
        """Say it again."""
        self._enabled = True

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock; a resumed run counts its own steps only."""
        self._start(trainer.global_step)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *args: Any) -> None:
        """After a training step."""
        loss = outputs["loss"] if isinstance(outputs, dict) else outputs
        total = trainer.estimated_stepping_batches
        self._tell("step", trainer.global_step, total, lambda: "" if loss is None else f"loss {float(loss):.4g}")

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock of a validation that is the whole run."""
        if trainer.state.fn == "validate":
            self._start(0)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *args: Any
    ) -> None:
        """After a batch of validation items."""
        done, total = batch_idx + 1, sum(trainer.num_val_batches)
        if trainer.state.fn == "validate":
            self._tell("batch", done, total)
        elif not trainer.sanity_checking:
            steps = trainer.estimated_stepping_batches
            self._tell("step", trainer.global_step, steps, lambda: f"validating {done}/{total}", last=False)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Keep the accuracy for the lines to come."""
        accuracy = trainer.callback_metrics.get("val/accuracy")
        self._note = "" if accuracy is None else f"val/accuracy {float(accuracy):.3f}"

    def on_test_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._start(0)

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *args: Any
    ) -> None:
        """After a batch of test items."""
        self._tell("batch", batch_idx + 1, sum(trainer.num_test_batches))

    def on_predict_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clock."""
        self._start(0)

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *args: Any
    ) -> None:
        """After a batch of prompts."""
        self._tell("batch", batch_idx + 1, sum(trainer.num_predict_batches))

    def _start(self, first: int) -> None:
        self._began = self._told = time.monotonic()
        self._first = first

    def _tell(self, what: str, done: int, total: float, extra: Any = str, last: bool = True) -> None:
        """Say where the run is, if it is time to; always at the end, unless there is more to come (``last`` False)."""
        now, terminal = time.monotonic(), sys.stderr.isatty()
        ends = last and done >= total
        if not self._enabled or (now - self._told < INTERVAL[terminal] and not ends):
            return
        self._told = now
        speed = (done - self._first) / max(now - self._began, 1e-9)
        parts = [f"{what} {done}/{int(total) if math.isfinite(total) else '?'}", extra(), self._note]
        parts += [f"{speed:.3g} {what}{'es' if what == 'batch' else 's'}/s"] if speed else []
        if ends:
            parts.append(f"{duration(now - self._began)} in all")
        elif speed and math.isfinite(total):
            parts.append(f"{duration((total - done) / speed)} left")
        line = "  ".join(filter(None, parts))
        if terminal:
            padded, self._width = line.ljust(self._width), len(line)
            print(f"\r{padded}", end="\n" if ends else "", file=sys.stderr, flush=True)
        else:
            print(line, file=sys.stderr, flush=True)
