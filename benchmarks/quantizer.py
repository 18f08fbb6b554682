"""The residual quantiser beside its peers and beside the bare matrix products.

    python benchmarks/quantizer.py [--quick]

Peers: ``ResidualVQ`` of vector-quantize-pytorch in eval mode, and the textbook ``cdist`` + ``argmin``. Bound: the
products of the rows with the codebook alone, one a level, written into space that is there already: whole, or by blocks
of our size, which stay in the cache, whichever is faster. Shapes: the paper's
(width 1024, 16,384 codes, 4 levels, six images in place of 24) and a batch of the pocket tower. The tables have the
scale of a residual quantiser's, so that all levels choose among many codes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from craft_lightning.models.quantizer import CODES, ROWS, ResidualQuantizer
from timing import Row, alternate, memory, program

NEAR = 1e-5
"""Share of the squared length of a row by which the nearest two codewords may differ where programs disagree."""


@dataclass(frozen=True)
class Shape:
    """Sizes of a search: rows ``n``, width ``d``, ``k`` codes, ``levels``."""

    name: str
    n: int
    d: int
    k: int
    levels: int = 4


PAPER = Shape("paper's shapes, 1,536 rows", 6 * 256, 1024, 16384)
POCKET = Shape("pocket's shapes, 1,536 rows", 24 * 64, 128, 1024)
SMALL = (Shape("a quarter of the paper's, 256 rows", 256, 512, 4096), Shape("pocket's, 256 rows", 256, 128, 1024))


def made(shape: Shape) -> tuple[Tensor, ResidualQuantizer]:
    """Rows ``[n, d]`` and a quantiser with one table for all levels, words of many lengths."""
    generator = torch.Generator().manual_seed(0)
    lengths = torch.logspace(0, -1, shape.k)[:, None]
    tables = torch.randn(1, shape.k, shape.d, generator=generator) * lengths
    return torch.randn(shape.n, shape.d, generator=generator), ResidualQuantizer(tables, shape.levels)


def theirs(quantizer: ResidualQuantizer) -> Any:
    """vector-quantize-pytorch's quantiser with our table."""
    from vector_quantize_pytorch import ResidualVQ  # which only this comparison needs

    found = ResidualVQ(
        dim=quantizer.width,
        num_quantizers=quantizer.levels,
        codebook_size=quantizer.entries,
        shared_codebook=True,
        kmeans_init=False,
    ).eval()
    found.layers[0]._codebook.embed.copy_(quantizer.codebooks)
    return found


def textbook(rows: Tensor, table: Tensor, levels: int) -> Tensor:
    """``[n, levels]`` codes: all distances, then the least."""
    codes = []
    for _ in range(levels):
        picked = torch.cdist(rows, table).argmin(dim=1)
        rows = rows - table[picked]
        codes.append(picked)
    return torch.stack(codes, dim=1)


def products(rows: Tensor, table: Tensor, levels: int, out: Tensor) -> None:
    """The arithmetic that no exact search can avoid."""
    for _ in range(levels):
        torch.mm(rows, table.t(), out=out)


def blocked(rows: Tensor, table: Tensor, levels: int, out: Tensor) -> None:
    """The same, block by block into the same space."""
    for part in rows.split(ROWS):
        for _ in range(levels):
            for words in table.split(CODES):
                torch.mm(part, words.t(), out=out[: len(part), : len(words)])


def agreement(rows: Tensor, quantizer: ResidualQuantizer, other: Tensor) -> float:
    """Share of rows with the same codes at all levels.

    Raises:
        AssertionError: the first difference in a row is no tie to within rounding: one of the two is wrong.
    """
    ours, residual = quantizer.encode(rows).codes, rows.double()
    same = torch.ones(len(rows), dtype=torch.bool)
    for level in range(quantizer.levels):
        words = quantizer.table(level).double()
        distances = [(residual - words[codes[:, level]]).square().sum(dim=1) for codes in (ours, other)]
        differ = same & (ours[:, level] != other[:, level])
        gap = (distances[0] - distances[1]).abs() / residual.square().sum(dim=1)
        assert bool((gap[differ] < NEAR).all()), f"level {level}: codes differ and are not equally near"
        same &= ~differ
        residual = residual - words[ours[:, level]]
    return float(same.float().mean())


@torch.no_grad()
def measured(shape: Shape, rounds: int, most: float | None) -> list[Row]:
    """Time against the bound and both peers, and memory against the whole matrix of distances."""
    ms = 1000.0
    rows, quantizer = made(shape)
    table, peer = quantizer.table(0), theirs(quantizer)
    for other in (textbook(rows, table, shape.levels), peer(rows[None])[1][0]):
        print(f"{shape.name}: {agreement(rows, quantizer, other):.2%} of rows have the same codes, the others are ties")
    runs: list[Callable[[], object]] = [
        partial(products, rows, table, shape.levels, torch.empty(shape.n, shape.k)),
        partial(blocked, rows, table, shape.levels, torch.empty(min(ROWS, shape.n), min(CODES, shape.k))),
        partial(peer, rows[None]),
        partial(textbook, rows, table, shape.levels),
        partial(quantizer.encode, rows),
    ]
    whole, parts, library, plain, ours = alternate(runs, rounds, warm_up=1)
    print(f"{shape.name}: products {ms * whole:.3g} ms whole, {ms * parts:.3g} ms by blocks")
    with memory() as peak:
        found = quantizer.encode(rows)
    del found
    figure = f"Quantiser, {shape.name}"
    return [
        Row(1, figure, "matrix products", ms * min(whole, parts), ms * ours, "ms", most=most, bound=True),
        Row(1, figure, "vector-quantize-pytorch", ms * library, ms * ours, "ms", most=1.0),
        Row(1, figure, "cdist + argmin", ms * plain, ms * ours, "ms", most=1.0),
        Row(
            1,
            f"{figure}: extra memory",
            "all distances",
            shape.n * shape.k * 4 / 2**20,
            (peak.bytes - peak.kept) / 2**20,
            "MiB",
            most=1 / 8,
        ),
    ]


def rows(quick: bool) -> list[Row]:
    """Both shapes."""
    if quick:
        return [row for shape in SMALL for row in measured(shape, 3, None)]
    return measured(PAPER, 5, 1.08) + measured(POCKET, 30, None)


if __name__ == "__main__":
    raise SystemExit(program(__doc__, rows))
