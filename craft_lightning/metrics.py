"""Accuracy that counts every example once however often it was seen, and how much of the codebook is used."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric
from torchmetrics.utilities import dim_zero_cat

from craft_lightning.text.scoring import lenient_match, lone_letter
from craft_lightning.types import Prediction


def _number(key: str) -> int:
    """63-bit number of a key: states that are gathered over processes have to be tensors."""
    return int.from_bytes(hashlib.sha256(key.encode()).digest()[:8], "big") >> 1


class ExactMatch(Metric):
    """Share of right replies over distinct example keys (distributed samplers repeat rows; repeats do not count).

    ``compute`` returns a mapping with ``all`` and, where such examples were given, ``seen`` and ``unseen``; for
    multiple-choice items also the diagnostics ``letter`` (the most likely letter is the right one), ``well_formed``
    (the reply is one letter) and ``lenient`` (see :mod:`.scoring`).
    """

    full_state_update = False
    rows: list[Tensor]

    def __init__(self) -> None:
        super().__init__()
        self.add_state("rows", default=[], dist_reduce_fx="cat")

    def update(self, predictions: Sequence[Prediction]) -> None:
        """Add scored replies; the last one of a key counts."""
        rows = []
        for p in predictions:
            diagnostics = (-1, -1, -1)
            if p.letter_correct is not None:
                diagnostics = (p.letter_correct, lone_letter(p.text), lenient_match(p.text, p.answer))
            rows.append([_number(p.key), p.correct, p.seen, *diagnostics])
        self.rows.append(torch.tensor(rows, dtype=torch.int64, device=self.device).view(-1, 6))

    def table(self) -> Tensor:
        """``[n, 5]`` long (correct, seen and the three diagnostics, -1 for open questions) of n distinct examples."""
        rows = dim_zero_cat(self.rows) if len(self.rows) else torch.empty(0, 6, dtype=torch.int64)
        last = {int(key): index for index, key in enumerate(rows[:, 0].tolist())}
        return rows[list(last.values()), 1:]

    def compute(self) -> dict[str, Tensor]:
        correct, seen, *diagnostics = self.table().unbind(dim=1)
        letter, well_formed, lenient = (d[d >= 0] for d in diagnostics)
        parts = {
            "all": correct,
            "seen": correct[seen == 1],
            "unseen": correct[seen == 0],
            "letter": letter,
            "well_formed": well_formed,
            "lenient": lenient,
        }
        return {name: part.float().mean() for name, part in parts.items() if len(part)}


class CodebookUsage(Metric):
    """Perplexity per level, and the codewords that nothing used, of R ``levels`` with K ``entries`` each: in one table
    that all share, or in one each."""

    full_state_update = False
    counts: Tensor

    def __init__(self, entries: int, levels: int, shared: bool) -> None:
        super().__init__()
        self.shared = shared
        self.add_state("counts", default=torch.zeros(levels, entries, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, codes: Tensor) -> None:
        """Count codes ``[B, N, R]``."""
        for level, counts in enumerate(self.counts):
            counts += torch.bincount(codes[..., level].reshape(-1), minlength=len(counts))

    def compute(self) -> dict[str, Any]:
        """``perplexity``, R scalars, ``exp`` of the entropy of each level's codes, and ``dead``, the codewords that no
        level used: of K in a shared table, of R times K in tables of their own."""
        shares = self.counts.float() / self.counts.sum(dim=1, keepdim=True).clamp(min=1)
        entropy = -torch.special.xlogy(shares, shares).sum(dim=1)
        words = self.counts.sum(dim=0) if self.shared else self.counts
        # A tuple: torchmetrics makes a scalar of a vector of one, so that one level would not be the first of its list.
        return {"perplexity": entropy.exp().unbind(), "dead": (words == 0).sum()}
