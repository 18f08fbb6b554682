"""The learnt codebook: where it starts, how it moves, what it becomes."""

from itertools import pairwise

import torch

from craft_lightning.pretraining.tower_stage import EmaCodebook


def started(entries: int = 64, levels: int = 4) -> tuple[EmaCodebook, torch.Tensor]:
    torch.manual_seed(0)
    rows = torch.randn(2000, 8)
    book = EmaCodebook(entries, 8, levels)
    book.start(rows, torch.Generator().manual_seed(1))
    return book, rows


def test_every_level_cuts_the_residual() -> None:
    book, rows = started()
    sums, codes = book.encode(rows)
    residual = [rows.pow(2).mean(), *((rows - s).pow(2).mean() for s in sums)]
    assert all(after < 0.9 * before for before, after in pairwise(residual))
    assert codes.shape == (2000, 4)
    torch.testing.assert_close(sums[-1], book.quantizer().decode(codes))


def test_an_update_moves_a_codeword_towards_the_residuals_that_chose_it() -> None:
    book, rows = started(levels=1)
    rows = rows + 0.5
    before = (rows - book.encode(rows)[0][-1]).pow(2).mean()
    for _ in range(100):
        sums, codes = book.encode(rows)
        book.update(rows, sums, codes, torch.Generator().manual_seed(0))
    assert (rows - book.encode(rows)[0][-1]).pow(2).mean() < 0.97 * before


def test_unused_entries_restart_from_residuals_of_the_batch() -> None:
    book, rows = started(levels=1)
    book.table[0] = 1000.0
    book.sums[0], book.counts[0] = 1000.0 * 0.05, 0.05
    sums, codes = book.encode(rows)
    book.update(rows, sums, codes, torch.Generator().manual_seed(0))
    assert (rows - book.table[0]).abs().sum(1).min() < 1e-5
