"""What a method's checkpoint holds, and what has to fit before its weights are taken over or trained on: non-strict
loading alone would hide mistakes."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar

import torch
from lightning.pytorch.utilities import rank_zero_only
from torch import Tensor

from craft_lightning.checkpoints.encoder import growth_of
from craft_lightning.errors import CraftError
from craft_lightning.methods._support import resuming
from craft_lightning.methods._support.step_accounts import StepAccounts
from craft_lightning.models.vlm import DiscreteVlm
from craft_lightning.models.vlm_spec import VlmSpec
from craft_lightning.optim import OptimSpec

FORMAT = 1
"""Of checkpoints; later ones are refused."""


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """A checkpoint that ``fit`` wrote, on the CPU; plain values and tensors only. Raises CraftError: no such file, or
    one that is no checkpoint."""
    if not Path(path).is_file():
        raise CraftError(f"no checkpoint {path}")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise CraftError(f"{path} is no checkpoint of fit: it will not be unpickled") from error
    if not isinstance(checkpoint, dict):
        raise CraftError(f"{path} is no checkpoint of fit: it holds a {type(checkpoint).__name__}")
    return checkpoint


def check_method(checkpoint: Mapping[str, Any], method: str | None) -> Mapping[str, Any]:
    """What a checkpoint says of itself, if the format is known and the method is the given one (None accepts any).
    Raises CraftError: not ours, a later format, or another method's."""
    facts: Mapping[str, Any] | None = checkpoint.get("craft_lightning")
    if not facts:
        raise CraftError("the checkpoint was not written by craft_lightning")
    if facts["format"] > FORMAT:
        raise CraftError(f"the checkpoint has format {facts['format']}, this version reads up to {FORMAT}: update it")
    if method is not None and facts["method"] != method:
        raise CraftError(f"the checkpoint is of method {facts['method']!r}, the config names {method!r}")
    return facts


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

    @cached_property
    def _growth(self) -> str | None:
        """Asked for once: an encoder of the hub would be looked up again at every checkpoint."""
        return growth_of(self.backbone)

    def _tell_plan(self) -> None:
        """Say that the learning rate of a training that goes on is planned anew."""
        before, now = self._planned
        if before not in (None, now):
            _say(f"the learning rate was planned for {before} steps, and continues as one planned for {now}")

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Keep what was trained only, and say whose it is."""
        kept = self.stored()
        checkpoint["state_dict"] = {k: v for k, v in checkpoint["state_dict"].items() if k in kept}
        checkpoint.get("hyper_parameters", {}).pop("start_from", None)  # what it began with is here, or has moved on
        checkpoint["craft_lightning"] = {
            "format": FORMAT,
            "method": self.name,
            "class": f"{type(self).__module__}.{type(self).__qualname__}",
            "codebook_hash": self.vlm.codebook_hash,
            "codebook_share": self.backbone.codebook_share,
            "codebook_growth": self._growth,
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
        would make another training of one that goes on. Raises CraftError: with both names, both hashes, both settings,
        or the first tensors concerned."""
        self.configure_model()
        self.moved = True
        facts = check_method(checkpoint, self.name)
        self._check_readers(facts, checkpoint["state_dict"])
        if self._trainer is not None and self.trainer.state.fn == "fit":
            self._go_on(checkpoint, facts)
        _check_names(checkpoint["state_dict"], self.stored(), self.name)
        self.first_gradients = dict(facts.get("first_gradients", {}))
        _count_in_parts(checkpoint, facts.get("parts", 1), self._parts())

    def _begin_with(self, path: str) -> None:
        """Take over the trained weights of another training of this method, and nothing else of it."""
        checkpoint = read_checkpoint(path)
        self._check_readers(check_method(checkpoint, self.name), checkpoint["state_dict"])
        _check_names(checkpoint["state_dict"], self.stored(), self.name)
        self.load_state_dict(checkpoint["state_dict"], strict=False)
        self.moved = True

    def stored(self) -> dict[str, Tensor]:
        """What a checkpoint holds: trained parameters, and the stored buffers of modules that have some, which say what
        they mean."""
        trained = {name for name, p in self.named_parameters() if p.requires_grad}
        owners = {name.rpartition(".")[0] for name in trained}
        beside = {name for name, _ in self.named_buffers() if name.rpartition(".")[0] in owners}
        return {name: tensor for name, tensor in self.state_dict().items() if name in trained | beside}

    def _check_readers(self, facts: Mapping[str, Any], stored: Mapping[str, Tensor]) -> None:
        """Compare what the trained weights work with. Raises CraftError: another codebook or share of it, tower,
        projector or language model.

        An encoder adapted to one codebook is meaningless with another. Without one, its features are read by a
        projector that knows one tower. A trained projector or language model works behind and in front of no other
        weights than its own. A checkpoint of an older version does not say everything.
        """
        backbone, codebook = self.backbone.name, self.vlm.codebook_hash
        if facts["codebook_hash"] != codebook:
            grown = facts.get("codebook_growth")
            mend = f"; take --model.backbone.codebook_growth {grown or 'null'}"
            raise CraftError(
                f"another codebook: the checkpoint was adapted to {facts['codebook_hash']}, {backbone} has {codebook}"
                + (mend if grown != self._growth else "")
            )
        share, here = facts.get("codebook_share", 1.0), self.backbone.codebook_share
        if share != here:
            told = f"the checkpoint was adapted to {share:.4g} of the codebook, {backbone} searches {here:.4g} of it"
            raise CraftError(f"{told}; take --model.backbone.codebook_share {share:g}")
        base, own = facts.get("base_hash"), self.vlm.tower.base_hash
        if base and own and base != own:
            raise CraftError(f"another tower: the checkpoint was adapted from {base}, {backbone} has {own}")
        if any(name.startswith(("vlm.projector.", "vlm.language_model.")) for name in stored):
            other = resuming.other_weights(facts.get("weights", {}), self.weights)
            if parts := [part for part in other if part != "tower"]:
                told = " and ".join(parts)
                raise CraftError(f"the checkpoint's weights belong to another {told} than that of {backbone}")

    def _go_on(self, checkpoint: Mapping[str, Any], facts: Mapping[str, Any]) -> None:
        path = str(self.trainer.ckpt_path)
        given = {**resuming.named(self.hparams, getattr(self._data, "hparams", {})), **self._of_trainer()}
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
        digest = getattr(self._data, "digest", None)
        return digest() if digest else {}


def _check_names(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], method: str) -> None:
    """Compare names and shapes of the stored tensors with those that the method trains; CraftError names the first."""
    differ = {"lacks": [n for n in wanted if n not in state], "has": [n for n in state if n not in wanted]}
    if told := [f"{verb} {names[0]} (and {len(names) - 1} more)" for verb, names in differ.items() if names]:
        raise CraftError(f"the checkpoint does not fit {method}: it {' and '.join(told)}")
    for name, tensor in wanted.items():
        if tensor.shape != state[name].shape:
            raise CraftError(f"{name} is {tuple(state[name].shape)} in the checkpoint, {tuple(tensor.shape)} here")


def _count_in_parts(checkpoint: Mapping[str, Any], before: int, now: int) -> None:
    """Where a checkpoint counts batches: count those of this run, which cuts an optimiser step into other parts."""
    progress = checkpoint.get("loops", {}).get("fit_loop", {}).get("epoch_loop.batch_progress", {})
    for counts in filter(None, (progress.get("total"), progress.get("current"))):
        under_way = counts["processed"] - counts["completed"]  # 1 where a callback wrote the checkpoint
        counts.update({name: count // before * now for name, count in counts.items()})
        counts["completed"] = counts["processed"] - under_way


@rank_zero_only
def _say(line: str) -> None:
    print(f"craft_lightning: {line}", file=sys.stderr)
