"""Several nodes: Lightning's own environment plugin, from the variables that SLURM sets for a task."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.plugins.environments import SLURMEnvironment
from lightning.pytorch.utilities import rank_zero_only
from scenarios import ROOT

from callbacks.run_banner import StrategyAdvisor
from craft_lightning.cli.run import CraftCLI, build_cli
from craft_lightning.errors import CraftError
from craft_lightning.strategies import choose as strategy
from craft_lightning.strategies.choose import GIB, Machine

TASK = {
    "SLURM_JOB_ID": "7",
    "SLURM_JOB_NAME": "craft",
    "SLURM_NTASKS": "16",
    "SLURM_NTASKS_PER_NODE": "8",
    "SLURM_NODELIST": "node[01-02]",
    "SLURM_PROCID": "9",
    "SLURM_NODEID": "1",
    "SLURM_LOCALID": "1",
}


@pytest.fixture
def task(checkpoints: Path, tmp_path: Path, monkeypatch: Any) -> Any:
    """The command line's object of the tenth of sixteen tasks, not yet run."""
    for name, value in TASK.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(CraftCLI, "_run_subcommand", lambda self, subcommand: None)
    monkeypatch.setattr(rank_zero_only, "rank", 9)
    monkeypatch.setattr(strategy, "this_machine", lambda *args: Machine("cpu", 8, 2, 40 * GIB))

    def start(*flags: str) -> Any:
        files = ["base.yaml", "methods/craft.yaml", "hardware/2x8x40gb.yaml"]
        configs = [f"--config={ROOT / 'experiments' / file}" for file in files]
        where = [f"--model.backbone.name={checkpoints / 'host'}", f"--trainer.default_root_dir={tmp_path}"]
        return build_cli(["fit", *configs, *where, "--trainer.accelerator=cpu", *flags])

    return start


def test_a_task_finds_its_place(task: Any) -> None:
    trainer = task().trainer
    assert isinstance(trainer.strategy.cluster_environment, SLURMEnvironment)
    assert (trainer.world_size, trainer.global_rank, trainer.local_rank, trainer.node_rank) == (16, 9, 1, 1)
    assert trainer.strategy.launcher is None or not getattr(trainer.strategy.launcher, "procs", [])
    choice = next(c.choice for c in trainer.callbacks if isinstance(c, StrategyAdvisor))
    assert (choice.kind, choice.rows) == ("ddp", 2)


def test_the_paper_s_batch_is_refused_on_sixteen_devices(task: Any) -> None:
    with pytest.raises(CraftError, match="24 rows cannot be shared equally by 16 devices"):
        task("--data.batch_size=24")


def test_only_the_first_task_claims_the_folder(task: Any, tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "result.json").write_text("{}", encoding="utf-8")
    task("--overwrite=true")
    assert (tmp_path / "result.json").exists()
    monkeypatch.setattr(rank_zero_only, "rank", 0)
    with pytest.raises(CraftError, match="holds a run"):
        task()
