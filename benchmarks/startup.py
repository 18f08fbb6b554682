"""How long the command line takes to answer, and ``fit`` to its first step.

    python benchmarks/startup.py [--quick]

Every run is a process of its own, from its start. Bound: Python itself, which starts and does nothing.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path

from timing import Row, alternate, program

ROOT = Path(__file__).resolve().parents[1]
ANSWERS, TOLD, FIRST_STEP = 0.3, 1.5, 3.7
"""Seconds: the goals."""

VERBS = (("--help",), ("list", "methods"), ("table", "status", "table1"), ("fit", "--help"), ("tokenize", "--help"))
MISTAKE = ("fit", "--config=experiments/smoke.yaml", "--trainer.max_step=3")
FIT = """
import os, sys
from lightning.pytorch import Callback
from craft_lightning.cli.run import build_cli
class Stop(Callback):
    def on_train_batch_end(self, *args):
        os._exit(0)
build_cli(sys.argv[1:], callbacks=[Stop()])
"""
"""``fit`` to the end of its first step. What it leaves half done is in a folder that goes."""

FILES = (
    "base.yaml",
    "callbacks/prune.yaml",
    "callbacks/ste_check.yaml",
    "callbacks/token_map.yaml",
    "methods/craft.yaml",
)


def run(*arguments: str, code: int = 0) -> None:
    """Python with these arguments, which ends with a code; its output is thrown away."""
    assert subprocess.run([sys.executable, *arguments], cwd=ROOT, check=False, capture_output=True).returncode == code


def fit() -> None:
    """A run of Table 1 up to its first step."""
    with tempfile.TemporaryDirectory() as folder:
        configs = [f"--config={ROOT / 'experiments' / file}" for file in FILES]
        run("-c", FIT, "fit", *configs, f"--trainer.default_root_dir={folder}/run")


def rows(quick: bool) -> list[Row]:
    """The verbs that answer at once, and ``fit``."""
    runs: list[Callable[[], object]] = [partial(run, "-c", "pass")]
    runs += [partial(run, "-m", "craft_lightning", *verb) for verb in VERBS]
    runs += [partial(run, "-m", "craft_lightning", *MISTAKE, code=2)]
    python, *answers, told = alternate(runs, 3 if quick else 11, warm_up=1)
    (first,) = alternate([fit], 1 if quick else 3, warm_up=0 if quick else 1)
    found = []
    for verb, seconds in zip(VERBS, answers, strict=True):
        found.append(Row(6, f"`{' '.join(verb)}`", f"{ANSWERS:g} s", ANSWERS, seconds, "s", most=1.0))
        found.append(Row(6, f"`{' '.join(verb)}`", "Python that does nothing", python, seconds, "s", bound=True))
    found.append(Row(6, "`fit` with an unknown setting", f"{TOLD:g} s", TOLD, told, "s", most=1.0))
    return [*found, Row(6, "`fit` to the end of its first step", f"{FIRST_STEP:g} s", FIRST_STEP, first, "s", most=1.0)]


if __name__ == "__main__":
    raise SystemExit(program(__doc__, rows))
