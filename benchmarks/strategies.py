"""What ``strategy: auto`` makes of the paper's models on a dozen machines; its estimates beside the paper's Table 4.

    python benchmarks/strategies.py [--output docs/strategies.md]

Models are read as folders of config files, machines are numbers: nothing is loaded and nothing is run, so that the
figures are the same everywhere. With ``--output``, the two blocks of that page are written anew.
"""

from __future__ import annotations

import argparse
import csv
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path

from craft_lightning.checkpoints.configs import write_blueprint
from craft_lightning.io import write_text
from craft_lightning.methods.craft import Craft
from craft_lightning.models.vlm_spec import VlmSpec
from craft_lightning.strategies.choose import COMMUNICATION, GIB, OUTSIDE, Choice, Machine, choose
from craft_lightning.strategies.memory import TEXT_TOKENS, MemoryPlan, Profile, estimate, profile

TABLE4 = Path(__file__).resolve().parents[1] / "experiments" / "tables" / "paper" / "table4.csv"
MIB = 2**20


def gpus(memory: int, devices: int = 1, nodes: int = 1, deepspeed: bool = False) -> Machine:
    """Devices that know bfloat16, of so many GiB."""
    return Machine("cuda", devices, nodes, memory * GIB, True, deepspeed)


MACHINES = {
    "laptop": Machine("cpu", 1, 1, 16 * GIB),
    "1x8gb": gpus(8),
    "1x12gb": gpus(12),
    "1x24gb": gpus(24),
    "1x40gb": gpus(40),
    "1x80gb": gpus(80),
    "2x24gb": gpus(24, 2),
    "2x40gb": gpus(40, 2),
    "8x8gb": gpus(8, 8),
    "8x8gb, deepspeed": gpus(8, 8, deepspeed=True),
    "8x19gb, deepspeed": gpus(19, 8, deepspeed=True),
    "8x40gb": gpus(40, 8),
    "2x8x40gb": gpus(40, 8, 2),
}

PAPER = ("vila-u-7b-256", "qwen2-0.5b", "qwen2-1.5b", "qwen2.5-3b")
"""Models of the paper, by the names of ``python -m craft_lightning list backbones``."""


def numbers(name: str, language_dtype: str = "same") -> Profile:
    """CRAFT on a pocket model or on one of the paper, whose blueprint is taken even where the model is at hand."""
    with tempfile.TemporaryDirectory() as folder:
        source = str(write_blueprint(folder, name)) if name in PAPER else name
        sketch = Craft(backbone=VlmSpec(source)).sketch()
        return profile(sketch, sketch.vlm, language_dtype)


def batch_on(machine: Machine) -> int:
    """The protocol's 24 rows, or the 32 of Table 4 where devices cannot share those."""
    return 24 if 24 % machine.processes == 0 else 32


def choices_block(profiles: Mapping[str, Profile]) -> str:
    """A Markdown table: machines by models."""
    lines = [f"| machine | {' | '.join(profiles)} |", f"|---|{'---|' * len(profiles)}"]
    for name, machine in MACHINES.items():
        cells = [_cell(choose(found, machine, batch_on(machine))) for found in profiles.values()]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(choice: Choice) -> str:
    rows = f"{choice.parts} x {choice.rows}" if choice.parts > 1 else str(choice.rows)
    again = ", recomputed" if choice.recompute else ""
    text = f"{choice.kind}, {rows}{again}: {choice.estimate.peak / GIB:.1f}"
    return text if choice.fits else f"*{text}*"


def table4_block(profiles: Mapping[str, Profile]) -> str:
    """A Markdown table: the printed figure, ours for our own way, and what the usual way adds to it."""
    with TABLE4.open(encoding="utf-8") as file:
        rows = {(r["surrogate_or_backbone"], r["method"]): r["train_vram_mib"] for r in csv.DictReader(file)}
    columns = []
    for name, label in (("vila-u-7b-256", "VILA-U-7B"), ("qwen2-0.5b", "Qwen2-0.5B")):
        found, printed = profiles[name], float(rows[label, "CRAFT"])
        kept, again = (estimate(found, MemoryPlan("ddp", 8, 4, 4, True, 2, r)).peak / MIB for r in (False, True))
        logits = 4 * (found.tokens + TEXT_TOKENS) * found.vocabulary * 4 * 3 / MIB
        outside = (OUTSIDE["cuda"] + COMMUNICATION) * GIB / MIB
        total = again + logits + outside
        columns.append(
            (
                f"{printed:,.0f}",
                f"{kept:,.0f} ({kept / printed - 1:+.0%})",
                f"{again:,.0f} ({again / printed - 1:+.0%})",
                f"+{logits:,.0f}",
                f"+{outside:,.0f}",
                f"{total:,.0f} ({total / printed - 1:+.1%})",
            )
        )
    names = (
        "the paper, Table 4",
        "our estimate, as we train",
        "with activations recomputed",
        "logits at every position",
        "driver and communication",
        "the last three together",
    )
    lines = ["| MiB per device | VILA-U-7B | Qwen2-0.5B surrogate |", "|---|---|---|"]
    lines += [
        f"| {name} | {' | '.join(cells)} |" for name, cells in zip(names, zip(*columns, strict=True), strict=True)
    ]
    return "\n".join(lines)


def report() -> dict[str, str]:
    """Both blocks by name."""
    profiles = {name: numbers(name) for name in ("pocket-vila-u", *PAPER)}
    profiles["vila-u-7b-256, nf4"] = numbers("vila-u-7b-256", "nf4")
    return {"choices": choices_block(profiles), "table4": table4_block(profiles)}


def main() -> None:
    """Print the blocks, or write them into a page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, help="page whose blocks are written anew")
    page = parser.parse_args().output
    for name, block in report().items():
        if page is None:
            print(block, end="\n\n")
            continue
        text, marks = page.read_text(encoding="utf-8"), (f"<!-- {name}:begin -->", f"<!-- {name}:end -->")
        new = re.sub(
            f"{marks[0]}.*{marks[1]}", lambda _, b=block, m=marks: f"{m[0]}\n{b}\n{m[1]}", text, flags=re.DOTALL
        )
        write_text(page, new)


if __name__ == "__main__":
    main()
