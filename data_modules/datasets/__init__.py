"""The datasets by name: what a dataset states, a file each. Naming them imports no torch."""

from __future__ import annotations

from typing import TYPE_CHECKING

from craft_lightning.plugins import Registry

if TYPE_CHECKING:
    from data_modules.datasets.facts import DatasetFacts

OWN = "folder"
"""The dataset name that stands for a user's own data, which state no facts."""

ABOUT: dict[str, str] = {
    "iconqa": "IconQA: diagrams with two to five text choices",
    "ocrvqa": "OCR-VQA: book covers, open answers",
    "scienceqa": "ScienceQA: school science, lettered choices",
    "vqa_rad": "VQA-RAD: radiology, open and yes/no answers",
    "eurosat": "EuroSAT (RGB): 10 land covers from above",
    "flowers102": "Oxford Flowers-102: 102 flowers, 26 of them drawn",
    "kvasir": "Kvasir: 8 endoscopic findings",
    "plantvillage": "PlantVillage: 38 pairs of crop and disease",
    "stanford_cars": "Stanford Cars: 196 models, 28 of them drawn",
    "stanford_dogs": "Stanford Dogs: 120 breeds, 30 of them drawn",
}
"""Name (its facts are ``data_modules/datasets/NAME.py``) and one line, in the order of the paper's tables."""

DATASETS: Registry[DatasetFacts] = Registry(
    "dataset",
    "data_modules.datasets.facts:DatasetFacts",
    {name: f"data_modules.datasets.{name}:FACTS" for name in ABOUT},
    group="craft_lightning.datasets",
    classes=False,
    others=(OWN,),
)


def dataset_name(asked: str) -> str:
    """The name in results of a dataset given by name or import path, as its facts state it. Raises CraftError: no such
    dataset."""
    return OWN if asked == OWN else DATASETS[asked].name


def usual_holdout(asked: str) -> float:
    """Share of a dataset's labels that training does not see, unless told otherwise: a fifth of a published one's, none
    of a user's own."""
    return 0.0 if asked == OWN else 0.2
