"""``board``: names the runs of no table for TensorBoard, beside those that ``table run`` names."""

from __future__ import annotations

from collections.abc import Sequence

from craft_lightning.cli import verbs
from craft_lightning.report.tensorboard import link_others
from craft_lightning.run_folder import check_folder


def main(argv: Sequence[str]) -> int:
    """The verb; returns the exit code."""
    runs = verbs.board().parse_args(argv).runs
    check_folder(runs, "--runs")
    print(f"tensorboard --logdir {link_others(runs)}")
    return 0
