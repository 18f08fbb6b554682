"""VQA-RAD: clinical questions about radiology images.

Official train and test share pictures; validation here does not.
"""

from __future__ import annotations

from data_modules.facts import DatasetFacts

FACTS = DatasetFacts(
    name="vqa_rad",
    title="VQA-RAD",
    kind="question",
    licence="CC0 1.0",
    citation=(
        "Lau et al., A dataset of clinically generated visual questions and answers about radiology "
        "images, Scientific Data 2018"
    ),
    domain="medical scan",
)
