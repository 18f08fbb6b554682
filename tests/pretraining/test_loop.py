"""The training loop: how it ends, and that a resumed run is the same run."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.fabric import Fabric
from torch import Tensor, nn

from craft_lightning.errors import CraftError
from craft_lightning.pretraining.plans import LoopSpec
from craft_lightning.pretraining.training_loop import run_stage


class Regression(nn.Module):
    """A stage small enough to see through."""

    def __init__(self, outputs: int = 1) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(4, outputs)

    def forward(self, batch: Tensor) -> dict[str, Tensor]:
        return {"square": (self.layer(batch) - 1.0).pow(2).mean()}


def batch(step: int) -> Tensor:
    return torch.randn(8, 4, generator=torch.Generator().manual_seed(step))


def train(
    folder: Path, steps: int, stop: int | None = None, outputs: int = 1, data: str = "", log: Any = id, **other: Any
) -> Regression:
    model = Regression(outputs)
    spec = LoopSpec(steps=steps, batch_size=8, **{"save_every": 2, **other})

    def drawn(step: int) -> Tensor:
        if step == stop:
            raise KeyboardInterrupt
        return batch(step)

    run_stage("stage", model, drawn, spec, folder, Fabric(accelerator="cpu"), log, data)
    return model


def test_a_training_that_diverges_ends_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(CraftError, match=r"stage: the training diverged at step \d+; lower its lr from 1e\+30"):
        train(tmp_path, 9, lr=1e30)


def test_a_resumed_run_is_the_same_run(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", 7)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "parts", 7, stop=5)
    resumed = train(tmp_path / "parts", 7)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
    assert [path.name for path in (tmp_path / "parts").iterdir()] == ["stage.ckpt"]


def test_the_seconds_are_those_of_all_steps(tmp_path: Path) -> None:
    def seconds() -> float:
        spec = LoopSpec(steps=3, batch_size=8, save_every=1)
        return run_stage("stage", Regression(), batch, spec, tmp_path, Fabric(accelerator="cpu"), id)

    first = seconds()
    held = torch.load(tmp_path / "stage.ckpt", weights_only=True)
    assert 0 < held["seconds"] <= first
    torch.save(held | {"seconds": 3600.0}, tmp_path / "stage.ckpt")
    assert seconds() == 3600.0, "a finished stage takes none"
    torch.save({k: v for k, v in held.items() if k != "seconds"} | {"step": 2}, tmp_path / "stage.ckpt")
    assert 0 < seconds() < 3600, "an older checkpoint says nothing"


OTHERS: list[tuple[dict[str, Any], str]] = [
    ({"steps": 9}, "steps 7, now 9"),
    ({"lr": 2e-3}, "lr 0.001, now 0.002"),
    ({"seed": 1}, "seed 0, now 1"),
    ({"outputs": 2}, "model '[0-9a-f]+', now '[0-9a-f]+'"),
    ({"data": "20 pictures"}, "data '', now '20 pictures'"),
]


@pytest.mark.parametrize(("other", "said"), OTHERS)
def test_a_checkpoint_of_another_recipe_is_refused(other: dict[str, Any], said: str, tmp_path: Path) -> None:
    train(tmp_path, 7)
    before = (tmp_path / "stage.ckpt").read_bytes()
    with pytest.raises(CraftError, match=rf"stage.ckpt was made with {said}: remove it to start this stage again"):
        train(tmp_path, **{"steps": 7, **other})
    assert (tmp_path / "stage.ckpt").read_bytes() == before
    train(tmp_path, 7, save_every=3)  # how often it is saved changes nothing


def test_a_checkpoint_that_names_no_recipe_is_taken_with_a_word(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", 7)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path, 7, stop=5)
    held = torch.load(tmp_path / "stage.ckpt", weights_only=True)
    del held["recipe"]
    torch.save(held, tmp_path / "stage.ckpt")
    lines: list[str] = []
    resumed = train(tmp_path, 7, log=lines.append)
    assert "does not say of which recipe it is" in lines[0]
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
    with pytest.raises(CraftError, match="steps 7, now 8"):
        train(tmp_path, 8)


def test_training_lowers_the_loss(tmp_path: Path) -> None:
    before = Regression()(batch(99))["square"]
    assert train(tmp_path, 200)(batch(99))["square"] < before
