"""Justified answers about drawn images, judged by rules while they are tested."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from craft_lightning.evaluation.judgement import judgements_file, means, to_line
from craft_lightning.evaluation.offline_judge import OfflineJudge
from craft_lightning.evaluation.predictions import everywhere
from craft_lightning.io import write_text
from craft_lightning.run_folder import OFFLINE, result_files
from craft_lightning.types import Prediction
from data_modules.twins import facts_of_all


class OfflineJudging(Callback):
    """Logs the means of a test's judgements as ``test/presence`` and so on, at further keep ratios as
    ``test/keep<ratio>/presence``, and writes each into ``judgements.offline.jsonl``.

    Images that nothing was written down about (published ones) are not judged: see the verb ``judge``.
    """

    def __init__(self) -> None:
        self._replies: dict[float | None, list[Prediction]] = {}
        self._lines: dict[float | None, str] = {}

    def on_test_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Forget the last test."""
        self._replies = {}

    def on_test_batch_end(self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *args: Any) -> None:
        """Keep the replies."""
        for keep, replies in ((None, outputs["predictions"]), *outputs["also"].items()):
            self._replies.setdefault(keep, []).extend(replies)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Judge all replies, on every process, and log the means."""
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        items = {example.key: example for example in data.asked("test")}
        own = (item.meta["facts"] for item in items.values())
        judge, values = OfflineJudge(own, facts_of_all()), dict[str, float]()
        self._lines = {}
        for keep, replies in self._replies.items() if judge.known else ():
            texts = {reply.key: reply.text for reply in everywhere(replies)}
            judged = {key: judge.judge(text, items[key]) for key, text in texts.items()}
            self._lines[keep] = "".join(to_line(key, texts[key], judgement) for key, judgement in judged.items())
            place = "test" if keep is None else f"test/keep{keep}"
            values |= {f"{place}/{name}": value for name, value in means(judged.values()).items()}
        pl_module.log_dict(values, sync_dist=True)  # equal on all processes already; this says so to Lightning

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Write the judgements beside the replies."""
        if not trainer.is_global_zero or getattr(trainer, "fast_dev_run", False):
            return
        replies = result_files(Path(trainer.default_root_dir), "test")[1]
        for keep, lines in self._lines.items():
            path = replies if keep is None else replies.with_suffix(f".keep{keep}.jsonl")
            write_text(judgements_file(path, OFFLINE), lines)
