"""Pictures of a dozen test items as PNG files, so that a report can show what was asked without drawing it again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from craft_lightning.io import fresh_file

FOLDER = "examples"
COUNT = 12


class ExamplePictures(Callback):
    """``examples/<number>.png``, where number is the item's line in ``items.jsonl``, counted from 0.

    The items are spread evenly over the split and chosen by nothing else: the same for every method. At 64 pixels a
    picture takes some 5 kB.
    """

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write them."""
        data: Any = getattr(trainer, "datamodule", None)
        if data is None or not trainer.is_global_zero:
            return
        split = data.splits["test"]
        folder = Path(trainer.default_root_dir) / FOLDER
        for number in sorted({place * len(split) // COUNT for place in range(COUNT)}):
            with fresh_file(folder / f"{number:05}.png") as temporary:
                split.example(number).image.save(temporary)
