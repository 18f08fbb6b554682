"""How fast the twins draw: field images a second at 64 x 64 on one core, beside the bound of 400.

Prints a line a twin: the median of five draws of 256 images each, after a warm-up, and its ratio to the bound.
"""

from __future__ import annotations

import statistics
import time

import numpy as np
import torch

from data_modules.twins import TWINS
from data_modules.twins.twin import Twin

BOUND = 400
SIDE, PICTURES, ROUNDS = 64, 256, 5


def pictures_a_second(twin: Twin) -> float:
    """The median over the rounds; each draws other images."""
    seconds = []
    for turn in range(ROUNDS + 1):
        index = np.arange(turn * PICTURES, (turn + 1) * PICTURES)
        began = time.perf_counter()
        twin.draw("benchmark", index, SIDE, "field")
        seconds.append(time.perf_counter() - began)
    return PICTURES / statistics.median(seconds[1:])


def main() -> None:
    """Draw with every twin."""
    torch.set_num_threads(1)
    for name, kind in TWINS.items():
        rate = pictures_a_second(kind())
        print(f"{name:14s} {rate:6.0f} field images a second, {rate / BOUND:.1f} times the bound of {BOUND}")


if __name__ == "__main__":
    main()
