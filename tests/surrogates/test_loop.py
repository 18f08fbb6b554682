"""The training loop: its schedule, and that a resumed run is the same run."""

from pathlib import Path

import pytest
import torch
from lightning.fabric import Fabric
from torch import Tensor, nn

from craft_lightning.surrogates.loop import LoopSpec, run_stage, schedule


class Regression(nn.Module):
    """A stage small enough to see through."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layer = nn.Linear(4, 1)

    def forward(self, batch: Tensor) -> dict[str, Tensor]:
        return {"square": (self.layer(batch) - 1.0).pow(2).mean()}


def batch(step: int) -> Tensor:
    return torch.randn(8, 4, generator=torch.Generator().manual_seed(step))


def train(folder: Path, steps: int, stop: int | None = None) -> Regression:
    model = Regression()
    spec = LoopSpec(steps=steps, batch_size=8, save_every=2)

    def drawn(step: int) -> Tensor:
        if step == stop:
            raise KeyboardInterrupt
        return batch(step)

    run_stage("stage", model, drawn, spec, folder, Fabric(accelerator="cpu"), lambda line: None)
    return model


def test_the_schedule_warms_up_and_ends_at_zero() -> None:
    spec = LoopSpec(steps=100, batch_size=1, warmup=0.03)
    assert [schedule(s, spec) for s in range(3)] == pytest.approx([1 / 3, 2 / 3, 1.0])
    assert schedule(3, spec) == pytest.approx(1.0)
    assert schedule(99, spec) < 1e-3
    assert all(schedule(s, spec) >= schedule(s + 1, spec) for s in range(3, 99))


def test_a_resumed_run_is_the_same_run(tmp_path: Path) -> None:
    whole = train(tmp_path / "whole", 7)
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "parts", 7, stop=5)
    resumed = train(tmp_path / "parts", 7)
    assert all(torch.equal(a, b) for a, b in zip(whole.parameters(), resumed.parameters(), strict=True))
    assert not list(tmp_path.rglob("*.partial"))


def test_training_lowers_the_loss(tmp_path: Path) -> None:
    before = Regression()(batch(99))["square"]
    assert train(tmp_path, 200)(batch(99))["square"] < before
