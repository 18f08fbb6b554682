"""Pictures of tokens: colours that mean the same everywhere, and panels that show what they say."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from craft_lightning.visualization import GAP, PAPER, TITLE, TokenView, code_colours, draw_tokens, stack

CELL = 32
HEAD = GAP + TITLE + 6


@pytest.fixture
def table() -> torch.Tensor:
    return torch.randn(60, 8, generator=torch.Generator().manual_seed(0)) * torch.tensor([5.0, 4, 3, 1, 1, 1, 1, 1])


@pytest.fixture
def picture() -> Image.Image:
    return Image.fromarray(np.random.default_rng(0).integers(0, 200, (4, 6, 3), dtype=np.uint8))


def panels(sheet: Image.Image, grid: tuple[int, int]) -> list[np.ndarray]:
    """The panels of the first row, as [rows, columns, CELL, CELL, 3]."""
    pixels, found, left = np.asarray(sheet), [], GAP
    height, width = grid[0] * CELL, grid[1] * CELL
    while left + width <= sheet.width - GAP:
        panel = pixels[HEAD : HEAD + height, left : left + width]
        found.append(panel.reshape(grid[0], CELL, grid[1], CELL, 3).swapaxes(1, 2))
        left += width + GAP
    return found


def test_a_code_s_colour_depends_on_its_codeword_alone(table: torch.Tensor) -> None:
    colours = code_colours(table)
    assert colours.shape == (60, 3)
    assert colours.dtype == torch.uint8
    order = torch.randperm(60, generator=torch.Generator().manual_seed(1))
    assert torch.equal(code_colours(table[order]), colours[order])
    assert torch.equal(code_colours(3.0 * table.double() + 7.0), colours)
    assert len({tuple(c) for c in colours.tolist()}) == 60


def test_similar_codewords_have_similar_colours(table: torch.Tensor) -> None:
    apart = torch.cdist(table, table)
    seen = torch.cdist(code_colours(table).float(), code_colours(table).float())
    nearest = apart.fill_diagonal_(torch.inf).argmin(dim=1)
    to_nearest = seen[torch.arange(60), nearest].mean()
    assert to_nearest < 0.5 * seen.sum() / (60 * 59)


def test_red_is_the_rank_along_the_widest_direction() -> None:
    line = torch.tensor([3.0, -1.0, 100.0, 0.0])[:, None] * torch.tensor([[0.0, 2.0]])
    colours = code_colours(line)
    assert colours[:, 0].argsort().tolist() == [1, 3, 0, 2]
    assert colours[:, 0].min() == 30
    assert colours[:, 0].max() == 245
    assert bool((colours[:, 2] == 0).all())


def test_the_map_shows_the_codes_in_raster_order(table: torch.Tensor, picture: Image.Image) -> None:
    colours = code_colours(table)
    codes = torch.arange(24) * 2
    shown, mapped = panels(draw_tokens(TokenView(picture, (4, 6), codes), colours), (4, 6))
    assert (mapped[:, :, 1, 1].reshape(24, 3) == colours[codes].numpy()).all()
    assert (shown[:, :, 5, 9] == np.asarray(picture)).all()


def test_what_is_struck_out_is_what_was_pruned_or_did_not_change(table: torch.Tensor, picture: Image.Image) -> None:
    before, codes = torch.arange(24), torch.arange(24)
    codes[[2, 23]] = 50
    kept = torch.arange(24) % 5 != 0
    view = TokenView(picture, (4, 6), codes, before, kept)
    found = panels(draw_tokens(view, code_colours(table)), (4, 6))
    assert len(found) == 5
    paper = np.array([int(PAPER[i : i + 2], 16) for i in (1, 3, 5)])
    for panel, stays in ((found[3], before != codes), (found[4], kept)):
        corner = panel[:, :, 2, 2].reshape(24, 3)
        assert (corner[stays.numpy()] == np.asarray(picture).reshape(24, 3)[stays.numpy()]).all()
        assert (corner[~stays.numpy()] == paper).all()
    assert (found[1][:, :, 1, 1] != found[2][:, :, 1, 1]).any(axis=-1).sum() == 2


def test_panels_that_nothing_is_known_for_are_left_out(table: torch.Tensor, picture: Image.Image) -> None:
    said = draw_tokens(TokenView(picture, (4, 6), lines=[("What is it?", "#000000")]), None)
    assert len(panels(said, (4, 6))) == 1
    silent = draw_tokens(TokenView(picture, (4, 6)), code_colours(table))
    assert said.width == silent.width == 6 * CELL + 2 * GAP
    assert said.height > silent.height
    both = stack([said, silent])
    assert both.size == (said.width, said.height + silent.height)
    assert both.crop((0, said.height, *both.size)).tobytes() == silent.tobytes()


def test_a_fine_grid_keeps_whole_pixels_and_leaves_numbers_out() -> None:
    codes = torch.full((30 * 30,), 13035)
    colours = torch.full((16384, 3), 200, dtype=torch.uint8)
    sheet = draw_tokens(TokenView(Image.new("RGB", (30, 30)), (30, 30), codes), colours)
    assert sheet.width == 2 * 30 * 16 + 3 * GAP
    mapped = np.asarray(sheet)[HEAD : HEAD + 480, -GAP - 480 : -GAP]
    assert (mapped == 200).all()
