"""``result.json``, ``predictions.jsonl``, ``items.jsonl``: what a run asked and found, and all that repeats it."""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from craft_lightning import run_facts
from craft_lightning.environment import git_state, versions
from craft_lightning.evaluation.predictions import everywhere, to_jsonl
from craft_lightning.io import write_json, write_text
from craft_lightning.run_folder import places
from craft_lightning.types import Prediction

NOT_HASHED = ("default_root_dir", "logger", "enable_progress_bar", "enable_model_summary")
"""Settings of the trainer that change where a run writes and what it shows, but not what it finds."""


def config_hash(config: Mapping[str, Any]) -> str:
    """SHA-256 of a resolved config without :data:`NOT_HASHED`, ``overwrite`` and the names of configs."""
    kept = {k: v for k, v in config.items() if k not in ("config", "overwrite")}
    kept["trainer"] = {k: v for k, v in kept.get("trainer", {}).items() if k not in NOT_HASHED}
    return hashlib.sha256(json.dumps(kept, sort_keys=True, default=str).encode()).hexdigest()


class ResultWriter(Callback):
    """Always on. Writes to its :func:`.run_folder.places`.

    Args:
        verb: ``fit``, ``validate``, ``test`` or ``predict``.
        config: the resolved config, for its hash.
    """

    def __init__(self, verb: str, config: Mapping[str, Any]) -> None:
        self.verb = verb
        self.hash = config_hash(config)
        self.seed = config.get("seed_everything")
        self._start = 0.0
        self._predictions: list[Prediction] = []
        self._also: dict[float, list[Prediction]] = {}
        self._rows = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Start the clock, and look where the files go."""
        self._start = time.monotonic()
        self._result, self._lines = places(Path(trainer.default_root_dir), self.verb)

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the last evaluation."""
        self._predictions, self._also = [], {}

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the last evaluation."""
        self._predictions, self._also = [], {}

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *args: Any, **kwargs: Any
    ) -> None:
        """Keep the replies."""
        self._collect(outputs)

    def on_test_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *args: Any, **kwargs: Any
    ) -> None:
        """Keep the replies."""
        self._collect(outputs)

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *args: Any, **kwargs: Any
    ) -> None:
        """Keep the replies."""
        self._predictions += outputs

    def _collect(self, outputs: Mapping[str, Any]) -> None:
        self._predictions += outputs["predictions"]
        for keep, replies in outputs["also"].items():
            self._also.setdefault(keep, []).extend(replies)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the replies of this evaluation (in training: of the last one so far)."""
        if not trainer.sanity_checking:
            self._write_predictions(trainer, "val")
            if self.verb == "validate":
                self._write_result(trainer, pl_module)

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write replies and result."""
        self._write_predictions(trainer, "test")
        self._write_result(trainer, pl_module)

    def on_predict_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the replies."""
        self._write_predictions(trainer, "test")

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the result of the training run."""
        self._write_result(trainer, pl_module)

    def _write_predictions(self, trainer: Trainer, split: str) -> None:
        rows = {p.key: p for p in everywhere(self._predictions)}
        also = {keep: {p.key: p for p in everywhere(replies)} for keep, replies in self._also.items()}
        self._rows = len(rows)
        if not trainer.is_global_zero:
            return
        hashes = getattr(getattr(trainer, "datamodule", None), "item_hashes", None)
        items = hashes(split) if hashes else {}
        write_text(self._lines, to_jsonl(rows.values(), items))
        for keep, replies in also.items():
            write_text(self._lines.with_suffix(f".keep{keep}.jsonl"), to_jsonl(replies.values(), items))
        write_items = getattr(getattr(trainer, "datamodule", None), "write_items", None)
        if write_items:
            write_items(split, self._lines.with_name(self._lines.name.replace("predictions", "items")))

    def _write_result(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        parts = run_facts.trained_parts(pl_module)
        result = {
            "verb": self.verb,
            "method": run_facts.method(trainer, pl_module),
            "settings": {k: v for k, v in pl_module.hparams.items() if not k.startswith("_")},
            "encoder": getattr(getattr(pl_module, "vlm", None), "encoder_facts", None),
            "seed": self.seed,
            "metrics": {**getattr(pl_module, "first_gradients", {}), **trainer.callback_metrics},
            "rows": self._rows,
            "steps": trainer.global_step,
            "trained": {"count": sum(parts.values()), "parts": parts, "names": run_facts.trained_names(pl_module)},
            "codebook_hash": run_facts.codebook_hash(pl_module),
            "quantizer_dtype": run_facts.quantizer_dtype(pl_module),
            "strategy": run_facts.strategy(trainer),
            "pruning": run_facts.pruning(trainer, pl_module),
            "device": run_facts.device(trainer),
            "arithmetic": run_facts.arithmetic(),
            "seconds": round(time.monotonic() - self._start, 3),
            "peak_memory": run_facts.peak_memory(trainer),
            "data": run_facts.data_facts(trainer),
            "config_hash": self.hash,
            "versions": versions(),
            "git": git_state(),
        }
        write_json(self._result, run_facts.plain(result))
