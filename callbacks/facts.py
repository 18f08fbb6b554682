"""What a run says of itself: the parts that train, the codebook, the strategy, the data, versions and code state."""

from __future__ import annotations

import platform
import subprocess
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer

from callbacks.prune_at_validation import PruneAtValidation

PACKAGES = ("torch", "lightning", "transformers", "peft", "timm", "torchmetrics", "datasets")
_DEPTH = 2


def trained_parts(module: LightningModule) -> dict[str, int]:
    """Number of trained parameters by part: the first names of each parameter's path (``vlm.tower``, ``cls``)."""
    counts: Counter[str] = Counter()
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            counts[".".join(name.split(".")[:_DEPTH])] += parameter.numel()
    return dict(counts)


def trained_names(module: LightningModule) -> list[str]:
    """Names of all trained parameters."""
    return [name for name, parameter in module.named_parameters() if parameter.requires_grad]


def codebook_hash(module: LightningModule) -> str | None:
    """SHA-256 of the model's codebook; None for a continuous tower."""
    found: str | None = getattr(getattr(module, "vlm", None), "codebook_hash", None)
    return found


def strategy(trainer: Trainer) -> str:
    """The strategy in use, and why."""
    name = type(trainer.strategy).__name__.removesuffix("Strategy")
    devices = trainer.num_devices * trainer.num_nodes
    where = f"{devices} {trainer.strategy.root_device.type} device{'s' if devices > 1 else ''}"
    return f"{name}, precision {trainer.precision}: {where}"


def pruning(trainer: Trainer, module: LightningModule) -> dict[str, Any]:
    """What the tokens of evaluated pictures went through; empty where nothing was asked to be pruned."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, PruneAtValidation) and callback.enabled:
            return callback.describe(module)
    return {}


def data_facts(trainer: Trainer) -> dict[str, Any]:
    """What the data module says of itself; empty without one."""
    describe = getattr(getattr(trainer, "datamodule", None), "describe", None)
    return dict(describe()) if describe else {}


def versions() -> dict[str, str]:
    """Versions of Python and of the libraries that the numbers depend on."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}


def git_state() -> dict[str, Any]:
    """Commit of the running code and whether the tree differs from it; empty outside a checkout."""
    root = Path(__file__).resolve().parent.parent

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(root), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "changed": bool(git("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.SubprocessError):
        return {}


def device(trainer: Trainer) -> str:
    """Name of the device."""
    root = trainer.strategy.root_device
    if root.type == "cuda":
        return torch.cuda.get_device_name(root)
    return f"{root.type}, {torch.get_num_threads()} threads"


def peak_memory(trainer: Trainer) -> int:
    """Peak memory in bytes: of the device if it is a GPU, else of this process."""
    root = trainer.strategy.root_device
    if root.type == "cuda":
        return torch.cuda.max_memory_allocated(root)
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def plain(value: Any) -> Any:
    """Tensors, paths, tuples and dataclasses as what JSON knows."""
    if isinstance(value, torch.Tensor):
        return value.item() if value.numel() == 1 else value.tolist()
    if is_dataclass(value) and not isinstance(value, type):
        value = asdict(value)
    if isinstance(value, Mapping):
        return {str(k): plain(v) for k, v in value.items()}
    if isinstance(value, list | tuple | set | frozenset):
        return [plain(v) for v in value]
    return str(value) if isinstance(value, Path) else value
