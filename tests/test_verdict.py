"""A comparison in plain words."""

import json

import pytest

from craft_lightning.comparison import compare
from craft_lightning.report.verdict import sentences


def told(tmp_path, before, after, options=("oak", "elm"), classes=2):
    """The lines for two runs, from a text of 1 (right) and 0 for each."""
    for name, outcomes in (("before", before), ("after", after)):
        folder = tmp_path / name
        folder.mkdir()
        replies, items = [], []
        for i, right in enumerate(outcomes):
            answer = f"kind {i % classes}" if not options else "AB"[i % 2]
            reply = answer if right == "1" else "none"
            row = {"key": f"folder/{i}.jpg", "item": str(i), "prediction": reply, "answer": answer}
            replies.append({**row, "correct": right == "1", "seen": i % 2 == 0 or not options})
            items.append({"key": row["key"], "question": "Which?", "options": options, "answer": answer})
        for file, rows in (("predictions", replies), ("items", items)):
            (folder / f"{file}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return list(sentences(compare(tmp_path / "before", tmp_path / "after")))


@pytest.mark.parametrize(
    ("before", "after", "answer"),
    [
        ("0" * 40, "1" * 20 + "0" * 20, "Yes: 0.0% of 40 test items were right, 50.0% are now: +50.0 points, between"),
        ("1" * 40, "0" * 20 + "1" * 20, "No, it did harm: 100.0% of 40 test items were right, 50.0% are now: -50.0"),
        (
            "10" * 20,
            "01" * 20,
            "That cannot be told from chance: 50.0% of 40 test items were right, 50.0% are now: +0.0",
        ),
    ],
)
def test_the_answer_comes_first(before, after, answer, tmp_path):
    heading, text = told(tmp_path, before, after)[0]
    assert heading == "helped?"
    assert text.startswith(answer)
    assert text.endswith("(95% interval); guessing gives 50%")


def test_parts_and_flips_are_named(tmp_path):
    lines = told(tmp_path, "0011" * 5, "0110" * 5)
    parts = dict(lines)
    assert parts["seen"] == "seen 50% -> 50% of 10; unseen 50% -> 50% of 10"
    assert parts["by class"] == "elm 50% -> 50% of 10; oak 50% -> 50% of 10"
    assert parts["flipped"] == "5 became right, 5 became wrong"
    assert [text for heading, text in lines if heading == "now right"] == [
        f"{i}.jpg: 'none' -> 'elm'" for i in (1, 5, 9)
    ]
    assert dict(reversed(lines))["now wrong"] == "3.jpg: 'elm' -> 'none'"


def test_of_many_classes_the_ends_are_named(tmp_path):
    before, after = "0" * 10 + "1" * 10, "1" * 5 + "0" * 5 + "1" * 5 + "0" * 5
    line = dict(told(tmp_path, before, after, options=(), classes=20))["by class"]
    assert line.startswith("kind 0 0% -> 100% of 1; kind 1 0% -> 100% of 1; ")
    assert line.endswith("kind 19 100% -> 0% of 1 (20 in all)")
    assert line.count("kind") == 8
