"""ScienceQA: school science with two to five text choices; records without an image are left out.

The authors' files are ``problems.json``, ``pid_splits.json`` and ``{train,val,test}/ID/image.png``.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from data_modules.datasets.facts import DatasetFacts, HubTable, Record
from data_modules.sources.items import Asked, Found, Problems, split_named
from data_modules.sources.tree import Tree


def hub_records(rows: Sequence[Record]) -> Iterator[list[Record]]:
    """The authors' problems, one a row; an answer is an index from 0."""
    return ([_record(row)] for row in rows)


def _record(problem: Record) -> Record:
    said = {name: problem.get(name) for name in ("question", "choices", "hint")}
    return {**said, "answer_index": problem.get("answer")}


def official(tree: Tree, problems: Problems) -> Found | None:
    """The authors' problems with their splits, text-only ones included: they are counted, then left out."""
    at = tree.find("problems.json")
    if at is None:
        return None
    rows = ((split_named(str(row.get("split", ""))), (pid, row)) for pid, row in tree.entries(at))
    files = tree.tails(2)

    def records(split: str, row: tuple[str, Record]) -> Iterator[Asked]:
        pid, problem = row
        file = files.get(f"{pid}/{problem.get('image')}")
        image = None if file is None else tree.image(file, f"{split}/{pid}/{problem['image']}")
        yield Asked(f"{at}, {pid}", f"scienceqa/{split}/{pid}", _record(problem), image)

    return Found.asked(str(tree.root), "ScienceQA problems.json", rows, records, problems)


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
