"""What a run says of itself: the parts that train, the codebook, the strategy, the data and the memory."""

from __future__ import annotations

import contextlib
import os
import re
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import LightningModule, Trainer

from craft_lightning.environment import processor

PROCESS = Path("/proc/self")
"""What Linux says of this process."""


def method(module: Any) -> str:
    """Name of the method that a run trains, or whose work it tests: ``zero_shot`` where nothing adapted is plugged in,
    whatever method the config names."""
    if module.moved:
        return str(module.name)
    encoder, adapter = module.vlm.encoder_facts, module.vlm.adapter_facts or {}
    usual = "zero_shot" if encoder is None else str(encoder.get("method", module.name))
    return str(adapter.get("method", usual))


def trained_names(module: LightningModule) -> list[str]:
    """Names of all trained parameters."""
    return [name for name, parameter in module.named_parameters() if parameter.requires_grad]


def trained_parts(module: LightningModule) -> dict[str, int]:
    """Number of trained parameters by part: the first two names of each parameter's path (``vlm.tower``)."""
    counts: Counter[str] = Counter()
    for name in trained_names(module):
        counts[".".join(name.split(".")[:2])] += module.get_parameter(name).numel()
    return dict(counts)


def seed() -> int | None:
    """What ``seed_everything`` was last called with in this process; None if it never was."""
    found = os.environ.get("PL_GLOBAL_SEED")
    return None if found is None else int(found)


def quantizer_dtype(module: Any) -> str | None:
    """What the distances to codewords are computed in; None for a continuous tower."""
    quantizer = module.vlm.tower.quantizer
    return None if quantizer is None else str(quantizer.dtype).removeprefix("torch.")


def strategy(trainer: Trainer) -> str:
    """The strategy in use, and why."""
    name = type(trainer.strategy).__name__.removesuffix("Strategy")
    devices = trainer.num_devices * trainer.num_nodes
    where = f"{devices} {trainer.strategy.root_device.type} device{'s' if devices > 1 else ''}"
    callbacks: list[Any] = getattr(trainer, "callbacks", [])
    why = next((c.choice.reason for c in callbacks if hasattr(c, "choice")), "as the config names it")
    return f"{name}, precision {trainer.precision}: {where} ({why})"


def pruning(trainer: Trainer, module: LightningModule) -> dict[str, Any]:
    """What the tokens of evaluated images went through; empty where nothing was asked to be pruned."""
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if getattr(callback, "enabled", False) and hasattr(callback, "describe"):
            return dict(callback.describe(module))
    return {}


def data_facts(trainer: Trainer) -> dict[str, Any]:
    """What the data module says of itself, and how many batches of it (or what share) the trainer takes if not all;
    empty without one."""
    describe = getattr(getattr(trainer, "datamodule", None), "describe", None)
    if not describe:
        return {}
    stages = {"fit": ("train", "val"), "validate": ("val",), "test": ("test",), "predict": ("predict",)}
    limits = {name: getattr(trainer, f"limit_{name}_batches") for name in stages[trainer.state.fn or "fit"]}
    limits = {name: limit for name, limit in limits.items() if isinstance(limit, int) or limit < 1}
    return {**describe(), **({"limits": limits} if limits else {})}


def data_settings(trainer: Trainer) -> dict[str, Any]:
    """What the data module is made with beside the backbone: all that finds its images again; empty without one."""
    made = getattr(getattr(trainer, "datamodule", None), "hparams", {})
    return {k: v for k, v in made.items() if k != "backbone" and not k.startswith("_")}


def device(trainer: Trainer) -> str:
    """Name of the device."""
    root = trainer.strategy.root_device
    if root.type == "cuda":
        return torch.cuda.get_device_name(root)
    return f"{root.type}, {torch.get_num_threads()} threads"


def arithmetic() -> dict[str, Any]:
    """What sums of this process hang on beside the versions of libraries: equal numbers can only be asked of equals.

    Instructions of torch's own kernels, of oneDNN (convolutions, GELU) and of MKL (matrix products): ``as it likes``
    is whatever suits the processor.
    """
    free = "as it likes"
    return {
        "processor": processor(),
        "threads": torch.get_num_threads(),
        "torch": torch.backends.cpu.get_cpu_capability(),
        "onednn": os.environ.get("ONEDNN_MAX_CPU_ISA", free),
        "mkl": os.environ.get("MKL_CBWR", free),
    }


def peak_memory(trainer: Trainer) -> int:
    """Peak memory in bytes since :func:`forget_peak`: of the device if it is a GPU, else of this process; 0 where the
    system does not say."""
    root = trainer.strategy.root_device
    if root.type == "cuda":
        return torch.cuda.max_memory_allocated(root)
    with contextlib.suppress(OSError):
        if found := re.search(r"VmHWM:\s+(\d+) kB", (PROCESS / "status").read_text(encoding="ascii")):
            return int(found[1]) * 1024
    try:
        import resource
    except ModuleNotFoundError:  # Windows
        return 0
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def forget_peak() -> None:
    """Measure peaks from now on: what is in use is the first one. Only Linux can forget the peak of a process."""
    if torch.cuda.is_initialized():
        torch.cuda.reset_peak_memory_stats()
    with contextlib.suppress(OSError):
        (PROCESS / "clear_refs").write_text("5", encoding="ascii")


def size(count: float) -> str:
    """Bytes in words.

    >>> size(3 * 2**29), size(5 * 2**20)
    ('1.5 GiB', '5 MiB')
    """
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.0f} MiB"


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


def gpus() -> list[str]:
    """The GPUs that are here for this process, by the names of ``CUDA_VISIBLE_DEVICES``."""
    named, count = os.environ.get("CUDA_VISIBLE_DEVICES"), torch.cuda.device_count()
    return named.split(",")[:count] if named else [str(number) for number in range(count)]
