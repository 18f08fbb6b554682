"""Test-time pruning: budget, nesting, agreement with a bisection and more, each against arithmetic done another way."""

from __future__ import annotations

import math
import re
from collections import Counter
from dataclasses import replace
from itertools import pairwise
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from craft_lightning.errors import CraftError
from craft_lightning.models import pruning
from craft_lightning.models.pruning import (
    PruneRule,
    budget_of,
    isolation,
    noise,
    prune,
    prune_each,
    rank_tokens,
)
from craft_lightning.types import Selection, VisualTokens

K = 12
QUOTAS = ("quota", "quota+residual", "full")
FULL = PruneRule()
CEIL = PruneRule(budget="ceil_only")


def visual(codes: Tensor, seed: int = 0, grid: tuple[int, int] | None = None) -> VisualTokens:
    """Tokens with the given first-level codes ``[B, N]`` and residual energies without ties."""
    rows, count = codes.shape
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(rows, count, 3, generator=generator)
    energy = torch.rand(rows, count, generator=generator)
    levels = torch.stack([codes, torch.zeros_like(codes)], dim=-1)
    return VisualTokens(features, features * 2, levels, None, grid or (1, count), energy)


@st.composite
def cases(draw: Any) -> tuple[VisualTokens, Tensor]:
    """A batch of pictures over a small codebook, and counts of the prior (unseen and equal ones among them)."""
    side = draw(st.sampled_from([(1, 1), (2, 3), (4, 4), (5, 2), (6, 6)]))
    rows = draw(st.integers(1, 4))
    code = st.integers(0, draw(st.integers(0, K - 1)))
    codes = torch.tensor(draw(st.lists(code, min_size=rows * side[0] * side[1], max_size=rows * side[0] * side[1])))
    counts = torch.tensor(draw(st.lists(st.integers(0, 60), min_size=K, max_size=K)))
    return visual(codes.view(rows, -1), draw(st.integers(0, 99)), side), counts


def keys(tokens: VisualTokens) -> list[str]:
    return [f"picture/{index}" for index in range(len(tokens.tokens))]


def kept(tokens: VisualTokens, budget: int, counts: Tensor | None, rule: PruneRule = FULL) -> Selection:
    ranking = rank_tokens(tokens, counts, rule, keys(tokens))
    return Selection(*ranking.select(budget, rule.budget == "exact"))


def quotas(codes: list[int], counts: Tensor, gamma: float, alpha: float = 1.0) -> dict[int, int]:
    """``m_k(gamma)`` by the formula of 2.2."""
    smoothed = [(float(c) + alpha) for c in counts]
    present = Counter(codes)
    rarity = {k: min(smoothed) / smoothed[k] for k in present}
    return {k: max(1, min(n, math.ceil(n * rarity[k] ** gamma - 1e-9))) for k, n in present.items()}


def preferred(tokens: VisualTokens, row: int, weight: float = 0.5) -> dict[int, list[int]]:
    """Positions of each code, best first, by loops over tokens (2.3)."""
    assert tokens.codes is not None
    assert tokens.energy is not None
    codes, energy = tokens.codes[row, :, 0].tolist(), tokens.energy[row].double().tolist()
    place = [divmod(i, tokens.grid[1]) for i in range(len(codes))]
    found: dict[int, list[int]] = {}
    for code in set(codes):
        mine = [i for i, c in enumerate(codes) if c == code]
        apart = {i: sorted(math.dist(place[i], place[j]) for j in mine if j != i)[:4] for i in mine}
        alone = {i: sum(d) / len(d) if d else 0.0 for i, d in apart.items()}

        def scaled(cue: dict[int, float]) -> dict[int, float]:
            low, high = min(cue.values()), max(cue.values())
            return {i: (v - low) / (high - low) if high > low else 0.0 for i, v in cue.items()}

        e, s = scaled({i: energy[i] for i in mine}), scaled(alone)
        score = {i: round(weight * e[i] + (1 - weight) * s[i], 9) for i in mine}
        found[code] = sorted(mine, key=lambda i: (-score[i], -energy[i], i))
    return found


# 1. budget


@settings(max_examples=60, deadline=None)
@given(cases(), st.sampled_from([*QUOTAS, "random"]), st.sampled_from(["codebook", "image"]))
def test_every_budget_is_met_with_rising_positions(case: Any, variant: Any, norm: Any) -> None:
    tokens, counts = case
    total = tokens.tokens.shape[1]
    for budget in range(1, total + 1):
        chosen = kept(tokens, budget, counts, PruneRule(variant, rarity_norm=norm))
        assert chosen.counts is None
        assert chosen.positions.shape == (len(tokens.tokens), budget)
        assert bool((chosen.positions.diff(dim=1) > 0).all())
        assert int(chosen.positions.min()) >= 0
        assert int(chosen.positions.max()) < total


@settings(max_examples=60, deadline=None)
@given(cases())
def test_the_printed_budget_is_short_by_a_tie_at_most_or_stops_at_its_floor(case: Any) -> None:
    tokens, counts = case
    levels = rank_tokens(tokens, counts, CEIL, keys(tokens)).levels
    assert tokens.codes is not None
    for budget in range(1, tokens.tokens.shape[1]):
        chosen = kept(tokens, budget, counts, CEIL)
        assert chosen.counts is not None
        for row, count in enumerate(chosen.counts.tolist()):
            codes = tokens.codes[row, :, 0].tolist()
            rarest = int(counts.min())
            floor = sum(n if int(counts[k]) == rarest else 1 for k, n in Counter(codes).items())
            if floor > budget:
                assert count == floor
                assert chosen.gamma[row] == math.inf
            else:
                tie = int((levels[row] == chosen.gamma[row]).sum())
                assert budget - tie < count <= budget


# 2. nothing to prune


@given(cases(), st.sampled_from([*QUOTAS, "random", "none"]))
def test_keeping_all_changes_nothing(case: Any, variant: Any) -> None:
    tokens, counts = case
    assert prune(tokens, 1.0, counts, PruneRule(variant), keys(tokens)) is tokens
    assert prune(tokens, 0.3, counts, PruneRule("none"), keys(tokens)) is tokens
    whole = kept(tokens, tokens.tokens.shape[1], counts, PruneRule(variant))
    assert torch.equal(whole.positions, torch.arange(tokens.tokens.shape[1]).expand_as(whole.positions))
    assert bool((whole.gamma == 0.0).all())


# 3. quotas


@settings(max_examples=100, deadline=None)
@given(cases(), st.sampled_from(QUOTAS), st.lists(st.floats(0, 20), min_size=1, max_size=5))
def test_levels_are_the_quotas_of_every_gamma(case: Any, variant: Any, gammas: list[float]) -> None:
    tokens, counts = case
    ranking = rank_tokens(tokens, counts, PruneRule(variant), keys(tokens))
    assert tokens.codes is not None
    for row, levels in enumerate(ranking.levels):
        codes = tokens.codes[row, :, 0]
        in_order = codes[ranking.order[row]]
        # Where a level lies, rounding decides.
        for gamma in (g for g in (0.0, *gammas) if float((levels - g).abs().min()) > 1e-6):
            assert Counter(in_order[levels > gamma].tolist()) == quotas(codes.tolist(), counts, gamma)


@settings(max_examples=60, deadline=None)
@given(cases(), st.sampled_from(QUOTAS))
def test_quotas_fall_with_gamma_between_one_and_all(case: Any, variant: Any) -> None:
    tokens, counts = case
    total = tokens.tokens.shape[1]
    chosen = [kept(tokens, budget, counts, PruneRule(variant, budget="ceil_only")) for budget in range(1, total + 1)]
    assert tokens.codes is not None
    for row, codes in enumerate(tokens.codes[..., 0]):
        present = Counter(codes.tolist())
        # Gamma falls as the budget rises, and with it no quota.
        gammas = [float(selection.gamma[row]) for selection in chosen]
        left = [Counter(codes[selection.mask(total)[row]].tolist()) for selection in chosen]
        assert gammas == sorted(gammas, reverse=True)
        for more, less in pairwise([*left, present]):
            assert all(1 <= more[k] <= less[k] <= n for k, n in present.items())
        assert (gammas[-1], left[-1]) == (0.0, present)


@settings(max_examples=60, deadline=None)
@given(cases(), st.sampled_from([*QUOTAS, "random"]))
def test_kept_sets_are_nested(case: Any, variant: Any) -> None:
    tokens, counts = case
    total = tokens.tokens.shape[1]
    masks = [kept(tokens, budget, counts, PruneRule(variant)).mask(total) for budget in range(1, total + 1)]
    assert all(bool((small <= large).all()) for small, large in pairwise(masks))


# 4. the slow reference


@settings(max_examples=150, deadline=None)
@given(cases(), st.data())
def test_drop_levels_are_what_a_search_for_gamma_finds(case: Any, data: Any) -> None:
    tokens, counts = case
    total = tokens.tokens.shape[1]
    budget = data.draw(st.integers(1, total))
    ranking = rank_tokens(tokens, counts, CEIL, keys(tokens))
    chosen = kept(tokens, budget, counts, CEIL)
    mask = chosen.mask(total)
    assert tokens.codes is not None
    for row in range(len(tokens.tokens)):
        codes = tokens.codes[row, :, 0].tolist()
        # The 1e-9 in the quota's formula parts codes that a gamma drops together; a search may keep either.
        near = ranking.order[row, (ranking.levels[row] - chosen.gamma[row]).abs() < 1e-6].tolist()
        tied = set(near) if len(near) > 1 else set()
        low, high = 0.0, 1e4
        if sum(quotas(codes, counts, high).values()) > budget:
            low = high  # out of reach: the floor is all that a search can offer
        elif sum(quotas(codes, counts, low).values()) > budget:
            while high - low > 1e-10 * max(1.0, high):
                middle = (low + high) / 2
                fits = sum(quotas(codes, counts, middle).values()) <= budget
                low, high = (low, middle) if fits else (middle, high)
            low = high
        allowed = quotas(codes, counts, low)
        wanted = {i for code, places in preferred(tokens, row).items() for i in places[: allowed[code]]}
        assert set(mask[row].nonzero().flatten().tolist()) | tied == wanted | tied


@settings(max_examples=60, deadline=None)
@given(cases(), st.floats(0.05, 1.0))
def test_where_quotas_can_meet_it_the_exact_budget_is_the_printed_rule(case: Any, keep: float) -> None:
    tokens, counts = case
    total = tokens.tokens.shape[1]
    budget = budget_of(keep, total)
    exact, printed = kept(tokens, budget, counts), kept(tokens, budget, counts, CEIL)
    assert torch.equal(exact.gamma, printed.gamma)
    for row in range(len(tokens.tokens)):
        count = budget if printed.counts is None else int(printed.counts[row])
        if count == budget:
            assert torch.equal(exact.mask(total)[row], printed.mask(total)[row])


# 5. rarity


def test_of_two_codes_the_rarer_keeps_more() -> None:
    codes = torch.tensor([[0] * 8 + [1] * 8])
    counts = torch.tensor([1000, 100] + [0] * 10)
    for budget in range(2, 16):
        positions = kept(visual(codes, grid=(4, 4)), budget, counts).positions[0]
        assert int((positions >= 8).sum()) >= int((positions < 8).sum())
    positions = kept(visual(codes, grid=(4, 4)), 8, counts).positions[0]
    assert int((positions >= 8).sum()) == 5


@settings(max_examples=40, deadline=None)
@given(cases())
def test_what_is_there_once_stays_while_every_code_can(case: Any) -> None:
    tokens, counts = case
    assert tokens.codes is not None
    for row in range(len(tokens.tokens)):
        codes = tokens.codes[row, :, 0].tolist()
        present = Counter(codes)
        once = {i for i, code in enumerate(codes) if present[code] == 1}
        positions = kept(tokens, len(present), counts).positions[row].tolist()
        assert once <= set(positions)
        unseen = any(int(counts[code]) == int(counts.min()) for code in present)
        assert unseen or len({codes[i] for i in positions}) == len(present)


def test_a_white_background_gives_way() -> None:
    """200 tokens of the commonest code and 56 rare ones, half kept: all 56, and 72 of the 200."""
    codes = torch.cat([torch.zeros(200, dtype=torch.int64), torch.arange(1, 57)])[None]
    codes = codes[:, torch.randperm(256, generator=torch.Generator().manual_seed(0))]
    counts = torch.full((64,), 3)
    counts[0] = 100_000
    positions = kept(visual(codes, grid=(16, 16)), 128, counts).positions[0]
    chosen = codes[0, positions]
    assert int((chosen > 0).sum()) == 56
    assert int((chosen == 0).sum()) == 72


def test_below_one_a_code_the_commonest_codes_go_first() -> None:
    codes = torch.tensor([[0, 0, 0, 1, 2, 3, 3, 3]])
    counts = torch.tensor([500, 40, 30, 200] + [5] * 8)
    ranking = rank_tokens(visual(codes), counts, PruneRule(), ["a"])
    kinds = codes[0, ranking.order[0]].tolist()
    assert kinds[:4] == [2, 1, 3, 0]
    assert [{0: 500, 1: 40, 2: 30, 3: 200}[k] for k in kinds[:3]] == [30, 40, 200]


def test_an_unseen_code_is_never_dropped_by_quota() -> None:
    codes = torch.tensor([[0] * 2 + [4] * 6])
    counts = torch.tensor([9, 9, 9, 9] + [0] * 8)
    levels = rank_tokens(visual(codes), counts, PruneRule(), ["a"]).levels[0]
    assert int(levels.isinf().sum()) == 7  # six of the unseen code, one of the other
    assert set(kept(visual(codes), 7, counts).positions[0].tolist()) >= set(range(2, 8))


# 6. determinism and independence


@settings(max_examples=40, deadline=None)
@given(cases(), st.sampled_from([*QUOTAS, "random"]), st.floats(0.05, 1.0))
def test_a_picture_alone_is_pruned_as_in_a_batch(case: Any, variant: Any, keep: float) -> None:
    tokens, counts = case
    rule = PruneRule(variant, seed=3)
    names = keys(tokens)
    together = prune(tokens, keep, counts, rule, names)
    again = prune(tokens, keep, counts, rule, names)
    assert torch.equal(together.tokens, again.tokens)
    order = list(reversed(range(len(names))))
    turned = prune(_rows(tokens, order), keep, counts, rule, [names[i] for i in order])
    assert torch.equal(turned.tokens, together.tokens.flip(0))
    for row, name in enumerate(names):
        alone = prune(_rows(tokens, [row]), keep, counts, rule, [name])
        assert torch.equal(alone.tokens[0], together.tokens[row])


def _rows(tokens: VisualTokens, rows: list[int]) -> VisualTokens:
    assert tokens.codes is not None
    assert tokens.energy is not None
    parts = {name: getattr(tokens, name)[rows] for name in ("features", "tokens", "codes", "energy")}
    return replace(tokens, **parts)


@settings(max_examples=40, deadline=None)
@given(cases(), st.floats(0.05, 1.0))
def test_ten_times_the_pictures_change_nothing(case: Any, keep: float) -> None:
    tokens, counts = case
    one = prune(tokens, keep, counts, PruneRule(alpha=1.0), keys(tokens))
    ten = prune(tokens, keep, counts * 10, PruneRule(alpha=10.0), keys(tokens))
    assert torch.equal(one.tokens, ten.tokens)


def test_unseen_codes_and_empty_priors_stay_finite() -> None:
    codes = torch.arange(K).repeat(3)[None]
    for counts in (torch.zeros(K, dtype=torch.int64), torch.tensor([10**9] + [0] * (K - 1))):
        ranking = rank_tokens(visual(codes, grid=(6, 6)), counts, PruneRule(), ["a"])
        assert not bool(ranking.levels.isnan().any())
        assert sorted(ranking.order[0].tolist()) == list(range(3 * K))


def test_random_orders_come_from_seed_and_key_alone() -> None:
    tokens = visual(torch.zeros(2, 36, dtype=torch.int64), grid=(6, 6))
    torch.manual_seed(0)
    rule = PruneRule("random", seed=1)
    first = prune(tokens, 0.5, None, rule, ["a", "b"])
    torch.manual_seed(99)
    assert torch.equal(first.tokens, prune(tokens, 0.5, None, rule, ["a", "b"]).tokens)
    assert first.selection is not None
    other = prune(tokens, 0.5, None, PruneRule("random", seed=2), ["a", "b"]).selection
    assert other is not None
    assert not torch.equal(first.selection.positions[0], first.selection.positions[1])
    assert not torch.equal(first.selection.positions, other.positions)
    # Uniform: over many pictures every position is kept about equally often.
    words = noise([str(i) for i in range(4000)], 0, 16).argsort(dim=1)[:, :4]
    shares = torch.bincount(words.flatten(), minlength=16) / 4000
    assert float((shares - 0.25).abs().max()) < 0.03


# 7. the printed normalisation


def test_the_printed_rarity_never_prunes(monkeypatch: Any) -> None:
    """``1 / p_k`` in place of its share of the rarest code's: no gamma drops a token."""
    codes = torch.cat([torch.zeros(200, dtype=torch.int64), torch.arange(1, 57)])[None]
    counts = torch.tensor([200] + [1] * 56)
    tokens = visual(codes, grid=(16, 16))
    ours = kept(tokens, 128, counts, CEIL)
    assert ours.counts is not None
    assert 56 < int(ours.counts) <= 128

    def printed(codes: Tensor, counts: Tensor, rule: PruneRule) -> Tensor:
        smoothed = counts + rule.alpha
        return (smoothed / smoothed.sum()).log()[codes]

    monkeypatch.setattr(pruning, "_commonness", printed)
    for budget in (1, 57, 128, 205, 255):
        theirs = kept(tokens, budget, counts, CEIL)
        assert theirs.counts is not None
        assert int(theirs.counts) == 256


# cues, options and mistakes


@settings(max_examples=40, deadline=None)
@given(cases())
def test_isolation_is_the_mean_distance_to_four_neighbours(case: Any) -> None:
    tokens, _ = case
    assert tokens.codes is not None
    codes = tokens.codes[..., 0]
    found = isolation(codes, tokens.grid)
    for row in range(len(codes)):
        places = [divmod(i, tokens.grid[1]) for i in range(codes.shape[1])]
        for i, place in enumerate(places):
            apart = sorted(
                math.dist(place, places[j]) for j in range(len(places)) if j != i and codes[row, j] == codes[row, i]
            )[:4]
            assert float(found[row, i]) == pytest.approx(sum(apart) / len(apart) if apart else 0.0, abs=1e-12)


def test_large_grids_are_compared_in_blocks(monkeypatch: Any) -> None:
    codes = torch.randint(0, 5, (7, 64), generator=torch.Generator().manual_seed(0))
    whole = isolation(codes, (8, 8))
    monkeypatch.setattr("craft_lightning.models.pruning.CHUNK_BYTES", 1)
    assert torch.equal(isolation(codes, (8, 8)), whole)


@pytest.mark.parametrize(("weight", "best"), [(1.0, [0, 1, 4, 2]), (0.5, [0, 4, 1, 2]), (0.0, [4, 0, 1, 2])])
def test_residual_and_isolation_are_weighed(weight: float, best: list[int]) -> None:
    """Code 0 at places 0, 1, 2 and 4 of a row: scaled residuals 1, 8/9, 0, 1/9; scaled distances 1/2, 0, 0, 1."""
    energy = torch.tensor([[1.0, 0.9, 0.1, 0.0, 0.2]])
    tokens = replace(visual(torch.tensor([[0, 0, 0, 1, 0]])), energy=energy)
    counts = torch.tensor([50, 0] + [3] * 10)
    for budget in range(2, 6):
        positions = kept(tokens, budget, counts, PruneRule(residual_weight=weight)).positions[0].tolist()
        assert set(positions) - {3} == set(best[: budget - 1])
        if weight == 1.0:
            assert kept(tokens, budget, counts, PruneRule("quota+residual")).positions[0].tolist() == positions


def test_the_rarest_code_of_a_picture_is_untouchable_only_when_asked() -> None:
    codes = torch.tensor([[0] * 6 + [1] * 3])
    counts = torch.tensor([100, 50] + [0] * 10)
    by_book = kept(visual(codes), 5, counts).positions[0]
    by_image = kept(visual(codes), 5, counts, PruneRule(rarity_norm="image")).positions[0]
    assert int((by_image >= 6).sum()) == 3
    assert int((by_book >= 6).sum()) == 2


def test_several_ratios_from_one_ranking() -> None:
    tokens = visual(torch.randint(0, K, (3, 36), generator=torch.Generator().manual_seed(1)), grid=(6, 6))
    counts = torch.arange(K)
    ratios = (0.2, 0.5, 1.0)
    for keep, found in zip(ratios, prune_each(tokens, ratios, counts, PruneRule(), keys(tokens)), strict=True):
        assert torch.equal(found.tokens, prune(tokens, keep, counts, PruneRule(), keys(tokens)).tokens)
        assert found.tokens.shape[1] == budget_of(keep, 36)
        assert found.features is tokens.features


@pytest.mark.parametrize(("keep", "count", "expected"), [(0.8, 256, 205), (0.2, 64, 13), (1e-9, 64, 1), (1.0, 7, 7)])
def test_the_budget_is_rounded(keep: float, count: int, expected: int) -> None:
    assert budget_of(keep, count) == expected


def test_rows_of_different_lengths_say_which_tokens_they_keep() -> None:
    codes = torch.tensor([[0, 0, 0, 0], [0, 1, 2, 3]])
    chosen = kept(visual(codes), 1, torch.tensor([9, 8, 7, 6] + [0] * 8), CEIL)
    assert chosen.counts is not None
    assert chosen.counts.tolist() == [1, 4]
    assert chosen.mask(4).sum(dim=1).tolist() == [1, 4]
    assert chosen.mask(4)[1].all()


def test_mistakes_are_named() -> None:
    tokens = visual(torch.tensor([[0, 11]]))
    with pytest.raises(CraftError, match=re.escape("a keep ratio lies in (0, 1], not 0.0")):
        prune(tokens, 0.0, None, PruneRule(), ["a"])
    with pytest.raises(CraftError, match="'full' needs a prior"):
        prune(tokens, 0.5, None, PruneRule(), ["a"])
    with pytest.raises(CraftError, match="a prior of 5 codes does not fit this codebook"):
        prune(tokens, 0.5, torch.zeros(5), PruneRule(), ["a"])
    with pytest.raises(CraftError, match="a continuous tower has none"):
        prune(replace(tokens, codes=None), 0.5, torch.zeros(K), PruneRule(), ["a"])
    with pytest.raises(CraftError, match="alpha must be positive"):
        PruneRule(alpha=0.0)
    with pytest.raises(CraftError, match="residual_weight is a share"):
        PruneRule(residual_weight=1.5)
