"""Fixed images of the evaluation: question, reply, and what became of their visual tokens (figures 4 and 7)."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.loggers import TensorBoardLogger
from torch import Tensor

from callbacks.codebook_usage import CodesChanged
from craft_lightning.checkpoints.load import load_tower
from craft_lightning.evaluation.predictions import everywhere
from craft_lightning.io import fresh_file
from craft_lightning.models.image_processing import preprocess
from craft_lightning.text.prompts import LETTERS
from craft_lightning.types import Prediction, VqaExample
from craft_lightning.visualization import INK, MUTED, RIGHT, WRONG, TokenView, code_colours, draw_tokens, stack


@dataclass(frozen=True)
class Seen:
    """What an evaluation made of one item: its reply, first-level codes ``[N]``, tokens kept ``[N]`` bool."""

    reply: Prediction
    codes: Tensor | None
    kept: Tensor | None


class TokenMap(Callback):
    """Draws the first stored items, the same ones for every method and seed, after each evaluation.

    To TensorBoard as ``pictures/<key of the item>``, and in one sheet as ``token_map.<verb>.png`` in the run folder.
    Codes and replies are those that the evaluation computed anyway. A fit compares with the codes before training; a
    test of an adapted encoder with those of the backbone alone, whose tower is loaded for that.

    Args:
        enabled: False leaves everything out.
        pictures: how many items.
    """

    def __init__(self, enabled: bool = False, pictures: int = 4) -> None:
        self.enabled = enabled
        self.pictures = pictures
        self._wanted: list[VqaExample] = []
        self._seen: dict[str, Seen] = {}

    def on_validation_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        data: Any = getattr(trainer, "datamodule", None)
        self._seen, self._wanted = {}, []
        if self.enabled and data is not None:
            items = data.splits["test" if trainer.testing else "val"]
            self._wanted = [items.example(index) for index in range(min(self.pictures, len(items)))]

    on_test_epoch_start = on_validation_epoch_start

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, *args: Any, **kwargs: Any
    ) -> None:
        module: Any = pl_module
        keys = {example.key for example in self._wanted} - self._seen.keys()
        codes, selection = outputs["codes"], outputs["read"].selection
        for row, reply in enumerate(outputs["predictions"]):
            if reply.key in keys:
                mine = None if codes is None else codes[row, :, 0].cpu()
                kept = None if selection is None else selection.mask(module.vlm.tower.num_tokens)[row].cpu()
                self._seen[reply.key] = Seen(reply, mine, kept)

    on_test_batch_end = on_validation_batch_end

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if not trainer.sanity_checking:
            self._draw(trainer, pl_module)

    on_test_epoch_end = on_validation_epoch_end

    def _draw(self, trainer: Any, module: Any) -> None:
        if not self._wanted:
            return
        seen = dict(everywhere(self._seen.items()))
        if not trainer.is_global_zero:
            return
        quantizer = module.vlm.tower.quantizer
        colours = None if quantizer is None else code_colours(quantizer.table(0))
        before = {} if quantizer is None else self._codes_before(trainer, module)
        cards = {
            example.key: draw_tokens(
                TokenView(
                    example.image,
                    module.vlm.grid,
                    codes=seen[example.key].codes,
                    before=before.get(example.key),
                    kept=seen[example.key].kept,
                    lines=_lines(example, seen[example.key].reply),
                ),
                colours,
            )
            for example in self._wanted
            if example.key in seen
        }
        if not cards:
            return
        with fresh_file(Path(trainer.default_root_dir) / f"token_map.{trainer.state.fn.value}.png") as temporary:
            stack(list(cards.values())).save(temporary)
        for logger in trainer.loggers:
            if isinstance(logger, TensorBoardLogger):
                for key, card in cards.items():
                    name = f"pictures/{key}"
                    logger.experiment.add_image(name, np.asarray(card), trainer.global_step, dataformats="HWC")

    @torch.no_grad()
    def _codes_before(self, trainer: Any, module: Any) -> dict[str, Tensor]:
        """First-level codes ``[N]`` by key, as they were before adaptation; empty where nothing was adapted."""
        if trainer.state.fn == "fit":
            (watcher,) = [c for c in trainer.callbacks if isinstance(c, CodesChanged)]
            return watcher.before
        if module.backbone.encoder is None and not module.moved:
            return {}
        tower = load_tower(replace(module.backbone, encoder=None)).to(module.device)
        images = torch.stack([preprocess(e.image, tower.image_size) for e in self._wanted]).to(module.device)
        with trainer.precision_plugin.forward_context():  # as the codes after it, or rounding would change some
            codes = tower.encode(images).codes
        assert codes is not None
        return dict(zip([example.key for example in self._wanted], codes[..., 0].cpu(), strict=True))


def _lines(example: VqaExample, reply: Prediction) -> list[tuple[str, str]]:
    """Question, options, and the reply beside the answer, each with its colour."""
    lines = [(example.question, INK)]
    if example.options:
        options = zip(LETTERS, example.options, strict=False)
        lines.append(("    ".join(f"{letter}. {text}" for letter, text in options), MUTED))
    verdict = "right" if reply.correct else f"wrong, the answer is {example.answer}"
    unseen = "" if example.seen else ", a label held out of training"
    told = f"reply: {reply.text or '(nothing)'} ({verdict}){unseen}"
    return [*lines, (told, RIGHT if reply.correct else WRONG)]
