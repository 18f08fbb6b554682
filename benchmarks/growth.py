"""How cost grows with the surrogate's size, tokens, batch, codes and cells, beside what theory says.

    python benchmarks/growth.py [--quick]

The first three: a random language model forwards, and backwards to its inputs, as the surrogate is used in training.
Theory counts its multiplications, ``2 P S + 4 n_layer S^2 D`` a row. The fourth is the quantiser's search, the fifth
the plan of a table with ever more seeds. Slopes are of straight lines through the logarithms of all points, measured
and theory alike. Draws ``docs/growth.png``.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from pathlib import Path

import torch
from transformers import LlamaConfig, LlamaModel

from craft_lightning.benchmark import cache_key as fingerprint
from craft_lightning.benchmark import code_version as code
from craft_lightning.benchmark import plan
from craft_lightning.benchmark.spec import find_table, load_spec
from craft_lightning.benchmark.table_parts import TableSpec
from craft_lightning.io import fresh_file
from craft_lightning.models.quantizer import ResidualQuantizer
from pruning import Shape
from timing import Row, alternate, program

PICTURE = Path(__file__).resolve().parents[1] / "docs" / "growth.png"
WIDTH, TOKENS, BATCH = 128, 128, 4
"""Of the language model where they do not vary."""


@dataclass(frozen=True)
class Growth:
    """Seconds at each size, and what they should be proportional to."""

    name: str
    sizes: tuple[float, ...]
    work: tuple[float, ...]
    seconds: tuple[float, ...]

    @property
    def slopes(self) -> tuple[float, float]:
        """Of theory and of what was measured."""
        return slope(self.sizes, self.work), slope(self.sizes, self.seconds)

    def row(self) -> Row:
        """One row of the table."""
        ends = f"{self.sizes[0]:,.0f} to {self.sizes[-1]:,.0f}"
        return Row(5, f"Growth with {self.name}, {ends}: slope", "theory", *self.slopes, "", bound=True)


def slope(sizes: Sequence[float], values: Sequence[float]) -> float:
    """Of the straight line of least squares through the logarithms."""
    x, y = ([math.log(value) for value in each] for each in (sizes, values))
    middle = sum(x) / len(x)
    return sum((a - middle) * b for a, b in zip(x, y, strict=True)) / sum((a - middle) ** 2 for a in x)


def language(width: int, tokens: int, batch: int) -> tuple[Shape, Callable[[], object]]:
    """A random model's shape, and a pass forwards and backwards to its inputs."""
    torch.manual_seed(0)
    shape = Shape(layers=4, width=width, mlp=3 * width, heads=width // 32, kv_heads=width // 32, vocabulary=0)
    config = LlamaConfig(
        vocab_size=8,
        hidden_size=width,
        intermediate_size=shape.mlp,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=4096,
    )
    model = LlamaModel(config).eval().requires_grad_(False)
    embeds = torch.randn(batch, tokens, width, requires_grad=True)
    return shape, lambda: model(inputs_embeds=embeds, use_cache=False).last_hidden_state.sum().backward()


def of_language(name: str, given: Sequence[tuple[int, int, int]], rounds: int) -> Growth:
    """Over (width, tokens, batch), one of which varies."""
    made = [language(*each) for each in given]
    work = tuple(float(s.prefill_flops(tokens) * batch) for (s, _), (_, tokens, batch) in zip(made, given, strict=True))
    places = {"parameters of the surrogate": lambda n: made[n][0].parameters, "tokens": lambda n: given[n][1]}
    sizes = tuple(float(places.get(name, lambda n: given[n][2])(n)) for n in range(len(given)))
    return Growth(name, sizes, work, tuple(alternate([run for _, run in made], rounds, warm_up=1)))


@torch.no_grad()
def of_codes(counts: Sequence[int], rounds: int) -> Growth:
    """The search for 512 rows of width 256, four levels."""
    rows = torch.randn(512, 256)
    searches = [partial(ResidualQuantizer(torch.randn(1, count, 256), 4).encode, rows) for count in counts]
    sizes = tuple(map(float, counts))
    return Growth("codes", sizes, sizes, tuple(alternate(searches, rounds, warm_up=1)))


def planned(spec: TableSpec, seeds: int) -> plan.Plan:
    """A plan as a new process makes it: no file is remembered from the one before."""
    for each in (*vars(plan).values(), *vars(code).values(), *vars(fingerprint).values()):
        if hasattr(each, "cache_clear"):
            each.cache_clear()
    return plan.make_plan(spec, seeds=range(seeds))


def of_cells(seeds: Sequence[int], rounds: int) -> Growth:
    """A plan of Table 1, by the number of its trainings and tests."""
    spec = load_spec(find_table("table1", "pocket"))
    runs = [partial(planned, spec, count) for count in seeds]
    sizes = tuple(float(len(run().jobs)) for run in runs)
    return Growth("cells of a table", sizes, sizes, tuple(alternate(runs, rounds, warm_up=1)))


def draw(found: Sequence[Growth], path: Path) -> None:
    """A panel each: what was measured, and theory through its last point."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(3.1 * len(found), 3.2), layout="constrained")
    for axes, each in zip(figure.subplots(1, len(found)), found, strict=True):
        scale = 1000 * each.seconds[-1] / each.work[-1]
        theory, measured = each.slopes
        axes.loglog(each.sizes, [scale * w for w in each.work], "--", color="0.5", label=f"theory, slope {theory:.2f}")
        axes.loglog(each.sizes, [1000 * s for s in each.seconds], "o-", label=f"measured, slope {measured:.2f}")
        axes.set_xlabel(each.name)
        axes.set_xticks(each.sizes, [f"{size:,.0f}" if size < 1e5 else f"{size / 1e6:.1f}M" for size in each.sizes])
        axes.minorticks_off()
        axes.legend(frameon=False, fontsize="small")
    figure.axes[0].set_ylabel("milliseconds")
    with fresh_file(path) as temporary:
        figure.savefig(temporary, dpi=110)


def rows(quick: bool) -> list[Row]:
    """All five, drawn unless it is a trial."""
    many = slice(0, 2 if quick else None)
    rounds = 1 if quick else 7
    found = [
        of_language("parameters of the surrogate", [(w, TOKENS, BATCH) for w in (64, 128, 256, 512)[many]], rounds),
        of_language("tokens", [(WIDTH, n, BATCH) for n in (64, 128, 256, 512, 1024)[many]], rounds),
        of_language("rows of a batch", [(WIDTH, TOKENS, n) for n in (2, 4, 8, 16, 32)[many]], rounds),
        of_codes((1024, 2048, 4096, 8192, 16384)[many], rounds),
        of_cells((1, 2, 4, 8)[many], rounds),
    ]
    assert all(a < b for each in found for a, b in pairwise(each.sizes))
    if not quick:
        draw(found, PICTURE)
    return [each.row() for each in found]


if __name__ == "__main__":
    raise SystemExit(program(__doc__, rows))
