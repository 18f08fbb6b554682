"""VQA-RAD: clinical questions about radiology images.

Official train and test share 202 of 314 images; ``apart`` leaves those out of training, and validation never shares
with training. The hub's table repeats an image in each of its rows. The authors' ``VQA_RAD Dataset Public.json`` has
one list, in which ``phrase_type`` tells the test questions; its answers may be numbers and carry stray spaces. 64
answers are longer than five words, which five new tokens cannot spell.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from data_modules.datasets.facts import DatasetFacts, HubTable, PaperSizes
from data_modules.sources.items import Asked, Found, Problems, SplitName, Splits
from data_modules.sources.tree import Tree


def official(tree: Tree, problems: Problems) -> Found | None:
    """The authors' list of questions and their images."""
    at = next((name for name, _ in tree.matching(r"[^/]*VQA_RAD[^/]*\.json")), None)
    if at is None:
        return None
    files = tree.tails(1)
    asked: dict[SplitName, list[Asked]] = {"train": [], "test": []}
    for number, raw in tree.entries(at):
        split: SplitName = "test" if str(raw.get("phrase_type", "")).startswith("test") else "train"
        file = str(raw.get("image_name", ""))
        image = tree.image(files[file], file) if file in files else None
        asked[split].append(Asked(f"{at}, entry {number}", f"vqa_rad/{split}/{number}", _record(raw), image))
    splits: Splits = {split: partial(list, entries) for split, entries in asked.items()}
    return Found(str(tree.root), "VQA-RAD json", splits, published=True)


def _record(raw: dict[str, Any]) -> dict[str, Any]:
    said = {field: raw.get(field) for field in ("question", "answer")}
    return {field: " ".join(value.split()) if isinstance(value, str) else value for field, value in said.items()}


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
    paper=PaperSizes(test=300),
)
