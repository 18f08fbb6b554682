"""The command line with a process that dies in its second step: ``dying.py RANK HOW ARGUMENTS...``."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from lightning.pytorch import Callback

from craft_lightning import __main__ as entry
from craft_lightning.cli import run as cli
from craft_lightning.errors import CraftError


class Die(Callback):
    """Ends this process: ``error`` raises, ``killed`` is what the system does when memory is short."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if batch_idx == 1 and trainer.global_rank == int(sys.argv[1]):
            if sys.argv[2] == "killed":
                os.kill(os.getpid(), signal.SIGKILL)
            raise CraftError(f"process {sys.argv[1]} found the fault")


def main(argv: Sequence[str]) -> int:
    """As the command line's own, with one callback more."""
    cli.build_cli(argv, callbacks=[Die()])
    return 0


if __name__ == "__main__":
    cli.main = main
    sys.exit(entry.main(sys.argv[3:]))
