"""One training loop for every stage: batches are a function of the step, so a run resumes exactly where it stopped.

Lightning Fabric supplies devices, precision and sharding; the loop adds only what pre-training needs: atomic
checkpoints every few hundred steps, a line of progress with an estimate, the paper's learning-rate schedule.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from lightning.fabric.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from craft_lightning.errors import CraftError
from craft_lightning.models.sharding import shard
from craft_lightning.optim import lr_factor
from craft_lightning.pretraining.plans import LoopSpec

FLOAT32_SDPA = "sdpa_float32"
"""``attn_implementation`` that runs attention in float32 inside bfloat16 training.

On CPUs the bfloat16 kernel of fused attention is several times slower backwards, while matrix products gain from it.
"""
_REPORT_EVERY = 50


def _attend(
    module: nn.Module, query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, **kwargs: Any
) -> tuple[Tensor, None]:
    with torch.autocast(query.device.type, enabled=False):
        mixed, _ = sdpa_attention_forward(module, query.float(), key.float(), value.float(), attention_mask, **kwargs)
    return mixed.to(query.dtype), None


AttentionInterface.register(FLOAT32_SDPA, _attend)
AttentionMaskInterface.register(FLOAT32_SDPA, sdpa_mask)


class ShardedFabric(ModelParallelStrategy):
    """Weights, gradients and optimiser state in as many parts as there are processes; checkpoints hold them whole."""

    def __init__(self) -> None:
        super().__init__(_shard, tensor_parallel_size=1, save_distributed_checkpoint=False)

    def setup_environment(self) -> None:
        """One mesh of all processes: by itself, Lightning would put one process of each node into it."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()


def _shard(module: nn.Module, mesh: DeviceMesh) -> nn.Module:
    shard(module, mesh["data_parallel"])
    return module


def fabric_of(precision: Any, devices: str | int = "auto", strategy: str = "auto") -> Fabric:
    """Devices, precision and how several devices share the work (``fsdp2``: :class:`ShardedFabric`)."""
    chosen: Any = ShardedFabric() if strategy == "fsdp2" else strategy
    return Fabric(accelerator="auto", devices=devices, strategy=chosen, precision=precision)


class _Stage(nn.Module):
    """Draws its own batch: Fabric's wrapper refuses frozen dataclasses as arguments, but passes a number through."""

    def __init__(self, model: nn.Module, batch: Callable[[int], Any]) -> None:
        super().__init__()
        self.model, self.batch = model, batch

    def forward(self, number: int) -> dict[str, Tensor]:
        return self.model(self.batch(number))


def run_stage(
    name: str,
    model: nn.Module,
    batch: Callable[[int], Any],
    spec: LoopSpec,
    folder: Path,
    fabric: Fabric,
    log: Callable[[str], None] = print,
    data: str = "",
    passes: int = 1,
) -> float:
    """Train what requires a gradient in ``model``, from the last checkpoint in ``folder`` if there is one; returns the
    seconds of all steps, those before an interruption included where its checkpoint says them. Raises CraftError: the
    checkpoint is of a stage that ran, or would have run, otherwise.

    Args:
        name: of the stage, for messages and the checkpoint's file name.
        model: maps a batch to named terms whose sum is minimised; all its parameters and buffers are saved.
        batch: number of the pass -> batch, a pure function.
        log: takes a line of progress. data: what the batches depend on besides the step, in a few words.
        passes: of a step, whose gradients are added. They follow the number of devices, and are no part of the recipe.
    """
    shapes = [(key, tuple(p.shape), p.requires_grad) for key, p in model.named_parameters()]
    recipe = {**asdict(spec), "model": hashlib.sha256(repr(shapes).encode()).hexdigest()[:12], "data": data}
    del recipe["save_every"]
    stage = fabric.setup_module(_Stage(model, batch))
    parameters = [p for p in stage.parameters() if p.requires_grad]  # other ones than before, where they are sharded
    optimizer: Any = fabric.setup_optimizers(
        torch.optim.AdamW(parameters, lr=spec.lr, weight_decay=spec.weight_decay, betas=(0.9, spec.beta2))
    )
    state: dict[str, Any] = {"model": stage, "optimizer": optimizer, "step": 0}
    path, before = folder / f"{name}.ckpt", 0.0
    if path.exists():
        _check_recipe(path, recipe, log)
        before = fabric.load(path, state).get("seconds", 0.0)
        log(f"{name}: resumed at step {state['step']} of {spec.steps}")
    state["recipe"] = recipe
    first, start, mean = state["step"], time.monotonic(), dict[str, float]()
    for step in range(first, spec.steps):
        for group in optimizer.param_groups:
            group["lr"] = spec.lr * lr_factor(step, spec.steps, spec.warmup)
        terms = _gradients(fabric, stage, range(step * passes, (step + 1) * passes))
        _clip(fabric, stage, optimizer, spec, f"{name}: the training diverged at step {step}")
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        told: Any = fabric.all_reduce(terms)  # the mean over processes, as of their gradients
        mean |= {k: 0.95 * mean.get(k, v.item()) + 0.05 * v.item() for k, v in told.items()}
        state["step"] = done = step + 1
        if done % _REPORT_EVERY == 0 or done == spec.steps:
            seconds = (time.monotonic() - start) / (done - first)
            values = "  ".join(f"{k} {v:.4f}" for k, v in mean.items())
            left = seconds * (spec.steps - done) / 60
            log(f"{name}: step {done}/{spec.steps}  {values}  {seconds:.2f} s/step  {left:.1f} min left")
        if done % spec.save_every == 0 or done == spec.steps:
            state["seconds"] = before + time.monotonic() - start
            _save(fabric, path, state)
    return state.get("seconds", before)


def _clip(fabric: Fabric, stage: Any, optimizer: Any, spec: LoopSpec, diverged: str) -> None:
    try:
        fabric.clip_gradients(stage, optimizer, max_norm=spec.clip)
    except RuntimeError as error:
        if "non-finite" not in str(error):
            raise
        raise CraftError(f"{diverged}; lower its lr from {spec.lr:g}") from error


def _gradients(fabric: Fabric, stage: Any, numbers: range) -> dict[str, Tensor]:
    """Add the gradients of some passes, exchanged between processes at the last; returns the sums of their terms."""
    terms: dict[str, Tensor] = {}
    for number in numbers:
        with fabric.no_backward_sync(stage, enabled=number != numbers[-1]):
            found = stage(number)
            fabric.backward(torch.stack(list(found.values())).sum())
        terms = {k: v.detach() + terms.get(k, 0.0) for k, v in found.items()}
    return terms


def _save(fabric: Fabric, path: Path, state: dict[str, Any]) -> None:
    """Write under a temporary name, then rename: a kill leaves the old one or the new one. All processes gather sharded
    states, so there is one name for all of them."""
    path.parent.mkdir(parents=True, exist_ok=True)
    fabric.save(partial := path.with_suffix(".partial"), state)
    if fabric.is_global_zero:
        partial.replace(path)
    fabric.barrier()


def _check_recipe(path: Path, recipe: dict[str, Any], log: Callable[[str], None]) -> None:
    held = torch.load(path, map_location="cpu", weights_only=True, mmap=True).get("recipe")
    if held is None:
        log(f"{path} does not say of which recipe it is: taken for this one's")
    elif changed := [f"{k} {held.get(k)!r}, now {v!r}" for k, v in recipe.items() if held.get(k) != v]:
        raise CraftError(
            f"{path} was made with {'; '.join(changed)}: remove it to start this stage again, or work in another folder"
        )
