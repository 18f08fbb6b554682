"""Writes the adapted encoder, with the prior of its codes, as one folder at the end of training."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from craft_lightning import run_facts
from craft_lightning.checkpoints.codebook_growth import growth_bytes
from craft_lightning.checkpoints.encoder import growth_of, write_encoder
from craft_lightning.errors import CraftError
from craft_lightning.evaluation.prior import domain_counts


class EncoderExport(Callback):
    """``encoder/`` in the run folder, for any model of the same codebook: ``--encoder FOLDER``.

    Nothing is written by a method that leaves the encoder as it was, nor by one whose evaluations need more than the
    encoder: what is plugged in elsewhere would not be what was trained. Such a run says so when it begins.
    """

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        module: Any = pl_module
        if module.beside_encoder and trainer.is_global_zero:
            path = Path(trainer.default_root_dir) / "checkpoints" / "last.ckpt"
            told = f"no encoder is exported: it is nothing without {module.beside_encoder}; test --ckpt_path {path}"
            print(f"craft_lightning: {told}", file=sys.stderr)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the weights that the tower uses; all of them, so that the folder stands alone."""
        module: Any = pl_module
        if module.beside_encoder or not any(p.requires_grad for _, p in module.vlm.tower.used_parameters()):
            return
        used = dict(module.vlm.tower.used_weights())
        prior, told = None, ""
        if module.vlm.tower.quantizer is not None and getattr(trainer, "datamodule", None) is not None:
            try:
                prior = domain_counts(trainer, module)
            except CraftError as error:  # an image that no step drew is broken: no reason to lose the training
                told = f"the encoder is exported without the prior of its codes, which a test counts again: {error}"
        if not trainer.is_global_zero:
            return
        if told:
            print(f"craft_lightning: {told}", file=sys.stderr)
        write_encoder(
            Path(trainer.default_root_dir) / "encoder",
            used,
            base=module.backbone.name,
            codebook_hash=module.vlm.codebook_hash,
            method=module.name,
            base_hash=module.vlm.tower.base_hash,
            codebook_share=module.backbone.codebook_share,
            codebook_growth=growth_bytes(module.vlm.tower.quantizer),
            token_prior=prior,
            run=training(trainer, module),
        )


def training(trainer: Trainer, module: Any) -> dict[str, Any]:
    """What is kept of a training beside its weights: data, steps, seed, settings, and scores on validation items."""
    data = run_facts.data_facts(trainer)
    kept = ("dataset", "title", "source", "licence", "splits", "limits", "held_out")
    told = {name: data[name] for name in kept if data.get(name)}
    if told:
        told["classes"] = list(trainer.datamodule.open()[0].class_names)  # type: ignore[attr-defined]
    settings = {k: v for k, v in sorted(module.hparams.items()) if isinstance(v, int | float | str) and k[0] != "_"}
    if module.backbone.language_dtype != "same":
        settings["language model in"] = module.backbone.language_dtype
    if module.backbone.codebook_share < 1.0:
        settings["share of the codebook"] = module.backbone.codebook_share
    if (growth := growth_of(module.backbone)) is not None:
        settings["codebook grown by"] = Path(growth).name
    scores = {k: v for k, v in sorted(trainer.callback_metrics.items()) if k.startswith("val/accuracy")}
    told |= {"steps": trainer.global_step, "seed": run_facts.seed(), "scores": scores}
    return run_facts.plain({**told, "settings": {"learning rate": module.optim.lr, **settings}})
