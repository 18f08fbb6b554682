"""What TensorBoard shows: a folder of links whose names suit its filter box.

Jobs are shared between tables, so their folders say what a job is, and not which row it stands in. Here a training is
``<table>/<dataset>/<row>/seed<k>``, its test in that row ``<table>/<dataset>/<row>/seed<k>-eval-<backbone>``, and the
runs of no table keep their names.
"""

from __future__ import annotations

import os
from collections.abc import Container, Iterable, Mapping
from pathlib import Path

from craft_lightning.benchmark.plan import Plan
from craft_lightning.benchmark.store import LOCKS
from craft_lightning.benchmark.table_parts import Line
from craft_lightning.io import fresh_file
from craft_lightning.run_folder import EVENTS

BOARD = "tensorboard"
"""The folder of links below the folder of all results."""


def link_table(plan: Plan) -> Path:
    """Name the runs of a table, those that are still to come included; its folder of links is returned."""
    trial = plan.root.name.removeprefix(plan.spec.scale)
    folder = plan.root.parent / BOARD / f"{plan.spec.name}{trial}"
    targets: dict[Path, Path] = {}
    for (number, _), jobs in plan.cells.items():
        row = _row_name(plan.lines[number])
        for job in jobs:
            training = job.training
            place = folder / (training or job).facts["dataset"] / row
            seed = f"seed{job.facts['seed']}"
            if training is not None:
                targets[place / seed] = training.folder / EVENTS
            if training is not job:
                targets[place / "-".join((seed, *job.name.split("/")[-2:]))] = job.folder / EVENTS
    # Runs of other seeds keep their place; what is gone loses it.
    for root, folders, files in os.walk(folder):
        _unlink([path for name in folders + files if not (path := Path(root) / name).exists()], targets)
    _link(targets)
    return folder


def link_others(runs: Path) -> Path:
    """Give the runs that belong to no table a place beside those that do; the folder of all links is returned."""
    board = runs / BOARD
    board.mkdir(parents=True, exist_ok=True)
    tables = {path.name for path in board.iterdir() if path.is_dir() and not path.is_symlink()}
    others = {
        board / path.name: path
        for path in runs.iterdir()
        if path.is_dir() and path != board and path.name not in tables and not (path / LOCKS).is_dir()
    }
    _unlink(board.iterdir(), others)
    _link(others)
    return board


def _row_name(line: Line) -> str:
    """The row, and its surrogate where the row has several."""
    several = line.surrogate is not None and len(line.row.train_on) > 1
    return f"{line.row.id}-{line.surrogate.id}" if several and line.surrogate else line.row.id


def _link(targets: Mapping[Path, Path]) -> None:
    """Make links that are relative, so that the whole folder may move."""
    for path, target in targets.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        relative = os.path.relpath(target, path.parent)
        if not (path.is_symlink() and os.readlink(path) == relative):
            with fresh_file(path) as temporary:  # another runner may make the same
                temporary.symlink_to(relative, target_is_directory=True)


def _unlink(paths: Iterable[Path], kept: Container[Path]) -> None:
    for path in paths:
        if path.is_symlink() and path not in kept:
            path.unlink()
