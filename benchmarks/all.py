"""Every measuring program, one after the other, into ``benchmarks/results.json`` and ``docs/performance.md``.

    python benchmarks/all.py [--only quantizer ...] [--quick] [--output FILE]

Each runs in a process of its own on a machine that should do nothing else. If one fails, the others count and its name
is told. Trials (``--quick``) are printed, and written only to a file that is named. ``make benchmark`` is this.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from craft_lightning.io import write_json, write_text
from timing import Row, table

FOLDER = Path(__file__).resolve().parent
RESULTS = FOLDER / "results.json"
PAGE = FOLDER.parent / "docs" / "performance.md"
PROGRAMS = ("quantizer", "training_step", "evaluation", "growth", "startup", "shared_images", "small_weights")
MARKS = ("<!-- benchmark:begin -->", "<!-- benchmark:end -->")


def block(programs: Mapping[str, Any]) -> str:
    """What stands between the marks: all rows, when and where they were measured, and which programs are missing."""
    rows = sorted((Row(**row) for found in programs.values() for row in found["rows"]), key=lambda row: row.goal)
    places = "; ".join(dict.fromkeys(found["where"] for found in programs.values()))
    seconds = sum(found["seconds"] for found in programs.values())
    missing = ", ".join(name for name in PROGRAMS if name not in programs)
    told = f"{table(rows)}\n\nWritten by `make benchmark` in {seconds:.0f} s ({places})."
    return f"{told} **Without a result: {missing}.**" if missing else told


def page(text: str, inner: str) -> str:
    """A page with what is between its marks replaced."""
    whole = f"{MARKS[0]}\n{inner}\n{MARKS[1]}"
    return re.sub(f"{MARKS[0]}.*{MARKS[1]}", lambda _: whole, text, flags=re.DOTALL)


def measure(name: str, flags: Sequence[str]) -> Any:
    """What a program found; None if it failed."""
    with tempfile.TemporaryDirectory() as folder:
        output = Path(folder) / f"{name}.json"
        print(f"{name} ...", flush=True)
        ended = subprocess.run([sys.executable, FOLDER / f"{name}.py", "--output", output, *flags], check=False)
        if ended.returncode == 0:
            return json.loads(output.read_text(encoding="utf-8"))
        print(f"{name} failed (exit code {ended.returncode})", file=sys.stderr, flush=True)
        return None


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, write and print; returns the exit code: 1 if a program failed, whose results are left out."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=PROGRAMS, help="measure these anew, keep the others' results")
    parser.add_argument("--quick", action="store_true", help="small sizes and few rounds, to see that it works")
    parser.add_argument("--output", type=Path, help="write results to this JSON file, and no page")
    args = parser.parse_args(argv)
    chosen = args.only or PROGRAMS
    found = {name: measure(name, ["--quick"] if args.quick else []) for name in chosen}
    kept = json.loads(RESULTS.read_text(encoding="utf-8")) if args.only and not args.quick else {}
    every = {name: found.get(name) if name in chosen else kept.get(name) for name in PROGRAMS}
    programs = {name: each for name, each in every.items() if each is not None}
    if args.output is not None or not args.quick:
        write_json(args.output or RESULTS, programs)
    if args.output is None and not args.quick:
        write_text(PAGE, page(PAGE.read_text(encoding="utf-8"), block(programs)))
    print(block(programs))
    return int(any(each is None for each in found.values()))


if __name__ == "__main__":
    raise SystemExit(main())
