"""Watches what must hold while a quantised encoder learns: the gradient, the codebook, and what is frozen."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Sequence
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DeepSpeedStrategy
from torch import Tensor

from callbacks.codebook_usage import CodesChanged
from craft_lightning.errors import CraftError
from craft_lightning.metrics import CodebookUsage
from craft_lightning.models import ste_checks as checks
from craft_lightning.types import VqaBatch


class SteCheck(Callback):
    """At the first step of a fit and every ``every`` steps; ends the run with one sentence if something is wrong.

    On a probe of validation images, apart from the training's graph (whose other losses add gradients of their own):
    the gradient through the quantiser is the identity, and tokens are sums of the codewords of their codes. On the
    model: the codebook is the one that was loaded, and what has nothing to train is in eval mode. On the gradients of
    the step itself: every parameter that the method declares trainable has one, and no other. (That part is left out
    with DeepSpeed, which keeps gradients to itself, and the quantiser's parts without a codebook.)

    Logs ``ste/gradient_ratio``, ``ste/gradient_cosine``, ``ste/codebook_perplexity`` (of first-level codes),
    ``ste/codes_changed`` (share of first-level codes that differ from those before training) and
    ``ste/commitment_distance`` (mean distance of a feature to its quantisation), all of the probe. A few
    images cannot tell which codes are dead: ``val/codebook_dead`` counts them over all validation images.

    Args:
        enabled: whether to watch at all.
        every: optimiser steps between two checks.
        pictures: size of the probe; at most a pass's batch.
        action: ``error`` ends the run, ``warn`` says it once and goes on.

    Attributes:
        logged: what was logged last. found: sentences said with ``warn``.
    """

    def __init__(
        self, enabled: bool = False, every: int = 50, pictures: int = 8, action: Literal["error", "warn"] = "error"
    ) -> None:
        if every < 1 or pictures < 1:
            raise CraftError("ste_check.every and ste_check.pictures are at least 1")
        self.enabled, self.every, self.pictures, self.action = enabled, every, pictures, action
        self.logged: dict[str, float] = {}
        self.found: list[str] = []
        self._due = self._began = False
        self._probe: tuple[Sequence[str], Tensor] | None = None

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Before the step: modes, codebook, quantiser."""
        step = trainer.global_step
        if not self.enabled or batch.share.part or (self._began and step % self.every):
            return
        self._due, self._began = True, True
        module: Any = pl_module
        self._say(checks.check_modes(module), trainer)
        if module.vlm.tower.quantizer is None:
            return
        self._say(checks.check_codebook(module), trainer)
        # What the probe draws belongs to the training.
        devices = [module.device] if module.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), trainer.precision_plugin.forward_context():
            self._look(trainer, module, batch)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        """After the backward pass: who has a gradient."""
        if self._due and not isinstance(trainer.strategy, DeepSpeedStrategy):
            self._say(checks.check_gradients(pl_module), trainer)
        self._due = False

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The codebook once more: it is what makes the encoder fit other models."""
        if self.enabled:
            self._say(checks.check_codebook(pl_module), trainer)

    def _look(self, trainer: Trainer, module: Any, batch: VqaBatch) -> None:
        keys, pixels = self._pictures(trainer, module, batch)
        visual = checks.see(module, pixels)
        ratio, cosine, problems = checks.check_gradient(module, visual)
        self._say(problems, trainer)
        self._say(checks.check_codes(module, visual), trainer)
        if visual.codes is None:
            return
        quantizer = module.vlm.tower.quantizer
        usage = CodebookUsage(quantizer.entries, quantizer.levels, quantizer.shared).to(module.device)
        usage.update(visual.codes)
        distance = (visual.features.detach().float() - quantizer.decode(visual.codes)).norm(dim=-1).mean()
        values = {
            "gradient_ratio": ratio,
            "gradient_cosine": cosine,
            "codebook_perplexity": float(usage.compute()["perplexity"][0]),
            "commitment_distance": float(distance),
        }
        if keys:
            values["codes_changed"] = float(self.reference(trainer).changed(keys, visual.codes).float().mean())
        self.logged = {f"ste/{name}": value for name, value in values.items()}
        for logger in trainer.loggers:
            logger.log_metrics(self.logged, step=trainer.global_step)

    def _pictures(self, trainer: Trainer, module: Any, batch: VqaBatch) -> tuple[Sequence[str], Tensor]:
        """Keys and pixels of the first validation images, for which the codes before training are known; without
        those the images of the batch, without keys."""
        count = min(self.pictures, len(batch))
        if not self.reference(trainer).before:
            return (), batch.pixel_values[:count]
        if self._probe is None:
            first = next(iter(trainer.datamodule.stored("val")))  # type: ignore[attr-defined]
            self._probe = first.keys[:count], first.by_row(first.pixel_values)[:count].to(module.device)
        return self._probe

    @staticmethod
    def reference(trainer: Trainer) -> CodesChanged:
        """The callback that knows the codes before training."""
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        return next((c for c in callbacks if isinstance(c, CodesChanged)), CodesChanged())

    def _say(self, problems: Iterable[str], trainer: Trainer) -> None:
        """End the run with the first problem, or say each of them once. Raises CraftError: if the action is
        ``error``."""
        for problem in problems:
            if self.action == "error":
                raise CraftError(f"step {trainer.global_step}: {problem}")
            if problem not in self.found:
                self.found.append(problem)
                if trainer.is_global_zero:
                    print(f"warning   step {trainer.global_step}: {problem}", file=sys.stderr)
