"""The paper's Table 4 at pocket scale: what trainings cost by method and surrogate, and what token pruning saves.

    python benchmarks/table4.py [--publish]

Trainings take turns, some steps of a whole ``fit`` each, all of one base model: pocket-vila-u, or pocket-vila, the same
tower and language model without the codebook between them. A step's time is the median over all turns, of the processor
(whatever else the machine does) or on a GPU of the clock. Memory is exact:
all weights and buffers, the optimiser's state, and the most that tensors of a step hold beside them. With ``--publish``
the page ``docs/table4.md`` and the numbers in ``experiments/tables/results`` are written.
"""

from __future__ import annotations

import argparse
import csv
import statistics
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from lightning.pytorch import Callback

from craft_lightning.benchmark.claims import FAILS, HOLDS, Verdict
from craft_lightning.io import write_json, write_text
from craft_lightning.report.render import to_markdown
from craft_lightning.report.report import MISSING, Report, Section, claim_texts
from pruning import LLAMA_2_7B, Measured, largest, paper_shape, pocket
from timing import Peak, memory, where
from training_step import MIB, WARM_UP, fit

ROOT = Path(__file__).resolve().parents[1]
TABLES = ROOT / "experiments" / "tables"
OWN = "pocket-vila-u"
TRAININGS = {
    ("CRAFT", "pocket-qwen2-xs"): ("craft", ("CRAFT", "Qwen2-0.5B")),
    ("CRAFT", "pocket-qwen2.5-xs"): ("craft", None),
    ("CRAFT", "pocket-qwen2-s"): ("craft", None),
    ("CRAFT", "pocket-qwen2.5-m"): ("craft", None),
    ("CRAFT", OWN): ("craft", ("CRAFT", "VILA-U-7B")),
    ("Vision FT", "pocket-vila"): ("vision_ft", ("Vision FT", "VILA-7B")),
    ("Projector FT", "pocket-vila"): ("projector_ft", ("Projector FT", "VILA-7B")),
    ("LLM-LoRA", "pocket-vila"): ("llm_lora", ("LoRA FT", "VILA-7B")),
}
"""Method and the model that it trains with: the fragment's name, and the paper's row."""
LORA = ("LLM-LoRA", "pocket-vila")
DECIDED = (
    "Decided by measurements in turn, in one process: claim 7 by less memory, and less time in every turn, with the "
    "smallest surrogate; claim 6b by the prefill of Llama-2-7B's shape. One machine says nothing of another."
)
NOTE = """\
Trainings: steps of 24 questions on drawn satellite tiles, taken in turn by whole runs of all methods on one base
model (pocket-vila is pocket-vila-u without its codebook; a surrogate stands in for the language model while the
encoder learns). Memory counts weights, optimiser and the most that a step holds. The paper trains on Dogs with 8
A100-40GB and a batch of 32, and compares VILA-7B's baselines with VILA-U-7B's CRAFT; ratios to LLM-LoRA stand beside
its own. At its scale by arithmetic: docs/scale.md. The prefill: keep 1.0 and 0.8, per item. FLOPs by 2 P S + 4 n S²
D, one multiply-add being two; time from the codes of an image to the logits of the first reply token, choosing the
tokens included. The paper counts otherwise (its 2.56 TFLOP are less than 256 visual tokens alone cost at two FLOPs a
multiply-add), so only the ratios compare. A pocket model that reads one image at a time is bound by the number of its
operations, not by their size: what pruning saves there, choosing the tokens costs."""


class Watch(Callback):
    """Seconds of the steps of some fits, and bytes of the last one."""

    def __init__(self, steps: int) -> None:
        self.steps, self.seconds, self.bytes = steps, list[float](), 0
        self._began, self._peak, self._counting = 0.0, Peak(), ExitStack()

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        """Start the clock; in the last step memory is counted."""
        if batch_idx == self.steps - 1:
            self._peak = self._counting.enter_context(memory())
        self._began = time.process_time()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """Stop it."""
        if WARM_UP <= batch_idx < self.steps - 1:
            self.seconds.append(time.process_time() - self._began)
        if batch_idx == self.steps - 1:
            self._counting.close()
            held = {id(t): t.nbytes for t in (*pl_module.parameters(), *pl_module.buffers())}
            state = trainer.optimizers[0].state.values()
            self.bytes = self._peak.bytes + sum(held.values()) + sum(t.nbytes for one in state for t in one.values())


@dataclass
class Cost:
    """Of a training: MiB, and seconds of its steps, turn by turn."""

    mib: float = 0.0
    turns: list[list[float]] = field(default_factory=list)

    @property
    def seconds(self) -> float:
        """The median of all steps."""
        return statistics.median(seconds for turn in self.turns for seconds in turn)


def trainings(turns: int, batch: int, steps: int, *flags: str) -> dict[tuple[str, str], Cost]:
    """Each of :data:`TRAININGS`, some steps in turn."""
    found = {who: Cost() for who in TRAININGS}
    for turn in range(turns):
        for who in list(TRAININGS)[:: 1 if turn % 2 == 0 else -1]:
            watch = Watch(WARM_UP + steps + 1)
            with tempfile.TemporaryDirectory() as folder:
                fit(Path(folder), watch, TRAININGS[who][0], who[1], batch, watch.steps, 1, *flags)
            found[who].mib = watch.bytes / MIB
            found[who].turns.append(watch.seconds)
    return found


def paper() -> dict[tuple[str, str], tuple[float, float]]:
    """MiB and minutes of the paper's trainings, by method and model."""
    with (TABLES / "paper" / "table4.csv").open(encoding="utf-8") as file:
        rows = [row for row in csv.DictReader(file) if row["phase"] == "training"]
    numbers = ("train_vram_mib", "train_time_min")
    return {(r["method"], r["surrogate_or_backbone"]): (float(r[numbers[0]]), float(r[numbers[1]])) for r in rows}


def training_section(found: dict[tuple[str, str], Cost]) -> Section:
    """Ours, and ratios to LLM-LoRA beside the paper's."""
    theirs, lora = paper(), found[LORA]
    rows = []
    for (method, model), cost in found.items():
        quoted = TRAININGS[method, model][1]
        pairs = zip(theirs[quoted], theirs["LoRA FT", "VILA-7B"], strict=True) if quoted else ()
        ratios = [f"{one / other:.2f}" for one, other in pairs] or [MISSING] * 2
        mine = [f"{cost.mib / lora.mib:.2f}", f"{cost.seconds / lora.seconds:.2f}"]
        texts = (f"{cost.mib:.0f}", mine[0], ratios[0], f"{1000 * cost.seconds:.0f}", mine[1], ratios[1])
        rows.append((model, method, *texts))
    header = (
        "Trained with",
        "Method",
        "MiB",
        "to LLM-LoRA",
        "paper",
        "ms a step, processor",
        "to LLM-LoRA (time)",
        "paper (time)",
    )
    return Section("Training", header, tuple(rows), (False,) * len(rows))


def prefill_section(found: Sequence[Measured]) -> Section:
    """What pruning saves of the prefill, the paper's ratios at last."""
    rows = [(*one.name.split(", ", 1), *one.cells()) for one in found]
    quoted = ("VILA-U-7B", "paper: Table 4", MISSING, "2.56 → 2.15 TFLOP", "0.840", "52.40 → 48.92 ms", "0.934")
    header = ("Model", "Read", "Positions", "FLOPs", "Ratio", "Time", "Ratio (time)")
    return Section("Inference: the prefill at keep 1.0 → 0.8", header, (*rows, quoted), (False,) * len(rows) + (True,))


def verdicts(found: dict[tuple[str, str], Cost], prefills: Sequence[Measured]) -> list[Verdict]:
    """Claim 7: memory rises with the surrogate's size, and a step takes less time in every turn with the smallest one
    than with the own model, and than LLM-LoRA's. Claim 6b: fewer FLOPs and less time of the last prefill, that of the
    paper's shape."""
    small, *others = (found[who] for who in (("CRAFT", "pocket-qwen2-xs"), ("CRAFT", OWN), LORA))
    slowest = max(map(statistics.median, small.turns))
    sizes = [cost.mib for (method, _), cost in found.items() if method == "CRAFT"]
    cheap = all(small.mib < o.mib and slowest < min(map(statistics.median, o.turns)) for o in others)
    cheap = cheap and sizes == sorted(sizes)
    told = [f"{small.mib / o.mib:.2f} of the memory, {small.seconds / o.seconds:.2f} of the time" for o in others]
    lora, craft = found[LORA], {model: cost for (method, model), cost in found.items() if method == "CRAFT"}
    dear = [model for model, cost in craft.items() if cost.mib > lora.mib and cost.seconds > lora.seconds]
    dearer = f"; {' and '.join(dear)} cost{'s' * (len(dear) == 1)} more than LLM-LoRA" if dear else ""
    ratios = [f"{one.flops[1] / one.flops[0]:.2f} and {one.seconds[1] / one.seconds[0]:.2f}" for one in prefills]
    saved = "; ".join(f"{one.name}: {both}" for one, both in zip(prefills, ratios, strict=True))
    large = prefills[-1]
    fewer = large.flops[1] < large.flops[0] and large.seconds[1] < large.seconds[0]
    words = {True: HOLDS, False: FAILS}
    return [
        Verdict(
            "7",
            "A small surrogate makes training cheap",
            words[cheap],
            None,
            None,
            None,
            f"The smallest beside its own model: {told[0]} (paper: 0.51, 0.59); beside LLM-LoRA: {told[1]} (paper: "
            f"0.39, 0.27){dearer}",
        ),
        Verdict(
            "6b",
            "Pruning makes the prefill cheaper",
            words[fewer],
            None,
            None,
            None,
            f"FLOPs and time at keep 0.8 (paper: 0.84 and 0.93; the last decides): {saved}",
        ),
    ]


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print, and write if asked to."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--turns", type=int, default=3, help="turns of the trainings")
    parser.add_argument("--items", type=int, default=32, help="test items of each twin; one at a time: an eighth")
    parser.add_argument("--publish", action="store_true", help="write docs/table4.md and the stored numbers")
    args = parser.parse_args(argv)
    began = time.perf_counter()
    found = trainings(args.turns, 24, 6)
    prefills = [pocket(largest(), args.items, 64, 5, 2), pocket(largest(), max(1, args.items // 8), 1, 5, 20)]
    prefills.append(paper_shape(LLAMA_2_7B, 2, 64, 5, 1))
    call = " ".join(["python benchmarks/table4.py", *(sys.argv[1:] if argv is None else argv)])
    made = f"`{call}`, {time.perf_counter() - began:.0f} s ({where()})"
    told = {
        "title": "Table 4, pocket scale",
        "note": " ".join(NOTE.split()),
        "made": made,
        "sections": (training_section(found), prefill_section(prefills)),
    }
    decided = verdicts(found, prefills)
    text = to_markdown(
        Report(**told, claims=(*(". ".join(claim_texts(v)) for v in decided), DECIDED), remarks=(f"{made}.",))
    )
    print(text)
    if args.publish:
        write_text(ROOT / "docs" / "table4.md", text)
        stored = {**told, "sections": [asdict(s) for s in told["sections"]], "claims": [asdict(v) for v in decided]}
        write_json(TABLES / "results" / "table4.json", stored)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
