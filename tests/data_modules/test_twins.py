"""Properties that all ten twins share."""

from __future__ import annotations

import itertools
import re
from collections import Counter
from functools import cache

import numpy as np
import pytest
import torch
from PIL import Image

from craft_lightning.errors import CraftError
from craft_lightning.models.vlm_spec import VlmSpec
from craft_lightning.types import VqaExample
from data_modules.backbone_reader import read_backbone
from data_modules.twins import TWINS, world_hash
from data_modules.twins.contact_sheet import contact_sheet
from data_modules.twins.drawings.canvas import Canvas
from data_modules.twins.rng import Rng
from data_modules.twins.twin import ClassificationTwin, Drawing, Look, Qa, QuestionTwin

CLASSIFICATION = [name for name, kind in TWINS.items() if issubclass(kind, ClassificationTwin)]
BLANK = Image.new("RGB", (1, 1))
QUESTIONS = [name for name, kind in TWINS.items() if issubclass(kind, QuestionTwin)]
LOOKS: tuple[Look, ...] = ("studio", "field")


@cache
def drawn(name: str, count: int = 200, look: Look = "studio", side: int = 32, split: str = "train") -> Drawing:
    return TWINS[name]().draw(split, range(count), side, look)


@cache
def asked(name: str) -> tuple[tuple[Qa, ...], ...]:
    """Questions of 600 items, without painting them."""
    source, indices = TWINS[name](), np.arange(600)
    attributes = source.sample(Rng.for_items(name, "test", indices).fork("sample"), indices)
    return tuple(source.questions(attributes, i) for i in range(600))


def bound(count: int, share: float) -> float:
    """A number that a binomial count exceeds about once in 30,000 draws (4 standard deviations, and rounding)."""
    return count * share + 4.0 * (count * share * (1.0 - share)) ** 0.5 + 1.0


def test_the_ten_names_are_those_of_the_paper() -> None:
    assert list(TWINS) == [
        *("iconqa", "ocrvqa", "scienceqa", "vqa_rad", "eurosat"),
        *("flowers102", "kvasir", "plantvillage", "stanford_cars", "stanford_dogs"),
    ]
    assert all(TWINS[name]().name == name for name in TWINS)
    assert len(CLASSIFICATION) == 6
    assert len({kind.title for kind in TWINS.values()} | {kind.shift_name for kind in TWINS.values()}) == 20


def test_an_unknown_twin_is_named_with_its_nearest() -> None:
    with pytest.raises(CraftError, match="did you mean 'eurosat'"):
        TWINS["eurosta"]()


@pytest.mark.parametrize("look", LOOKS)
@pytest.mark.parametrize("name", TWINS)
def test_an_item_is_the_same_alone_and_in_a_batch(name: str, look: Look) -> None:
    for side in (32, 64):
        batch = TWINS[name]().draw("val", [5, 17, 2, 40, 33, 8, 90, 11, 1], side, look)
        for place, index in ((1, 17), (4, 33), (8, 1)):
            alone = TWINS[name]().draw("val", [index], side, look)
            assert torch.equal(alone.images[0], batch.images[place])
            assert alone.facts[0] == batch.facts[place]
            assert alone.questions[0] == batch.questions[place]
            assert alone.labels[0] == batch.labels[place]


@pytest.mark.parametrize("name", TWINS)
def test_splits_seeds_and_looks_differ(name: str) -> None:
    source = TWINS[name]()
    here = source.draw("train", range(8), 32, "studio").images.float()
    for other in (
        source.draw("test", range(8), 32, "studio"),
        source.draw("train", range(8), 32, "studio", seed=1),
        source.draw("train", range(8), 32, "field"),
    ):
        assert ((here - other.images.float()).abs().mean((1, 2, 3)) > 2.0).all()


@pytest.mark.parametrize("name", TWINS)
def test_the_field_look_shows_the_same_items(name: str) -> None:
    studio, field = drawn(name, 40), drawn(name, 40, "field")
    assert studio.facts == field.facts
    assert studio.questions == field.questions
    assert (studio.labels == field.labels).all()


@pytest.mark.parametrize("side", [32, 64, 96])
@pytest.mark.parametrize("name", TWINS)
def test_any_side_length(name: str, side: int) -> None:
    for look in LOOKS:
        images = TWINS[name]().draw("train", range(6), side, look).images
        assert images.shape == (6, 3, side, side)
        assert images.dtype == torch.uint8
        assert (images.float().std((1, 2, 3)) > 5.0).all()


@pytest.mark.parametrize("name", TWINS)
def test_a_larger_side_is_the_same_studio_picture(name: str) -> None:
    source = TWINS[name]()
    small = source.draw("train", range(6), 48, "studio").images.float()
    large = source.draw("train", range(6), 96, "studio").images.float()
    shrunk = torch.nn.functional.avg_pool2d(large, 2)
    assert (small - shrunk).abs().mean() < 8.0


@pytest.mark.parametrize("name", CLASSIFICATION)
def test_classes_are_balanced_in_any_stretch(name: str) -> None:
    source = TWINS[name]()
    assert isinstance(source, ClassificationTwin)
    classes = len(source.class_names)
    indices = np.arange(13, 13 + 5 * classes)
    rng = Rng.for_items(name, "test", indices).fork("sample")
    counts = np.bincount(source.labels(source.sample(rng, indices)), minlength=classes)
    assert (counts == 5).all()


@pytest.mark.parametrize("name", CLASSIFICATION)
def test_classes_are_rows_of_a_table(name: str) -> None:
    source = TWINS[name]()
    assert isinstance(source, ClassificationTwin)
    table = source.class_attributes()
    assert len(table) == len(source.class_names) == len(set(source.class_names))
    assert np.isfinite(table).all()
    assert len(np.unique(table, axis=0)) == len(table)
    assert set(source.class_names) <= set(source.all_class_names)
    assert len(set(source.all_class_names)) == len(source.all_class_names)
    assert source.query.endswith("?")


@pytest.mark.parametrize("name", TWINS)
def test_facts_are_many_short_and_unique_to_their_value(name: str) -> None:
    facts = drawn(name).facts
    for of_picture in facts:
        assert len(of_picture) >= 4
        assert sum(fact.varies for fact in of_picture) >= 2
        assert len({fact.name for fact in of_picture}) == len(of_picture)
    named = {(fact.name, fact.phrase) for of_picture in facts for fact in of_picture}
    phrases = [phrase for _, phrase in named]
    assert len(set(phrases)) == len(phrases), "two attributes share a phrase"
    for short, long in itertools.permutations(phrases, 2):
        assert short not in long
    assert all(len(phrase.split()) <= 4 for phrase in phrases)


@pytest.mark.parametrize("name", CLASSIFICATION)
def test_facts_vary_within_a_class_if_they_say_so(name: str) -> None:
    source = TWINS[name]()
    assert isinstance(source, ClassificationTwin)
    indices = np.arange(16 * len(source.class_names))
    attributes = source.sample(Rng.for_items(name, "train", indices).fork("sample"), indices)
    labels = source.labels(attributes)
    for label in range(len(source.class_names)):
        values: dict[tuple[str, bool], set[str]] = {}
        for i in np.flatnonzero(labels == label):
            for fact in source.facts(attributes, int(i)):
                values.setdefault((fact.name, fact.varies), set()).add(fact.phrase)
        for (fact_name, varies), phrases in values.items():
            assert (len(phrases) > 1) == varies, (source.class_names[label], fact_name, phrases)


@pytest.mark.parametrize("name", QUESTIONS)
def test_questions_are_well_formed(name: str) -> None:
    source = TWINS[name]()
    assert isinstance(source, QuestionTwin)
    vocabulary = set(source.answer_vocabulary)
    assert len(vocabulary) == len(source.answer_vocabulary)
    for questions in asked(name):
        assert questions
        for qa in questions:
            assert qa.answer in vocabulary
            assert len(qa.answer.split()) <= 4
            assert qa.question.endswith("?")
            assert re.search(rf"\b{re.escape(qa.answer)}\b", qa.statement, re.IGNORECASE), qa
            assert not qa.statement.endswith("?")
            if qa.options:
                assert 2 <= len(qa.options) <= 5
                assert qa.options.count(qa.answer) == 1
                assert len(set(qa.options)) == len(qa.options)


@pytest.mark.parametrize("backbone", ["pocket-vila-u", "pocket-qwen2-xs"])
def test_answers_are_short_in_the_shipped_tokenizers(backbone: str) -> None:
    """Five new tokens hold any of them and the end of the turn."""
    builder = read_backbone(VlmSpec(name=backbone)).builder
    for name in QUESTIONS:
        source = TWINS[name]()
        assert isinstance(source, QuestionTwin)
        replies = {
            a: builder.encode(VqaExample("key", BLANK, "What is it?", a)).reply for a in source.answer_vocabulary
        }
        assert max(len(reply) for reply in replies.values()) <= 5, name


@pytest.mark.parametrize("name", QUESTIONS)
def test_answers_are_balanced_within_a_kind(name: str) -> None:
    """Chi-square-like: no answer is right more often than its even share of the answers of its kind allows."""
    stored = [questions[0] for questions in asked(name)]
    assert max(Counter(qa.kind for qa in stored).values()) <= 1.25 * 600 / len({qa.kind for qa in stored})
    for kind in {qa.kind for qa in stored}:
        counts = Counter(qa.answer for qa in stored if qa.kind == kind)
        total = sum(counts.values())
        assert len(counts) >= 2
        assert max(counts.values()) <= total / len(counts) + 2, (kind, counts)


@pytest.mark.parametrize("name", QUESTIONS)
def test_the_text_alone_gives_no_information(name: str) -> None:
    """Given wording and option set, no text is right more often than chance: for stored and for other questions."""
    for chosen in (slice(0, 1), slice(1, None)):
        by_text: dict[tuple[str, tuple[str, ...]], Counter[str]] = {}
        by_rank: dict[tuple[str, int], Counter[int]] = {}
        for questions in asked(name):
            for qa in questions[chosen]:
                text = (qa.question, tuple(sorted(qa.options)))
                by_text.setdefault(text, Counter())[qa.answer] += 1
                if qa.options:
                    rank = sorted(qa.options).index(qa.answer)
                    by_rank.setdefault((qa.kind, len(qa.options)), Counter())[rank] += 1
        for (question, options), counts in by_text.items():
            total = sum(counts.values())
            share = 1.0 / len(options) if options else 1.0 / len(counts)
            assert len(counts) > 1 or total < 12, (question, options, counts)
            assert max(counts.values()) <= bound(total, share), (question, options, counts)
        for (kind, size), ranks in by_rank.items():
            total = sum(ranks.values())
            assert max(ranks.values()) <= bound(total, 1.0 / size), (kind, ranks)


@pytest.mark.parametrize("name", TWINS)
def test_the_shift_does_not_know_the_label(name: str) -> None:
    """The shift sees random keys and pixels only: two plain grey images under the same keys stay the same."""
    first, second = TWINS[name](), TWINS[name]()
    second.sample(Rng.for_items(name, "test", np.arange(3)), np.array([7, 1, 4]))
    keys = Rng.for_items(name, "val", np.arange(3)).fork("shift")
    one = first.shift(keys, Canvas(3, 32, (0.5, 0.5, 0.5)))
    two = second.shift(Rng(keys.keys.copy()), Canvas(3, 32, (0.5, 0.5, 0.5)))
    assert torch.equal(one, two)
    assert one.shape == (3, 3, 32, 32)
    assert not torch.equal(one[0], one[1])


@pytest.mark.parametrize("name", CLASSIFICATION)
def test_the_strength_of_the_shift_is_alike_for_all_classes(name: str) -> None:
    """Mean change of brightness through the shift of one grey canvas, grouped by the label of the item it is for."""
    source = TWINS[name]()
    assert isinstance(source, ClassificationTwin)
    classes = len(source.class_names)
    count = classes * (160 // classes)
    indices = np.arange(count)
    canvas = Canvas(count, 16, (0.5, 0.5, 0.5))
    level = source.shift(Rng.for_items(name, "train", indices).fork("shift"), canvas).mean((1, 2, 3)).numpy()
    by_class = level.reshape(-1, classes)
    error = level.std() / by_class.shape[0] ** 0.5
    assert np.abs(by_class.mean(0) - level.mean()).max() < 5.0 * error + 1e-6


def test_the_fingerprint_is_a_function_of_the_world() -> None:
    first = world_hash()
    world_hash.cache_clear()
    assert world_hash() == first
    assert re.fullmatch(r"[0-9a-f]{64}", first)


def test_the_fingerprint_sees_a_change_of_one_look(monkeypatch: pytest.MonkeyPatch) -> None:
    before = world_hash()
    kind = TWINS["kvasir"]
    original = kind.shift
    monkeypatch.setattr(kind, "shift", lambda self, rng, canvas: 1.0 - original(self, rng, canvas))
    world_hash.cache_clear()
    changed = world_hash()
    world_hash.cache_clear()
    assert changed != before


def test_the_contact_sheet_has_a_row_for_each_twin() -> None:
    sheet = contact_sheet(side=32, per_look=2)
    assert sheet.mode == "RGB"
    taller = contact_sheet(side=32, per_look=3)
    assert taller.height == sheet.height
    assert taller.width > sheet.width
    assert sheet.height > len(TWINS) * 112
