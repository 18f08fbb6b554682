"""``result.json``, ``predictions.jsonl``, ``items.jsonl``: what a run asked and found, and all that repeats it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

from lightning.pytorch import Callback, LightningModule, Trainer

from callbacks.save_config import SaveConfig
from craft_lightning import run_facts
from craft_lightning.environment import git_state, versions
from craft_lightning.errors import CraftError
from craft_lightning.evaluation.predictions import everywhere, to_jsonl
from craft_lightning.io import write_json, write_text
from craft_lightning.run_folder import result_files, used
from craft_lightning.types import Prediction

_WRITTEN: WeakKeyDictionary[Trainer, set[Path]] = WeakKeyDictionary()
"""What each Trainer has written, which it may write anew: people test, fit and test again in one notebook."""


class ResultWriter(Callback):
    """Writes the result and the replies of a run into the Trainer's ``default_root_dir``, never over another run's."""

    def __init__(self) -> None:
        self.verb = "fit"
        self._start = 0.0
        self._predictions: list[Prediction] = []
        self._also: dict[float, list[Prediction]] = {}
        self._rows = 0

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Start the clock, and look where the files go. Raises CraftError: the folder holds another's evaluation. (The
        command line has looked, and can remove one.)"""
        self.verb, folder = str(getattr(stage, "value", stage)), Path(trainer.default_root_dir)
        self._start = time.monotonic()
        self._result, self._lines = result_files(folder, self.verb)
        if self.verb != "fit":
            _refuse(trainer, [path for path in (self._result, self._lines) if path.exists()], "an evaluation")

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Lightning has read the checkpoint by now: whether the training goes on from one is known. Raises CraftError:
        the folder holds another's run, and this one does not go on from a checkpoint."""
        if trainer.ckpt_path is None and (kept := used(self._result.parent)):
            _refuse(trainer, [self._result.parent / kept], "a run")

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the last evaluation."""
        self._predictions, self._also = [], {}

    on_test_epoch_start = on_validation_epoch_start

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *args: Any, **kwargs: Any
    ) -> None:
        """Keep the replies."""
        self._predictions += outputs["predictions"]
        for keep, replies in outputs["also"].items():
            self._also.setdefault(keep, []).extend(replies)

    on_test_batch_end = on_validation_batch_end

    def on_predict_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *args: Any, **kwargs: Any
    ) -> None:
        self._predictions += outputs

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
        self._write_predictions(trainer, "test")

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._write_result(trainer, pl_module)

    def _write_predictions(self, trainer: Trainer, split: str) -> None:
        rows = {p.key: p for p in everywhere(self._predictions)}
        also = {keep: {p.key: p for p in everywhere(replies)} for keep, replies in self._also.items()}
        self._rows = len(rows)
        if not trainer.is_global_zero:
            return
        hashes = getattr(getattr(trainer, "datamodule", None), "item_hashes", None)
        items = hashes(split) if hashes else {}
        _WRITTEN.setdefault(trainer, set()).add(self._lines)
        write_text(self._lines, to_jsonl(rows.values(), items))
        for keep, replies in also.items():
            write_text(self._lines.with_suffix(f".keep{keep}.jsonl"), to_jsonl(replies.values(), items))
        write_items = getattr(getattr(trainer, "datamodule", None), "write_items", None)
        if write_items:
            write_items(split, self._lines.with_name(self._lines.name.replace("predictions", "items")))

    def _write_result(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        module: Any = pl_module
        parts = run_facts.trained_parts(module)
        result = {
            "verb": self.verb,
            "method": run_facts.method(module),
            "settings": {k: v for k, v in module.hparams.items() if not k.startswith("_")},
            "encoder": module.vlm.encoder_facts,
            "adapter": module.vlm.adapter_facts,
            "seed": run_facts.seed(),
            "metrics": {**module.first_gradients, **trainer.callback_metrics},
            "rows": self._rows,
            "steps": trainer.global_step,
            "trained": {"count": sum(parts.values()), "parts": parts, "names": run_facts.trained_names(module)},
            "codebook_hash": module.vlm.codebook_hash,
            "quantizer_dtype": run_facts.quantizer_dtype(module),
            "strategy": run_facts.strategy(trainer),
            "pruning": run_facts.pruning(trainer, module),
            "device": run_facts.device(trainer),
            "arithmetic": run_facts.arithmetic(),
            "seconds": round(time.monotonic() - self._start, 3),
            "peak_memory": run_facts.peak_memory(trainer),
            "data": run_facts.data_facts(trainer),
            "data_settings": run_facts.data_settings(trainer),
            "config_hash": next((c.hash for c in trainer.callbacks if isinstance(c, SaveConfig)), None),  # type: ignore[attr-defined]
            "versions": versions(),
            "git": git_state(),
        }
        mine = [self._result, *(self._result.with_name(part) for part in ("encoder", "adapter"))]
        _WRITTEN.setdefault(trainer, set()).update(mine)
        write_json(self._result, run_facts.plain(result))


def _refuse(trainer: Trainer, kept: list[Path], what: str) -> None:
    if others := [path for path in kept if path not in _WRITTEN.get(trainer, ())]:
        folder, name = others[0].parent, others[0].name
        raise CraftError(f"{folder} holds {what} ({name}); give the Trainer another default_root_dir")
