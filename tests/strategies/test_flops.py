"""What the accounting says of images that several questions share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from craft_lightning.methods.craft import Craft
from craft_lightning.models.vlm_spec import VlmSpec
from craft_lightning.strategies.flops import rows_an_image, training_work
from craft_lightning.strategies.memory import profile


def test_rows_of_a_pass_for_each_of_its_images() -> None:
    assert rows_an_image(1.0, 24) == 1.0
    assert rows_an_image(0.5, 24) == 1.0, "rows of a table without a usable question are none"
    assert rows_an_image(5.0, 1) == 1.0
    assert rows_an_image(5.0, 6) == 3.0  # two images, whichever of them is cut
    assert rows_an_image(5.0, 10**6) == pytest.approx(5.0, rel=1e-4)


def test_a_shared_image_is_paid_for_once(checkpoints: Path) -> None:
    sketch = Craft(backbone=VlmSpec(str(checkpoints / "host"))).sketch()
    few = profile(sketch, sketch.vlm)
    assert training_work(few, False, sharing=4.0).language == training_work(few, False).language, "text is longer"
    numbers = replace(few, tokens=2560)
    alone, shared = training_work(numbers, False), training_work(numbers, False, sharing=4.0)
    assert (shared.tower, shared.codes) == (alone.tower / 4, alone.codes / 4)
    assert alone.language / 4 < shared.language < alone.language, "questions are every row's own"
    assert training_work(numbers, False, sharing=1.0) == alone
