"""``strategy: auto``: how a run is laid out over devices, chosen from shapes and memory by a pure function.

A callback cannot choose it, since the trainer exists by then: the command line asks :func:`choose` before it makes one
and writes what came out into the run's config. Whatever the user named stays as it is.
"""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator, Mapping, Set
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.accelerators import CPUAccelerator, CUDAAccelerator, MPSAccelerator

from craft_lightning import run_facts
from craft_lightning.errors import CraftError
from craft_lightning.optim import rows_per_pass
from craft_lightning.strategies.memory import TEXT_TOKENS, Estimate, Kind, MemoryPlan, Profile, estimate, profile

Device = Literal["cpu", "cuda", "mps"]
ACCELERATORS: dict[Device, Any] = {"cuda": CUDAAccelerator, "mps": MPSAccelerator, "cpu": CPUAccelerator}

GIB = 2**30
LARGE = 10**8
"""Parameters from which bfloat16 is worth it; a smaller model fits anywhere and is fast enough in float32."""
BUSY = 10**12
"""Multiplications of a pass that keep a device busy; a step is cut into smaller passes only if nothing else helps."""
OUTSIDE = {"cuda": 0.75, "cpu": 1.0, "mps": 1.0}
"""GiB of a process that no tensor accounts for: driver context and kernels, or Python with its libraries."""
COMMUNICATION = 0.5
"""GiB of a process for the buffers of several (NCCL)."""
USABLE = {"cuda": 0.94, "mps": 0.9, "cpu": 0.7}
"""Share of a device's memory that may be planned for; the rest is lost between allocations, most of it on CPUs."""
NAMES = {"ddp": "ddp", "fsdp2": "fsdp2", "zero2": "deepspeed_stage_2", "single": "auto"}
"""What the kinds are called in a config; Lightning has no name for one device."""


@dataclass(frozen=True)
class Machine:
    """Where a run runs.

    Attributes:
        kind: of device. devices: per node. nodes: of the run. memory: bytes of a device, for CPUs of a process's share.
        bf16: the devices compute in bfloat16. deepspeed: the package is installed.
    """

    kind: Device
    devices: int = 1
    nodes: int = 1
    memory: int = 0
    bf16: bool = False
    deepspeed: bool = False

    @property
    def processes(self) -> int:
        """One for each device."""
        return self.devices * self.nodes

    @property
    def room(self) -> int:
        """Bytes of a device that tensors may take."""
        extra = COMMUNICATION if self.kind == "cuda" and self.processes > 1 else 0.0
        return int(self.memory * USABLE[self.kind] - (OUTSIDE[self.kind] + extra) * GIB)


@dataclass(frozen=True)
class Given:
    """What the user decided; None is open."""

    precision: str | None = None
    dtype: str | None = None
    parts: int | None = None
    recompute: bool | None = None
    eval_rows: int | None = None


@dataclass(frozen=True)
class Choice:
    """How a run is laid out.

    Attributes:
        kind: of strategy. precision: of the trainer. dtype: of frozen weights. parts: accumulated batches per step.
        rows: of one process and pass. recompute: gradient checkpointing. eval_rows: of an evaluation batch.
        estimate: memory of a device. fits: it has that much. reason: in a sentence.
    """

    kind: Kind
    precision: str
    dtype: str
    parts: int
    rows: int
    recompute: bool
    eval_rows: int
    estimate: Estimate
    fits: bool
    reason: str


def choose(profile: Profile, machine: Machine, batch: int, eval_rows: int = 64, given: Given = Given()) -> Choice:
    """The first layout that fits, from the fastest to the leanest; the leanest if none does.

    One copy of the model per device comes before sharding it. Within each, a step is cut into accumulated batches
    before activations are recomputed: while the passes are large enough that costs next to nothing, and the step stays
    the same to the last row. ``batch`` are the rows of an optimiser step, ``eval_rows`` are wished for.

    Raises:
        CraftError: the batch cannot be shared equally by the devices.
    """
    precision, dtype, why = _numbers(profile, machine, given)
    half, size = precision.startswith("bf16") or dtype == "bfloat16", 4 if dtype == "float32" else 2
    for kind, recompute, parts in _layouts(profile, machine, batch, given):
        rows = batch // (machine.processes * parts)
        plan = MemoryPlan(kind, machine.processes, rows, given.eval_rows or eval_rows, half, size, recompute)
        plan, found = _evaluable(profile, plan, machine.room, given.eval_rows is not None)
        if fits := found.peak <= machine.room:
            break
    passes = f"{parts} accumulated batches of {rows} rows" if parts > 1 else ""
    how = ", ".join(filter(None, (passes, "activations recomputed" if recompute else "")))
    small, hint = replace(profile, language_dtype="nf4"), ""
    if not (fits or profile.packed) and estimate(small, plan).peak <= machine.room:
        hint = "with --model.backbone.language_dtype nf4 it would"
    reason = "; ".join(filter(None, (_why(kind, machine, found, fits), hint, how, why)))
    return Choice(kind, precision, dtype, parts, rows, recompute, plan.eval_rows, found, fits, reason)


def _evaluable(profile: Profile, plan: MemoryPlan, room: int, fixed: bool) -> tuple[MemoryPlan, Estimate]:
    """The plan with as many rows of an evaluation batch as fit, which changes no result."""
    found = estimate(profile, plan)
    while not fixed and plan.eval_rows > 1 and found.peak > room and found.evaluation > found.activations:
        plan = replace(plan, eval_rows=plan.eval_rows // 2)
        found = estimate(profile, plan)
    return plan, found


def _numbers(profile: Profile, machine: Machine, given: Given) -> tuple[str, str, str]:
    """Precision of computing, dtype of frozen weights, and why."""
    half = machine.bf16 and profile.parameters >= LARGE
    precision = given.precision or ("bf16-mixed" if half else "32-true")
    dtype = given.dtype or ("bfloat16" if precision.startswith("bf16") and half else "float32")
    if not half or given.precision or given.dtype:
        return precision, dtype, ""
    return precision, dtype, "bfloat16 with float32 master weights"


def _layouts(profile: Profile, machine: Machine, batch: int, given: Given) -> Iterator[tuple[Kind, bool, int]]:
    kinds: list[Kind] = ["single"]
    if machine.processes > 1:
        sharded_states = machine.deepspeed and machine.kind == "cuda" and profile.trained > 0
        kinds = ["ddp", "zero2", "fsdp2"] if sharded_states else ["ddp", "fsdp2"]
        kinds = kinds[: 1 if profile.packed else None]  # what is packed is not cut
    if not profile.trained:
        yield from ((kind, bool(given.recompute), given.parts or 1) for kind in kinds)
        return
    share = rows_per_pass(batch, machine.processes, given.parts or 1) * (given.parts or 1)
    parts = [given.parts] if given.parts else [n for n in range(1, share + 1) if share % n == 0]
    row = profile.parameters * (profile.tokens + TEXT_TOKENS)
    for kind in kinds:
        if given.recompute is None:
            yield from ((kind, False, n) for n in parts if n == parts[0] or row * share // n >= BUSY)
        yield from ((kind, given.recompute is not False, n) for n in parts)


def _why(kind: Kind, machine: Machine, found: Estimate, fits: bool) -> str:
    room = f"{run_facts.size(found.peak)} of {run_facts.size(max(machine.room, 0))}"
    if not fits:
        return f"does not fit by the estimate ({room}), this is the leanest there is"
    return {
        "single": f"one device, {room}",
        "ddp": f"a copy on each of {machine.processes} devices fits, {room}",
        "zero2": f"weights fit on a device, gradients and optimiser state do not: cut in {machine.processes}, {room}",
        "fsdp2": f"a copy does not fit on a device: cut in {machine.processes}, {room}",
    }[kind]


def this_machine(accelerator: Any, devices: Any, nodes: int) -> Machine | None:
    """What the trainer's settings mean here; None for accelerators that nothing is known of. Memory is what the devices
    have, not what is free: processes that find different amounts would choose differently. ``devices`` are a number,
    its digits, a list of indices, -1 or ``auto``. Raises CraftError: no such devices here."""
    kinds = [kind for kind in ACCELERATORS if accelerator in (kind, "auto") or (accelerator == "gpu" and kind != "cpu")]
    if not kinds:
        return None
    kind = next((kind for kind in kinds if ACCELERATORS[kind].is_available()), None)
    if kind is None:
        raise CraftError(f"--trainer.accelerator {accelerator}: there is none here")
    known = ACCELERATORS[kind]
    try:
        found = known.get_parallel_devices(known.parse_devices(devices)) if devices != "auto" else None
    except (TypeError, ValueError, MisconfigurationException) as error:
        raise CraftError(f"--trainer.devices {devices}: {' '.join(str(error).split())}") from error
    count = known.auto_device_count() if found is None else len(found)
    deepspeed = importlib.util.find_spec("deepspeed") is not None
    if kind == "cuda":
        device = torch.cuda.get_device_properties(found[0] if found else 0)
        return Machine(kind, count, nodes, device.total_memory, device.major >= 8, deepspeed)
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return Machine(kind, count, nodes, memory // count, False, deepspeed)


def settle(
    verb: str, method: Any, data: Any, trainer: Mapping[str, Any], named: Set[str], machine: Machine | None = None
) -> Choice | None:
    """What to run with, if the strategy is left open (``auto``) and the devices are of a known kind.

    Args:
        verb: of the run; all but ``fit`` train nothing. method, data: whose weights and files are not read yet.
        trainer: its settings. named: those that the user named, as ``trainer.precision`` and ``model.backbone.dtype``.
        machine: to lay it out for, in place of this one.

    Raises:
        CraftError: no such devices, or a batch that they cannot share.
    """
    if machine is None and trainer["strategy"] == "auto":
        machine = this_machine(trainer["accelerator"], trainer["devices"], trainer["num_nodes"])
    if machine is None:
        return None
    sketch = method.sketch()
    numbers = profile(sketch, sketch.vlm, method.backbone.language_dtype)
    if verb != "fit":
        numbers = replace(numbers, trained=0, frozen=numbers.parameters, tower_trains=False, language_trains=False)
    backbone = method.backbone
    settled = {
        "trainer.precision": trainer["precision"],
        "model.backbone.dtype": backbone.dtype,
        "trainer.accumulate_grad_batches": trainer["accumulate_grad_batches"],
        "model.backbone.gradient_checkpointing": backbone.gradient_checkpointing,
        "data.eval_batch_size": data.eval_batch_size,
    }
    given = Given(*(value if name in named else None for name, value in settled.items()))
    return choose(numbers, machine, data.batch_size, data.eval_batch_size, given)


def settings(choice: Choice, trainer: Mapping[str, Any], clip: float | None) -> dict[str, Any]:
    """The choice as settings by their names in the config; ``clip`` is the method's: DeepSpeed clips by itself and has
    to be told."""
    found = {
        "trainer.strategy": NAMES[choice.kind],
        "trainer.precision": choice.precision,
        "trainer.accumulate_grad_batches": choice.parts,
        **{f"{part}.backbone.dtype": choice.dtype for part in ("model.init_args", "data")},
        **{f"{part}.backbone.gradient_checkpointing": choice.recompute for part in ("model.init_args", "data")},
        "data.eval_batch_size": choice.eval_rows,
    }
    for name in ("val_check_interval", "limit_train_batches"):
        every = trainer[name]
        if isinstance(every, int) and choice.parts != trainer["accumulate_grad_batches"]:
            found[f"trainer.{name}"] = every * choice.parts  # Lightning counts batches, the config meant steps
    if choice.kind == "zero2":
        found["trainer.gradient_clip_val"] = clip
    return found
