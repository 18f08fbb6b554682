"""Fills TensorBoard's HPARAMS tab: one row a run, its settings against the accuracies it ended with."""

from __future__ import annotations

import inspect
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch.utils.tensorboard.summary import hparams

from craft_lightning import run_facts

ACCURACIES = ("test/exact_match", "test/exact_match_seen", "test/exact_match_unseen", "val/accuracy")
"""The columns. TensorBoard shows the last value that a run logged of each, and takes the list from any one run."""

NONE = "none"


class HparamsTab(Callback):
    """Always on. Lightning's own entry would be a constant metric, or none at all.

    Rows need the same settings in every run, under few names: TensorBoard shows the first five.
    """

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """A row for the run: of a training, with its last validation."""
        summaries = hparams(settings(trainer, pl_module), dict.fromkeys(ACCURACIES, 0.0))
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger) and trainer.is_global_zero:
                writer = logger.experiment._get_file_writer()
                for summary in summaries:
                    writer.add_summary(summary)

    on_test_end = on_fit_end

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Where that is the whole run."""
        if trainer.state.fn == "validate":
            self.on_fit_end(trainer, pl_module)


def settings(trainer: Trainer, module: Any) -> dict[str, str | float]:
    """What a row says of a run; the same names, of the same types, for every method and verb.

    ``method`` tells rows of one method apart by what was set otherwise than its defaults: Vision FT with a contrastive
    term is ``vision_ft lambda_contrastive=1.0``. ``surrogate`` is the model that was trained on: the backbone itself in
    training and with a checkpoint, else what the plugged encoder or adapter says of itself, or ``none``.
    """
    plugged = {**(module.vlm.encoder_facts or {}), **(module.vlm.adapter_facts or {})}
    adapted = {"base": module.backbone.name} if module.moved else plugged
    trained = sum(run_facts.trained_parts(module).values())
    return {
        "dataset": str(getattr(getattr(trainer, "datamodule", None), "dataset", NONE)),
        "learning_rate": float(module.optim.lr) if trained else 0.0,
        "method": _named(run_facts.method(module), module),
        "parameters": float(trained),
        "surrogate": str(adapted.get("base", NONE)),
        "tested_on": module.backbone.name,
    }


def _named(method: str, module: Any) -> str:
    if method != module.name:
        return method  # of a plugged encoder, about which the module says nothing
    usual: dict[str, Any] = {}
    for cls in reversed(type(module).__mro__):  # what a class says last holds
        if init := vars(cls).get("__init__"):
            usual |= {name: one.default for name, one in inspect.signature(init).parameters.items()}
    changed = {
        name: value
        for name, value in module.hparams.items()
        if usual.get(name) is not None and isinstance(value, float | int | str) and value != usual[name]
    }
    return " ".join([method, *(f"{name}={value}" for name, value in sorted(changed.items()))])
