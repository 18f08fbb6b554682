"""A codebook that grows: new entries by k-means on what the old ones leave, the old ones as they are.

The paper leaves it to future work ("extended codebooks and backward compatibility").
"""

from __future__ import annotations

import torch
from torch import Tensor

from craft_lightning.models.quantizer import ResidualQuantizer

ROUNDS = 20


@torch.no_grad()
def new_entries(quantizer: ResidualQuantizer, features: Tensor, count: int, seed: int = 0) -> Tensor:
    """``[T, count, d]`` float32 entries to stand behind the K of each of the T tables of a quantiser.

    A table of one level learns from the residuals that this level sees, behind the levels before it, grown already; a
    table that all levels share from the residuals of all levels, as the old entries leave them. Raises ValueError:
    fewer different rows than new entries.

    Args:
        features: ``[n, d]`` what the encoder makes of patches, on the CPU. seed: of the first places.
    """
    generator = torch.Generator().manual_seed(seed)
    rows = features.float()
    if quantizer.shared:
        found = quantizer.encode(rows)
        sums = quantizer.partial_sums(found.codes)
        rows = torch.cat([rows, *(rows - before for before in sums[:-1])])
        return _more(quantizer.table(0), rows, count, generator)[None]
    grown = []
    for level in range(quantizer.levels):
        table = quantizer.table(level)
        grown.append(_more(table, rows, count, generator))
        whole = torch.cat([table, grown[-1]])
        rows = rows - whole[_nearest(whole, rows)[0]]
    return torch.stack(grown)


def _more(table: Tensor, rows: Tensor, count: int, generator: torch.Generator) -> Tensor:
    """Lloyd's iterations with the old entries fixed. The new ones begin as k-means++ has it: each at a row, drawn by
    its squared distance to the nearest entry so far."""
    far = _nearest(table, rows)[1]
    new = torch.empty(count, rows.shape[1])
    for number, entry in enumerate(new):
        if not bool(far.any()):
            raise ValueError(f"{count} new entries of {number} different rows that are no entries yet")
        entry.copy_(rows[torch.multinomial(far, 1, generator=generator)[0]])
        far = torch.minimum(far, (rows - entry).pow(2).sum(dim=1))
    for _ in range(ROUNDS):
        chosen = _nearest(torch.cat([table, new]), rows)[0] - len(table)
        mine = chosen >= 0
        counts = torch.bincount(chosen[mine], minlength=count)
        sums = torch.zeros_like(new).index_add_(0, chosen[mine], rows[mine])
        new = torch.where(counts[:, None] > 0, sums / counts[:, None].clamp(min=1), new)
    return new


def _nearest(table: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Place of the nearest entry of each row, and the squared distance."""
    found = ResidualQuantizer(table[None], 1).encode(rows)
    return found.codes[:, 0], found.first_residual_energy
