"""Codes and token ids of whole pre-training sets, looked up row by row from :class:`.shards.Shards`."""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Mapping, Sequence
from itertools import accumulate

import torch
from torch import Tensor

from craft_lightning.errors import CraftError
from craft_lightning.models.towers.base import Tower
from craft_lightning.pretraining.shards import Shards
from craft_lightning.pretraining.turns import TokenizedTurns

_PASS = 64


class StoredCodes:
    """Codes of the pictures of several sets, numbered through: ``stored[rows]`` is ``[n, N, R]``."""

    def __init__(self, parts: Sequence[Shards]) -> None:
        self.parts = parts
        self.starts = [0, *accumulate(len(part.keys) for part in parts)]
        self.kept = torch.cat([kept for part in parts for kept in part.column("kept")])

    def __getitem__(self, rows: Sequence[int]) -> Tensor:
        return torch.cat([self._one(row) for row in rows])

    def _one(self, row: int) -> Tensor:
        which = bisect_right(self.starts, row) - 1
        part = self.parts[which]
        number, place = divmod(row - self.starts[which], part.size)
        return part.part(number, "codes", place, place + 1)


@torch.no_grad()
def codes_of(
    tower: Tower, picture: Callable[[int], Tensor], rows: Sequence[int], skip: Callable[[CraftError], None] | None
) -> Mapping[str, Tensor]:
    """``codes [n, N, R]`` (int16, or int32 for large codebooks) and ``kept [n]`` of some pictures.

    Args:
        tower: frozen. picture: row -> pixels ``[3, S, S]`` in [-1, 1]. rows: which.
        skip: is told of a picture that cannot be read, whose codes are then 0 and not ``kept``.

    Raises:
        CraftError: a picture that cannot be read, without ``skip``.
    """
    quantizer = tower.quantizer
    assert quantizer is not None
    codes: list[Tensor] = []
    kept: list[bool] = []
    blank = torch.zeros(3, tower.image_size, tower.image_size)
    device = next(tower.parameters()).device
    for start in range(0, len(rows), _PASS):
        pixels = []
        for row in rows[start : start + _PASS]:
            try:
                pixels.append(picture(row))
                kept.append(True)
            except CraftError as error:
                if skip is None:
                    raise
                skip(error)
                pixels.append(blank)
                kept.append(False)
        found = tower.encode(torch.stack(pixels).to(device)).codes
        assert found is not None
        codes.append(found.to(torch.int16 if quantizer.entries <= 2**15 else torch.int32).cpu())
    keep = torch.tensor(kept)
    return {"codes": torch.cat(codes) * keep.view(-1, 1, 1), "kept": keep}


class StoredConversations:
    """Tokenised conversations of several sets, numbered through.

    Args:
        parts: of each set. offsets: number of the first picture of each set.

    Attributes:
        lengths, replies, pictures: of every row, ``[n]``: its tokens, those that carry a loss, its picture.
    """

    def __init__(self, parts: Sequence[Shards], offsets: Sequence[int]) -> None:
        self.parts = parts
        self.first = [0, *accumulate(len(part.keys) for part in parts)]
        lengths = [[length.long() for length in part.column("lengths")] for part in parts]
        self.starts = [[length.cumsum(0) - length for length in each] for each in lengths]
        self.lengths = torch.cat([length for each in lengths for length in each])
        self.replies = torch.cat([each for part in parts for each in part.column("replies")]).long()
        self.pictures = torch.cat(
            [each.long() + at for part, at in zip(parts, offsets, strict=True) for each in part.column("pictures")]
        )

    def __getitem__(self, row: int) -> TokenizedTurns:
        which = bisect_right(self.first, row) - 1
        part = self.parts[which]
        number, place = divmod(row - self.first[which], part.size)
        start = int(self.starts[which][number][place])
        stop = start + int(self.lengths[row])
        ids, labels = (part.part(number, name, start, stop).tolist() for name in ("ids", "labels"))
        return TokenizedTurns(ids, labels)


def token_rows(rows: Sequence[TokenizedTurns], pictures: Sequence[int]) -> Mapping[str, Tensor]:
    """Conversations as flat tensors: what :class:`StoredConversations` reads."""
    return {
        "ids": torch.tensor([i for row in rows for i in row.ids], dtype=torch.int32),
        "labels": torch.tensor([i for row in rows for i in row.labels], dtype=torch.int32),
        "lengths": torch.tensor([len(row.ids) for row in rows], dtype=torch.int32),
        "replies": torch.tensor([row.learnt for row in rows], dtype=torch.int32),
        "pictures": torch.tensor(pictures, dtype=torch.int32),
    }
