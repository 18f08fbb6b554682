"""A training ends with a validation of the weights that it leaves, however it came to its end."""

from __future__ import annotations

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loops.fit_loop import _FitLoop


class LastValidation(Callback):
    """Always on in ``fit``. Lightning validates at intervals: after a time limit, an early stop or a number of steps
    that is no multiple of the interval, a result would hold the accuracy of older weights, or none. So would one that
    was interrupted between its last step and its result: there is nothing left to do, and Lightning ends at once.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Put the validation into the loop itself, where weights are still on their devices."""
        if stage == "fit":
            trainer.fit_loop.__class__ = _ValidatingFitLoop

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note which weights were validated."""
        if isinstance(trainer.fit_loop, _ValidatingFitLoop) and not trainer.sanity_checking:
            trainer.fit_loop.validated = trainer.global_step


class _ValidatingFitLoop(_FitLoop):
    validated: int | None = None
    """Step of the last validation of this process."""

    def run(self) -> None:
        """Lightning's; then the validation, if the last step had none."""
        super().run()
        trainer, validation = self.trainer, self.epoch_loop.val_loop
        if self.validated == self.epoch_loop.global_step or not trainer.enable_validation:
            return
        validation.restarting = False  # all of it, whatever the checkpoint says of an earlier one
        trainer.validating = True  # as the training loop does: hooks and metrics belong to this validation
        validation.run()
        trainer.training = True
