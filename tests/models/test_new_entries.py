"""New entries are where the old ones are not, and make what is left smaller at every level."""

from __future__ import annotations

import pytest
import torch

from craft_lightning.models.new_entries import new_entries
from craft_lightning.models.quantizer import ResidualQuantizer


def left(tables: torch.Tensor, levels: int, rows: torch.Tensor) -> list[float]:
    """Mean squared residual behind each level."""
    quantizer = ResidualQuantizer(tables, levels)
    sums = quantizer.partial_sums(quantizer.encode(rows).codes)
    return [(rows - total).pow(2).mean().item() for total in sums]


@pytest.mark.parametrize("tables", [1, 3])
def test_every_level_leaves_less_and_old_entries_stay(tables: int) -> None:
    generator = torch.Generator().manual_seed(0)
    rows = torch.randn(600, 8, generator=generator)
    old = torch.randn(tables, 16, 8, generator=generator)
    quantizer = ResidualQuantizer(old, 3)
    new = new_entries(quantizer, rows, 16)
    assert new.shape == (tables, 16, 8)
    assert torch.equal(quantizer.codebooks, old)
    whole = torch.cat([old, new], dim=1)
    before, after = left(old, 3, rows), left(whole, 3, rows)
    assert all(now < 0.9 * then for now, then in zip(after, before, strict=True))
    codes = ResidualQuantizer(whole, 3).encode(rows).codes
    assert (codes >= 16).any(dim=0).all(), "new entries are chosen at every level"
    assert (codes < 16).any(), "and old ones"
    assert torch.equal(new, new_entries(quantizer, rows, 16))
    assert not torch.equal(new, new_entries(quantizer, rows, 16, seed=1))


def test_new_entries_are_the_means_of_clusters_that_no_old_entry_is_near() -> None:
    """Three tight clusters, one of which has an entry: the two new ones find the others."""
    centres = torch.tensor([[0.0, 0.0], [9.0, 0.0], [0.0, 9.0]])
    rows = torch.cat(
        [centre + 0.1 * torch.randn(50, 2, generator=torch.Generator().manual_seed(1)) for centre in centres]
    )
    new = new_entries(ResidualQuantizer(centres[None, :1], 1), rows, 2)[0]
    means = torch.stack([rows[50:100].mean(0), rows[100:].mean(0)])
    found = new[new[:, 0].argsort(descending=True)]
    torch.testing.assert_close(found, means)


def test_there_have_to_be_rows_for_them() -> None:
    quantizer = ResidualQuantizer(torch.eye(4)[None, :2], 1)
    for rows in (torch.eye(4), torch.eye(4).repeat(3, 1)):
        with pytest.raises(ValueError, match="3 new entries of 2 different rows that are no entries yet"):
            new_entries(quantizer, rows, 3)
        assert sorted(new_entries(quantizer, rows, 2)[0].argmax(dim=1).tolist()) == [2, 3]
