"""The trainer's flags: what of them a run puts right, and what it refuses in one line before anything is computed.

Lightning does something else than some values say, without a word, and ends others in the middle of a run.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from lightning.pytorch import Callback, callbacks
from lightning.pytorch.plugins import Precision

from craft_lightning.errors import CraftError

SEEDS = 2**32
"""Seeds that NumPy takes, from 0."""

LEAST = {
    **dict.fromkeys(("max_epochs", "max_steps", "num_sanity_val_steps"), -1),
    **dict.fromkeys(("min_epochs", "min_steps", "log_every_n_steps", "fast_dev_run", "gradient_clip_val"), 0),
    **dict.fromkeys(("check_val_every_n_epoch", "accumulate_grad_batches", "num_nodes"), 1),
}
"""The smallest value of a flag that says something."""

WORK = {
    "fit": ("limit_train_batches", "max_steps", "max_epochs"),
    "validate": ("limit_val_batches",),
    "test": ("limit_test_batches",),
    "predict": ("limit_predict_batches",),
}
"""Flags that leave a verb nothing to do if they are 0."""

USELESS: dict[str, tuple[Any, str]] = {
    "overfit_batches": (0.0, "the order of training is the experiment's; take few images: --data.train_size N"),
    "barebones": (False, "without metrics and checkpoints there is no result: leave it out"),
    "model_registry": (None, "nothing is uploaded, checkpoints stay in the run folder: leave it out"),
}
"""Flags that no run can follow: the value that asks for nothing, and what to do."""

OLD_PRECISIONS = {"32": "32-true", "16": "16-mixed", "bf16": "bf16-mixed"}

STRATEGIES = {
    r"spawn|fork|notebook": "processes are started by ddp, take that",
    r"^fsdp$|^fsdp_|model_parallel|stage_3": "weights are sharded by fsdp2, take that",
}
"""Strategies of Lightning that a run cannot follow, as patterns, and what does their work."""

LAST_STEP = "results are those of the weights of the last step"
CALLBACKS: dict[type[Callback], str] = {
    callbacks.BatchSizeFinder: "the rows of a step are the experiment's: --data.batch_size",
    callbacks.LearningRateFinder: "learning rates are compared by whole trainings (make sweep): --model.optim.lr",
    callbacks.GradientAccumulationScheduler: "all steps are cut alike: --trainer.accumulate_grad_batches",
    callbacks.BaseFinetuning: "the method says what trains",
    callbacks.ModelPruning: "what is frozen stays as it is",
    callbacks.StochasticWeightAveraging: LAST_STEP,
    callbacks.WeightAveraging: LAST_STEP,
}
"""Lightning's callbacks that would make another experiment of a run, and why, or what to do instead."""


def check_seed(seed: Any) -> None:
    """Refuse what is no seed; a run whose seed is drawn, or that has none, could not be told by it. Raises CraftError:
    with the seeds that there are."""
    if isinstance(seed, bool) or not 0 <= seed < SEEDS:
        told = str(seed).lower() if isinstance(seed, bool) else seed
        raise CraftError(f"--seed_everything {told}: a run has one seed, a whole number from 0 to {SEEDS - 1}")


def put_right(trainer: Any, clip: float | None) -> None:
    """Say in Lightning's words what the trainer's parsed flags mean, in place; ``clip`` is the method's norm."""
    if trainer.callbacks is not None and not isinstance(trainer.callbacks, list):
        trainer.callbacks = [trainer.callbacks]
    if trainer.precision is not None:
        trainer.precision = OLD_PRECISIONS.get(str(trainer.precision), str(trainer.precision))
    if trainer.val_check_interval == trainer.max_steps == -1:  # ``${trainer.max_steps}``: where training ends
        trainer.val_check_interval = 1.0
        trainer.check_val_every_n_epoch = trainer.check_val_every_n_epoch or max(trainer.max_epochs or 1, 1)
    if str(trainer.strategy).startswith("deepspeed") and trainer.gradient_clip_val is None:
        trainer.gradient_clip_val = clip  # it clips by itself, and has to be told


def check(verb: str, trainer: Any, clip: float | None) -> None:
    """Refuse flags of the trainer, parsed and put right, that do not do what they say; ``clip`` is the method's norm.
    Raises CraftError: the first of them, with its value and what to do."""
    for name, told in _refused(verb, trainer, clip):
        raise CraftError(f"--trainer.{name} {trainer[name]}{told}")


def _refused(verb: str, trainer: Any, clip: float | None) -> Iterator[tuple[str, str]]:
    """Flags that a run refuses, and what follows their value in the message."""
    for name, least in LEAST.items():
        if isinstance(trainer[name], int | float) and trainer[name] < least:
            yield name, f": at least {least}"
    for name, (nothing, told) in USELESS.items():
        if trainer[name] != nothing:
            yield name, f": {told}"
    for name in WORK[verb]:
        if trainer[name] == 0 and not isinstance(trainer[name], bool):
            yield name, f": that leaves nothing to {verb}"
    if "://" in str(trainer.default_root_dir):
        yield "default_root_dir", ": a run writes to this machine's disk"
    if isinstance(trainer.max_time, str) and not re.fullmatch(r"\d+(:\d\d){3}", trainer.max_time):
        yield "max_time", ": days, hours, minutes, seconds, as 00:12:30:00"
    if trainer.val_check_interval == 0:
        yield "val_check_interval", ": to validate nothing, set --trainer.limit_val_batches 0"
    if trainer.precision not in (None, *(known := OLD_PRECISIONS.values())):
        told = f"trained weights are float32; compute in {', '.join(known)}"
        yield "precision", f": {told}, and hold frozen weights in --model.backbone.dtype bfloat16"
    for pattern, told in STRATEGIES.items():
        if isinstance(trainer.strategy, str) and re.search(pattern, trainer.strategy):
            yield "strategy", f": {told}"
    if verb != "fit":
        return
    if trainer.max_steps == trainer.max_epochs == -1:
        yield "max_steps", ": a training needs an end, which its learning rate falls to; set --trainer.max_epochs"
    # Two flags say how gradients are clipped, the method's and Lightning's: they may not differ.
    value, algorithm = trainer.gradient_clip_val, trainer.gradient_clip_algorithm
    if clip is not None and value not in (None, clip):
        told = f"set --model.optim.clip {value} alone, or null to clip by the trainer's"
        yield "gradient_clip_val", f", but --model.optim.clip {clip}: {told}"
    if algorithm is not None and (value is None or (clip is not None and algorithm != "norm")):
        yield "gradient_clip_algorithm", " clips with --trainer.gradient_clip_val V --model.optim.clip null"


def check_parts(found: Sequence[Callback], plugins: Any) -> None:
    """Refuse callbacks and plugins that would make another experiment of a run. Raises CraftError: the first of them,
    and what to do."""
    for callback in found:
        for cls, told in CALLBACKS.items():
            if isinstance(callback, cls):
                raise CraftError(f"--trainer.callbacks {type(callback).__name__}: {told}")
    for plugin in plugins if isinstance(plugins, list) else [plugins]:
        if isinstance(plugin, Precision):
            raise CraftError(f"--trainer.plugins {type(plugin).__name__}: set --trainer.precision instead")
