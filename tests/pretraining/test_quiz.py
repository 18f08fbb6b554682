"""Questions asked of tokens: places, allowed answers, and that both what and where can be learnt from it."""

import math
from dataclasses import replace
from typing import Any

import pytest
import torch

from craft_lightning.pretraining.plans import TowerSpec
from craft_lightning.pretraining.tower_stage import PairBatch, Quiz, TowerPretraining, grid_positions
from craft_lightning.types import IGNORED_LABEL


def test_places_differ_and_have_the_amplitude_asked_for() -> None:
    places = grid_positions(8, 8, 32, scale=0.5)
    assert places.shape == (64, 32)
    assert torch.cdist(places, places).fill_diagonal_(9.0).min() > 0.3
    # A sine and a cosine of each angle: every row has the same norm.
    torch.testing.assert_close(places.norm(dim=1), torch.full((64,), 0.5 * math.sqrt(16)))


def test_a_token_moves_the_loss_of_its_own_picture_only_and_unasked_questions_none() -> None:
    torch.manual_seed(0)
    quiz = Quiz(torch.ones(3, 5, dtype=torch.bool), 16, 2, (2, 2))
    tokens = torch.randn(2, 4, 16, requires_grad=True)
    asked = torch.tensor([[0, 1], [2, 0]])
    quiz(tokens, asked, torch.tensor([[3, IGNORED_LABEL], [IGNORED_LABEL, IGNORED_LABEL]])).backward()
    assert tokens.grad is not None
    assert tokens.grad[0].abs().sum() > 0
    assert torch.equal(tokens.grad[1], torch.zeros(4, 16))


def test_without_places_the_order_of_tokens_says_nothing() -> None:
    torch.manual_seed(0)
    quiz = Quiz(torch.ones(3, 5, dtype=torch.bool), 16, 2, (2, 2))
    tokens, asked, answers = torch.randn(1, 4, 16), torch.tensor([[1]]), torch.tensor([[2]])
    told, turned = (quiz(t, asked, answers) for t in (tokens, tokens.flip(1)))
    unaware, same = (quiz(t, asked, answers, places=False) for t in (tokens, tokens.flip(1)))
    assert abs(told - turned) > 1e-3
    torch.testing.assert_close(unaware, same)


def test_answers_of_other_questions_do_not_compete() -> None:
    torch.manual_seed(0)
    allowed = torch.tensor([[True, True, False, False], [False, False, True, True]])
    quiz = Quiz(allowed, 16, 2, (2, 2))
    with torch.no_grad():
        quiz.answer.bias.copy_(torch.tensor([0.0, 0.0, 50.0, 50.0]))
    loss = quiz(torch.randn(1, 4, 16), torch.tensor([[0]]), torch.tensor([[1]]))
    assert loss < 3.0


def test_what_and_where_are_learnt() -> None:
    """One token of four is marked: which place it has, and which of two marks it is."""
    torch.manual_seed(0)
    marks = torch.randn(2, 16)
    allowed = torch.tensor([[True] * 4 + [False] * 2, [False] * 4 + [True] * 2])
    quiz = Quiz(allowed, 16, 2, (2, 2))
    optimizer = torch.optim.AdamW(quiz.parameters(), lr=1e-2)
    asked = torch.tensor([[0, 1]]).expand(64, 2)
    for _ in range(150):
        place, kind = torch.randint(4, (64,)), torch.randint(2, (64,))
        tokens = 0.1 * torch.randn(64, 4, 16)
        tokens[torch.arange(64), place] += marks[kind]
        loss = quiz(tokens, asked, torch.stack([place, 4 + kind], dim=1))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    assert loss < 0.1


SPEC = TowerSpec(
    width=16, layers=2, heads=2, mlp=32, image_size=16, patch_size=4, text_layers=1, text_positions=8, codes=4, levels=2
)


def batch(step: int) -> PairBatch:
    draw = torch.Generator().manual_seed(step)
    pixels = torch.rand(3, 3, 16, 16, generator=draw) * 2 - 1
    ids = torch.randint(20, (3, 8), generator=draw)
    asked = torch.tensor([[0, 1], [1, 0], [0, 0]])
    return PairBatch(pixels, ids, torch.eye(3, dtype=torch.bool), asked, asked, step)


def pretraining(**other: Any) -> TowerPretraining:
    return TowerPretraining(replace(SPEC, **other), 20, 0, torch.ones(2, 3, dtype=torch.bool)).train()


def test_quantisation_waits_for_its_step_and_for_the_features_the_codebook_starts_from() -> None:
    model = pretraining(quantize_from=1)
    # 20 features a codeword start the codebook: two batches of 48 tokens.
    assert ["commitment" in model(batch(step)) for step in range(4)] == [False, False, True, True]
    assert ["contrastive" in model(batch(step)) for step in range(4)] == [True, False, True, False]


@pytest.mark.parametrize("quantize_from", [0, 9])
def test_the_quiz_teaches_the_tower_through_what_is_quantised(quantize_from: int) -> None:
    """The last block is the head's, so nothing but a gradient through the tokens reaches the first one."""
    model = pretraining(quantize_from=quantize_from)
    for step in range(3):
        terms = model(batch(step))
    assert ("commitment" in terms) == (quantize_from == 0)
    terms["quiz"].backward()
    moved = model.tower.vision.encoder.layers[0].mlp.fc1.weight.grad
    assert moved is not None
    assert moved.abs().max() > 0


def test_only_what_is_longer_than_its_width_allows_costs_anything() -> None:
    model = pretraining(length=1.0)
    last = model.tower.vision.encoder.layers[-2].mlp.fc2
    with torch.no_grad():
        last.bias += 3.0
    z = model.tower.features(batch(0).pixel_values)
    terms = model(batch(0))
    torch.testing.assert_close(terms["length"], (z.square().mean(-1) - 1.0).relu().mean())
    terms["length"].backward()
    assert last.bias.grad is not None
    assert (last.bias.grad > 0).all()
