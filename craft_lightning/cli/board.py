"""``board``: names the runs of no table for TensorBoard, beside those that ``table run`` names."""

from __future__ import annotations

from collections.abc import Sequence

from craft_lightning.cli.arguments import verb_parser
from craft_lightning.report.tensorboard import link_others


def main(argv: Sequence[str]) -> int:
    """The verb; returns the exit code."""
    parser = verb_parser("board", "Name all runs for TensorBoard, and print the command that shows them.")
    parser.shared("--runs")
    print(f"tensorboard --logdir {link_others(parser.parse_args(argv).runs)}")
    return 0
