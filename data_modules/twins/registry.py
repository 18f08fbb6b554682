"""The ten twins by name, in the paper's order, and the fingerprint of the world they draw."""

from __future__ import annotations

import hashlib
from functools import cache

from craft_lightning.errors import unknown
from data_modules.twins.drawings.draw_eurosat import EuroSatTwin
from data_modules.twins.drawings.draw_flowers102 import FlowersTwin
from data_modules.twins.drawings.draw_iconqa import IconQaTwin
from data_modules.twins.drawings.draw_kvasir import KvasirTwin
from data_modules.twins.drawings.draw_ocrvqa import OcrVqaTwin
from data_modules.twins.drawings.draw_plantvillage import PlantVillageTwin
from data_modules.twins.drawings.draw_scienceqa import ScienceQaTwin
from data_modules.twins.drawings.draw_stanford_cars import CarsTwin
from data_modules.twins.drawings.draw_stanford_dogs import DogsTwin
from data_modules.twins.drawings.draw_vqa_rad import VqaRadTwin
from data_modules.twins.twin import Look, Twin

TWINS: dict[str, type[Twin]] = {
    "iconqa": IconQaTwin,
    "ocrvqa": OcrVqaTwin,
    "scienceqa": ScienceQaTwin,
    "vqa_rad": VqaRadTwin,
    "eurosat": EuroSatTwin,
    "flowers102": FlowersTwin,
    "kvasir": KvasirTwin,
    "plantvillage": PlantVillageTwin,
    "stanford_cars": CarsTwin,
    "stanford_dogs": DogsTwin,
}
"""Name to class, in the order of the columns of the paper's Table 1."""

LOOKS: tuple[Look, ...] = ("studio", "field")


def twin(name: str) -> Twin:
    """The twin of that name.

    Raises:
        CraftError: if there is none, naming the nearest.
    """
    if name not in TWINS:
        raise unknown("twin", name, TWINS, "python -m craft_lightning list datasets")
    return TWINS[name]()


@cache
def world_hash() -> str:
    """SHA-256 (hexadecimal) of what the twins draw, the fingerprint of the frozen world that goes into each result.

    Covers, for every twin in order, the first eight items of the split ``train`` in both looks at side 64: the pixels,
    labels, facts, questions, options, answers and statements.
    """
    digest = hashlib.sha256()
    for name in TWINS:
        for look in LOOKS:
            drawing = twin(name).draw("train", range(8), 64, look)
            digest.update(f"{name}/{look}".encode())
            digest.update(drawing.images.contiguous().numpy().tobytes())
            digest.update(repr((drawing.labels.tolist(), drawing.facts, drawing.questions)).encode())
    return digest.hexdigest()
