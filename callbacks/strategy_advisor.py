"""What a chosen layout took of memory, beside what it was chosen by."""

from __future__ import annotations

import sys
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from craft_lightning import run_facts
from craft_lightning.strategies.choose import Choice


class StrategyAdvisor(Callback):
    """Says after the first step how much memory it took, beside the estimate that the layout was chosen by.

    Args:
        choice: shown by the run's first lines, see :func:`.run_facts.strategy`.
    """

    def __init__(self, choice: Choice) -> None:
        self.choice = choice
        self.measured: int | None = None
        self._before = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Start measuring before the weights are there."""
        self._before = run_facts.forget_peak(trainer)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """Say it, once."""
        if self.measured is not None or trainer.global_step == 0 or not trainer.is_global_zero:
            return
        self.measured = run_facts.peak_memory(trainer) - self._before
        found = self.choice.estimate
        parts = {"weights": found.weights, "gradients and optimiser": found.states, "activations": found.activations}
        held = ", ".join(f"{name} {run_facts.size(part)}" for name, part in parts.items())
        print(
            f"memory    estimated {run_facts.size(sum(parts.values()))} ({held}), "
            f"measured {run_facts.size(self.measured)} in the first step",
            file=sys.stderr,
        )
