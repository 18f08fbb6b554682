"""``board``: names the runs of no table for TensorBoard, beside those that ``table run`` names."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

from craft_lightning.report.tensorboard import link_others


def main(argv: Sequence[str]) -> int:
    """The verb; returns the exit code."""
    parser = argparse.ArgumentParser(
        prog="craft_lightning board",
        description="Gives the runs of no table a place beside those that `table run` names for TensorBoard.",
        allow_abbrev=False,
    )
    parser.add_argument("--runs", type=Path, default=Path("runs"), help="folder of all results (default: runs)")
    print(f"tensorboard --logdir {link_others(parser.parse_args(argv).runs)}")
    return 0
