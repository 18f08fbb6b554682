"""``curves.jsonl``: loss terms at every step and validation figures, for readers without TensorBoard's files."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from craft_lightning.writing import write_text

NAME = "curves.jsonl"


class LearningCurves(Callback):
    """One JSON object a line: ``step`` and the scalars of that step (``train/...``, or ``val/...`` of a validation).

    The tables' worker adds it to its runs. A resumed training drops the lines after the step that it goes on from.
    """

    def __init__(self) -> None:
        self.path: Path | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin, or go on."""
        if not trainer.is_global_zero:
            return
        self.path = Path(trainer.default_root_dir) / NAME
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.is_file() else []
        # The last line may have been cut off by the interruption.
        kept = [line for line in lines if line.endswith("}") and json.loads(line)["step"] <= trainer.global_step]
        write_text(self.path, "".join(f"{line}\n" for line in kept))

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        """The terms of this step."""
        self._add(trainer, "train/")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """What this validation found."""
        if not trainer.sanity_checking:
            self._add(trainer, "val/")

    def _add(self, trainer: Trainer, prefix: str) -> None:
        if self.path is None:
            return
        values = {k: round(float(v), 6) for k, v in trainer.callback_metrics.items() if k.startswith(prefix)}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": trainer.global_step, **values}) + "\n")
