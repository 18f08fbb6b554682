"""Runs of the same items beside each other: what is counted, how sure it is, and what is refused."""

from __future__ import annotations

import json
from collections import Counter
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import craft_lightning as cl
from craft_lightning.benchmark.claims import interval
from craft_lightning.benchmark.stored_run import read_runs
from craft_lightning.comparison import Part, compare, part_of

LABELS = ("maple", "oak", "ash")


def replies(path: Path, right: str, items: str = "") -> Path:
    """A file of replies: ``1`` for a right one."""
    rows = [{"key": f"k{i}", "item": f"h{i}{items}", "correct": one == "1"} for i, one in enumerate(right)]
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def stored(folder: Path, asked: list[dict[str, Any]], said: list[str], **result: Any) -> Path:
    """A test's folder: items, replies and result."""
    folder.mkdir(parents=True)
    rows = [{"key": f"d/test/{i}", "seen": True, "options": [], **item} for i, item in enumerate(asked)]
    (folder / "items.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    replied = [
        {"key": row["key"], "item": f"h{i}", "prediction": text, "answer": row["answer"], "seen": row["seen"]}
        | {"correct": text.lower() == row["answer"].lower()}
        for i, (row, text) in enumerate(zip(rows, said, strict=True))
    ]
    (folder / "predictions.jsonl").write_text("".join(json.dumps(row) + "\n" for row in replied))
    (folder / "result.json").write_text(json.dumps({"verb": "test", **result}))
    return folder


def outcome(better: int, worse: int, items: int) -> Part:
    return part_of("x", {(False, True): better, (True, False): worse, (True, True): items - better - worse})


def test_two_runs_are_compared_item_by_item(tmp_path: Path) -> None:
    replies(tmp_path / "a" / "predictions.jsonl", "1100" * 25)
    replies(tmp_path / "b" / "predictions.test.jsonl", "1011" * 25)
    found = cl.compare(tmp_path / "a", tmp_path / "b")
    assert (found.items, found.before, found.after, found.difference) == (100, 0.5, 0.75, 0.25)
    assert found.gained[:2] == ("k2", "k3")
    assert (len(found.gained), len(found.lost), found.lost[0]) == (found.better, found.worse, "k1") == (50, 25, "k1")
    # Of the mean of +1, -1 and 0 in shares 0.5, 0.25, 0.25 over 100 items: 0.25 +- 1.96 * 0.0829
    assert found.low == pytest.approx(0.0875, abs=0.005)
    assert found.high == pytest.approx(0.4125, abs=0.01)
    assert str(found).startswith("50.00% -> 75.00% of 100 items, +25.00 points [")
    assert str(found).endswith("50 gained, 25 lost (McNemar p = 0.0052): better")
    back = cl.compare(tmp_path / "b" / "predictions.test.jsonl", tmp_path / "a" / "predictions.jsonl")
    assert (back.difference, back.gained, back.lost, back.verdict) == (-0.25, found.lost, found.gained, "worse")
    assert found.parts == {}, "replies alone say nothing of questions"


def test_the_first_of_several_is_the_base_of_all(tmp_path: Path) -> None:
    for name, right in (("a", "1100"), ("b", "1110"), ("c", "0000")):
        replies(tmp_path / name / "predictions.jsonl", right)
    found = compare(tmp_path / "a", tmp_path / "b", tmp_path / "c")
    assert [(c.name, c.difference, c.runs[0].name) for c in found] == [("b", 0.25, "a"), ("c", -0.5, "a")]


def test_a_run_is_called_by_what_tells_it_from_the_others(tmp_path: Path) -> None:
    def names(*paths: str) -> list[str]:
        return [run.name for run in read_runs([replies(tmp_path / path, "10") for path in paths])]

    (tmp_path / "x").mkdir()
    assert names("a/predictions.jsonl", "b/predictions.jsonl") == ["a", "b"]
    assert names("a/predictions.jsonl", "x/a/predictions.jsonl") == [f"{tmp_path.name}/a", "x/a"]
    assert names("a/p.keep0.8.jsonl", "a/p.keep1.0.jsonl") == ["p.keep0.8.jsonl", "p.keep1.0.jsonl"]
    assert names("a/p.jsonl", "a/p.jsonl") == ["p.jsonl", "p.jsonl"]


def test_the_interval_keeps_its_promise_for_few_items() -> None:
    """Exactly, over all outcomes of 16 items that flip with probability 0.3 and 0.1; and beside the bootstrap's, which
    needs many."""
    items, up, down = 16, 0.3, 0.1
    held = 0.0
    for better in range(items + 1):
        for worse in range(items - better + 1):
            stay = items - better - worse
            chance = comb(items, better) * comb(items - better, worse) * up**better * down**worse * 0.6**stay
            part = outcome(better, worse, items)
            assert part.low <= part.difference <= part.high
            held += chance * (part.low <= up - down <= part.high)
    assert 0.94 < held < 0.99
    large = outcome(300, 200, 2000)
    _, low, high = interval([np.repeat([1.0, -1.0, 0.0], [300, 200, 1500])[None]])
    assert (large.low, large.high) == pytest.approx((low, high), abs=0.002)
    none = outcome(0, 0, 8)
    assert none.low < 0 < none.high, "eight items without a flip do not prove that nothing changed"


def test_mcnemars_p_is_exact_and_agrees_with_the_interval() -> None:
    assert outcome(9, 1, 40).p_value == pytest.approx(2 * (1 + 10) / 2**10)
    assert (outcome(0, 0, 5).p_value, outcome(3, 3, 9).p_value) == (1.0, 1.0)
    for flips in range(1, 25):
        for better in range(flips // 2 + 1, flips + 1):
            for items in (flips, 2 * flips, 400):
                part = outcome(better, flips - better, items)
                assert part.p_value >= 0.05 or part.low > 0, part


def shared(images: list[list[int]]) -> Part:
    """The comparison of items that share images: of each image what its items gain."""
    gains = Counter(gain for items in images for gain in items)
    kinds = {1: (False, True), -1: (True, False), 0: (True, True)}
    return part_of("x", {kinds[gain]: count for gain, count in gains.items()}, images)


def test_items_of_one_image_are_no_evidence_apart() -> None:
    alone = outcome(9, 1, 40)
    single = shared([[1]] * 9 + [[-1]] + [[0]] * 30)
    assert single.p_value == pytest.approx(alone.p_value)
    assert (single.low, single.high) == pytest.approx((alone.low, alone.high), rel=0.02)
    fives = shared([[1] * 5] * 9 + [[-1] * 5] + [[0] * 5] * 30)
    assert fives.p_value == pytest.approx(alone.p_value), "nine images against one, as before"
    assert outcome(45, 5, 200).p_value < 1e-8 < fives.p_value
    assert fives.high - fives.low == pytest.approx(alone.high - alone.low, rel=0.1)
    mixed = shared([[1, -1]] * 8 + [[1, 0], [0, 0]])
    assert (mixed.p_value, mixed.flips) == (1.0, (1,)), "what evens out within an image says nothing"


def test_no_difference_is_found_where_images_flip_by_chance() -> None:
    """400 items on 80 images that change as one: McNemar's test alone would find a difference in 19 % of the cases."""
    rng = np.random.default_rng(0)
    found = {"images": 0, "items": 0}
    for _ in range(400):
        images = [[int(gain)] * 5 for gain in rng.choice([-1, 0, 1], 80, p=[0.1, 0.8, 0.1])]
        part = shared(images)
        found["images"] += part.p_value < 0.05
        found["items"] += outcome(part.better, part.worse, part.items).p_value < 0.05
    assert found["images"] <= 28
    assert found["items"] > 60


def test_questions_about_one_image_are_compared_as_one(tmp_path: Path) -> None:
    for name, right in (("a", "0000000000"), ("b", "1111110000")):
        file = replies(tmp_path / name / "predictions.jsonl", right)
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        file.write_text("".join(json.dumps(row | {"image": f"test/{i // 5}"}) + "\n" for i, row in enumerate(rows)))
    found = cl.compare(tmp_path / "a", tmp_path / "b")
    assert (found.better, found.flips) == (6, (5, 1))
    assert found.p_value == pytest.approx(0.5)
    assert outcome(6, 0, 10).p_value < 0.05


def test_classes_labels_and_confusions(tmp_path: Path) -> None:
    asked = [
        {"question": "Which tree?", "options": list(LABELS), "answer": "ABC"[i % 3], "seen": i % 3 < 2}
        for i in range(12)
    ]
    before = stored(tmp_path / "before", asked, ["B"] * 12, method="zero_shot")
    after = stored(tmp_path / "after", asked, [row["answer"] if i else "dunno" for i, row in enumerate(asked)])
    found = cl.compare(before, after)
    assert {kind: [(p.name, p.items, p.before, p.after) for p in parts] for kind, parts in found.parts.items()} == {
        "labels": [("seen", 8, 0.5, 7 / 8), ("unseen", 4, 0.0, 1.0)],
        "class": [("ash", 4, 0.0, 1.0), ("maple", 4, 0.0, 0.75), ("oak", 4, 1.0, 1.0)],
    }
    assert [(c.answer, c.reply, c.before, c.after) for c in found.confused] == [
        ("ash", "oak", 4, 0),
        ("maple", "oak", 4, 0),
        ("maple", "dunno", 0, 1),
    ]
    flip = found.flipped[0]
    assert (flip.key, flip.question, flip.answer, flip.before, flip.after) == (
        *("d/test/2", "Which tree?", "ash", "oak", "ash"),
    )
    assert (flip.options, flip.seen, flip.gained) == (LABELS, False, True)


def test_kinds_of_questions(tmp_path: Path) -> None:
    kinds = [("Is it round?", "yes"), ("How many dots?", "3"), ("What is it?", "a cat")]
    asked = [{"question": q, "answer": a} for q, a in kinds for _ in range(6)] + [{"question": "Why?", "answer": "so"}]
    one = stored(tmp_path / "one", asked, ["yes"] * 18 + ["Yes"])
    other = stored(tmp_path / "other", asked, [row["answer"] for row in asked])
    found = cl.compare(one, other).parts
    assert [(p.name, p.items, p.better) for p in found["question"]] == [
        ("how many ...", 6, 6),
        ("is ...", 6, 0),
        ("what ...", 6, 6),
        ("other", 1, 1),
    ]
    assert {(c.answer, c.reply): c.before for c in cl.compare(one, other).confused}["so", "yes"] == 1, "in any case"
    assert [(p.name, p.items) for p in found["answer"]] == [("a number", 6), ("in words", 7), ("yes or no", 6)]


@pytest.mark.parametrize(("right", "items", "told"), [("11", "", "1, k2 for one"), ("110", "x", "3, k0 for one")])
def test_runs_of_different_items_are_not_compared(right: str, items: str, told: str, tmp_path: Path) -> None:
    one, other = replies(tmp_path / "a.jsonl", "110"), replies(tmp_path / "b.jsonl", right, items)
    with pytest.raises(cl.CraftError, match=f"answer different items: {told}"):
        cl.compare(one, other)
    with pytest.raises(cl.CraftError, match="name the folder of a run"):
        cl.compare(tmp_path, one)
    (tmp_path / "empty.jsonl").touch()
    with pytest.raises(cl.CraftError, match="holds no replies"):
        cl.compare(one, tmp_path / "empty.jsonl")


def test_a_refusal_says_what_differs(tmp_path: Path) -> None:
    asked = [{"question": "Which?", "answer": "yes"}] * 2
    data = {"dataset": "eurosat", "source": "twin"}
    one = stored(tmp_path / "a", asked, ["yes"] * 2, data=data, seed=0, data_settings={"test_size": 2})
    data = {"dataset": "kvasir", "source": "twin"}
    other = stored(tmp_path / "b", asked[:1], ["yes"], data=data, seed=1, data_settings={"test_size": 1})
    told = r"1, d/test/1 for one \(seed 0 / 1, dataset eurosat / kvasir, test_size 2 / 1, items 2 / 1\)$"
    with pytest.raises(cl.CraftError, match=told):
        cl.compare(one, other)
