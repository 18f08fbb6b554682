"""What a frozen encoder makes of an image is made once in a fit, and changes nothing."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import Any

import pytest
import torch
from torch import Tensor

from craft_lightning.methods._support.feature_cache import FeatureCache
from craft_lightning.methods.base import BaseMethod
from craft_lightning.methods.craft import Craft
from craft_lightning.methods.ldifs import Ldifs
from craft_lightning.methods.llm_lora import LlmLora
from craft_lightning.methods.projector_ft import ProjectorFineTuning
from craft_lightning.methods.vision_ft import VisionFineTuning
from craft_lightning.methods.zero_shot import ZeroShot
from craft_lightning.types import VisualTokens, VqaBatch


@pytest.fixture(autouse=True)
def _training_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The callbacks that every run has encode images of their own: codes before training, the prior of an encoder."""
    monkeypatch.setattr(BaseMethod, "configure_callbacks", lambda self: [])


class Turned(ProjectorFineTuning):
    """Sees in its own way, which its projector could be a part of."""

    def visual_tokens(self, pixel_values: Tensor) -> VisualTokens:
        return super().visual_tokens(pixel_values.flip(-1))


def counted(method: Any) -> list[int]:
    """Sizes of the batches that the tower encodes from now on."""
    sizes: list[int] = []
    encode = method.vlm.tower.encode

    def counting(pixel_values: Tensor, *args: Any) -> VisualTokens:
        sizes.append(len(pixel_values))
        return encode(pixel_values, *args)

    method.vlm.tower.encode = counting
    return sizes


def fitted(method: Any, module: Any, trainer: Any, **options: Any) -> int:
    """Images that the tower encodes in three epochs of 24."""
    sizes = counted(method)
    trainer(max_steps=12, **options).fit(method, datamodule=module)
    return sum(sizes)


@pytest.mark.parametrize("place", ["host", "continuous"])
@pytest.mark.parametrize("cls", [ProjectorFineTuning, LlmLora])
def test_a_frozen_encoder_sees_a_picture_once(cls: Any, place: str, build: Any, data: Any, trainer: Any) -> None:
    methods = []
    for names, pictures in ((True, 24), (False, 72)):
        torch.manual_seed(0)
        methods.append(build(cls, place))
        module = data(place)
        if not names:
            module.on_before_batch_transfer = lambda batch, _: replace(batch, image_names=())
        assert fitted(methods[-1], module, trainer) == pictures
        assert methods[-1].seen is None, "nothing is kept behind the fit"
    for (name, one), (_, other) in zip(*(method.trainable() for method in methods), strict=True):
        assert torch.equal(one, other), name


@pytest.mark.parametrize("cls", [Craft, VisionFineTuning, Ldifs, Turned])
def test_what_may_change_is_seen_anew(cls: Any, build: Any, data: Any, trainer: Any) -> None:
    method = build(cls)
    module = data("continuous" if cls.continuous else "host")
    sizes = counted(method)
    features: list[int] = []
    method.vlm.tower.vision.embeddings.register_forward_hook(lambda *args: features.append(len(args[2])))
    trainer(max_steps=12).fit(method, datamodule=module)
    assert sum(features) == 72
    assert sum(sizes) in (0, 72), "LDIFS asks for its slices instead"


def test_a_picture_is_seen_once_whatever_is_asked_about_it(build: Any, data: Any, trainer: Any) -> None:
    module = data(dataset="vqa_rad")
    module.setup("fit")
    train = module.splits["train"]
    pictures = {item.image for item in train.items}
    assert len(pictures) < len(train)
    sizes = counted(method := build(LlmLora))
    trainer(max_steps=2 * (len(train) // 6)).fit(method, datamodule=module)
    assert sum(sizes) == len(pictures)


def test_a_second_validation_encodes_nothing(build: Any, data: Any, trainer: Any) -> None:
    options = {"limit_val_batches": 1.0, "val_check_interval": 6, "check_val_every_n_epoch": None}
    assert fitted(build(ProjectorFineTuning), data(), trainer, **options) == 24 + 6


def test_another_stage_may_show_other_pictures_under_the_same_names(build: Any, data: Any, trainer: Any) -> None:
    method = build(ProjectorFineTuning)
    assert fitted(method, data(), trainer, limit_val_batches=1.0) == 24 + 6
    shown = counted(method)
    trainer(limit_val_batches=1.0).validate(method, datamodule=data(look="studio"), verbose=False)
    assert sum(shown) == 6


@pytest.mark.parametrize("place", ["host", "continuous"])
def test_rows_are_the_encoders_own(place: str, build: Any, batch: VqaBatch) -> None:
    method = build(ZeroShot, place)
    seen = FeatureCache(method.vlm.grid)
    order = [3, 1, 1, 5]
    some = replace(
        batch, pixel_values=batch.pixel_values[order], image_names=tuple(batch.image_names[i] for i in order)
    )
    for asked in (some, batch, some):  # three are new, three more, none
        found, whole = seen.look(asked, method.visual_tokens), method.visual_tokens(asked.pixel_values)
        for field in fields(VisualTokens):
            one, other = getattr(found, field.name), getattr(whole, field.name)
            assert torch.equal(one, other) if isinstance(other, Tensor) else one == other, field.name
    assert len(seen.rows) == 6


def test_pictures_that_find_no_room_are_encoded_each_time(build: Any, batch: VqaBatch) -> None:
    method = build(ZeroShot, "continuous")
    row = method.visual_tokens(batch.pixel_values[:1]).features.nbytes
    seen = FeatureCache(method.vlm.grid, room=4 * row + row // 2)
    sizes = counted(method)
    for _ in range(2):
        found = seen.look(batch, method.visual_tokens)
    assert sizes == [6, 2]
    assert torch.equal(found.features, method.visual_tokens(batch.pixel_values).features)
