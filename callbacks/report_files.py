"""What a table's report shows besides results: learning curves and a dozen images. The tables' worker adds these."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from craft_lightning.io import fresh_file, write_text

CURVES, EXAMPLES, COUNT = "curves.jsonl", "examples", 12


class ExampleImages(Callback):
    """``examples/<number>.png``, where number is the item's line in ``items.jsonl``, counted from 0.

    The items are spread evenly over the split and chosen by nothing else: the same for every method. At 64 pixels an
    image takes some 5 kB.
    """

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data: Any = getattr(trainer, "datamodule", None)
        if data is None or not trainer.is_global_zero:
            return
        split = data.splits["test"]
        folder = Path(trainer.default_root_dir) / EXAMPLES
        for number in sorted({place * len(split) // COUNT for place in range(COUNT)}):
            with fresh_file(folder / f"{number:05}.png") as temporary:
                split.example(number).image.save(temporary)


class LearningCurves(Callback):
    """One JSON object a line: ``step`` and the scalars of that step (``train/...``, or ``val/...`` of a validation).

    The tables' worker adds it to its runs. A resumed training drops the lines after the step that it goes on from.
    """

    def __init__(self) -> None:
        self.path: Path | None = None

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._begin(trainer)

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        self._add(trainer, "train/")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.sanity_checking or trainer.state.fn != "fit":
            return
        if self.path is None:  # no step was left to take: this validation may be there from before the interruption
            self._begin(trainer, again=True)
        self._add(trainer, "val/")

    def _begin(self, trainer: Trainer, again: bool = False) -> None:
        """Keep the lines of the training that goes on; ``again``: those of a validation of this step are replaced."""
        if not trainer.is_global_zero:
            return
        self.path = Path(trainer.default_root_dir) / CURVES
        lines = self.path.read_text(encoding="utf-8").splitlines() if self.path.is_file() else []
        # The last line may have been cut off by the interruption.
        told = [(line, json.loads(line)) for line in lines if line.endswith("}")]
        kept = [line for line, it in told if it["step"] <= trainer.global_step - (again and "val/accuracy" in it)]
        write_text(self.path, "".join(f"{line}\n" for line in kept))

    def _add(self, trainer: Trainer, prefix: str) -> None:
        if self.path is None:
            return
        values = {k: round(float(v), 6) for k, v in trainer.callback_metrics.items() if k.startswith(prefix)}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": trainer.global_step, **values}) + "\n")
