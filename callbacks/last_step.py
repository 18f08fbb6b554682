"""A run is that of its last step: its checkpoint, its validation, and the rows that it goes on with."""

from __future__ import annotations

from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from lightning.pytorch.loops.fit_loop import _FitLoop
from lightning.pytorch.loops.training_epoch_loop import _TrainingEpochLoop


class LastCheckpoint(ModelCheckpoint):
    """Lightning's, made to keep its word on ``save_last`` when ``save_top_k`` is 0.

    Lightning 2.6 writes the last checkpoint only beside one of the best ones: with none of those, nothing is on disk
    before the end of training. And at the end it writes only if it never wrote before, which leaves an older step.
    """

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        super().on_train_epoch_end(trainer, pl_module)
        if self._should_save_on_train_epoch_end(trainer):
            self.on_train_end(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the present step."""
        if self.save_last and not self._should_skip_saving_checkpoint(trainer):
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))


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
