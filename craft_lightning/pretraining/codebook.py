"""The codebook while it is learnt: exponential moving averages with restarts, one table for all levels.

This is the only place where a codebook moves. Adaptation uses :class:`.quantizer`, which has no
update path. Differs from the host's training code in two ways that a small table needs: it starts from residual
k-means, which gives every level codewords of its own scale, and unused entries restart from residuals of all levels.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from craft_lightning.models.quantizer import ResidualQuantizer


class EmaCodebook(nn.Module):
    """Shared table of ``entries`` codewords, moved by exponential averages of the residuals that chose them.

    Args:
        entries: K. width: d. levels: R. decay: of the averages. restart_below: entries whose average count per step
            falls below it take a random residual of the batch.
    """

    table: Tensor
    counts: Tensor
    sums: Tensor
    ready: Tensor

    def __init__(self, entries: int, width: int, levels: int, decay: float = 0.99, restart_below: float = 0.1) -> None:
        super().__init__()
        self.levels, self.decay, self.restart_below = levels, decay, restart_below
        self.register_buffer("table", torch.zeros(entries, width))
        self.register_buffer("counts", torch.ones(entries))
        self.register_buffer("sums", torch.zeros(entries, width))
        self.register_buffer("ready", torch.tensor(False))

    @torch.no_grad()
    def start(self, rows: Tensor, generator: torch.Generator, rounds: int = 20) -> None:
        """Residual k-means on ``rows`` ``[n, d]``: half of the table for level 1, the rest for the others."""
        entries, levels = len(self.table), self.levels
        shares = [entries // 2] + [(entries - entries // 2) // (levels - 1)] * (levels - 1) if levels > 1 else [entries]
        shares[-1] = entries - sum(shares[:-1])
        residual, parts = rows, []
        for share in shares:
            centres = residual[torch.randperm(len(residual), generator=generator)[:share]].clone()
            for _ in range(rounds):
                nearest = _nearest(residual, centres)
                counts = torch.bincount(nearest, minlength=share).clamp_min(1).unsqueeze(1)
                moved = torch.zeros_like(centres).index_add_(0, nearest, residual) / counts
                used = torch.bincount(nearest, minlength=share) > 0
                centres[used] = moved[used]
            residual = residual - centres[_nearest(residual, centres)]
            parts.append(centres)
        self.table.copy_(torch.cat(parts))
        self.sums.copy_(self.table)
        self.counts.fill_(1.0)
        self.ready.fill_(True)

    def quantizer(self) -> ResidualQuantizer:
        """The table as it stands, frozen."""
        return ResidualQuantizer(self.table.clone().unsqueeze(0), self.levels)

    @torch.no_grad()
    def encode(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Partial sums ``[R, ..., d]`` and codes ``[..., R]`` of ``z`` ``[..., d]``."""
        quantizer = self.quantizer()
        codes = quantizer.encode(z.float()).codes
        return quantizer.partial_sums(codes), codes

    @torch.no_grad()
    def update(self, z: Tensor, sums: Tensor, codes: Tensor, generator: torch.Generator) -> None:
        """Move the table towards the residuals of all levels that chose each entry, and restart unused entries.

        Args:
            z: ``[n, d]``. sums: ``[R, n, d]`` and codes: ``[n, R]`` from :meth:`encode`. generator: of the restarts.
        """
        targets = torch.cat([z] + [z - s for s in sums[:-1]])
        chosen = codes.t().reshape(-1)
        counts = torch.bincount(chosen, minlength=len(self.table)).float()
        self.counts.mul_(self.decay).add_(counts, alpha=1 - self.decay)
        self.sums.mul_(self.decay).index_add_(0, chosen, targets, alpha=1 - self.decay)
        dead = (self.counts < self.restart_below).nonzero().squeeze(1)
        if len(dead):
            fresh = targets[torch.randint(len(targets), (len(dead),), generator=generator)]
            self.sums[dead] = fresh
            self.counts[dead] = 1.0
        self.table.copy_(self.sums / self.counts.unsqueeze(1))


def _nearest(rows: Tensor, centres: Tensor) -> Tensor:
    return torch.addmm(centres.pow(2).sum(1), rows, centres.t(), alpha=-2.0).argmin(1)
