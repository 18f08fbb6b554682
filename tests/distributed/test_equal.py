"""Two and four processes, copies and shards, make what one process makes of the same global batch.

Tolerances: terms of the loss within 2e-4 at every step, weights within 3e-4 after six steps at a learning rate of 0.01.
Sums are taken in another order, and everything else is the same: rows, options, captions, negatives, items.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from conftest import read
from PIL import Image
from scenarios import MIDDLE, STEPS

from craft_lightning.methods import METHODS

TERMS, WEIGHTS = 2e-4, 3e-4
OTHERS = [name for name in METHODS if name not in ("zero_shot", "craft")]


def on(name: str) -> dict[str, str]:
    """A method on a backbone that it knows."""
    return {"method": name, "backbone": "continuous" if METHODS[name].continuous else "host"}


@pytest.fixture(scope="module")
def two(alone: Callable[..., Path], group: Callable[..., dict[str, Path]]) -> dict[str, Path]:
    middle = str(alone() / "middle.ckpt")
    scenarios: dict[str, dict[str, Any]] = {
        "ddp": {},
        "fsdp2": {"strategy": "fsdp2"},
        "parts": {"parts": 2},
        "questions": {"dataset": "vqa_rad"},
        "shared": {"dataset": "vqa_rad", "grouped": True, "parts": 2},
        "shared llm_lora": {"method": "llm_lora", "dataset": "vqa_rad", "grouped": True, "strategy": "fsdp2"},
        "ddp from one": {"start": middle},
        "fsdp2 from one": {"strategy": "fsdp2", "start": middle},
        **{f"{name} ddp": on(name) for name in OTHERS},
        **{f"{name} fsdp2": {**on(name), "strategy": "fsdp2"} for name in OTHERS},
        "cut": {"strategy": "fsdp2", "cut": True},  # the last one: it ends in an error
    }
    return group(2, scenarios)


@pytest.fixture(scope="module")
def four(two: dict[str, Path], group: Callable[..., dict[str, Path]]) -> dict[str, Path]:
    return group(4, {"ddp": {}, "ddp from two": {"start": str(two["ddp"] / "middle.ckpt")}})


def same(found: Path, expected: Path, first: int = 1) -> None:
    """Two runs: terms of each step from ``first`` on, weights and optimiser at the end, scores and replies."""
    left, right = read(found), read(expected)
    for step in map(str, range(first, STEPS + 1)):
        assert left["terms"][step] == pytest.approx(right["terms"][step], abs=TERMS), step
    state = right["checkpoint"]["state_dict"]
    assert left["checkpoint"]["state_dict"].keys() == state.keys()
    for name, value in state.items():
        torch.testing.assert_close(left["checkpoint"]["state_dict"][name], value, atol=WEIGHTS, rtol=0.0, msg=name)
    assert (
        left["checkpoint"]["optimizer_states"][0]["state"].keys()
        == right["checkpoint"]["optimizer_states"][0]["state"].keys()
    )
    assert left["predictions"] == right["predictions"]
    for name, value in right["result"]["metrics"].items():
        if name.startswith("val/"):
            assert left["result"]["metrics"][name] == pytest.approx(value, abs=1e-5), name
    assert Image.open(found / "token_map.fit.png").size == Image.open(expected / "token_map.fit.png").size
    assert left["result"]["codebook_hash"] == right["result"]["codebook_hash"]


@pytest.mark.parametrize("name", ["ddp", "fsdp2", "parts"])
def test_two_processes_equal_one(two: dict[str, Path], alone: Any, name: str) -> None:
    same(two[name], alone())


def test_replies_of_unequal_lengths_weigh_as_on_one_device(two: dict[str, Path], alone: Any) -> None:
    same(two["questions"], alone(dataset="vqa_rad"))


def test_shared_images_are_cut_apart_between_processes_and_parts(two: dict[str, Path], alone: Any) -> None:
    same(two["shared"], alone(dataset="vqa_rad", grouped=True))
    same(two["shared llm_lora"], alone(method="llm_lora", dataset="vqa_rad", grouped=True))


def test_four_processes_equal_one(four: dict[str, Path], alone: Any) -> None:
    same(four["ddp"], alone())


def test_the_contrastive_loss_is_that_of_one_process(two: dict[str, Path], four: dict[str, Path], alone: Any) -> None:
    """Sentences and labels of all processes: with its own alone, a process of two rows has a fraction of the loss."""
    one = read(alone())["terms"]["1"]["train/contrastive"]
    assert one > 4.0
    for folder in (two["ddp"], two["fsdp2"], four["ddp"]):
        assert read(folder)["terms"]["1"]["train/contrastive"] == pytest.approx(one, abs=1e-5)


def test_every_item_is_counted_once(two: dict[str, Path], four: dict[str, Path]) -> None:
    """Seven items: one process of two, or of four, fills up with an item of another's."""
    for folder in (two["ddp"], two["fsdp2"], four["ddp"]):
        found = read(folder)
        assert found["result"]["rows"] == found["lines"] == len(found["predictions"]) == 7


@pytest.mark.parametrize("name", OTHERS)
@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_every_method_is_the_same(two: dict[str, Path], alone: Any, name: str, strategy: str) -> None:
    same(two[f"{name} {strategy}"], alone(**on(name)))


@pytest.mark.parametrize("name", ["ddp from one", "fsdp2 from one"])
def test_a_run_of_one_process_goes_on_in_two(two: dict[str, Path], alone: Any, name: str) -> None:
    same(two[name], alone(), first=MIDDLE + 1)


def test_a_run_of_two_processes_goes_on_in_four(four: dict[str, Path], alone: Any) -> None:
    same(four["ddp from two"], alone(), first=MIDDLE + 1)


@pytest.mark.parametrize("name", ["ddp", "fsdp2", "parts"])
def test_a_run_of_two_processes_goes_on_in_one(two: dict[str, Path], alone: Any, name: str) -> None:
    same(alone(start=str(two[name] / "middle.ckpt")), alone(), first=MIDDLE + 1)


def test_what_no_gradient_reaches_is_found_in_shards(two: dict[str, Path], alone: Any) -> None:
    """As in one process: three parameters of the embeddings, which are used, and four of a block that is not."""
    one = (alone(cut=True) / "said0.txt").read_text(encoding="utf-8")
    assert one.startswith("step 0: no gradient reached vlm.tower.vision.embeddings.")
    assert "(and 6 more), which craft declares trainable" in one
    for rank in (0, 1):
        assert (two["cut"] / f"said{rank}.txt").read_text(encoding="utf-8") == one


def test_only_this_run_s_terms_are_compared(two: dict[str, Path], alone: Any) -> None:
    """The comparison can fail: another dataset's run is another run."""
    with pytest.raises(AssertionError):
        same(two["questions"], alone())
