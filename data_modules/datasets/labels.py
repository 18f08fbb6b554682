"""The label lists of the six classification benchmarks, and the words for labels in questions and captions."""

from __future__ import annotations

import json
import re
from pathlib import Path

_KNOWN = json.loads(Path(__file__).with_suffix(".json").read_text("utf-8"))

LABELS: dict[str, tuple[str, ...]] = {name: tuple(labels) for name, labels in _KNOWN["labels"].items()}
"""Dataset to its labels in official order, as folders and hub features write them.

Sources: EuroSAT and PlantVillage folder names, the official Flowers-102 and Stanford Cars lists, Kvasir v1 folders, and
Stanford Dogs in the order of its ImageNet ids.
"""

ALIASES: dict[str, dict[str, str]] = _KNOWN["other spellings"]
"""Dataset to other spellings of its labels (folders, mirrors) and what they stand for."""


def eurosat_words(name: str) -> str:
    """``AnnualCrop`` -> ``annual crop``."""
    return re.sub(r"(?<=[a-z])(?=[A-Z])", " ", name).lower()


def plantvillage_words(name: str) -> str:
    """``Cherry_(including_sour)___Powdery_mildew`` -> ``cherry powdery mildew``."""
    crop, disease = name.split("___")
    crop = {"Pepper,_bell": "bell pepper"}.get(crop, crop.split("_")[0]).lower()
    disease = _KNOWN["words"]["plantvillage"].get(disease, disease.strip("_").replace("_", " ").lower())
    return f"{crop} {disease}"


def plain_words(name: str) -> str:
    """Underscores to spaces: ``Japanese_spaniel`` -> ``Japanese spaniel``."""
    return name.replace("_", " ")


def kvasir_words(name: str) -> str:
    """``normal-z-line`` -> ``normal z-line``; other hyphens become spaces."""
    return name.replace("-", " ").replace("z line", "z-line")
