"""``checkpoints/last.ckpt`` after every epoch, so that an interrupted training can go on."""

from __future__ import annotations

from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint


class LastCheckpoint(ModelCheckpoint):
    """Lightning's, made to keep its word on ``save_last`` when ``save_top_k`` is 0.

    Lightning 2.6 writes the last checkpoint only beside one of the best ones: with none of those, nothing is on disk
    before the end of training. And at the end it writes only if it never wrote before, which leaves an older step.
    """

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the present step."""
        super().on_train_epoch_end(trainer, pl_module)
        if self._should_save_on_train_epoch_end(trainer):
            self._save_present_step(trainer)

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Save the last step."""
        self._save_present_step(trainer)

    def _save_present_step(self, trainer: Trainer) -> None:
        if self.save_last and not self._should_skip_saving_checkpoint(trainer):
            self._save_last_checkpoint(trainer, self._monitor_candidates(trainer))
