"""The loss terms of the paper: pure functions of tensors to a float32 scalar; the caller gathers over processes."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import torch
from torch import Tensor
from torch.nn import functional as F

Level = Literal["final", "cumulative"]
Reduction = Literal["mean", "token", "image"]
Axis = Literal["token", "channel"]

MAX_LOG_TEMPERATURE = math.log(100.0)
"""The temperature of the contrastive loss never exceeds 100, as CLIP's."""


def commitment(features: Tensor, targets: Tensor, reduction: Reduction = "mean") -> Tensor:
    """Commitment loss (equation 3), ``|| z - sg[c] ||^2``: the features are drawn to their quantisation.

    Args:
        features: ``[B, N, d]`` z.
        targets: ``[B, N, d]`` c, the full sum of codewords (level ``final``), or ``[R, B, N, d]`` its partial sums of
            levels 1..l, averaged over l (level ``cumulative``); they get no gradient.
        reduction: ``mean`` over everything, so that a weight holds for any tower; ``token``: summed over d; ``image``:
            summed over N and d.
    """
    squares = (features.float() - targets.detach().float()).square()
    scale = {"mean": 1, "token": features.shape[-1], "image": features.shape[-1] * features.shape[-2]}[reduction]
    return squares.mean() * scale


def summed_per_sample(logits: Tensor, targets: Tensor, rows: int) -> Tensor:
    """The answer loss as equation 2 prints it, of ``[T, V]`` logits and ``[T]`` targets at the labelled positions of
    all rows: summed over each reply's tokens, averaged over the batch. Long answers then weigh more than short ones,
    and more than the other terms; the usual mean over tokens avoids it."""
    return F.cross_entropy(logits.float(), targets, reduction="sum") / rows


def contrastive(
    images: Tensor,
    texts: Tensor,
    positives: Tensor,
    negatives: Tensor,
    log_temperature: Tensor,
    bias: Tensor | None = None,
) -> Tensor:
    """Contrastive loss with class mask (equation 4): the mean over anchors i of ``softplus(-s_ii) + sum_j
    softplus(s_ij)`` over the negatives j, with ``s = tau * cos(image, text) + bias``.

    Args:
        images: ``[B, d]`` image embeddings. texts: ``[M, d]`` sentence embeddings, M >= B when gathered.
        positives: ``[B]`` long, the text that belongs to each image.
        negatives: ``[B, M]`` bool, pairs to push apart (see :func:`negative_pairs`).
        log_temperature: scalar a, ``tau = exp(min(a, log 100))``; above the cap the gradient still reaches a.
        bias: scalar; None, as in equation 4, is 0.
    """
    with torch.autocast(images.device.type, enabled=False):
        capped = log_temperature.float() - (log_temperature.detach().float() - MAX_LOG_TEMPERATURE).clamp(min=0.0)
        v = F.normalize(images.float(), dim=-1, eps=1e-6)
        t = F.normalize(texts.float(), dim=-1, eps=1e-6)
        scores = capped.exp() * (v @ t.T) + (0.0 if bias is None else bias.float())
        pull = F.softplus(-scores.gather(1, positives[:, None])[:, 0])
        push = (F.softplus(scores) * negatives).sum(dim=1)
        return (pull + push).mean()


def negative_pairs(labels: Tensor, text_labels: Tensor, sentences: Tensor, text_sentences: Tensor) -> Tensor:
    """``[B, M]`` bool: pairs of different label (class, or number of the image where it has questions) and different
    statement. What says the same of another image is true of this one, too, and is neither pulled nor pushed."""
    return (labels[:, None] != text_labels[None]) & (sentences[:, None] != text_sentences[None])


def info_nce(images: Tensor, texts: Tensor, log_scale: float) -> Tensor:
    """CLIP's symmetric contrastive loss of image embeddings ``[B, d]`` and those of their captions: the mean of the
    cross-entropies of each image's own text among all and of each text's own image, scored by ``exp(log_scale) *
    cos``."""
    with torch.autocast(images.device.type, enabled=False):
        v, t = (F.normalize(side.float(), dim=-1, eps=1e-6) for side in (images, texts))
        scores = math.exp(log_scale) * (v @ t.T)
        own = torch.arange(len(scores), device=scores.device)
        return (F.cross_entropy(scores, own) + F.cross_entropy(scores.T, own)) / 2


def feature_distance(features: Sequence[Tensor], sources: Sequence[Tensor], axis: Axis = "token") -> Tensor:
    """LDIFS, the distance in feature space: the mean over slices, images, tokens and channels of the squared difference
    of unit features; 0 and without gradient where both are equal up to a positive factor.

    Args:
        features: slices ``[B, N, d]`` of the encoder in training. sources: the same slices of the encoder at its start.
        axis: what a unit feature is a unit vector over: ``token``, all tokens of an image for each channel (as the
            authors' code has it; the distance is at most 4 / N), or ``channel`` (at most 4 / d).
    """

    def unit(tensor: Tensor) -> Tensor:
        return F.normalize(tensor.float(), dim={"token": -2, "channel": -1}[axis], eps=1e-10)

    pairs = zip(features, sources, strict=True)
    return torch.stack([(unit(own) - unit(start.detach())).square().mean() for own, start in pairs]).mean()
