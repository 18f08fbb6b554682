"""Writes the adapted encoder, with the prior of its codes, as one folder at the end of training (DESIGN 4.5)."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from callbacks.token_prior import domain_counts
from craft_lightning.models.layout import write_encoder


class EncoderExport(Callback):
    """``encoder/`` in the run folder, for any model of the same codebook: ``--encoder FOLDER``.

    Nothing is written by a method that leaves the encoder as it was.
    """

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the parameters that the tower uses; all of them, so that the folder stands alone."""
        module: Any = pl_module
        used = dict(module.vlm.tower.used_parameters())
        if not any(p.requires_grad for p in used.values()):
            return
        countable = module.vlm.tower.quantizer is not None and getattr(trainer, "datamodule", None) is not None
        prior = domain_counts(trainer, module) if countable else None
        if not trainer.is_global_zero:
            return
        write_encoder(
            Path(trainer.default_root_dir) / "encoder",
            used,
            base=module.backbone.name,
            codebook_hash=module.vlm.codebook_hash,
            method=module.name,
            token_prior=prior,
        )
