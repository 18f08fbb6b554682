"""The datasets by name. Data only, so that listing them imports no torch."""

from __future__ import annotations

DATASETS: dict[str, str] = {
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
