"""A training ends with a validation of the weights that it leaves, and goes on with the rows that it had not seen."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loops.fit_loop import _FitLoop
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop


class LastValidation(Callback):
    """Always on in ``fit``. Lightning validates at intervals: after a time limit, an early stop or a number of steps
    that is no multiple of the interval, a result would hold the accuracy of older weights, or none. So would one that
    was interrupted between its last step and its result: there is nothing left to do, and Lightning ends at once.
    """

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Put the validation into the loop itself, where weights are still on their devices."""
        if stage == "fit":
            trainer.fit_loop.__class__ = _ValidatingFitLoop
            trainer.fit_loop.epoch_loop.__class__ = _WholeStepsLoop

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Note which weights were validated."""
        if isinstance(trainer.fit_loop, _ValidatingFitLoop) and not trainer.sanity_checking:
            trainer.fit_loop.validated = trainer.global_step


class _ValidatingFitLoop(_FitLoop):
    validated: int | None = None
    """Step of the last validation of this process."""

    def setup_data(self) -> None:
        """Lightning's; and the loader goes on where it was, even if it had to be asked for the length of an epoch
        (``max_epochs``) before the checkpoint was read."""
        super().setup_data()
        self._load_combined_loader_states()

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


class _WholeStepsLoop(_TrainingEpochLoop):
    def run(self, data_fetcher: Any) -> None:
        """Lightning's, which notes the end of a restart with a batch."""
        super().run(data_fetcher)
        self.on_iteration_done()

    @property
    def _is_validation_done(self) -> bool:
        """A training that goes on at the end of an epoch without a validation takes no batch more of it, which would be
        a part of a step where batches are accumulated."""
        fetcher = self.trainer.fit_loop._data_fetcher
        return super()._is_validation_done or (fetcher is not None and not self._should_check_val_fx(fetcher))
