"""IconQA twin: balanced answers, true facts, wording that gives nothing away, images independent of their batch."""

from collections import Counter, defaultdict

import numpy as np
import pytest
import torch

from data_modules.twins.drawings.draw_iconqa import IconQaTwin
from data_modules.twins.drawings.iconqa_words import COLORS, KINDS, NUMBER_WORDS, NUMBERS, PLURALS, SHAPES
from data_modules.twins.twin import Qa

TWIN = IconQaTwin()
STRETCH = 8 * 120


@pytest.fixture(scope="module")
def drawing():
    return TWIN.draw("test", np.arange(160, 160 + STRETCH), 16, "studio")


def by_kind(questions: tuple[tuple[Qa, ...], ...]) -> dict[str, list[Qa]]:
    kinds: dict[str, list[Qa]] = defaultdict(list)
    for asked in questions:
        kinds[asked[0].kind].append(asked[0])
    return kinds


def test_kinds_take_turns_and_answers_are_balanced(drawing):
    kinds = by_kind(drawing.questions)
    assert set(kinds) == set(KINDS)
    assert {len(asked) for asked in kinds.values()} == {STRETCH // len(KINDS)}
    for kind, asked in kinds.items():
        counts = Counter(qa.answer for qa in asked)
        assert max(counts.values()) == min(counts.values()), (kind, counts)


def test_questions_are_well_formed(drawing):
    for asked in drawing.questions:
        assert len(asked) == 3
        assert len({qa.question for qa in asked}) == 3
        for qa in asked:
            assert 2 <= len(qa.options) <= 5
            assert len(set(qa.options)) == len(qa.options)
            assert qa.answer in qa.options
            assert set(qa.options) <= set(TWIN.answer_vocabulary)
            assert qa.answer in qa.statement.lower()
            assert qa.statement.endswith(".")


def test_wording_and_options_do_not_tell_the_answer():
    attributes = TWIN.sample(_rng(8000), np.arange(8000))
    ranks: dict[str, Counter] = defaultdict(Counter)
    sizes: dict[str, int] = {}
    for i in range(8000):
        qa = TWIN.questions(attributes, i)[0]
        ranks[qa.kind][qa.options.index(qa.answer)] += 1
        sizes[qa.kind] = len(qa.options)
    for kind in ("compare", "longer", "count", "where", "fraction"):
        shares = np.array([ranks[kind][r] for r in range(sizes[kind])]) / 1000
        assert np.allclose(shares, 1 / sizes[kind], atol=0.06), (kind, shares)
    # Of four shapes (or colors) offered each is the answer equally often, whichever the four are.
    for kind, words in (("shape", SHAPES), ("color", COLORS)):
        offered, right = Counter(), Counter()
        for i in range(8000):
            qa = TWIN.questions(attributes, i)[0]
            if qa.kind == kind:
                offered.update(qa.options)
                right[qa.answer] += 1
        assert all(abs(right[w] / offered[w] - 0.25) < 0.06 for w in words)


def test_facts_agree_with_the_answers(drawing):
    phrases = {f.phrase for facts in drawing.facts for f in facts}
    assert all(len(facts) >= 4 and sum(f.varies for f in facts) >= 2 for facts in drawing.facts)
    assert not [(a, b) for a in phrases for b in phrases if a != b and a in b]
    for facts, asked in zip(drawing.facts, drawing.questions, strict=True):
        said, qa = {f.name: f.phrase for f in facts}, asked[0]
        if qa.kind == "count":
            assert said["count"] == f"{NUMBER_WORDS[NUMBERS.index(qa.answer)]} in all"
        elif qa.kind == "compare":
            one, two = (w for w in qa.question[:-1].split() if w in PLURALS)
            upper_is_one = said["upper shape"].startswith(one)
            upper, lower = (NUMBER_WORDS.index(said[f"{row} count"].split()[0]) for row in ("upper", "lower"))
            more = upper > lower if upper_is_one else lower > upper
            assert qa.answer == ("yes" if more else "no")
            assert two in said["lower shape" if upper_is_one else "upper shape"]
        elif qa.kind == "fraction":
            assert said["fraction"] == f"{qa.answer} filled"
        elif qa.kind == "where":
            assert any(p.startswith(qa.question[13:-1]) and p.endswith(qa.answer) for p in said.values())


def test_drawn_count_and_length_are_the_ones_claimed():
    drawn = TWIN.draw("test", np.arange(8 * 60), 64, "studio")
    images = drawn.images.float()
    drawn_on = ((images - images[:, :, :1, :1]).abs().amax(1) > 60).numpy()
    for i, asked in enumerate(drawn.questions):
        if asked[0].kind == "count":
            assert _blobs(drawn_on[i]) == int(asked[0].answer), i
        if asked[0].kind == "compare":
            said = {f.name: f.phrase.split()[0] for f in drawn.facts[i]}
            for row, half in (("upper", drawn_on[i, :32]), ("lower", drawn_on[i, 32:])):
                assert NUMBER_WORDS[_blobs(half) - 1] == said[f"{row} count"], i
        if asked[0].kind == "longer":
            top, bottom = (half.any(0).sum() for half in (drawn_on[i, :32], drawn_on[i, 32:]))
            assert asked[2].answer == ("yes" if top > bottom else "no"), i


@pytest.mark.parametrize("look", ["studio", "field"])
def test_a_picture_does_not_depend_on_its_batch(look):
    together = TWIN.draw("test", np.arange(100), 64, look)
    for i in (3, 17, 61):
        alone = TWIN.draw("test", [i], 64, look)
        assert torch.equal(alone.images[0], together.images[i])
        assert alone.facts[0] == together.facts[i]


def test_looks_differ_and_any_side_works():
    studio, field = (TWIN.draw("test", np.arange(16), 40, look).images.float() for look in ("studio", "field"))
    assert studio.shape == (16, 3, 40, 40)
    assert studio.mean() > 180
    assert field.mean() < 100


def _rng(count: int):
    from data_modules.twins.rng import Rng

    return Rng.for_items("iconqa", "train", np.arange(count)).fork("sample")


def _blobs(mask: np.ndarray) -> int:
    """Connected icons (8-neighbourhood)."""
    left, found = {(int(r), int(c)) for r, c in zip(*np.nonzero(mask), strict=True)}, 0
    while left:
        found, stack = found + 1, [left.pop()]
        while stack:
            r, c = stack.pop()
            near = {(r + dr, c + dc) for dr in (-1, 0, 1) for dc in (-1, 0, 1)} & left
            left -= near
            stack.extend(near)
    return found
