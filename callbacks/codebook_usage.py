"""How far a training has moved the codes of the validation images."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch import Tensor

from craft_lightning.errors import CraftError
from craft_lightning.models.sharding import as_forward


class CodesChanged(Callback):
    """Logs ``val/codes_changed``: the share of first-level codes of the validation images that training changed.

    The codes before training (zero-shot ones, unless an adapted encoder was plugged in) are kept in the checkpoint: a
    resumed run compares with the same, and so does ``validate`` of it, on the same items; on others nothing is logged.

    Attributes:
        before: first-level codes ``[N]`` by the item's key. images: what tells their images from others.
    """

    def __init__(self) -> None:
        self.before: dict[str, Tensor] = {}
        self.images: str | None = None
        self._counts = torch.zeros(2)

    def state_dict(self) -> dict[str, Any]:
        return {"before": self.before, "pictures": self.images}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.before, self.images = state_dict["before"], state_dict.get("pictures")

    @torch.no_grad()
    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Encode the validation images with the backbone's own path. Raises CraftError: a training goes on with
        validation items that it did not begin with."""
        module: Any = pl_module
        data: Any = getattr(trainer, "datamodule", None)
        if data is None or trainer.limit_val_batches == 0 or module.vlm.tower.quantizer is None:
            return
        if self.before:
            if new := data.item_hashes("val").keys() - self.before.keys():
                raise CraftError(
                    f"{len(new)} validation items, {min(new)} for one, are none of those that this training began "
                    "with: bring those back, or start again without --ckpt_path"
                )
            return
        self.images = data.digest()["val"]["pictures"]
        # Opening a data loader draws from the global generator, which belongs to the training. What these codes are
        # compared with is computed in the trainer's precision, which alone would change some.
        with torch.random.fork_rng(devices=[]), trainer.precision_plugin.forward_context():
            for batch in data.stored("val"):
                pixels = batch.pixel_values.to(module.device)
                codes = as_forward(module, module.vlm.encode, pixels).codes[..., 0]
                self.before.update(zip(batch.keys, batch.by_row(codes.int().cpu()), strict=True))

    def changed(self, keys: Sequence[str], codes: Tensor) -> Tensor:
        """``[B, N]`` bool: where first-level codes of validation images (``codes`` ``[B, N, R]``) are others now."""
        now = codes[..., 0]
        return torch.stack([self.before[key] for key in keys]).to(now.device) != now

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the last validation; and outside of training the codes of other items or images."""
        if trainer.state.fn != "fit" and self.before:
            data: Any = getattr(trainer, "datamodule", None)
            there = data is not None and data.item_hashes("val").keys() <= self.before.keys()
            if not (there and data.digest()["val"]["pictures"] == self.images):
                self.before = {}
        self._counts = torch.zeros(2, device=pl_module.device)

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, *args: Any, **kwargs: Any
    ) -> None:
        if self.before:
            changed = self.changed(batch.keys, outputs["codes"])[outputs["counted"]]
            self._counts += torch.stack([changed.sum(), torch.tensor(changed.numel(), device=changed.device)])

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self.before:
            changed, total = trainer.strategy.reduce(self._counts, reduce_op="sum")
            pl_module.log("val/codes_changed", changed / total, sync_dist=True)
