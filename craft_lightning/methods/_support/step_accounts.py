"""An optimiser step over several processes and accumulated batches: weighed, and reported, as the one step it is."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from lightning.pytorch import LightningModule
from torch import Tensor

from craft_lightning.errors import CraftError
from craft_lightning.types import MethodOutput, VqaBatch


class StepAccounts(LightningModule):
    """What the base of the methods does about shares of a step.

    Attributes:
        first_gradients: ``train/grad_z/<term>``, norms of the weighted terms' gradients with respect to z at step 0,
            which make loss weights comparable across reductions. Terms that z does not enter have none: [CLS] is read
            beside z, so the contrastive one reaches weights and never z. Empty where z has no gradient. An image that
            rows of a batch share has one z.
    """

    def __init__(self) -> None:
        super().__init__()
        self.first_gradients: dict[str, float] = {}
        self._terms = torch.zeros(0)

    @property
    def _data(self) -> Any:
        """The data module, if a trainer with one is attached."""
        return None if self._trainer is None else getattr(self.trainer, "datamodule", None)

    def _parts(self) -> int:
        return 1 if self._trainer is None else self.trainer.accumulate_grad_batches

    def _processes(self) -> int:
        return 1 if self._trainer is None else self.trainer.world_size

    def _steps(self) -> int:
        """Optimiser steps of the whole run. Raises CraftError: it has no end, or ends before its ``min_steps`` or
        ``min_epochs`` (Lightning says nothing)."""
        trainer = self.trainer
        steps, least = trainer.estimated_stepping_batches, trainer.min_steps or 0
        if steps == math.inf:
            raise CraftError("a training needs an end, which its learning rate falls to: max_steps or max_epochs")
        if trainer.min_epochs:
            trainer.fit_loop.setup_data()
            least = max(least, trainer.min_epochs * math.ceil(trainer.num_training_batches / self._parts()))
        if least > steps:
            raise CraftError(
                f"the training ends after {steps} steps (max_steps, max_epochs), and is to take at least {least} "
                "(min_steps, min_epochs)"
            )
        return int(steps)

    def _balanced(self, out: MethodOutput, batch: VqaBatch) -> MethodOutput:
        """The answer loss scaled so that its mean over processes and parts is the mean over all labelled tokens: the
        weights of the other terms then do not depend on how long answers are."""
        share = batch.share
        if share.parts * self._processes() == 1:
            return out
        tokens: Any = self.all_gather(torch.tensor(float(share.tokens), device=out.answer_loss.device))
        return replace(out, answer_loss=out.answer_loss * len(out.targets) * share.parts / tokens.mean())

    def _refuse_divergence(self, names: list[str], values: Tensor, lr: float) -> None:
        """Say which term is no number any more, where, and what to do. Raises CraftError: there is one."""
        if not bool(values.isfinite().all()):
            told = ", ".join(f"{name} {value:g}" for name, value in zip(names, values.tolist(), strict=True))
            where = "" if self._trainer is None else f" at step {self.trainer.global_step}"
            raise CraftError(f"the training diverged{where} ({told}); lower --model.optim.lr from {lr:g}")

    def _log_terms(self, terms: dict[str, Tensor], beside: dict[str, Tensor], batch: VqaBatch) -> None:
        """``train/<name>`` of both, and the sum of the terms ``train/loss``: means over the processes and parts of a
        step."""
        values = torch.stack([value.detach() for value in (*terms.values(), *beside.values())])
        parts, part = batch.share.parts, batch.share.part
        self._terms = values / parts if part == 0 else self._terms + values / parts
        if part < parts - 1 or self._trainer is None:
            return
        self._terms = self.trainer.strategy.reduce(self._terms, reduce_op="mean")
        logged = {f"train/{name}": value for name, value in zip((*terms, *beside), self._terms, strict=True)}
        self.log_dict({**logged, "train/loss": self._terms[: len(terms)].sum()}, batch_size=len(batch))

    def _note_gradients(self, terms: dict[str, Tensor], features: Tensor, batch: VqaBatch) -> None:
        """Fill :attr:`first_gradients` and hand it to the loggers, which otherwise skip step 0."""
        if not features.requires_grad:
            return
        parts, part = batch.share.parts, batch.share.part
        found = {}
        for name, term in terms.items():
            if term.requires_grad:
                gradient = torch.autograd.grad(term, features, retain_graph=True, allow_unused=True)[0]
                if gradient is not None:
                    if batch.image_of is not None:  # z is an image's, whatever is asked about it
                        of_images = gradient.new_zeros(len(batch.pixel_values), *gradient.shape[1:])
                        gradient = of_images.index_add(0, batch.image_of, gradient)
                    found[name] = gradient.float().square().sum()
        if not found:
            return
        # The loss is the mean over processes and parts, and each of them holds other rows of z.
        total = self.trainer.strategy.reduce(torch.stack(list(found.values())), reduce_op="sum")
        squares = total / (self._processes() * parts) ** 2
        for name, square in zip(found, squares.tolist(), strict=True):
            before = self.first_gradients.get(f"train/grad_z/{name}", 0.0) if part else 0.0
            self.first_gradients[f"train/grad_z/{name}"] = math.sqrt(before**2 + square)
        if part == parts - 1:
            for logger in self.loggers:
                logger.log_metrics(self.first_gradients, step=0)
