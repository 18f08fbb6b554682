"""Every measuring program, one after the other, into ``benchmarks/results.json`` and ``docs/performance.md``.

    python benchmarks/all.py [--only quantizer ...] [--quick]

Each runs in a process of its own on a machine that should do nothing else. ``make benchmark`` is this.
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

from craft_lightning.writing import write_json, write_text
from timing import Row, table

FOLDER = Path(__file__).resolve().parent
RESULTS = FOLDER / "results.json"
PAGE = FOLDER.parent / "docs" / "performance.md"
PROGRAMS = ("quantizer", "training_step", "evaluation", "growth", "startup")
MARKS = ("<!-- benchmark:begin -->", "<!-- benchmark:end -->")


def block(programs: Mapping[str, Any]) -> str:
    """What stands between the marks: all rows, and when and where they were measured."""
    rows = sorted((Row(**row) for found in programs.values() for row in found["rows"]), key=lambda row: row.goal)
    places = "; ".join(dict.fromkeys(found["where"] for found in programs.values()))
    seconds = sum(found["seconds"] for found in programs.values())
    return f"{table(rows)}\n\nWritten by `make benchmark` in {seconds:.0f} s ({places})."


def page(text: str, inner: str) -> str:
    """A page with what is between its marks replaced."""
    whole = f"{MARKS[0]}\n{inner}\n{MARKS[1]}"
    return re.sub(f"{MARKS[0]}.*{MARKS[1]}", lambda _: whole, text, flags=re.DOTALL)


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, write and print; returns the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", nargs="+", choices=PROGRAMS, help="measure these anew, keep the others' results")
    parser.add_argument("--quick", action="store_true", help="small sizes and few rounds: to see that it works")
    args = parser.parse_args(argv)
    flags = ["--quick"] if args.quick else []
    programs = json.loads(RESULTS.read_text(encoding="utf-8")) if args.only else {}
    with tempfile.TemporaryDirectory() as folder:
        for name in args.only or PROGRAMS:
            output = Path(folder) / f"{name}.json"
            print(f"{name} ...", flush=True)
            subprocess.run([sys.executable, FOLDER / f"{name}.py", "--output", output, *flags], check=True)
            programs[name] = json.loads(output.read_text(encoding="utf-8"))
    write_json(RESULTS, programs)
    write_text(PAGE, page(PAGE.read_text(encoding="utf-8"), block(programs)))
    print(block(programs))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
