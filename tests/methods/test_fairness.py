"""Every method gets the same batches in the same order, the same steps and rates, and the same test items."""

from __future__ import annotations

import hashlib
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback

from craft_lightning.benchmark.spec import load_spec
from craft_lightning.benchmark.table_parts import TableSpec
from craft_lightning.io import read_mapping
from craft_lightning.methods import METHODS
from craft_lightning.optim import OptimSpec
from craft_lightning.types import VqaBatch

TRAINED = [name for name in METHODS if name != "zero_shot"]
PLACE = {name: "continuous" if METHODS[name].continuous else "host" for name in METHODS}
STEPS = 7  # of four batches an epoch: the second epoch's order and options count, too
ROOT = Path(__file__).resolve().parents[2] / "experiments"
TABLES = [load_spec(ROOT / "tables" / f"{name}.yaml") for name in ("table1", "sweep")]


def digest(batch: VqaBatch) -> str:
    """Pixels, prompts, replies, labels, drawn captions and keys."""
    total = hashlib.sha256()
    for field in fields(batch):
        value = getattr(batch, field.name)
        total.update(value.numpy().tobytes() if isinstance(value, torch.Tensor) else repr(value).encode())
    return total.hexdigest()


class Served(Callback):
    """Notes every batch, and the learning rate of every step."""

    def __init__(self) -> None:
        self.batches: list[str] = []
        self.rates: list[float] = []

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: VqaBatch, batch_idx: int) -> None:
        self.batches.append(digest(batch))
        self.rates.append(trainer.optimizers[0].param_groups[0]["lr"])

    def on_test_batch_start(self, trainer: Any, pl_module: Any, batch: VqaBatch, *args: Any) -> None:
        self.batches.append(digest(batch))


def test_the_same_batches_steps_and_rates(build: Any, data: Any, trainer: Any, tmp_path: Path) -> None:
    served: dict[int, Served] = {}
    for seed in (0, 1):
        for name in TRAINED:
            torch.manual_seed(seed)  # as the command line does, before a method draws its own numbers
            seen = Served()
            run = trainer(max_steps=STEPS, callbacks=[seen], default_root_dir=tmp_path / f"{name}{seed}")
            run.fit(build(METHODS[name], optim=OptimSpec(lr=1e-3)), data(PLACE[name], seed=seed))
            first = served.setdefault(seed, seen)
            assert run.global_step == len(seen.batches) == STEPS, name
            assert seen.batches == first.batches, name
            assert seen.rates == first.rates, name
        assert len(set(served[seed].batches)) == STEPS
    assert not set(served[0].batches) & set(served[1].batches), "seeds differ in order, options and captions"
    assert served[0].rates == served[1].rates
    assert max(served[0].rates) == 1e-3


def test_the_same_test_items(build: Any, data: Any, trainer: Any, tmp_path: Path) -> None:
    served = []
    for seed, name in enumerate(METHODS):
        seen = Served()
        module = data(PLACE[name], seed=seed, eval_batch_size=3)
        run = trainer(callbacks=[seen], default_root_dir=tmp_path / name)
        run.test(build(METHODS[name]), module, verbose=False)
        served.append((seen.batches, module.item_hashes("test")))
    assert len(served[0][0]) == 3
    assert all(other == served[0] for other in served)


@pytest.mark.parametrize("table", TABLES, ids=lambda spec: spec.name)
def test_rows_of_a_table_differ_in_the_method_alone(table: TableSpec) -> None:
    """Steps, batches and data come from the table's base and its column, so they are the same for every row."""
    for row in table.rows:
        assert set(read_mapping(row.method)) == {"model"}, row.id
        assert not [flag for flag in row.overrides if not flag.startswith("model.init_args.")], row.id
        assert not [flag for flag in row.eval if not flag.startswith(("model.init_args.", "prune."))], row.id
        assert not any("backbone" in flag for flag in row.overrides), row.id
    assert not any(backbone.overrides for backbone in table.backbones)
    for column in table.columns:
        assert not any(dataset.config for dataset in column.datasets)
        assert not column.overrides, "a setting of one dataset would hold for one row only"


@pytest.mark.parametrize("name", TRAINED)
def test_a_fragment_sets_the_method_and_its_rate_and_nothing_else(name: str) -> None:
    settings = read_mapping(ROOT / "methods" / f"{name}.yaml")["model"]["init_args"]
    assert set(settings["optim"]) == {"lr"}
    assert "backbone" not in settings
