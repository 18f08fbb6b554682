"""Training on batches of whole images: read once, and the same step as with a copy of the image for each question."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback

from craft_lightning.methods import METHODS
from craft_lightning.methods.craft import Craft
from craft_lightning.methods.llm_lora import LlmLora
from craft_lightning.methods.zero_shot import ZeroShot
from craft_lightning.optim import OptimSpec
from craft_lightning.types import VqaBatch

FAST = OptimSpec(lr=1e-2, eps=1e-4)
TRAINED = [name for name in METHODS if name != "zero_shot"]


def apart(batch: VqaBatch) -> VqaBatch:
    """The same rows, each with an image of its own."""
    names = () if batch.image_of is None else tuple(batch.image_names[i] for i in batch.image_of.tolist())
    return replace(batch, pixel_values=batch.by_row(batch.pixel_values), image_names=names, image_of=None)


class Shown(Callback):
    """How many images and rows each step has, and its terms."""

    def __init__(self) -> None:
        self.images, self.rows, self.terms = 0, 0, list[dict[str, float]]()

    def on_train_batch_end(self, trainer: Any, module: Any, outputs: Any, batch: VqaBatch, batch_idx: int) -> None:
        self.images, self.rows = self.images + len(batch.pixel_values), self.rows + len(batch)
        self.terms.append({k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("train/")})


@pytest.mark.parametrize("name", TRAINED)
def test_every_method_takes_the_same_steps(name: str, build: Any, data: Any, trainer: Any) -> None:
    cls = METHODS[name]
    options: dict[str, Any] = {"dropout": 0.0} if cls is LlmLora else {}
    methods, seen = [], []
    for alone in (False, True):
        torch.manual_seed(0)
        methods.append(build(cls, optim=FAST, **options))
        place = "continuous" if cls.continuous else "host"
        module, shown = data(place, dataset="vqa_rad", batch_size=12, train_size=20, group_by_image=True), Shown()
        if alone:
            module.on_before_batch_transfer = lambda batch, _: apart(batch)
        trainer(max_steps=4, callbacks=[shown], log_every_n_steps=1).fit(methods[-1], datamodule=module)
        seen.append(shown)
    (shared, one_by_one), (mine, theirs) = seen, methods
    assert shared.rows == one_by_one.rows == one_by_one.images == 48
    assert shared.images < 24
    for found, expected in zip(shared.terms, one_by_one.terms, strict=True):
        assert found == pytest.approx(expected, rel=1e-4, abs=1e-5)
    for (n, one), (_, other) in zip(mine.trainable(), theirs.trainable(), strict=True):
        torch.testing.assert_close(one, other, atol=3e-4, rtol=0.0, msg=n)


def test_the_first_gradient_is_that_of_an_image(build: Any, data: Any, trainer: Any) -> None:
    """Of all that is asked about it: with copies, questions are summed as if at right angles."""
    found = []
    for alone in (False, True):
        torch.manual_seed(0)
        method, module = build(Craft, lambda_contrastive=0.0), data(dataset="vqa_rad", group_by_image=True)
        if alone:
            module.on_before_batch_transfer = lambda batch, _: apart(batch)
        trainer(max_steps=1).fit(method, datamodule=module)
        batch = next(iter(module.train_dataloader()))
        found.append(method.first_gradients["train/grad_z/commitment"])
    counts = batch.image_of.bincount().double()
    ratio = float((counts.square().sum() / counts.sum()).sqrt())
    assert found[0] == pytest.approx(found[1] * ratio, rel=0.2)  # images differ in how far z is from its codewords
    assert found[0] > 1.2 * found[1]


def test_evaluations_read_an_image_once_and_say_the_same(build: Any, data: Any, trainer: Any) -> None:
    """Grey: every question is about one and the same image."""
    method, replies, sizes = build(ZeroShot), [], list[int]()
    encode = method.vlm.tower.encode
    method.vlm.tower.encode = lambda pixels, *args: sizes.append(len(pixels)) or encode(pixels, *args)
    for alone in (False, True):
        module = data(dataset="vqa_rad", look="grey", eval_batch_size=5)
        if alone:
            module.on_before_batch_transfer = lambda batch, _: apart(batch)
        found = trainer().predict(method, datamodule=module)
        replies.append([(p.key, p.text, p.letter_correct) for batch in found for p in batch])
    assert replies[0] == replies[1]
    assert len({text for _, text, _ in replies[0]}) > 1
    assert sizes == [1, 1, 5, 3]
