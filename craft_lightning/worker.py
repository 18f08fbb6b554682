"""``python -m craft_lightning.worker``: computes jobs of a table, one after the other, in one process.

The runner writes one JSON object a line to standard input: ``{"kind", "name", "folder", "arguments", "key", "job",
"metrics"}``, where ``arguments`` are those of ``python -m craft_lightning`` and ``metrics`` what the table reads. The
answers are JSON lines on standard output: ``{"event": "ready"}`` after the imports, ``{"event": "step", "step",
"steps", "loss"}`` while it works, and ``{"event": "done", "seconds"}`` or ``{"event": "failed", "error"}``. Whatever
the run prints goes to ``log.txt`` in the job's folder. The process ends at once when its standard input ends, so it
never outlives its runner.
"""

from __future__ import annotations

import ctypes
import gc
import json
import math
import os
import queue
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import cache
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback, LightningModule, Trainer

from callbacks.report_files import ExampleImages, LearningCurves
from craft_lightning import __version__, run_facts
from craft_lightning.benchmark.store import RESULT
from craft_lightning.cli.run import CraftCLI, build_cli
from craft_lightning.environment import git_state, processor, versions
from craft_lightning.errors import CraftError
from craft_lightning.evaluation.predictions import count_items
from craft_lightning.io import write_json

STEP_INTERVAL = 0.5
"""Seconds between two ``step`` events."""
COST = "cost"
"""Where a checkpoint holds what the training has cost so far."""

Say = Callable[[Mapping[str, Any]], None]


class StepEvents(Callback):
    """Tells the runner the step and the loss, at most every :data:`STEP_INTERVAL` seconds.

    Attributes:
        training: seconds spent in the training steps, batches and logging included, validation not: those of this
            process, and those that its checkpoint kept of an interrupted one. trained_steps: their number.
        memory: peak bytes of the interrupted one, else 0.
        here: seconds in training steps and in evaluations, of this process.
    """

    def __init__(self, say: Say) -> None:
        self.say = say
        self.told = -math.inf
        self.training = 0.0
        self.trained_steps = 0
        self.memory = 0
        self.here = {"training": 0.0, "evaluation": 0.0}
        self._since = 0.0
        self._evaluating = 0.0

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        memory = max(self.memory, run_facts.peak_memory(trainer))
        checkpoint[COST] = {"training": self.training, "trained_steps": self.trained_steps, "memory": memory}

    def on_load_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        for name, value in checkpoint.get(COST, {}).items():
            setattr(self, name, value)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._since = time.perf_counter()

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._evaluating = time.perf_counter()

    on_test_start = on_validation_start

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._since = time.perf_counter()
        self.here["evaluation"] += self._since - self._evaluating

    on_test_end = on_validation_end

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *args: Any) -> None:
        now = time.perf_counter()
        self.here["training"] += now - self._since
        self.training, self._since = self.training + now - self._since, now
        self.trained_steps += 1
        loss = outputs["loss"] if isinstance(outputs, Mapping) else outputs
        self._tell(trainer.global_step, trainer.estimated_stepping_batches, None if loss is None else float(loss))

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int, *args: Any
    ) -> None:
        self._tell(batch_idx + 1, sum(trainer.num_test_batches), None)

    def _tell(self, step: int, steps: float, loss: float | None) -> None:
        now = time.monotonic()
        if now - self.told >= STEP_INTERVAL:
            self.told = now
            whole = int(steps) if math.isfinite(steps) else None
            self.say({"event": "step", "step": step, "steps": whole, "loss": loss})


def reset_peak_memory() -> None:
    """Forget what earlier jobs of this process needed (on Linux; elsewhere the peak is that of the process)."""
    gc.collect()
    with suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # glibc keeps what was freed: the next job would begin with it
    run_facts.forget_peak()


@cache
def machine() -> dict[str, Any]:
    """What computes here, as a table says it: processor, usable cores, what its sums hang on, state of the code."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    gpus = torch.cuda.device_count()
    usable = f"{cores} core{'s' if cores != 1 else ''} usable"
    name = f"{gpus} x {torch.cuda.get_device_name()}" if gpus else f"{processor()}, {usable}"
    return {"machine": name, "arithmetic": run_facts.arithmetic(), **git_state()}


def cost(cli: CraftCLI, steps: StepEvents) -> dict[str, float]:
    """What a training cost: trained parameters, seconds of all its steps (validation not counted), peak bytes.

    The steps that an interruption lost were taken twice and are charged once.
    """
    return {
        "parameters": sum(run_facts.trained_parts(cli.model).values()),
        "seconds": round(steps.training / max(steps.trained_steps, 1) * cli.trainer.global_step, 3),
        "memory": max(steps.memory, run_facts.peak_memory(cli.trainer)),
    }


def compute(message: Mapping[str, Any], say: Say) -> float:
    """Do what a message asks and write the job's result; returns the seconds it took. Raises CraftError: a mistake in
    the configuration, or a result without replies or without what the table reads."""
    folder = Path(message["folder"])
    began, processor = time.perf_counter(), time.process_time()
    found = stage2(message) if message["kind"] == "stage2" else run(message, say)
    seconds = time.perf_counter() - began
    found["spent"] = {**found.get("spent", {}), "processor": time.process_time() - processor}
    found["spent"] = {name: round(value, 3) for name, value in found["spent"].items()}
    write_json(
        folder / RESULT,
        {
            "key": message["key"],
            "job": message["job"],
            "arguments": message["arguments"],
            **found,
            "seconds": round(seconds, 3),
            "made": {"date": time.strftime("%Y-%m-%d"), **machine()},
            "versions": {"craft_lightning": __version__, **versions()},
        },
    )
    return seconds


def stage2(message: Mapping[str, Any]) -> dict[str, Any]:
    """A model of the pocket family learns to read another adapter; returns what its result says."""
    # By name: what builds models is no part of what other jobs depend on.
    import_module("craft_lightning.cli.surrogate").main(message["arguments"][1:])
    told = json.loads((Path(message["folder"]) / "result.json").read_text(encoding="utf-8"))
    cost = {name: told[name] for name in ("parameters", "seconds")}
    return {"metrics": {}, "items": {}, "steps": told["steps"], "cost": cost}


def run(message: Mapping[str, Any], say: Say) -> dict[str, Any]:
    """A training or a test; returns what its result says."""
    folder = Path(message["folder"])
    reset_peak_memory()
    steps = StepEvents(say)
    # The images of a test are the same for all methods, so an untouched model's test keeps them.
    examples = [ExampleImages()] if message["job"].get("surrogate") is None else []
    # Without job.json the job is not done, whatever its run has written: a finished training tells its metrics again.
    (folder / "result.json").unlink(missing_ok=True)
    cli = build_cli(message["arguments"], callbacks=[steps, LearningCurves(), *examples])
    metrics = {name: float(value) for name, value in cli.trainer.callback_metrics.items()}
    items = count_items(folder)
    if message["kind"] == "eval" and not items.get("all"):
        raise CraftError(f"{message['name']} wrote no predictions")
    if lacking := [name for name in message["metrics"] if not math.isfinite(metrics.get(name, math.nan))]:
        known = ", ".join(sorted(name for name in metrics if not name.startswith("train/"))) or "none"
        raise CraftError(f"{message['name']} found no {', '.join(lacking)}, which the table reads (found: {known})")
    return {
        "metrics": metrics,
        "items": items,
        "steps": cli.trainer.global_step,
        "spent": steps.here,
        **({"cost": cost(cli, steps)} if message["kind"] == "train" else {}),
    }


@contextmanager
def output_to(path: Path) -> Iterator[None]:
    """Send everything this process prints, native code included, to the end of a file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    sys.stdout.flush()
    sys.stderr.flush()
    kept = os.dup(1), os.dup(2)
    with path.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        for descriptor, target in zip(kept, (1, 2), strict=True):
            os.dup2(descriptor, target)
            os.close(descriptor)


def attempt(message: Mapping[str, Any], say: Say) -> None:
    """Compute one job; whatever goes wrong is that job's failure and no other's."""
    try:
        with output_to(Path(message["folder"]) / "log.txt"):
            try:
                seconds = compute(message, say)
            except BaseException:
                traceback.print_exc()
                raise
    except CraftError as error:
        say({"event": "failed", "error": " ".join(str(error).split())})
    except (Exception, SystemExit) as error:
        say({"event": "failed", "error": f"{type(error).__name__}: {' '.join(str(error).split())}"})
    else:
        say({"event": "done", "seconds": seconds})
    gc.collect()


def main() -> None:
    """Read messages until standard input ends."""
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    # Nothing but answers may reach the runner's pipe.
    os.dup2(2, 1)
    sys.stdout = sys.stderr
    messages: queue.SimpleQueue[str] = queue.SimpleQueue()

    def say(event: Mapping[str, Any]) -> None:
        answers.write(json.dumps(event) + "\n")
        answers.flush()

    def read() -> None:
        for line in sys.stdin:
            messages.put(line)
        os._exit(0)

    torch.set_num_threads(1)
    gc.freeze()  # What the imports left is never garbage: collecting after each job need not look at it again.
    threading.Thread(target=read, daemon=True).start()
    say({"event": "ready"})
    while True:
        attempt(json.loads(messages.get()), say)


if __name__ == "__main__":
    main()
