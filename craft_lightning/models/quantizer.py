"""The residual quantiser (paper, appendix 9; equation 1 is the case of one level), frozen by construction."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from typing import Any, NamedTuple, Self

import torch
from torch import Tensor, nn

ROWS, CODES = 512, 2048
"""Block of distances that a CPU holds: 4 MiB stay in the cache, and fewer rows would rearrange the codes more often."""
BLOCK_BYTES = 32 * 2**20
"""Of a block, of all codes, on other devices: 512 rows at the paper's 16,384 codes in float32."""
GROUP = 64
"""Neighbouring codes whose least distance is found first: alone, without its place, that is ten times as fast."""


class Quantized(NamedTuple):
    """What :meth:`ResidualQuantizer.encode` returns, without gradients.

    Attributes:
        codes: ``[..., R]`` int64, one codebook row per level.
        quantized: ``[..., d]`` sum of the R codewords, in the dtype of the input.
        first_residual_energy: ``[...]`` float32, squared distance to the first-level codeword (pruning asks for it).
    """

    codes: Tensor
    quantized: Tensor
    first_residual_energy: Tensor


def codebook_hash(codebooks: Tensor) -> str:
    """SHA-256 over shape and float32 little-endian bytes of tables ``[1 | R, K, d]`` without their padding row: the
    same whatever dtype a table is stored in."""
    table = codebooks.detach().to("cpu", torch.float32).contiguous()
    digest = hashlib.sha256(",".join(map(str, table.shape)).encode())
    digest.update(table.numpy().astype("<f4", copy=False).tobytes())
    return digest.hexdigest()


def subset(entries: int, share: float, table: int = 0) -> Tensor:
    """``[max(1, round(entries * share))]`` int64 codes of a table, rising: spread over it at random, and those of a
    smaller share are among those of a larger one. The order is that of hashes, the same on every machine."""
    order = sorted(range(entries), key=lambda code: hashlib.sha256(f"{table}/{code}".encode()).digest())
    return torch.tensor(sorted(order[: max(1, round(entries * share))]))


def straight_through(z: Tensor, quantized: Tensor) -> Tensor:
    """``z + sg[quantized - z]``: the value of ``quantized`` (up to rounding), the gradient of ``z``. Applied once, to
    the sum over levels: an estimator per level would multiply the gradient by R."""
    return z + (quantized - z).detach()


class ResidualQuantizer(nn.Module):
    """Greedy nearest-codeword search over R levels of the residual.

    The tables are float32 buffers: no optimiser sees them, no forward pass moves them, ``.half()`` or ``.bfloat16()``
    on a parent leaves them alone, and autocast changes no code. Raises ValueError: the number of tables is neither 1
    nor R, or ``dtype`` is neither of the two.

    Args:
        codebooks: ``[1, K, d]`` (one table for all levels, as in VILA-U) or ``[R, K, d]``, without padding row.
        levels: R.
        dtype: of distances and residuals: float32, or bfloat16 as in the host's public inference code, whose rounding
            decides many codes.
        share: part of each table that is searched, see :func:`subset`; one subset serves all levels of a shared table.
            Codes are rows of the whole tables all the same, and so is the hash of these.

    Attributes:
        grown_from: hash of the codebook that its first entries are, or None. grown_at: number of these entries.
        shared: one table serves all levels. entries: K. width: d.
    """

    codebooks: Tensor
    _tables: Tensor | None
    _norms: Tensor
    _kept: Tensor | None

    def __init__(self, codebooks: Tensor, levels: int, dtype: torch.dtype = torch.float32, share: float = 1.0) -> None:
        super().__init__()
        if codebooks.dim() != 3 or codebooks.shape[0] not in (1, levels):
            raise ValueError(f"codebooks must be [1 or {levels}, K, d], got {tuple(codebooks.shape)}")
        if dtype not in (torch.float32, torch.bfloat16):
            raise ValueError(f"distances are computed in float32 or bfloat16, not {dtype}")
        self.levels, self.dtype, self.share = levels, dtype, share
        self.grown_from: str | None = None
        self.grown_at = codebooks.shape[1]
        tables, self.entries, self.width = codebooks.shape
        self.shared = tables == 1
        self.register_buffer("codebooks", codebooks.detach().to(torch.float32))
        self._prepare()

    def _prepare(self) -> None:
        """Derive the search tables, the numbers of their codes and the squared norms from ``codebooks``."""
        tables, kept = self.codebooks.to(self.dtype), None
        if self.share < 1.0:
            kept = torch.stack([subset(self.entries, self.share, number) for number in range(len(tables))])
            kept = kept.to(tables.device)
            tables = torch.stack([table[codes] for table, codes in zip(tables, kept, strict=True)])
        self.register_buffer("_kept", kept, persistent=False)
        same = self.dtype == torch.float32 and kept is None
        self.register_buffer("_tables", None if same else tables, persistent=False)
        # Summed down the transposed table, as the original does: the order of the sum decides the last bit.
        norms = torch.stack([table.t().pow(2.0).sum(dim=0) for table in tables])
        self.register_buffer("_norms", norms, persistent=False)

    def _apply(self, fn: Callable[[Any], Any], recurse: bool = True) -> Self:
        """Move, never cast."""
        for name, buffer in self._buffers.items():
            if buffer is not None:
                moved = fn(buffer)
                self._buffers[name] = moved if moved.dtype == buffer.dtype else buffer.to(moved.device)
        return self

    def _load_from_state_dict(self, *args: Any, **kwargs: Any) -> None:
        super()._load_from_state_dict(*args, **kwargs)
        self._prepare()

    def hash(self) -> str:
        return codebook_hash(self.codebooks)

    def table(self, level: int) -> Tensor:
        """``[K, d]`` float32 table of a level (0-based)."""
        return self.codebooks[0 if self.shared else level]

    @torch.no_grad()
    def encode(self, z: Tensor) -> Quantized:
        """Codes of ``z`` ``[..., d]`` of any floating dtype, ties to the lowest index."""
        rows = z.detach().reshape(-1, self.width).to(self.dtype)
        codes = torch.empty(len(rows), self.levels, dtype=torch.int64, device=z.device)
        quantized = torch.zeros_like(rows)
        energy = torch.empty(len(rows), dtype=torch.float32, device=z.device)
        high, wide = self._block(z.device.type)
        distances = torch.empty(min(high, len(rows)), wide, dtype=self.dtype, device=z.device)
        with torch.autocast(z.device.type, enabled=False):
            for start in range(0, len(rows), high):
                part = slice(start, start + high)
                self._encode_rows(rows[part], codes[part], quantized[part], energy[part], distances)
        shape = z.shape[:-1]
        return Quantized(codes.view(*shape, self.levels), quantized.view(z.shape).to(z.dtype), energy.view(shape))

    def _block(self, device: str) -> tuple[int, int]:
        """Rows and codes whose distances are held at a time."""
        searched = self._norms.shape[1]
        if device == "cpu":
            return ROWS, min(CODES, searched)
        return max(1, BLOCK_BYTES // (searched * self.dtype.itemsize)), searched

    def _encode_rows(self, rows: Tensor, codes: Tensor, quantized: Tensor, energy: Tensor, distances: Tensor) -> None:
        """Write what is found for rows ``[n, d]``; ``distances`` ``[>= n, codes at a time]`` is scratch space."""
        tables = self.codebooks if self._tables is None else self._tables
        residual = rows.clone()
        for level in range(self.levels):
            index = 0 if self.shared else level
            picked = self._nearest(residual, tables[index], self._norms[index], distances)
            codes[:, level] = picked if self._kept is None else self._kept[index][picked]
            words = tables[index].index_select(0, picked)
            residual -= words
            quantized += words
            if level == 0:
                energy.copy_(residual.float().pow(2.0).sum(dim=1))

    def _nearest(self, residual: Tensor, table: Tensor, norms: Tensor, distances: Tensor) -> Tensor:
        """``[n]`` nearest words of a table, block by block of its rows; the first of those that are equally near."""
        own = residual.pow(2.0).sum(dim=1, keepdim=True)
        low, picked = torch.empty(0), torch.empty(0)
        wide = distances.shape[1]
        block = distances[: len(residual)]
        for begin in range(0, len(table), wide):
            # The last block is as wide as the others and begins within the one before: a narrow product rounds
            # otherwise, and of two equal words the later one could be the nearer.
            start = min(begin, len(table) - wide)
            part = slice(start, start + wide)
            # |r|^2 + |c|^2 - 2 r.c as one fused product, the original's order of operations.
            torch.add(own, norms[part], out=block)
            block.addmm_(residual, table[part].t(), alpha=-2.0)
            least, place = _first_least(block)
            if start:
                nearer = least < low
                least, place = torch.where(nearer, least, low), torch.where(nearer, place + start, picked)
            low, picked = least, place
        return picked

    def forward(self, z: Tensor) -> tuple[Tensor, Quantized]:
        """Straight-through tokens ``[..., d]`` and the codes they stand for."""
        found = self.encode(z)
        return straight_through(z, found.quantized), found

    def _words(self, codes: Tensor) -> list[Tensor]:
        return [self.table(level)[codes[..., level]] for level in range(self.levels)]

    def partial_sums(self, codes: Tensor) -> Tensor:
        """``[R, ..., d]`` float32 sums of the codewords of levels 1..l of ``codes`` ``[..., R]``."""
        return torch.stack(self._words(codes)).cumsum(dim=0)

    def decode(self, codes: Tensor) -> Tensor:
        """``[..., d]`` float32 sum of the codewords of ``codes`` ``[..., R]``."""
        first, *others = self._words(codes)
        return sum(others, start=first)


def _first_least(block: Tensor) -> tuple[Tensor, Tensor]:
    """Least of each row of ``[n, k]`` and where it is first."""
    rows, size = block.shape
    if size % GROUP:
        least = block.min(dim=1)  # the first one, like argmin, and faster on CPUs
        return least.values, least.indices
    groups = block.unflatten(1, (-1, GROUP))
    low, group = groups.amin(dim=2).min(dim=1)
    inside = groups[torch.arange(rows, device=block.device), group].min(dim=1).indices
    return low, group * GROUP + inside
