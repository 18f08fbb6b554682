"""A training that was interrupted between its last step and its result still gets its last validation."""

from __future__ import annotations

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loops.fit_loop import _FitLoop


class LastValidation(Callback):
    """Always on in ``fit``. A checkpoint of the last step leaves a resumed fit nothing to do, and Lightning ends it at
    once: without a validation, its result would hold no ``val/...`` and no reply.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Put the validation into the loop itself, where weights are still on their devices."""
        if stage == "fit":
            trainer.fit_loop.__class__ = _ValidatingFitLoop


class _ValidatingFitLoop(_FitLoop):
    def run(self) -> None:
        """Lightning's; then the validation, if there was no step to take."""
        before = self.epoch_loop.global_step
        super().run()
        trainer, validation = self.trainer, self.epoch_loop.val_loop
        if self.epoch_loop.global_step > before or not trainer.enable_validation:
            return
        validation.restarting = False  # all of it, whatever the checkpoint says of an earlier one
        trainer.validating = True  # as the training loop does: hooks and metrics belong to this validation
        validation.run()
        trainer.training = True
