"""``config.yaml``: all that repeats a run."""

from __future__ import annotations

from pathlib import Path

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback

from craft_lightning import __version__
from craft_lightning.io import fresh_file
from craft_lightning.run_folder import MARK


class SaveConfig(SaveConfigCallback):
    """Writes the complete resolved config into the run folder: ``config.yaml`` for fit, ``config.test.yaml``..."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Save once, on the first process."""
        if self.already_saved or not trainer.is_global_zero:
            return
        folder = Path(trainer.default_root_dir)
        name = "config.yaml" if stage == "fit" else f"config.{getattr(stage, 'value', stage)}.yaml"
        # Whoever runs this file again must ask again for permission to overwrite.
        config = self.config.clone()
        config.overwrite = False
        self.parser.dump_header = [f"{MARK}{__version__}"]
        with fresh_file(folder / name) as temporary:
            self.parser.save(config, temporary, skip_none=False, overwrite=True, multifile=False)
        self.already_saved = True
