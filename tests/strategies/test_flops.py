"""The accounting of arithmetic: of a language model read at a few positions, and of images that questions share."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode
from transformers import LlamaConfig, LlamaModel

from craft_lightning.methods.craft import Craft
from craft_lightning.models.last_block import hidden_at
from craft_lightning.models.vlm_spec import VlmSpec
from craft_lightning.strategies.flops import evaluation_work, rows_an_image, stack_flops, training_work
from craft_lightning.strategies.memory import MemoryPlan, Profile, Stack, estimate, profile


@pytest.mark.parametrize("read", [None, 3])
def test_a_pass_takes_what_is_counted(read: int | None) -> None:
    """Eager attention multiplies everything, as the formula does. The last block makes keys and values of what is read
    a second time, which is not counted."""
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4, "num_key_value_heads": 2}
    model = LlamaModel(
        LlamaConfig(num_hidden_layers=3, vocab_size=16, attn_implementation="eager", **shape)  # type: ignore[arg-type]
    )
    inputs = {"inputs_embeds": torch.randn(1, 20, 32), "use_cache": False, "cache": None}
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        if read is None:
            model(**inputs)
        else:
            hidden_at(model, torch.arange(read)[None], **inputs)
    twice = 4 * (read or 0) * 32 * 16
    assert counter.get_total_flops() - twice == stack_flops(Stack(3, 32, 16, 64), 20, True, read)


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


def test_longer_replies_take_more_arithmetic_and_a_longer_cache() -> None:
    shapes = {"trained": 0, "frozen": 10**6, "tables": 0, "outside": 0, "block": 0, "tower": None, "tokens": 64}
    language = {"language": Stack(2, 32, 16, 64), "vocabulary": 100, "distances": 0, "matrices": 0}
    short = Profile(**shapes, **language, tower_trains=False, language_trains=False)  # type: ignore[arg-type]
    long = replace(short, reply=short.reply + 1000)
    cache = MemoryPlan("single", 1, 1, 8, False, 4)
    assert estimate(long, cache).evaluation - estimate(short, cache).evaluation == 8 * 1000 * 2 * 2 * 16 * 4
    more = evaluation_work(long).language - evaluation_work(short).language
    assert more > 1000 * 2.0 * (100 * 32 + 2 * (2 * 32**2 + 2 * 32 * 16 + 3 * 32 * 64))
