"""Watches what must hold while a quantised encoder learns: the gradient, the codebook, and what is frozen."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import Any, Literal

import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DeepSpeedStrategy
from torch import Tensor, nn
from torchmetrics import Metric

from callbacks.codebook_usage import CodesChanged
from craft_lightning.errors import CraftError
from craft_lightning.metrics import CodebookUsage
from craft_lightning.models.sharding import as_forward, sharded
from craft_lightning.types import VisualTokens, VqaBatch

RATIO, COSINE = 0.02, 0.999
"""How far the gradient may be from the identity: rounding to bfloat16 stays well below."""

PARTS = {"vlm.projector": "the projector", "vlm.language_model": "the language model", "vlm.tower": "the tower"}


class SteCheck(Callback):
    """At the first step of a fit and every ``every`` steps; ends the run with one sentence if something is wrong.

    On a probe of validation pictures, apart from the training's graph (whose other losses add gradients of their own):
    the gradient through the quantiser is the identity, and tokens are sums of the codewords of their codes. On the
    model: the codebook is the one that was loaded, and what has nothing to train is in eval mode. On the gradients of
    the step itself: every parameter that the method declares trainable has one, and no other. (That part is left out
    with DeepSpeed, which keeps gradients to itself, and the quantiser's parts without a codebook.)

    Logs ``ste/gradient_ratio``, ``ste/gradient_cosine``, ``ste/codebook_perplexity`` (of first-level codes),
    ``ste/codes_changed`` (share of first-level codes that differ from those before training) and
    ``ste/commitment_distance`` (mean distance of a feature to its quantisation), all of the probe. A few
    pictures cannot tell which codes are dead: ``val/codebook_dead`` counts them over all validation pictures.

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
        self._say(check_modes(module), trainer)
        if module.vlm.tower.quantizer is None:
            return
        self._say(check_codebook(module, step), trainer)
        # What the probe draws belongs to the training.
        devices = [module.device] if module.device.type == "cuda" else []
        with torch.random.fork_rng(devices=devices), trainer.precision_plugin.forward_context():
            self._look(trainer, module, batch)

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: LightningModule, optimizer: Any) -> None:
        """After the backward pass: who has a gradient."""
        if self._due and not isinstance(trainer.strategy, DeepSpeedStrategy):
            self._say(check_gradients(pl_module), trainer)
        self._due = False

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """The codebook once more: it is what makes the encoder fit other models."""
        if self.enabled:
            self._say(check_codebook(pl_module, trainer.global_step), trainer)

    def _look(self, trainer: Trainer, module: Any, batch: VqaBatch) -> None:
        keys, pixels = self._pictures(trainer, module, batch)
        visual = see(module, pixels)
        ratio, cosine, problems = check_gradient(module, visual)
        self._say(problems, trainer)
        self._say(check_codes(module, visual), trainer)
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
        """Keys and pixels of the first validation pictures, for which the codes before training are known; without
        those the pictures of the batch, without keys."""
        count = min(self.pictures, len(batch))
        if not self.reference(trainer).before:
            return (), batch.pixel_values[:count]
        if self._probe is None:
            first = next(iter(trainer.datamodule.stored("val")))  # type: ignore[attr-defined]
            self._probe = first.keys[:count], first.pixel_values[:count].to(module.device)
        return self._probe

    @staticmethod
    def reference(trainer: Trainer) -> CodesChanged:
        """The callback that knows the codes before training."""
        callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
        return next((c for c in callbacks if isinstance(c, CodesChanged)), CodesChanged())

    def _say(self, problems: Iterator[str], trainer: Trainer) -> None:
        """End the run with the first problem, or say each of them once.

        Raises:
            CraftError: if the action is ``error``.
        """
        for problem in problems:
            if self.action == "error":
                raise CraftError(f"step {trainer.global_step}: {problem}")
            if problem not in self.found:
                self.found.append(problem)
                if trainer.is_global_zero:
                    print(f"warning   step {trainer.global_step}: {problem}", file=sys.stderr)


def see(module: Any, pixels: Tensor) -> VisualTokens:
    """The method's own tokens of some pictures, with a graph of their own that nothing is ever propagated through.

    Sharded weights would be gathered for that graph: there the features are a leaf in front of the quantiser.
    """
    with torch.set_grad_enabled(not sharded(module)):
        visual: VisualTokens = as_forward(module, module.visual_tokens, pixels)
    if visual.features.requires_grad:
        return visual
    leaf = visual.features.detach().requires_grad_()
    with torch.enable_grad():
        tokens, found = module.vlm.tower.quantizer(leaf)
    return VisualTokens(leaf, tokens, found.codes, None, visual.grid)


def check_gradient(module: Any, visual: VisualTokens) -> tuple[float, float, Iterator[str]]:
    """Ratio and cosine of the gradient of ``(tokens * r).sum()`` at the features to r, and what is wrong with them."""
    drawn = torch.randn(visual.tokens.shape, generator=torch.Generator().manual_seed(0))
    wanted = drawn.to(visual.tokens.device, visual.tokens.dtype)
    found = None
    if visual.tokens.requires_grad:
        score = (visual.tokens * wanted).sum()
        found = torch.autograd.grad(score, visual.features, retain_graph=True, allow_unused=True)[0]
    wanted = wanted.float().flatten()
    gradient = torch.zeros_like(wanted) if found is None else found.float().flatten()
    along = float(gradient @ wanted)
    ratio = along / float(wanted @ wanted)
    cosine = along / max(float(gradient.norm() * wanted.norm()), 1e-30)
    return ratio, cosine, _gradient_problems(ratio, cosine, module.vlm.tower.quantizer.levels, bool(gradient.any()))


def _gradient_problems(ratio: float, cosine: float, levels: int, reached: bool) -> Iterator[str]:
    if not reached:
        yield (
            "no gradient passes the quantiser: the tokens are detached from the encoder's features, "
            "straight_through is missing"
        )
    elif levels > 1 and abs(ratio - levels) < levels * RATIO and cosine > COSINE:
        yield (
            f"the gradient through the quantiser is {ratio:.2f} times the identity: a straight-through estimator at "
            f"each of the {levels} levels in place of one on their sum"
        )
    elif abs(ratio - 1.0) > RATIO or cosine < COSINE:
        yield (
            f"the gradient through the quantiser is not the identity (ratio {ratio:.3f}, cosine {cosine:.3f}): "
            "something other than straight_through stands between features and tokens, as a rotation or a scale"
        )


def check_codes(module: Any, visual: VisualTokens) -> Iterator[str]:
    """Tokens are the sums of the codewords of their codes, up to rounding."""
    quantizer, codes = module.vlm.tower.quantizer, visual.codes
    if codes is None:
        yield "the tokens come without codes although the tower has a codebook: they bypass the quantiser"
        return
    lowest, highest = int(codes.min()), int(codes.max())
    if lowest < 0 or highest >= quantizer.entries:
        yield f"codes run from {lowest} to {highest}, but the codebook has {quantizer.entries} entries"
        return
    words = quantizer.decode(codes)
    coarse = max(torch.finfo(visual.tokens.dtype).eps, torch.finfo(quantizer.dtype).eps)
    room = 16 * coarse * float(torch.maximum(words.abs().max(), visual.features.detach().abs().max().float()))
    off = float((visual.tokens.detach().float() - words).abs().max())
    if off > room:
        yield (
            f"what the language model reads is not the sum of the codewords of its codes (off by {off:.3g}, rounding "
            f"explains {room:.1g}): the tokens bypass the quantiser, or the codes are those of another pass"
        )


def check_codebook(module: Any, step: int) -> Iterator[str]:
    """The codebook has the hash that it was loaded with, and takes no gradient."""
    quantizer = module.vlm.tower.quantizer
    if quantizer is None:
        return
    now, loaded = quantizer.hash(), module.vlm.codebook_hash
    if now != loaded:
        yield (
            f"the codebook has moved since it was loaded (SHA-256 {loaded[:12]} is now {now[:12]}): something writes "
            "into vlm.tower.quantizer.codebooks, as a moving average or an optimiser would"
        )
    if quantizer.codebooks.requires_grad:
        yield (
            "a gradient reaches the codebook: vlm.tower.quantizer.codebooks requires one, and would if it were a "
            "parameter; codewords are buffers"
        )


def check_modes(module: nn.Module) -> Iterator[str]:
    """Modules that hold tensors, but none that learns, are in eval mode; what holds none goes with its owner."""
    for name, part in module.named_modules():
        if not part.training or isinstance(part, Metric):
            continue
        held = [*part.parameters(), *part.buffers()]
        if held and not any(p.requires_grad for p in held if isinstance(p, nn.Parameter)):
            yield (
                f"{name} has nothing to train but is in train mode, in which dropout drops and a codebook of moving "
                "averages moves without a gradient: something called train() on it after configure_model"
            )
            return


def check_gradients(module: Any) -> Iterator[str]:
    """Of all parameters, exactly those that the method declares trainable have a gradient."""
    declared = {id(p) for _, p in module.trainable()}
    named = list(module.named_parameters())
    without = [name for name, p in named if id(p) in declared and p.grad is None]
    for name in (name for name, p in named if id(p) not in declared and (p.grad is not None or p.requires_grad)):
        part = next((words for start, words in PARTS.items() if name.startswith(start)), "it")
        yield (
            f"a gradient reaches {name}, which {module.name} does not declare trainable: something unfroze {part} "
            "after configure_model"
        )
        break
    if without:
        more = f" (and {len(without) - 1} more)" if len(without) > 1 else ""
        yield (
            f"no gradient reached {without[0]}{more}, which {module.name} declares trainable: the loss does not depend "
            "on it, or something on the way is detached"
        )
