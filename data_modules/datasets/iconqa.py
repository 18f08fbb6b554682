"""IconQA: questions about abstract diagrams.

The paper uses the sub-task with text choices (``choose_txt``, 18,946 training questions), and so does this module; the
one whose choices are images needs several images a question. The hub has no training split of it, and writes the
choices of a question in one string. The authors' zip holds ``{train,val,test}/choose_txt/ID/{data.json,image.png}``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

from data_modules.datasets.facts import DatasetFacts, HubTable, Record
from data_modules.sources.items import Asked, Found, Problems, split_named
from data_modules.sources.rows import turns_as_records
from data_modules.sources.tree import Tree
from data_modules.sources.values import absent

TASK = "choose_txt"
_FILE = rf"{TASK}/([^/]+)/data\.json"


def official(tree: Tree, problems: Problems) -> Found | None:
    """The authors' questions with text choices; the examples of their website have no level of splits."""
    named = [(split_named(f"/{name}".split("/")[-4]), (name, at[1])) for name, at in tree.matching(_FILE)]
    images = frozenset(tree.images())

    def records(split: str, row: tuple[str, str]) -> Iterator[Asked]:
        name, pid = row
        file = name.removesuffix("data.json") + "image.png"
        raw = value if isinstance(value := tree.json(name), dict) else {}
        image = tree.image(file, f"{split}/{pid}/image.png") if file in images else None
        record = {"question": raw.get("question"), "choices": raw.get("choices"), "answer_index": raw.get("answer")}
        yield Asked(f"{tree.root}: {name}", f"iconqa/{split}/{pid}", record, image)

    return Found.asked(str(tree.root), f"IconQA {TASK}", named, records, problems) if named else None


def hub_records(rows: Sequence[Record]) -> Iterator[list[dict[str, Any]]]:
    """The questions with text choices, from rows that hold all three sub-tasks.

    Nobody says whether an answer is the text of a choice or its index: it is an index if that fits every row.
    """
    if rows and "texts" in rows[0]:
        yield from (list(filter(lambda record: record["choices"], turns_as_records(row))) for row in rows)
        return
    answers = [_said(row.get("answer", row.get("answers"))) for row in rows]
    chosen = [row["ques_type"] == TASK for row in rows]
    pairs = [(a, _said(row["choices"])) for a, row, mine in zip(answers, rows, chosen, strict=True) if mine and a]
    indices = all(a.isdigit() and int(a) <= listed.count(",") for a, listed in pairs)
    for row, answer, mine in zip(rows, answers, chosen, strict=True):
        if not mine:
            yield []
            continue
        choices = split_choices(_said(row["choices"]), "" if indices else answer)
        index = answer if indices else choices.index(answer) if answer in choices else None
        named = {"answer": answer} if index is None else {"answer_index": index}
        yield [{"question": row["question"], "choices": choices, **named}]


def _said(value: Any) -> str:
    return "" if absent(value) else str(value).strip()


def split_choices(listed: str, answer: str) -> list[str]:
    """Choices from one string, in which a choice may hold a comma itself.

    The answer's text, if it is known, says how many pieces a choice has; where that does not add up, nothing fits the
    answer, and the question is left out.

    >>> split_choices("yes,no", "no")
    ['yes', 'no']
    >>> split_choices("1,000, 2,000", "2,000")
    ['1,000', '2,000']
    """
    pieces = [piece.strip() for piece in listed.split(",")]
    parts = answer.count(",") + 1
    if answer in pieces or len(pieces) % parts:
        return pieces
    spaced = re.split(r",\s+", listed.strip())
    if len(spaced) > 1 and answer in spaced:
        return spaced
    joint = ", " if ", " in answer else ","
    return [joint.join(pieces[i : i + parts]) for i in range(0, len(pieces), parts)]


FACTS = DatasetFacts(
    name="iconqa",
    title="IconQA",
    kind="question",
    licence="CC BY-NC-SA",
    domain="diagram",
    cite="lu2021iconqa",
    counts=({"train": 18_946, "val": 6_316, "test": 6_316}, {"val": 21_488, "test": 21_489}),
    layout=official,
    hub=(
        HubTable("lmms-lab-encoder/ICON-QA", image="query_image", note="no training split"),
        HubTable("lmms-lab/ICON-QA", image="query_image", note="the former name of lmms-lab-encoder/ICON-QA"),
        HubTable("HuggingFaceM4/the_cauldron", config="iconqa", image="images", note="a training mix, never verified"),
    ),
    hub_records=hub_records,
    elsewhere=(
        "its training questions are in the authors' https://iconqa2021.s3.us-west-1.amazonaws.com/iconqa_data.zip: "
        "--data.source folder --data.root iconqa_data.zip"
    ),
    paper={"test": 3_000},
)
