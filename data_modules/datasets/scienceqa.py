"""ScienceQA: school science with two to five text choices; records without an image are left out.

The authors' files are ``problems.json``, ``pid_splits.json`` and ``{train,val,test}/ID/image.png``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

from data_modules.datasets.facts import DatasetFacts, HubTable, Record
from data_modules.sources.items import Asked, Found, Problems, SplitName, Splits, split_named
from data_modules.sources.tree import Tree


def _record(problem: Record) -> dict[str, Any]:
    """A question record of the authors' problem, whose answer is an index from 0."""
    fields = {"question": "question", "choices": "choices", "hint": "hint", "answer_index": "answer"}
    return {field: problem.get(name) for field, name in fields.items()}


def hub_records(rows: Sequence[Record]) -> Iterator[list[dict[str, Any]]]:
    """The authors' problems, one a row."""
    return ([_record(row)] for row in rows)


def official(tree: Tree, problems: Problems) -> Found | None:
    """The authors' problems with their splits, text-only ones included: they are counted, then left out."""
    at = tree.find("problems.json")
    if at is None:
        return None
    files = tree.tails(2)
    asked: dict[SplitName, list[Asked]] = {"train": [], "val": [], "test": []}
    for pid, problem in tree.entries(at):
        split = split_named(str(problem.get("split", "")))
        if split is None:
            problems.leave_out("question of no split")
        else:
            image = files.get(f"{pid}/{problem.get('image')}")
            shown = None if image is None else tree.image(image, f"{split}/{pid}/{problem['image']}")
            asked[split].append(Asked(f"{at}, {pid}", f"scienceqa/{split}/{pid}", _record(problem), shown))
    splits: Splits = {split: partial(list, entries) for split, entries in asked.items() if entries}
    return Found(str(tree.root), "ScienceQA problems.json", splits, published=True)


FACTS = DatasetFacts(
    name="scienceqa",
    title="ScienceQA",
    kind="question",
    licence="CC BY-NC-SA 4.0",
    domain="science diagram",
    cite="lu2022scienceqa",
    counts=({"train": 12_726, "val": 4_241, "test": 4_241}, {"train": 6_218, "val": 2_097, "test": 2_017}),
    questions=6_218 / 12_726,
    layout=official,
    hub=(
        HubTable("derek-thomas/ScienceQA"),
        HubTable("lmms-lab-encoder/ScienceQA", config="ScienceQA-IMG", note="questions with an image alone"),
        HubTable("lmms-lab/ScienceQA", config="ScienceQA-IMG", note="the former name of lmms-lab-encoder/ScienceQA"),
    ),
    hub_records=hub_records,
    elsewhere="the authors' files are told at https://github.com/lupantech/ScienceQA",
)
