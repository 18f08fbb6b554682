"""OCR-VQA: title, author and genre of book covers, open answers. The paper trains on 30k of its 166k images.

A row of the hub's table is a cover with several questions. The authors' files are ``dataset.json`` (a key to questions,
answers, image URL and split) and the images that its URLs gave, ``images/KEY.jpg``: some are gone, and some are GIFs
or PNGs under that name.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import zip_longest
from pathlib import PurePosixPath
from typing import Any

from data_modules.datasets.facts import DatasetFacts, HubTable, Record
from data_modules.sources.items import Asked, Found, Problems, SplitName
from data_modules.sources.rows import turns_as_records
from data_modules.sources.tree import Tree
from data_modules.sources.values import as_index

_FIELDS = ("questions", "answers")
_NUMBERED: dict[Any, SplitName] = {1: "train", 2: "val", 3: "test"}


def official(tree: Tree, problems: Problems) -> Found | None:
    """The authors' questions; without the field ``split`` they are one piece, which is cut."""
    at = tree.find("dataset.json")
    if at is None:
        return None
    covers = ((_NUMBERED.get(as_index(cover.get("split"))), (key, cover)) for key, cover in tree.entries(at))
    files = {PurePosixPath(name).stem: name for name in tree.images()}

    def records(split: str, row: tuple[str, Record]) -> Iterator[Asked]:
        key, cover = row
        image = tree.image(files[key], f"{key}.jpg") if key in files else None
        for i, record in enumerate(_pairs(cover)):
            yield Asked(f"{at}, {key}", f"ocrvqa/{split}/{key}/{i}", record, image)

    layout = "OCR-VQA dataset.json"
    return Found.asked(str(tree.root), layout, covers, records, problems, "cover of no split")


def _pairs(row: Record) -> list[dict[str, Any]]:
    questions, answers = ([said] if isinstance(said := row.get(name), str) else said or () for name in _FIELDS)
    return [{"question": question, "answer": answer} for question, answer in zip_longest(questions, answers)]


def hub_records(rows: Sequence[Record]) -> Iterator[list[dict[str, Any]]]:
    """All questions of each cover."""
    for row in rows:
        yield list(turns_as_records(row)) if "texts" in row else _pairs(row)


FACTS = DatasetFacts(
    name="ocrvqa",
    title="OCR-VQA",
    kind="question",
    licence="not stated by the authors; cover images are from Amazon",
    domain="book cover",
    cite="mishra2019ocrvqa",
    counts=({"train": 166_022, "val": 20_731, "test": 20_796}, {"all": 207_572}),
    questions=1_002_146 / 207_572,
    layout=official,
    hub=(
        HubTable("howard-hou/OCR-VQA"),
        HubTable("HuggingFaceM4/the_cauldron", config="ocrvqa", image="images", note="a training mix, never verified"),
        HubTable("qnguyen3/ocr_vqa", unusable="it holds the images without the questions, for dataset.json"),
    ),
    hub_records=hub_records,
    elsewhere="dataset.json is told at https://ocr-vqa.github.io",
    paper={"train": 30_000, "test": 3_000},
)
