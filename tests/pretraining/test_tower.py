"""Stage 0: the terms of its loss, what they teach, and when quantisation starts."""

import math
from dataclasses import replace

import pytest
import torch

from craft_lightning.pretraining.tower_stage import PairBatch, TowerPretraining, TowerSpec

SPEC = TowerSpec(
    width=16, layers=2, heads=2, mlp=32, image_size=16, patch_size=4, text_layers=1, text_positions=8, codes=4, levels=2
)
TAGS = torch.tensor([[1.0, 0, 1, 0, 0], [0, 1, 0, 0, 0], [1, 1, 1, 0, 1]])


def pretraining(spec: TowerSpec = SPEC) -> TowerPretraining:
    return TowerPretraining(spec, 20, 0, TAGS.shape[1]).train()


def batch(step: int = 0) -> PairBatch:
    draw = torch.Generator().manual_seed(step)
    pixels = torch.rand(3, 3, 16, 16, generator=draw) * 2 - 1
    ids = torch.randint(20, (3, 8), generator=draw)
    return PairBatch(pixels, ids, torch.eye(3, dtype=torch.bool), TAGS, step)


def test_tags_are_rare_at_first_and_their_losses_are_added_for_each_picture() -> None:
    model = pretraining()
    torch.nn.init.zeros_(model.tagger.weight)
    true, false = 7 / 3, 8 / 3  # of a picture
    wanted = 0.2 * (true * math.log1p(math.exp(4.0)) + false * math.log1p(math.exp(-4.0)))
    assert model(batch())["tagging"].item() == pytest.approx(wanted, rel=1e-5)


def test_tags_teach_the_tower_through_what_is_quantised() -> None:
    """The last block is the head's, so nothing but a gradient through the tokens reaches the first one."""
    for quantize_from in (0, 9):
        model = pretraining(replace(SPEC, quantize_from=quantize_from))
        # 20 features a codeword start the codebook: two batches of 48 tokens.
        for step in range(3):
            terms = model(batch(step))
        assert ("commitment" in terms) == (quantize_from == 0)
        terms["tagging"].backward()
        moved = model.tower.vision.encoder.layers[0].mlp.fc1.weight.grad
        assert moved is not None
        assert moved.abs().max() > 0


def test_what_is_true_of_a_picture_is_learnt() -> None:
    model = pretraining()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-2)
    shown = batch()
    for _ in range(60):
        loss = model(shown)["tagging"]
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    tokens = model.tower.features(shown.pixel_values)
    assert torch.equal(model.tagger(model.pooled(tokens)) > 0, TAGS.bool())


def test_quantisation_waits_for_its_step_and_for_the_features_the_codebook_starts_from() -> None:
    model = pretraining(replace(SPEC, quantize_from=1))
    quantised = ["commitment" in model(batch(step)) for step in range(4)]
    assert quantised == [False, False, True, True]
