"""``board``: names the runs of no table for TensorBoard, beside those that ``table run`` names."""

from __future__ import annotations

from collections.abc import Sequence

from craft_lightning.cli import verbs
from craft_lightning.report.tensorboard import link_others


def main(argv: Sequence[str]) -> int:
    """The verb; returns the exit code."""
    print(f"tensorboard --logdir {link_others(verbs.board().parse_args(argv).runs)}")
    return 0
