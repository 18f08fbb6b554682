"""One training loop for every stage: batches are a function of the step, so a run resumes exactly where it stopped.

Lightning Fabric supplies devices, precision and sharding; the loop adds only what pre-training needs: atomic
checkpoints every few hundred steps, a line of progress with an estimate, the learning-rate schedule of appendix 8.
"""

from __future__ import annotations

import hashlib
import math
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn

from craft_lightning.errors import CraftError

_REPORT_EVERY = 50


@dataclass(frozen=True)
class LoopSpec:
    """Length and optimiser of a stage.

    Attributes:
        steps: optimiser steps. batch_size: global. lr: peak rate of AdamW, cosine to 0 after linear warm-up.
        warmup: share of the steps. weight_decay: decoupled. beta2: of AdamW. clip: bound of the gradient norm.
        parts: passes of a step, whose gradients are added.
        save_every: steps between checkpoints. seed: added to the
            plan's, so that a stage on the same pictures draws other batches.
    """

    steps: int
    batch_size: int
    lr: float = 1e-3
    warmup: float = 0.03
    weight_decay: float = 0.0
    beta2: float = 0.98
    clip: float = 1.0
    parts: int = 1
    save_every: int = 200
    seed: int = 0


def schedule(step: int, spec: LoopSpec) -> float:
    """Factor on the learning rate at a step (0-based): linear warm-up, then cosine to 0."""
    warm = max(1, math.ceil(spec.warmup * spec.steps))
    if step < warm:
        return (step + 1) / warm
    return 0.5 * (1.0 + math.cos(math.pi * (step - warm) / max(1, spec.steps - warm)))


class _Stage(nn.Module):
    """Draws its own batch: Fabric's wrapper refuses frozen dataclasses as arguments, but passes a number through."""

    def __init__(self, model: nn.Module, batch: Callable[[int], Any]) -> None:
        super().__init__()
        self.model, self.batch = model, batch

    def forward(self, step: int) -> dict[str, Tensor]:
        return self.model(self.batch(step))


def run_stage(
    name: str,
    model: nn.Module,
    batch: Callable[[int], Any],
    spec: LoopSpec,
    folder: Path,
    fabric: Fabric,
    log: Callable[[str], None] = print,
    data: str = "",
) -> None:
    """Train what requires a gradient in ``model``, from the last checkpoint in ``folder`` if there is one.

    Args:
        name: of the stage, for messages and the checkpoint's file name.
        model: maps a batch to named terms whose sum is minimised; all its parameters and buffers are saved.
        batch: number of the pass -> batch, a pure function; without ``parts`` that is the step.
        log: takes a line of progress.
        data: what the batches depend on besides the step, in a few words.

    Raises:
        CraftError: the checkpoint is of a stage that ran, or would have run, otherwise.
    """
    recipe = recipe_of(spec, model, data)
    stage = fabric.setup_module(_Stage(model, batch))
    parameters = [p for p in stage.parameters() if p.requires_grad]  # other ones than before, where they are cut
    optimizer: Any = fabric.setup_optimizers(
        torch.optim.AdamW(parameters, lr=spec.lr, weight_decay=spec.weight_decay, betas=(0.9, spec.beta2))
    )
    state: dict[str, Any] = {"model": stage, "optimizer": optimizer, "step": 0}
    path = folder / f"{name}.ckpt"
    if path.exists():
        _check_recipe(path, recipe, log)
        fabric.load(path, state)
        log(f"{name}: resumed at step {state['step']} of {spec.steps}")
    state["recipe"] = recipe
    first, start, mean = state["step"], time.monotonic(), dict[str, float]()
    for step in range(first, spec.steps):
        for group in optimizer.param_groups:
            group["lr"] = spec.lr * schedule(step, spec)
        terms: dict[str, Tensor] = {}
        for number in range(step * spec.parts, (step + 1) * spec.parts):
            with fabric.no_backward_sync(stage, enabled=(number + 1) % spec.parts > 0):
                found = stage(number)
                fabric.backward(torch.stack(list(found.values())).sum())
            terms = {k: v.detach() + terms.get(k, 0.0) for k, v in found.items()}
        fabric.clip_gradients(stage, optimizer, max_norm=spec.clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        told: Any = fabric.all_reduce(terms)  # the mean over processes, as of their gradients
        mean |= {k: 0.95 * mean.get(k, v.item()) + 0.05 * v.item() for k, v in told.items()}
        state["step"] = step + 1
        if (step + 1) % _REPORT_EVERY == 0 or step + 1 == spec.steps:
            seconds = (time.monotonic() - start) / (step + 1 - first)
            values = "  ".join(f"{k} {v:.4f}" for k, v in mean.items())
            left = seconds * (spec.steps - step - 1) / 60
            log(f"{name}: step {step + 1}/{spec.steps}  {values}  {seconds:.2f} s/step  {left:.1f} min left")
        if (step + 1) % spec.save_every == 0 or step + 1 == spec.steps:
            save(fabric, path, state)


def save(fabric: Fabric, path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint under a temporary name, then rename it: a kill leaves the old one or the new one.

    Sharded states are gathered by all processes, so that there is one name for all of them.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_suffix(".partial")
    fabric.save(partial, state)
    if fabric.is_global_zero:
        partial.replace(path)
    fabric.barrier()


def recipe_of(spec: LoopSpec, model: nn.Module, data: str) -> dict[str, Any]:
    """What a stage depends on, for its checkpoint: its spec, the data, and a digest of what is trained, by shape.

    Not the parts of a step: they follow the number of devices, and the sum of their gradients does not.
    """
    shapes = [(name, tuple(p.shape), p.requires_grad) for name, p in model.named_parameters()]
    found = {**asdict(spec), "model": hashlib.sha256(repr(shapes).encode()).hexdigest()[:12], "data": data}
    return {k: v for k, v in found.items() if k not in ("save_every", "parts")}


def _check_recipe(path: Path, recipe: dict[str, Any], log: Callable[[str], None]) -> None:
    held = torch.load(path, map_location="cpu", weights_only=True, mmap=True).get("recipe")
    if held is None:
        log(f"{path} does not say of which recipe it is: taken for this one's")
        return
    changed = [f"{k} {held.get(k)!r}, now {v!r}" for k, v in recipe.items() if held.get(k) != v]
    if changed:
        raise CraftError(
            f"{path} was made with {'; '.join(changed)}: remove it to begin this stage anew, or work in another folder"
        )
