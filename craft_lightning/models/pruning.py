"""Test-time pruning of visual tokens (paper, section 3.3): frequent codes give way first, rare ones stay.

An image's tokens with first-level code k, n_k of them, may keep ``m_k = ceil(n_k * rho_k ** gamma)``, where ``rho_k``
in (0, 1] is the rarity of k on the training split. The paper searches the gamma that meets a budget of M tokens. Here
nothing is searched: the token of rank r within its code (1 = best) survives at every gamma below its *drop level*
``ln(n_k / (r - 1)) / ln(1 / rho_k)``, so the M tokens with the highest drop levels are what the search would leave.

The printed rarity ``1 / p_k`` is at least 1, so it could never prune; scaled by its maximum over the codebook it does
what the text says. Quotas cannot go below one token per code: there, representatives of the most frequent codes go.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Literal, NamedTuple

import torch
from torch import Tensor

from craft_lightning.errors import CraftError
from craft_lightning.types import Selection, VisualTokens

Variant = Literal["none", "random", "quota", "quota+residual", "full"]
NEIGHBOURS = 4
CHUNK_BYTES = 64 * 2**20
"""Of the pairwise distances that are held at a time."""
_DIGITS = 9
"""Decimals of levels and scores that count: the last bit of a logarithm or a sum is not the same on every device."""


@dataclass(frozen=True)
class PruneRule:
    """How tokens are chosen.

    Args:
        variant: ``full`` (quotas by rarity; within a code, large residuals and isolated tokens stay),
            ``quota+residual`` (large residuals alone), ``quota`` (random within a code), ``random`` (no quotas), or
            ``none`` (keeps everything at any budget).
        residual_weight: of the residual in ``full``, in [0, 1]; the rest is the weight of isolation.
        rarity_norm: ``codebook`` scales rarity by the rarest code there is, ``image`` by the rarest in the image.
        budget: ``exact`` keeps M tokens of every image; ``ceil_only`` is the printed rule: at most M where quotas can
            reach that, else one of each code, so that images keep different numbers of tokens.
        position_ids: ``contiguous`` numbers the kept tokens anew, ``original`` leaves gaps where others were.
        alpha: added to every count of the prior, since codes that training never saw need a finite rarity.
        seed: of random orders, together with each image's key.

    Raises:
        CraftError: a weight outside [0, 1], or an alpha that is not positive.
    """

    variant: Variant = "full"
    residual_weight: float = 0.5
    rarity_norm: Literal["codebook", "image"] = "codebook"
    budget: Literal["exact", "ceil_only"] = "exact"
    position_ids: Literal["contiguous", "original"] = "contiguous"
    alpha: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        if not 0.0 <= self.residual_weight <= 1.0:
            raise CraftError(f"residual_weight is a share in [0, 1], not {self.residual_weight}")
        if not self.alpha > 0.0:
            raise CraftError(f"alpha must be positive, not {self.alpha}: unseen codes need a finite rarity")

    @property
    def by_quota(self) -> bool:
        """Whether rarity decides, so that a prior is needed."""
        return self.variant not in ("none", "random")


class Ranking(NamedTuple):
    """The order in which tokens are kept, one for all budgets: what a smaller budget keeps, a larger one keeps, too.

    Attributes:
        order: ``[B, N]`` long, raster positions, first = kept first.
        levels: ``[B, N]`` float64, drop levels in that order, not increasing; inf where no gamma drops, nan without
            quotas.
    """

    order: Tensor
    levels: Tensor

    def select(self, budget: int, exact: bool = True) -> tuple[Tensor, Tensor | None, Tensor]:
        """Positions ``[B, M]``, counts and gamma of a budget of M tokens, as in :class:`.types.Selection`."""
        num_tokens = self.order.shape[1]
        if budget >= num_tokens:
            return self.order.sort(dim=1).values, None, torch.zeros_like(self.levels[:, 0])
        gamma = self.levels[:, budget]
        if exact:
            return self.order[:, :budget].sort(dim=1).values, None, gamma
        kept = (self.levels > gamma[:, None]) | self.levels.isinf()
        counts = kept.sum(dim=1)
        positions = torch.where(kept, self.order, num_tokens).sort(dim=1).values[:, : int(counts.max())]
        return positions.clamp(max=num_tokens - 1), counts, gamma


def budget_of(keep: float, num_tokens: int) -> int:
    """M, the tokens that a keep ratio leaves of N: rounded, at least one; CraftError for a ratio outside (0, 1]."""
    if not 0.0 < keep <= 1.0:
        raise CraftError(f"a keep ratio lies in (0, 1], not {keep}")
    return max(1, int(keep * num_tokens + 0.5))


def count_codes(codes: Iterable[Tensor | None], entries: int) -> Tensor:
    """A prior: ``[K]`` int64 counts, on the CPU, of first-level codes in batches ``[B, N, R]``; CraftError if None."""
    counts = torch.zeros(entries, dtype=torch.int64)
    for batch in codes:
        if batch is None:
            raise CraftError("a continuous tower has no codes to count")
        counts += torch.bincount(batch[..., 0].flatten(), minlength=entries).cpu()
    return counts


def prune(
    visual: VisualTokens, keep: float, prior: Tensor | None, rule: PruneRule, keys: Sequence[str]
) -> VisualTokens:
    """The M of N visual tokens that the projector and the language model read, in raster order.

    Features, codes and energies stay whole; :attr:`.types.VisualTokens.selection` says which tokens were kept. Raises
    CraftError: a ratio outside (0, 1]; quotas without codes or without a prior; a prior of another codebook.

    Args:
        visual: all N tokens. keep: M / N.
        prior: ``[K]`` counts of first-level codes on the training split; needed by variants with quotas.
        keys: stable names of the images, for random orders.
    """
    return prune_each(visual, (keep,), prior, rule, keys)[0]


def prune_each(
    visual: VisualTokens, keeps: Sequence[float], prior: Tensor | None, rule: PruneRule, keys: Sequence[str]
) -> list[VisualTokens]:
    """:func:`prune` at several keep ratios, from one ranking."""
    num_tokens = visual.tokens.shape[1]
    budgets = [budget_of(keep, num_tokens) for keep in keeps]
    if rule.variant == "none" or min(budgets) == num_tokens:
        return [visual] * len(budgets)
    ranking = rank_tokens(visual, prior, rule, keys)

    def kept(budget: int) -> VisualTokens:
        positions, counts, gamma = ranking.select(budget, exact=rule.budget == "exact" or not rule.by_quota)
        chosen = positions[..., None].expand(-1, -1, visual.tokens.shape[2])
        selection = Selection(positions, counts, gamma, gaps=rule.position_ids == "original")
        return replace(visual, tokens=visual.tokens.gather(1, chosen), selection=selection)

    return [visual if budget == num_tokens else kept(budget) for budget in budgets]


def positions_with_gaps(selection: Selection, num_tokens: int, mask: Tensor, first: Tensor) -> Tensor:
    """``[B, L]`` language-model positions of what is left, as they were before tokens were pruned from N. ``mask``:
    ``[B, L]`` bool, False at padding. ``first``: ``[B]`` place of the first visual token in a row."""
    place = torch.arange(selection.positions.shape[1], device=mask.device)
    number = len(place) * torch.ones_like(first) if selection.counts is None else selection.counts
    left_out = num_tokens - number[:, None]
    # How many were skipped in front of each place: none before the image, all behind it.
    skipped = torch.where(place < number[:, None], selection.positions - place, left_out)
    skipped = torch.cat([torch.zeros_like(left_out), skipped, left_out], dim=1)
    where = (mask.cumsum(dim=1) - 1).clamp_min(0)
    return where + skipped.gather(1, (where - first[:, None] + 1).clamp(0, len(place) + 1))


@torch.no_grad()
def rank_tokens(visual: VisualTokens, prior: Tensor | None, rule: PruneRule, keys: Sequence[str]) -> Ranking:
    """The order in which the tokens of each image are kept; arguments and errors as in :func:`prune`."""
    rows, num_tokens = visual.tokens.shape[:2]
    device = visual.tokens.device
    if not rule.by_quota:
        order = noise(keys, rule.seed, num_tokens).to(device).argsort(dim=1, stable=True)
        return Ranking(order, torch.full((rows, num_tokens), torch.nan, dtype=torch.float64, device=device))
    if visual.codes is None or visual.energy is None:
        raise CraftError(f"pruning by {rule.variant!r} needs codes, and a continuous tower has none")
    if prior is None:
        raise CraftError(f"pruning by {rule.variant!r} needs a prior: counts of codes on the training split")
    codes = visual.codes[..., 0]
    counts = prior.to(device, torch.float64)
    if int(codes.max()) >= len(counts):
        raise CraftError(f"a prior of {len(counts)} codes does not fit this codebook (code {int(codes.max())} is used)")
    order = lexsort(codes, *_preference(codes, visual.energy.double(), visual.grid, rule, keys))
    in_order = codes.gather(1, order)
    first = torch.searchsorted(in_order, codes.contiguous())
    number = (torch.searchsorted(in_order, codes.contiguous(), right=True) - first).double()
    place = torch.arange(num_tokens, device=device).expand_as(order)
    # r - 1: how many tokens of the same code rank higher.
    better = (torch.empty_like(order).scatter_(1, order, place) - first).double()
    levels = _drop_levels(better, number, _commonness(codes, counts, rule))
    order = lexsort(-levels, better.clamp(max=1.0), counts[codes], better / number)
    return Ranking(order, levels.gather(1, order))


def lexsort(*keys: Tensor) -> Tensor:
    """``[B, N]`` order of each row by ascending keys ``[B, N]``, the first key first; ties by index."""
    order = keys[-1].argsort(dim=1, stable=True)
    for key in reversed(keys[:-1]):
        order = order.gather(1, key.gather(1, order).argsort(dim=1, stable=True))
    return order


def noise(keys: Sequence[str], seed: int, count: int) -> Tensor:
    """``[B, count]`` int64, random numbers that depend on the seed and each image's key alone, on any device."""
    words = b"".join(hashlib.shake_128(f"{seed}/{key}".encode()).digest(8 * count) for key in keys)
    return torch.frombuffer(bytearray(words), dtype=torch.int64).view(len(keys), count)


def distinct(codes: Tensor, mask: Tensor) -> Tensor:
    """``[B]`` how many different codes there are in ``[B, N]`` where the mask ``[B, N]`` is True."""
    return torch.zeros_like(codes).scatter_reduce(1, _groups(codes), mask.long(), "amax").sum(dim=1)


def _groups(codes: Tensor) -> Tensor:
    """Codes ``[B, N]`` numbered by the first place in the sorted row that they take: below N, whatever K is."""
    return torch.searchsorted(codes.sort(dim=1).values, codes.contiguous())


def isolation(codes: Tensor, grid: tuple[int, int]) -> Tensor:
    """``[B, N]`` float64 mean distance, on the grid, of each token to the four nearest of its code (fewer if there are
    no more; 0 for a code's only token); ``codes`` ``[B, N]`` are in raster order."""
    apart = _distances(grid).to(codes.device)
    step = max(1, CHUNK_BYTES // (apart.numel() * apart.element_size()))
    found = []
    for part in codes.split(step):
        same = part[:, :, None] == part[:, None, :]
        near = apart.where(same, torch.inf).topk(min(NEIGHBOURS, len(apart)), dim=2, largest=False).values
        there = near.isfinite()
        found.append(near.where(there, 0.0).sum(dim=2) / there.sum(dim=2).clamp(min=1))
    return torch.cat(found)


@lru_cache(maxsize=4)
def _distances(grid: tuple[int, int]) -> Tensor:
    """``[N, N]`` float64 between the places of a grid; inf from a place to itself."""
    row, column = torch.meshgrid(*(torch.arange(side, dtype=torch.float64) for side in grid), indexing="ij")
    apart = torch.hypot(*(a.flatten()[:, None] - a.flatten()[None] for a in (row, column)))
    return apart.fill_diagonal_(torch.inf)


def _preference(
    codes: Tensor, energy: Tensor, grid: tuple[int, int], rule: PruneRule, keys: Sequence[str]
) -> tuple[Tensor, ...]:
    """Keys of the order within a code, best first: both cues, scaled to [0, 1] within image and code and weighed."""
    if rule.variant == "quota":
        return (noise(keys, rule.seed, codes.shape[1]).to(codes.device),)
    if rule.variant == "quota+residual":
        return (-energy,)
    weight = rule.residual_weight
    score = weight * _scaled(energy, codes) + (1.0 - weight) * _scaled(isolation(codes, grid), codes)
    return -score.round(decimals=_DIGITS), -energy


def _scaled(cue: Tensor, codes: Tensor) -> Tensor:
    """A cue ``[B, N]`` scaled to [0, 1] within each (image, code); 0 where it is constant."""
    group, zeros = _groups(codes), torch.zeros_like(cue)
    low = zeros.scatter_reduce(1, group, cue, "amin", include_self=False).gather(1, group)
    high = zeros.scatter_reduce(1, group, cue, "amax", include_self=False).gather(1, group)
    return ((cue - low) / (high - low)).where(high > low, 0.0)


def _commonness(codes: Tensor, counts: Tensor, rule: PruneRule) -> Tensor:
    """``[B, N]`` float64 ``u = -ln rho`` of each token's code: 0 for the rarest."""
    smoothed = counts + rule.alpha
    mine = smoothed[codes]
    rarest = mine.min(dim=1, keepdim=True).values if rule.rarity_norm == "image" else smoothed.min()
    return (mine / rarest).log()


def _drop_levels(better: Tensor, number: Tensor, common: Tensor) -> Tensor:
    """``[B, N]`` float64 gamma up to which a token stays if ``better`` of the ``number`` of its code rank higher."""
    endless = (better == 0) | (common <= 0.0)
    level = (number / better.clamp(min=1.0)).log() / common
    return level.round(decimals=_DIGITS).masked_fill(endless, torch.inf)


def pruned_sums(read: VisualTokens, counted: Tensor) -> Tensor:
    """``[6]`` float64 sums over the pruned images that are ``counted`` (``[B]`` bool): images, share of tokens kept,
    share of distinct codes kept, gamma where quotas meet the budget, images where they do, where they cannot."""
    selection = read.selection
    assert selection is not None
    mask = selection.mask(read.features.shape[1])
    tokens = mask.double().mean(dim=1)
    codes = torch.ones_like(tokens)
    if read.codes is not None:
        first = read.codes[..., 0]
        codes = distinct(first, mask).double() / distinct(first, torch.ones_like(mask))
    reached = selection.gamma.isfinite()
    gamma = selection.gamma.where(reached, 0.0)
    parts = (torch.ones_like(tokens), tokens, codes, gamma, reached.double(), selection.gamma.isinf().double())
    return torch.stack([part[counted].sum() for part in parts])
