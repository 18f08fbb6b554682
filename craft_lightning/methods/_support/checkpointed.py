"""What a method's checkpoint holds, and what has to fit before one is taken over."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any, ClassVar

from lightning.pytorch.utilities import rank_zero_only

from craft_lightning.methods._support import checkpoint_checks as state
from craft_lightning.methods._support import resuming
from craft_lightning.methods._support.step_accounts import StepAccounts
from craft_lightning.models.vlm import DiscreteVlm
from craft_lightning.models.vlm_spec import VlmSpec
from craft_lightning.optim import OptimSpec


class Checkpointed(StepAccounts):
    """What the base of the methods does about checkpoints.

    Attributes:
        weights: hashes of the backbone's parts as they were loaded, see :func:`.resuming.weight_hashes`.
        moved: weights are not the backbone's own any more: in ``fit``, and with a checkpoint's weights.
    """

    name: ClassVar[str]
    vlm: DiscreteVlm
    backbone: VlmSpec
    optim: OptimSpec

    def __init__(self) -> None:
        super().__init__()
        self.weights: dict[str, str] = {}
        self.moved = False
        self._planned: tuple[int | None, int] = (None, 0)  # steps, when the checkpoint was written and now

    def _tell_plan(self) -> None:
        """Say that the learning rate of a training that goes on is planned anew."""
        before, now = self._planned
        if before not in (None, now):
            _say(f"the learning rate was planned for {before} steps, and goes on as one planned for {now}")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep trained tensors only, and say whose they are."""
        kept = {name for name, p in self.named_parameters() if p.requires_grad}
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in kept}
        checkpoint["craft_lightning"] = {
            "format": state.FORMAT,
            "method": self.name,
            "class": f"{type(self).__module__}.{type(self).__qualname__}",
            "codebook_hash": self.vlm.codebook_hash,
            "base_hash": self.vlm.tower.base_hash,
            "weights": self.weights,
            "data": self._data_digest(),
            "steps": self._planned[1],
            "first_gradients": self.first_gradients,
            "parts": self._parts(),
            "trainer": self._of_trainer(),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse what does not fit: another method or codebook, missing, unexpected or misshapen tensors; and what
        would make another training of one that goes on.

        Raises:
            CraftError: with both names, both hashes, both settings, or the first tensors concerned.
        """
        self.configure_model()
        self.moved = True
        facts = state.check_method(checkpoint, self.name)
        state.check_codebook(facts, self.vlm.codebook_hash, self.backbone.name)
        state.check_readers(facts, checkpoint["state_dict"], self.vlm.tower, self.weights, self.backbone.name)
        if self._trainer is not None and self.trainer.state.fn == "fit":
            self._go_on(checkpoint, facts)
        wanted = {name: p for name, p in self.named_parameters() if p.requires_grad}
        state.check_names(checkpoint["state_dict"], wanted, self.name)
        self.first_gradients = dict(facts.get("first_gradients", {}))
        state.count_in_parts(checkpoint, facts.get("parts", 1), self._parts())

    def _go_on(self, checkpoint: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
        path, data = str(self.trainer.ckpt_path), getattr(self.trainer, "datamodule", None)
        given = {**resuming.named(self.hparams, getattr(data, "hparams", {})), **self._of_trainer()}
        found = resuming.check_settings(resuming.changes(checkpoint, given), path)
        if machine := {name: pair for name, pair in found.items() if name.startswith("trainer.")}:
            _say(resuming.tell(machine))
        if "weights" not in facts:
            _say(f"{path} says nothing of its data and weights: whether these are the same cannot be checked")
            return
        self._planned = facts["steps"], self._planned[1]
        resuming.check_weights(facts["weights"], self.weights, self.backbone.name, path)
        resuming.check_data(facts["data"], self._data_digest(), path)

    def _of_trainer(self) -> dict[str, Any]:
        if self._trainer is None or getattr(self.trainer, "fast_dev_run", False):  # which takes one batch of anything
            return {}
        return resuming.of_trainer(self.trainer, self.optim.clip)

    def _data_digest(self) -> dict[str, Any]:
        digest = getattr(None if self._trainer is None else getattr(self.trainer, "datamodule", None), "digest", None)
        return digest() if digest else {}


@rank_zero_only
def _say(line: str) -> None:
    print(f"craft_lightning: {line}", file=sys.stderr)
