"""The judge by rules on replies written by hand, and its schema and file."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from pydantic import ValidationError

from craft_lightning.errors import CraftError
from craft_lightning.evaluation.judgement import (
    DIMENSIONS,
    Judgement,
    judgements_file,
    means,
    read_judgements,
    to_line,
)
from craft_lightning.evaluation.offline_judge import OfflineJudge, is_right
from craft_lightning.run_folder import OFFLINE
from craft_lightning.text.prompts import justify
from craft_lightning.types import Fact, VqaExample

PINK, ORANGE = Fact("colour", "pink flower", False), Fact("colour", "orange flower", False)
FOUR, TWELVE = Fact("count", "four petals", False), Fact("count", "twelve petals", False)
CENTRE, SKY = Fact("centre", "yellow centre", False), Fact("backdrop", "sky backdrop", True)
FACTS = (PINK, FOUR, CENTRE, SKY)
JUDGE = OfflineJudge([FACTS, (ORANGE, TWELVE)], [(Fact("mass", "no mass", True), Fact("extra", "no extras", False))])


def flower(**changes: Any) -> VqaExample:
    options = ("orange dahlia", "pink primrose", "barbeton daisy", "daisy")
    known: dict[str, Any] = {"facts": FACTS, "answer_text": "pink primrose"}
    example = {"question": "Which of these flowers is shown in the image?", "answer": "B", "options": options}
    return justify(VqaExample(**{"key": "f/0", "image": Image.new("RGB", (1, 1)), "meta": known} | example | changes))


PERFECT = "B. pink primrose, because the image shows four petals, yellow centre and pink flower."
RAMBLING = f"{PERFECT} It may well be that, as one could say, these are things. " * 8


@pytest.mark.parametrize(
    ("reply", "judged"),
    [
        (PERFECT, (True, True, 5, 5, 0, 10.0)),
        ("B", (True, False, 0, 0, 0, 0.0)),
        ("B. pink primrose", (True, False, 0, 0, 0, 0.0)),
        ("pink primrose, because it is a pink primrose", (True, False, 0, 0, 0, 0.0)),
        ("The answer is B, because the image shows sky backdrop.", (True, True, 1, 5, 0, 6.0)),
        ("B. orange dahlia", (False, False, 0, 0, 0, 0.0)),  # letter and name are at odds
        ("D. daisy, because it has four petals and twelve petals.", (False, True, 4, 3, 0, 7.0)),
        ("B. pink primrose, because the image shows twelve petals and orange flower.", (True, True, 4, 0, 0, 4.0)),
        ("B, because the image shows four petals and no mass and no extras.", (True, True, 2, 2, 0, 4.0)),
        ("The image shows four petals. B.", (True, True, 2, 5, 0, 7.0)),  # the answer stands last
        ("The image shows four petals. So the answer is A.", (False, True, 2, 5, 0, 7.0)),
        ("D. It shows four petals. B.", (False, False, 2, 5, 0, 7.0)),  # the first answer counts
        ("The image shows four petals. It is not B.", (False, False, 2, 5, 0, 7.0)),
        ("Paris is the capital of France and lies on the Seine.", (False, True, 0, 0, 0, 0.0)),
        ("A. orange dahlia B. pink primrose C. barbeton daisy D. daisy", (False, False, 0, 0, 0, 0.0)),
        (RAMBLING, (True, True, 5, 5, 5, 7.5)),
        ("", (False, False, 0, 0, 0, 0.0)),
    ],
    ids=lambda value: value[:40] if isinstance(value, str) else "",
)
def test_a_reply_is_judged_by_the_rules(reply: str, judged: tuple[Any, ...]) -> None:
    found = JUDGE.judge(reply, flower())
    assert tuple(getattr(found, name) for name in DIMENSIONS) == judged


@pytest.mark.parametrize(
    ("question", "answer", "reply", "right", "bears"),
    [
        ("Is there a mass?", "no", "No, because the image shows no mass and chest section.", True, 3),
        ("Is there a mass?", "no", "Yes, because the image shows no mass and chest section.", False, 3),
        ("Is there a mass?", "no", "There is no mass", False, 2),
        ("Which organ system is shown?", "chest", "It is the chest, because of a large mass.", True, 1),
        ("Which organ system is shown?", "chest", "chest", True, 0),
        ("Which organ system is shown?", "chest", "It is the chest. A.", True, 0),
        ("Which organ system is shown?", "chest", "brain", False, 0),
    ],
)
def test_an_open_question_is_judged_by_its_words(
    question: str, answer: str, reply: str, right: bool, bears: int
) -> None:
    facts = (Fact("organ", "chest section", True), Fact("mass", "no mass", True))
    judge = OfflineJudge([facts, (Fact("mass", "large mass", True),)])
    asked = flower(question=question, answer=answer, options=(), meta={"facts": facts, "answer_text": answer})
    found = judge.judge(reply, asked)
    assert (found.correctness, found.relevance) == (right, bears)
    assert found.presence == ("because" in reply)


def test_the_same_reply_is_judged_the_same() -> None:
    assert len({JUDGE.judge(PERFECT, flower()) for _ in range(3)}) == 1


@pytest.mark.parametrize(
    "wrong", [{"relevance": 6}, {"verbosity": -1}, {"presence": 1}, {"faithfulness": 2.5}, {"mood": "good"}]
)
def test_the_schema_is_strict(wrong: dict[str, Any]) -> None:
    right = {"correctness": True, "presence": True, "relevance": 5, "faithfulness": 5, "verbosity": 0, "notes": ""}
    assert Judgement(**right).overall == 10.0
    with pytest.raises(ValidationError):
        Judgement(**right | wrong)


def test_the_overall_of_means_is_the_mean_of_overall() -> None:
    marks = [(0, 0, 5), (5, 5, 0), (3, 2, 1)]
    found = means(
        Judgement(correctness=True, presence=False, relevance=r, faithfulness=f, verbosity=v) for r, f, v in marks
    )
    assert found["overall"] == found["relevance"] + found["faithfulness"] - found["verbosity"] / 2
    assert (found["correctness"], found["presence"]) == (1.0, 0.0)


def test_a_file_of_judgements_is_read_again_but_for_replies_that_changed(tmp_path: Path) -> None:
    path = judgements_file(tmp_path / "predictions.keep0.8.jsonl", OFFLINE)
    assert path.name == "judgements.keep0.8.offline.jsonl"
    assert judgements_file(path.with_name("predictions.jsonl"), "a/b:c-4.1").name == "judgements.a-b-c-4.1.jsonl"
    assert read_judgements(path, {"x": "B"}) == {}
    judged = JUDGE.judge(PERFECT, flower())
    path.write_text(to_line("x", PERFECT, None) + to_line("y", "B", judged) + to_line("w", "A", None))
    said = {"x": PERFECT, "y": "another", "w": "A", "z": "C"}
    assert read_judgements(path, said) == {"x": None, "w": None}, "asked in vain"
    with path.open("ab") as file:
        file.write(to_line("x", PERFECT, judged).encode() + '{"key": "z", "notes": "é'.encode()[:-1])
    assert read_judgements(path, said) == {"x": judged, "w": None}, "a cut last line is none, the later line counts"


@pytest.mark.parametrize("damage", ['{"key": "x", "rep', "[]", "{}", "", '{"key": "x", "reply": "0", "presence": 3}'])
def test_a_damaged_line_is_named(tmp_path: Path, damage: str) -> None:
    path = tmp_path / "judgements.offline.jsonl"
    path.write_text(to_line("x", "B", None) + f"{damage}\n" + to_line("y", "B", None))
    with pytest.raises(CraftError, match=r"judgements.offline.jsonl, line 2 is no judgement: remove the line"):
        read_judgements(path, {"x": "B"})


def test_the_eighth_word_still_answers_and_the_ninth_does_not() -> None:
    asked = flower(question="Which organ?", answer="liver", options=(), meta={"facts": (), "answer_text": "liver"})
    assert is_right("in this image we can see the liver", asked)
    assert not is_right("in this image we can also see the liver", asked)
    asked = flower(question="Which?", answer="left lobe", options=(), meta={"facts": (), "answer_text": "left lobe"})
    assert is_right("in this image there is the left lobe", asked)
    assert not is_right("in this image we can see the left lobe", asked)
