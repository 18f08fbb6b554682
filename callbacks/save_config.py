"""``config.yaml``: all that repeats a run of the command line."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path
from typing import Any

import yaml
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.cli import SaveConfigCallback

from craft_lightning import __version__
from craft_lightning.io import fresh_file
from craft_lightning.run_folder import MARK

NOT_HASHED = ("default_root_dir", "logger", "enable_progress_bar", "enable_model_summary")
"""Settings of the trainer that change where a run writes and what it shows, but not what it finds."""


class SaveConfig(SaveConfigCallback):
    """Writes the complete resolved config into the run folder: ``config.yaml`` for fit, ``config.test.yaml``... Its
    ``hash`` is the SHA-256 of it without :data:`NOT_HASHED`, ``overwrite`` and the names of configs."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        text = self.parser.dump(self.config, skip_none=False, skip_link_targets=False, format="yaml")
        kept = {k: v for k, v in yaml.safe_load(text).items() if k not in ("config", "overwrite")}
        kept["trainer"] = {k: v for k, v in kept.get("trainer", {}).items() if k not in NOT_HASHED}
        self.hash = hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode()).hexdigest()

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
