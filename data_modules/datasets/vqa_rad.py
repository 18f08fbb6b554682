"""VQA-RAD: clinical questions about radiology images.

Official train and test share 202 of 314 images; ``apart`` leaves those out of training, and validation never shares
with training. The hub's table repeats an image in each of its rows. The authors' ``VQA_RAD Dataset Public.json`` has
one list, in which ``phrase_type`` tells the test questions; its answers may be numbers and carry stray spaces. 64
answers are longer than five words, which five new tokens cannot spell.
"""

from __future__ import annotations

from collections.abc import Iterator

from data_modules.datasets.facts import DatasetFacts, HubTable, Record
from data_modules.sources.items import Asked, Found, Problems, SplitName
from data_modules.sources.tree import Tree


def official(tree: Tree, problems: Problems) -> Found | None:
    """The authors' list of questions and their images."""
    at = next((name for name, _ in tree.matching(r"[^/]*VQA_RAD[^/]*\.json")), None)
    if at is None:
        return None
    rows = ((_split(row), (number, row)) for number, row in tree.entries(at))
    files = tree.tails(1)

    def records(split: str, row: tuple[int, Record]) -> Iterator[Asked]:
        number, raw = row
        file = str(raw.get("image_name", ""))
        said = {field: raw.get(field) for field in ("question", "answer")}
        record = {field: " ".join(value.split()) if isinstance(value, str) else value for field, value in said.items()}
        image = tree.image(files[file], file) if file in files else None
        yield Asked(f"{at}, entry {number}", f"vqa_rad/{split}/{number}", record, image)

    return Found.asked(str(tree.root), "VQA-RAD json", rows, records, problems)


def _split(row: Record) -> SplitName:
    return "test" if str(row.get("phrase_type", "")).startswith("test") else "train"


FACTS = DatasetFacts(
    name="vqa_rad",
    title="VQA-RAD",
    kind="question",
    licence="CC0 1.0",
    domain="medical scan",
    cite="lau2018vqarad",
    counts=({"train": 1_793, "test": 451}, {"train": 1_797, "test": 451}),
    layout=official,
    hub=(HubTable("flaviagiammarino/vqa-rad", repeats=True),),
    elsewhere="the authors' files are at https://osf.io/89kps",
    paper={"test": 300},
)
