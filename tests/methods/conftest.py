"""A trainer without side effects, and data small enough to train on in a second."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch import Trainer

from craft_lightning.methods.base import BaseMethod
from craft_lightning.models.vlm_spec import VlmSpec
from craft_lightning.types import VqaBatch
from data_modules.datamodule import VqaDataModule

Build = Callable[..., BaseMethod]


@pytest.fixture
def trainer(tmp_path: Path) -> Callable[..., Trainer]:
    """Makes Trainers, each with a folder of its own: a method's callbacks do not write over a run."""
    number = itertools.count()

    def make(**options: Any) -> Trainer:
        quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False, "barebones": False}
        steps = {"max_steps": 3, "max_epochs": -1, "num_sanity_val_steps": 0, "limit_val_batches": 0}
        where = {"accelerator": "cpu", "devices": 1, "default_root_dir": tmp_path / f"run{next(number)}"}
        return Trainer(**{**quiet, **steps, **where, "enable_checkpointing": False, **options})

    return make


@pytest.fixture
def data(checkpoints: Path) -> Callable[..., VqaDataModule]:
    def make(backbone: str = "host", **options: Any) -> VqaDataModule:
        small = {"train_size": 24, "val_size": 6, "test_size": 8, "batch_size": 6, "dataset": "eurosat"}
        return VqaDataModule(backbone=VlmSpec(name=str(checkpoints / backbone)), **{**small, **options})

    return make


@pytest.fixture
def batch(data: Callable[..., VqaDataModule]) -> VqaBatch:
    """Six training rows of the drawn satellite tiles."""
    module = data()
    module.setup("fit")
    return next(iter(module.train_dataloader()))


@pytest.fixture
def build(checkpoints: Path) -> Build:
    def make(cls: type[BaseMethod], backbone: str | None = None, **options: Any) -> BaseMethod:
        place = backbone or ("continuous" if cls.continuous else "host")
        method = cls(backbone=VlmSpec(name=str(checkpoints / place)), **options)
        method.configure_model()
        return method

    return make
