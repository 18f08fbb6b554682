"""The synthetic datasets by name, drawn stand-ins of the ten benchmarks, and the fingerprint of what they draw.

The drawings themselves lie in ``drawings/``; naming them imports neither torch nor their modules.
"""

from __future__ import annotations

import hashlib
from functools import cache
from typing import TYPE_CHECKING

from craft_lightning.plugins import Registry

if TYPE_CHECKING:
    from craft_lightning.types import Fact
    from data_modules.twins.twin import Look, Twin

TWINS: Registry[type[Twin]] = Registry(
    "twin",
    "data_modules.twins.twin:Twin",
    {
        "iconqa": "data_modules.twins.drawings.draw_iconqa:IconQaTwin",
        "ocrvqa": "data_modules.twins.drawings.draw_ocrvqa:OcrVqaTwin",
        "scienceqa": "data_modules.twins.drawings.draw_scienceqa:ScienceQaTwin",
        "vqa_rad": "data_modules.twins.drawings.draw_vqa_rad:VqaRadTwin",
        "eurosat": "data_modules.twins.drawings.draw_eurosat:EuroSatTwin",
        "flowers102": "data_modules.twins.drawings.draw_flowers102:FlowersTwin",
        "kvasir": "data_modules.twins.drawings.draw_kvasir:KvasirTwin",
        "plantvillage": "data_modules.twins.drawings.draw_plantvillage:PlantVillageTwin",
        "stanford_cars": "data_modules.twins.drawings.draw_stanford_cars:CarsTwin",
        "stanford_dogs": "data_modules.twins.drawings.draw_stanford_dogs:DogsTwin",
    },
)
"""In the order of the columns of the paper's Table 1."""

LOOKS: tuple[Look, ...] = ("studio", "field")


@cache
def facts_of_all(images: int = 100) -> tuple[tuple[Fact, ...], ...]:
    """What can be said of the first images of every synthetic dataset, which are drawn so small that nobody sees it."""
    drawn = (twin().draw("studio-test", range(images), 8, "studio") for twin in TWINS.values())
    return tuple(facts for drawing in drawn for facts in drawing.facts)


@cache
def world_hash() -> str:
    """SHA-256 (hexadecimal) of what the twins draw, the fingerprint of the frozen world that goes into each result.

    Covers, for every twin in order, the first eight items of the split ``train`` in both looks at side 64: the pixels,
    labels, facts, questions, options, answers and statements.
    """
    digest = hashlib.sha256()
    for name, twin in TWINS.items():
        for look in LOOKS:
            drawing = twin().draw("train", range(8), 64, look)
            digest.update(f"{name}/{look}".encode())
            digest.update(drawing.images.contiguous().numpy().tobytes())
            digest.update(repr((drawing.labels.tolist(), drawing.facts, drawing.questions)).encode())
    return digest.hexdigest()
