"""The label lists of the six classification benchmarks, and the words for labels in questions and captions."""

from __future__ import annotations

import json
import re
from pathlib import Path

LABELS: dict[str, tuple[str, ...]] = {
    name: tuple(found) for name, found in json.loads(Path(__file__).with_suffix(".json").read_text("utf-8")).items()
}
"""Dataset to its labels in official order, as folders and hub features write them (beside this file).

Sources: EuroSAT and PlantVillage folder names, the official Flowers-102 and Stanford Cars lists, Kvasir v1 folders, and
Stanford Dogs in the order of its ImageNet ids.
"""

_PLANT_DISEASES = {
    "Cedar_apple_rust": "cedar rust",
    "Cercospora_leaf_spot Gray_leaf_spot": "gray leaf spot",
    "Esca_(Black_Measles)": "black measles",
    "Leaf_blight_(Isariopsis_Leaf_Spot)": "leaf blight",
    "Haunglongbing_(Citrus_greening)": "citrus greening",
    "Spider_mites Two-spotted_spider_mite": "spider mites",
    "Tomato_Yellow_Leaf_Curl_Virus": "yellow leaf curl virus",
    "Tomato_mosaic_virus": "mosaic virus",
    "Apple_scab": "scab",
}


def eurosat_words(name: str) -> str:
    """``AnnualCrop`` -> ``annual crop``."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()


def plantvillage_words(name: str) -> str:
    """``Cherry_(including_sour)___Powdery_mildew`` -> ``cherry powdery mildew``."""
    crop, disease = name.split("___")
    crop = {"Pepper,_bell": "bell pepper"}.get(crop, crop.split("_")[0]).lower()
    disease = _PLANT_DISEASES.get(disease, disease.strip("_").replace("_", " ").lower())
    return f"{crop} {disease}"


def plain_words(name: str) -> str:
    """Underscores to spaces: ``Japanese_spaniel`` -> ``Japanese spaniel``."""
    return name.replace("_", " ")


def kvasir_words(name: str) -> str:
    """``normal-z-line`` -> ``normal z-line``; other hyphens become spaces."""
    return name.replace("-", " ").replace("z line", "z-line")
