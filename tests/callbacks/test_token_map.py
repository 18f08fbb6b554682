"""Token maps of runs: the same items for every method, the codes that the run computed, nothing else changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from safetensors.torch import load_file
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from callbacks import token_map
from craft_lightning.checkpoints.load import load_vlm
from craft_lightning.cli.run import build_cli
from craft_lightning.models.pruning import PruneRule, prune
from craft_lightning.models.vlm_spec import VlmSpec
from craft_lightning.visualization import TokenView, draw_tokens

ROOT = Path(__file__).resolve().parents[2] / "experiments"
ON = ["--config", str(ROOT / "callbacks" / "token_map.yaml"), "--token_map.pictures=3"]


@pytest.fixture
def run(checkpoints: Path, tmp_path: Path) -> Any:
    def do(verb: str, folder: str, *flags: str, backbone: str = "host") -> Any:
        small = ["--data.train_size=16", "--data.val_size=6", "--data.test_size=6", "--data.eval_batch_size=2"]
        where = [f"--model.backbone.name={checkpoints / backbone}", f"--trainer.default_root_dir={tmp_path / folder}"]
        steps = ["--trainer.enable_progress_bar=false", "--trainer.max_steps=2", "--trainer.val_check_interval=1"]
        fast = ["--model.optim.lr=0.01"]
        method = ["--config", str(ROOT / "smoke.yaml")]
        return build_cli([verb, *method, *where, *small, *steps, *fast, *flags])

    return do


@pytest.fixture
def cards(monkeypatch: pytest.MonkeyPatch) -> list[TokenView]:
    """What was drawn, evaluation by evaluation."""
    views: list[TokenView] = []

    def watch(view: TokenView, colours: Any) -> Image.Image:
        views.append(view)
        return draw_tokens(view, colours)

    monkeypatch.setattr(token_map, "draw_tokens", watch)
    return views


def images(folder: Path) -> dict[str, list[int]]:
    """Tags of the images in a run's event files, and the steps that they were logged at."""
    events = EventAccumulator(str(folder / "events"), size_guidance={"images": 0})
    events.Reload()
    return {tag: [event.step for event in events.Images(tag)] for tag in events.Tags()["images"]}


@torch.no_grad()
def test_a_fit_draws_the_same_items_at_every_validation(
    run: Any, cards: list[TokenView], checkpoints: Path, tmp_path: Path
) -> None:
    cli = run("fit", "a", *ON)
    keys = [f"pictures/{key}" for key in next(iter(cli.datamodule.val_dataloader())).keys[:2]]
    found = images(tmp_path / "a")
    assert list(found.values()) == [[1, 2]] * 3
    assert keys == list(found)[:2]
    with Image.open(tmp_path / "a" / "token_map.fit.png") as sheet:
        assert sheet.height == sum(draw_tokens(view, torch.zeros(64, 3).byte()).height for view in cards[-3:])
    pixels = torch.cat([batch.pixel_values for batch in cli.datamodule.val_dataloader()])[:3]
    old = load_vlm(VlmSpec(str(checkpoints / "host"))).encode(pixels).codes[..., 0]
    new = cli.model.vlm.encode(pixels).codes[..., 0]
    assert bool((old != new).any())
    for i, view in enumerate(cards[-3:]):
        assert torch.equal(view.before, old[i].int())  # type: ignore[arg-type]
        assert torch.equal(view.codes, new[i])  # type: ignore[arg-type]
        assert view.kept is None
        assert view.lines[0][0] == cli.datamodule.splits["val"].example(i).question


@torch.no_grad()
def test_a_test_compares_with_the_backbone_alone_and_says_what_was_replied(
    run: Any, cards: list[TokenView], checkpoints: Path, tmp_path: Path
) -> None:
    run("fit", "a")
    assert cards == []
    assert not list((tmp_path / "a").glob("*.png"))
    assert images(tmp_path / "a") == {}
    cli = run("test", "b", *ON, f"--encoder={tmp_path / 'a' / 'encoder'}")
    examples = [cli.datamodule.splits["test"].example(i) for i in range(3)]
    assert images(tmp_path / "b") == {f"pictures/{e.key}": [0] for e in examples}
    pixels = next(iter(cli.datamodule.test_dataloader())).pixel_values
    old = load_vlm(VlmSpec(str(checkpoints / "host"))).encode(pixels).codes[..., 0]
    new = cli.model.vlm.encode(pixels).codes[..., 0]
    replies = (tmp_path / "b" / "predictions.jsonl").read_text().splitlines()
    for i, view in enumerate(cards[:2]):
        assert torch.equal(view.before, old[i])  # type: ignore[arg-type]
        assert torch.equal(view.codes, new[i])  # type: ignore[arg-type]
        assert ('"correct": true' in replies[i]) == ("(right)" in view.lines[-1][0])
        assert all(option in view.lines[1][0] for option in examples[i].options)
        assert ("held out" in view.lines[-1][0]) == (not examples[i].seen)
    cards.clear()
    run("test", "c", *ON, f"--ckpt_path={tmp_path / 'a' / 'checkpoints' / 'last.ckpt'}")
    assert torch.equal(cards[0].before, old[0])  # type: ignore[arg-type]
    assert torch.equal(cards[0].codes, new[0])  # type: ignore[arg-type]
    cards.clear()
    run("test", "d", *ON)
    assert cards[0].before is None
    assert torch.equal(cards[0].codes, old[0])  # type: ignore[arg-type]


@torch.no_grad()
def test_kept_tokens_are_the_ones_that_the_evaluation_read(run: Any, cards: list[TokenView]) -> None:
    cli = run("test", "a", *ON, "--prune.enabled=true", "--prune.keep=0.5")
    batch = next(iter(cli.datamodule.test_dataloader()))
    read = prune(cli.model.vlm.encode(batch.pixel_values), 0.5, cli.model.token_prior, PruneRule(), batch.keys)
    assert read.selection is not None
    kept = read.selection.mask(16)
    assert int(kept[0].sum()) == 8
    assert all(torch.equal(view.kept, kept[i]) for i, view in enumerate(cards[:2]))  # type: ignore[arg-type]


def test_a_continuous_tower_has_pictures_and_replies_but_no_codes(
    run: Any, cards: list[TokenView], tmp_path: Path
) -> None:
    run("fit", "a", *ON, "--model.lambda_commitment=0", backbone="continuous")
    assert len(images(tmp_path / "a")) == 3
    assert all(view.codes is None and view.before is None and view.lines for view in cards[-3:])


def test_drawing_changes_no_weight(run: Any, tmp_path: Path) -> None:
    run("fit", "a", *ON)
    run("fit", "b")
    one, other = (load_file(tmp_path / name / "encoder" / "encoder.safetensors") for name in ("a", "b"))
    assert all(torch.equal(one[name], other[name]) for name in one)


def test_overwriting_a_run_removes_its_maps(run: Any, tmp_path: Path) -> None:
    run("fit", "a", *ON)
    run("fit", "a", "--overwrite=true")
    assert not list((tmp_path / "a").glob("*.png"))
