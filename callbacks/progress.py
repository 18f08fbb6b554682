"""Lightning's progress bar, over the whole run: its steps are those of all epochs, and so is the time left."""

from __future__ import annotations

import math
import sys
import time
from typing import Any

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import TQDMProgressBar

INTERVAL = 5.0
"""Seconds between two lines where no terminal lets one take the place of the other."""


class Progress(TQDMProgressBar):
    """Step of all steps, time left for all of them, speed, loss and the accuracy of the last validation."""

    _told = -math.inf

    def on_train_epoch_start(self, trainer: Trainer, *args: Any) -> None:
        """Lightning's would begin anew; a resumed run's speed is that of its own steps."""
        bar, total = self.train_progress_bar, trainer.estimated_stepping_batches
        if bar.total is None:
            bar.total = int(total) if math.isfinite(total) else None
            bar.initial = bar.n = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        bar, step = self.train_progress_bar, trainer.global_step
        if self._should_update(step, bar.total):
            bar.n = step
            bar.set_postfix(self.get_metrics(trainer, pl_module))

    def get_metrics(self, trainer: Trainer, pl_module: LightningModule) -> dict[str, Any]:
        """What stands behind the bar."""
        found = trainer.callback_metrics
        return {name: f"{float(found[name]):.4g}" for name in ("train/loss", "val/accuracy") if name in found}

    def _should_update(self, current: int, total: int | None) -> bool:
        if sys.stdout.isatty() or current == total:
            return self.is_enabled
        now = time.monotonic()
        due = now - self._told >= INTERVAL
        self._told = now if due else self._told
        return self.is_enabled and due
