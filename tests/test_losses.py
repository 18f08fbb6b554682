from __future__ import annotations

import math

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from craft_lightning.losses import commitment, contrastive, feature_distance, negative_pairs

LABELS = torch.tensor([0, 0, 1])
NUMBERS = torch.arange(3)


def loss(images: Tensor, texts: Tensor, labels: Tensor = LABELS, log_temperature: float = 0.0) -> Tensor:
    numbers = torch.arange(len(labels))
    pairs = negative_pairs(labels, labels, numbers, numbers)
    return contrastive(images, texts, numbers, pairs, torch.tensor(log_temperature))


def test_three_by_three_by_hand() -> None:
    images = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0]])
    texts = torch.tensor([[5.0, 0.0], [1.0, 1.0], [0.0, 1.0]])
    r = math.sqrt(0.5)
    scores = [[1.0, r, 0.0], [0.0, r, 1.0], [r, 1.0, r]]

    def up(x: float) -> float:
        return math.log1p(math.exp(x))

    anchors = [
        up(-scores[0][0]) + up(scores[0][2]),
        up(-scores[1][1]) + up(scores[1][2]),
        up(-scores[2][2]) + up(scores[2][0]) + up(scores[2][1]),
    ]
    assert float(loss(images, texts)) == pytest.approx(sum(anchors) / 3, rel=1e-6)


def test_same_class_pairs_get_no_gradient() -> None:
    images, texts = torch.randn(3, 4), torch.randn(3, 4, requires_grad=True)
    pairs = negative_pairs(LABELS, LABELS, NUMBERS, NUMBERS)
    assert pairs.tolist() == [[False, False, True], [False, False, True], [True, True, False]]
    one = contrastive(images[:1], texts, torch.tensor([0]), pairs[:1], torch.tensor(0.0))
    (gradient,) = torch.autograd.grad(one, texts)
    assert gradient[1].abs().max() == 0.0
    assert gradient[0].abs().max() > 0.0
    assert gradient[2].abs().max() > 0.0


def test_equal_sentences_are_no_negatives() -> None:
    pairs = negative_pairs(torch.tensor([0, 1]), torch.tensor([0, 1]), torch.tensor([7, 7]), torch.tensor([7, 7]))
    assert not pairs.any()


def test_permuting_or_rescaling_changes_nothing() -> None:
    images, texts = torch.randn(6, 8), torch.randn(6, 8)
    labels = torch.tensor([0, 1, 2, 0, 1, 3])
    order = torch.randperm(6)
    expected = loss(images, texts, labels, 1.0)
    torch.testing.assert_close(loss(images[order], texts[order], labels[order], 1.0), expected)
    torch.testing.assert_close(loss(images * 7.0, texts * 0.01, labels, 1.0), expected)


@pytest.mark.parametrize("sign", [1.0, -1.0])
def test_extreme_scores_stay_finite(sign: float) -> None:
    # log(100) is the cap; cosines of one reach scores of 100, softplus is exact far beyond.
    images = torch.eye(3).requires_grad_(True)
    value = loss(images, sign * torch.eye(3), log_temperature=50.0)
    value.backward()
    assert torch.isfinite(value)
    assert torch.isfinite(images.grad).all()
    assert torch.isfinite(F.softplus(torch.tensor([1e4, -1e4]))).all()
    zero = loss(torch.zeros(3, 4), torch.zeros(3, 4))
    assert float(zero) == pytest.approx((2 + 2 + 3) * math.log(2.0) / 3)


def test_the_temperature_is_capped_at_100_and_can_come_back() -> None:
    images, texts = torch.randn(3, 4), torch.randn(3, 4)
    torch.testing.assert_close(
        loss(images, texts, log_temperature=9.0), loss(images, texts, log_temperature=math.log(100.0))
    )
    a = torch.tensor(9.0, requires_grad=True)
    pairs = negative_pairs(LABELS, LABELS, NUMBERS, NUMBERS)
    contrastive(images, texts, NUMBERS, pairs, a).backward()
    assert float(a.grad) != 0.0


def test_a_batch_of_one_keeps_the_positive_term() -> None:
    v = torch.tensor([[1.0, 0.0]])
    assert float(loss(v, v, torch.tensor([3]))) == pytest.approx(math.log1p(math.exp(-1.0)))


def test_commitment_reductions() -> None:
    z, q = torch.randn(2, 5, 3, requires_grad=True), torch.randn(2, 5, 3, requires_grad=True)
    mean = commitment(z, q)
    torch.testing.assert_close(mean, (z - q).square().mean())
    torch.testing.assert_close(commitment(z, q, "token"), (z - q).square().sum(-1).mean())
    torch.testing.assert_close(commitment(z, q, "image"), (z - q).square().sum((1, 2)).mean())
    mean.backward()
    torch.testing.assert_close(z.grad, 2 * (z - q).detach() / z.numel())
    assert q.grad is None


def test_commitment_is_computed_in_float32() -> None:
    """Features and codewords of bfloat16 are close: their difference must not be rounded again."""
    z = (3.0 + torch.randn(2, 50, 8)).bfloat16()
    q = (z.float() + 0.05 * torch.randn(2, 50, 8)).bfloat16()
    value = commitment(z, q)
    assert value.dtype == torch.float32
    assert float(value) == pytest.approx(float((z.double() - q.double()).square().mean()), rel=1e-5)


def test_a_bias_shifts_every_score() -> None:
    images, texts, pairs = torch.randn(3, 4), torch.randn(3, 4), negative_pairs(LABELS, LABELS, NUMBERS, NUMBERS)
    scores = F.normalize(images, dim=-1) @ F.normalize(texts, dim=-1).T - 10.0
    expected = (F.softplus(-scores.diagonal()) + (F.softplus(scores) * pairs).sum(1)).mean()
    zero = torch.tensor(0.0)
    torch.testing.assert_close(contrastive(images, texts, NUMBERS, pairs, zero, torch.tensor([-10.0])), expected)


def test_cumulative_equals_final_with_one_level() -> None:
    z, q = torch.randn(2, 5, 3), torch.randn(2, 5, 3)
    torch.testing.assert_close(commitment(z, q[None]), commitment(z, q))
    assert float(commitment(q, q)) == 0.0


def test_feature_distance_by_hand() -> None:
    now = torch.tensor([[[3.0, 1.0], [4.0, 0.0]]])  # one image, two tokens, two channels
    then = torch.tensor([[[1.0, 1.0], [0.0, 0.0]]])
    r = math.sqrt(0.5)
    over_tokens = ((0.6 - 1) ** 2 + (0.8 - 0) ** 2 + 0 + 0) / 4
    over_channels = ((3 / math.sqrt(10) - r) ** 2 + (1 / math.sqrt(10) - r) ** 2 + 1 + 0) / 4
    assert float(feature_distance([now], [then])) == pytest.approx(over_tokens, rel=1e-6)
    assert float(feature_distance([now], [then], "channel")) == pytest.approx(over_channels, rel=1e-6)
    assert float(feature_distance([now, then], [then, then])) == pytest.approx(over_tokens / 2, rel=1e-6)


@pytest.mark.parametrize(("axis", "count"), [("token", 7), ("channel", 5)])
def test_feature_distance_is_bounded_and_blind_to_scale(axis: str, count: int) -> None:
    now, then = [torch.randn(3, 7, 5) for _ in range(2)], [torch.randn(3, 7, 5) for _ in range(2)]
    value = feature_distance(now, then, axis)
    assert 0.0 < float(value) <= 4.0 / count
    opposite = feature_distance(now, [-f for f in now], axis)
    assert float(opposite) == pytest.approx(4.0 / count)
    torch.testing.assert_close(feature_distance([7.0 * f for f in now], [0.1 * f for f in then], axis), value)


@pytest.mark.parametrize("axis", ["token", "channel"])
def test_feature_distance_starts_at_zero_and_gives_the_source_no_gradient(axis: str) -> None:
    start = torch.randn(2, 4, 3)
    start[:, :, 0] = start[:, 0] = 0.0  # a dead channel and a dead token: their norms have no slope
    now, source = start.clone().requires_grad_(), start.clone().requires_grad_()
    value = feature_distance([now], [source], axis)
    value.backward()
    assert value.item() == 0.0
    assert now.grad.abs().max() == 0.0
    assert source.grad is None
