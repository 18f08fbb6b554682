"""Measurements in parts, each a process of its own with a share of a time that all of them keep to.

What a part has found counts even if it is cut off, fails, or takes the device down with it; what is left out is told.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from craft_lightning.errors import CraftError
from craft_lightning.io import write_json
from timing import Row, table, where

LEAST = 10.0
"""Seconds that a part needs to begin at all."""
Found = dict[str, Any]
"""What a part found: ``rows`` (of :class:`.timing.Row`), ``left_out`` (why that is not all, or null), and, if it came
to its end, ``where`` and ``seconds``."""


def run(part: Iterator[Row], output: Path) -> None:
    """A part, in this process; every row is written as soon as it is found."""
    began, rows, left_out = time.perf_counter(), list[Row](), None

    def write() -> None:
        spent = round(time.perf_counter() - began, 1)
        told = {"where": where(), "seconds": spent, "rows": [asdict(row) for row in rows], "left_out": left_out}
        write_json(output, told)

    try:
        for row in part:
            rows.append(row)
            write()
    except Exception as error:  # the other parts are measured all the same
        left_out = str(error)
        if not isinstance(error, CraftError):
            traceback.print_exc()
            left_out = f"{type(error).__name__}: {left_out.partition(chr(10))[0]}"
    write()


def start(command: Sequence[str], folder: Path, name: str, limit: float) -> Found:
    """A part in a process of its own, for at most ``limit`` seconds: ``command --part NAME --output FILE``."""
    output, reason = folder / f"{name}.json", None
    environment = os.environ | {"CUBLAS_WORKSPACE_CONFIG": ":4096:8"}  # what deterministic products of cuBLAS ask for
    try:
        line = [*command, "--part", name, "--output", str(output)]
        ended = subprocess.run(line, env=environment, stdout=sys.stderr, timeout=limit, check=False)
        reason = f"ended with exit code {ended.returncode}" if ended.returncode else None
    except subprocess.TimeoutExpired:
        reason = f"cut off after {limit:.0f} s"
    found: Found = json.loads(output.read_text(encoding="utf-8")) if output.is_file() else {"rows": []}
    return {**found, "left_out": reason or found.get("left_out")}


def measure(
    shares: Mapping[str, float],
    budget: float,
    start: Callable[[str, float], Found],
    absent: Mapping[str, str],
    output: Path | None,
) -> str:
    """Run parts, one after the other, until the time is over, and return a report in Markdown.

    Args:
        shares: seconds of each part. budget: of all. start: runs a part for so many seconds.
        absent: what is not measured at all, and why. output: JSON that is written after each part.
    """
    began, parts = time.monotonic(), dict[str, Found]()
    for name, share in shares.items():
        left = budget - (time.monotonic() - began)
        if left < LEAST:
            parts[name] = {"rows": [], "left_out": "no time was left"}
        else:
            print(f"{name}, at most {min(share, left):.0f} s ...", file=sys.stderr, flush=True)
            parts[name] = start(name, min(share, left))
        spent = round(time.monotonic() - began, 1)
        if output is not None:
            write_json(output, {"seconds": spent, "parts": parts, "absent": dict(absent)})
    rows = [Row(**row) for found in parts.values() for row in found["rows"]]
    left_out = {name: found["left_out"] for name, found in parts.items() if found["left_out"]} | dict(absent)
    lines = [f"- {name}: {reason}" for name, reason in left_out.items()]
    places = "; ".join(dict.fromkeys(found["where"] for found in parts.values() if "where" in found))
    return "\n".join([table(rows), "", *(["Left out:", "", *lines, ""] if lines else []), f"{spent:.0f} s ({places})"])
