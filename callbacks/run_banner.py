"""What a run says on the terminal and in TensorBoard: its first lines, and the memory that its first step took."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from rich.console import Console

from craft_lightning import run_facts
from craft_lightning.checkpoints.encoder import growth_of
from craft_lightning.models.image_files import told
from craft_lightning.strategies.choose import Choice
from craft_lightning.text.prompts import message
from data_modules.datasets import OWN

_NAMES = 8
"""Names of classes that a line shows."""

_CAPTIONS = 3
"""Captions that a line shows."""


class RunBanner(Callback):
    """Says what trains, on what, with which codebook and strategy, before the first batch."""

    def __init__(self) -> None:
        self._said = False

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say it, once."""
        if self._said or not trainer.is_global_zero:
            return
        self._said = True
        lines = banner(trainer, pl_module)
        console = Console(stderr=True, highlight=False, soft_wrap=True)
        for name, text in lines.items():
            console.print(f"{name:<9} {text}", markup=False)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                table = "\n".join(f"| {name} | {text} |" for name, text in lines.items())
                logger.experiment.add_text("run", f"| | |\n|---|---|\n{table}", 0)

    on_validation_start = on_test_start = on_predict_start = on_fit_start


class StrategyAdvisor(Callback):
    """Says after the first step how much memory it took, beside the estimate that the layout was chosen by. The run's
    first lines show the ``choice``, see :func:`.run_facts.strategy`."""

    def __init__(self, choice: Choice) -> None:
        self.choice = choice
        self.measured: int | None = None
        self._before = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        run_facts.forget_peak()
        self._before = run_facts.peak_memory(trainer)  # before the weights are there

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *args: Any) -> None:
        if self.measured is not None or trainer.global_step == 0 or not trainer.is_global_zero:
            return
        self.measured = run_facts.peak_memory(trainer) - self._before
        found = self.choice.estimate
        parts = {"weights": found.weights, "gradients and optimiser": found.states, "activations": found.activations}
        held = ", ".join(f"{name} {run_facts.size(part)}" for name, part in parts.items())
        print(
            f"memory    estimated {run_facts.size(sum(parts.values()))} ({held}), "
            f"measured {run_facts.size(self.measured)} in the first step",
            file=sys.stderr,
        )


def banner(trainer: Trainer, module: Any) -> dict[str, str]:
    """The lines by their heading."""
    parts = run_facts.trained_parts(module)
    trains = ", ".join(f"{part} {count:,}" for part, count in parts.items()) or "nothing"
    total = sum((getattr(p, "quant_state", None) or p).shape.numel() for p in module.parameters())  # 4 bits share bytes
    share = sum(parts.values()) / total if total else 0.0
    fast = getattr(trainer, "fast_dev_run", False)
    backbone, codebook, kind = module.backbone, module.vlm.codebook_hash, run_facts.quantizer_dtype(module)
    plugged = {"encoder": backbone.encoder, "adapter": backbone.adapter}
    small = [f"with its language model in {backbone.language_dtype}"] if backbone.language_dtype != "same" else []
    searched = f", {backbone.codebook_share:.4g} of it searched" if backbone.codebook_share < 1.0 else ""
    grown = f", grown by {growth}" if (growth := growth_of(backbone)) else ""
    lines = {
        "method": _method_line(run_facts.method(module), module.name),
        "backbone": " ".join(
            [backbone.name, *(f"with {part} {name}" for part, name in plugged.items() if name), *small]
        ),
        "trains": f"{trains} ({share:.1%} of {total:,} parameters)" if trainer.state.fn == "fit" else "",
        "codebook": f"{codebook}, distances in {kind}{grown}{searched}" if codebook else "none (continuous tower)",
        "strategy": run_facts.strategy(trainer),
        "pruning": _pruning_line(run_facts.pruning(trainer, module)),
        "data": _data_line(run_facts.data_facts(trainer), module.max_new_tokens),
        **(_wording(trainer.datamodule) if trainer.state.fn == "fit" and hasattr(trainer, "datamodule") else {}),
        "folder": "none: fast_dev_run keeps nothing" if fast else trainer.default_root_dir,
    }
    return {name: text for name, text in lines.items() if text}


def _method_line(method: str, named: str) -> str:
    """Says where a config names one method and another is tested."""
    if method == named:
        return method
    if method == "zero_shot":
        return f"{method}: the model as it is, for the config names {named}, but no --encoder or --ckpt_path was given"
    return f"{method}: that of what is plugged in; the config names {named}"


def _pruning_line(pruning: dict[str, Any]) -> str:
    if not pruning:
        return ""
    also = ", ".join(map(str, pruning["also"]))
    kept = f"keep {pruning['keep']} of the visual tokens outside of training" + (f" (also {also})" if also else "")
    return f"{kept}; {pruning['rule']['variant']}, prior: {pruning['prior']}"


def _wording(data: Any) -> dict[str, str]:
    """The first question and captions of a training as they will be read: a class folder's name may read oddly."""
    captions = getattr(data, "captions", [])
    more = f" ... ({len(captions):,} captions)" if len(captions) > _CAPTIONS else ""
    question = [message(example).replace("\n", " | ") for example in data.asked("train", 1)] if captions else [""]
    return {"question": question[0], "captions": " ".join(captions[:_CAPTIONS]) + more}


def _few(names: Sequence[str]) -> str:
    """The first names, and how many more there are; ``result.json`` has them all."""
    more = len(names) - _NAMES
    return ", ".join(names[:_NAMES]) + (f" and {more} more" if more > 0 else "")


def _data_line(data: dict[str, Any], decoded: int) -> str:
    if not data:
        return ""
    splits = ", ".join(f"{name} {count:,}" for name, count in data.get("splits", {}).items())
    notes = [str(data[key]) for key in ("root", "look") if data.get(key)]
    held = data.get("held_out")
    notes += [f"{len(held)} of {data['classes']} labels held out: {_few(held)}"] if held else []
    few = [f"{name} ({count})" for name, count in data.get("untested", {}).items()]
    notes += [f"labels without a test item: {_few(few)}"] if few else []
    long = " and ".join(f"{n} of {data['splits'][name]} {name}" for name, n in data.get("too_long", {}).items())
    notes += [f"{long} answers are longer than the {decoded} tokens of a reply"] if long else []
    notes += [f"limited to {limit} {name} batches" for name, limit in data.get("limits", {}).items()]
    skipped = data.get("skipped")
    notes += [f"left out: {told(skipped)}"] if skipped else []
    name = data.get("title") if data.get("dataset") == OWN else data.get("dataset")
    return f"{name} from {data.get('source')} ({'; '.join([splits, *notes])})"
