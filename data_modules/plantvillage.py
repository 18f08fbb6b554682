"""PlantVillage: 54,303 leaves in 38 pairs of crop and disease; there is no official split."""

from __future__ import annotations

from data_modules import labels
from data_modules.facts import DatasetFacts

FACTS = DatasetFacts(
    name="plantvillage",
    title="PlantVillage",
    kind="classification",
    licence="CC BY-SA 3.0",
    citation=(
        "Hughes and Salathe, An open access repository of images on plant health to enable the "
        "development of mobile disease diagnostics, arXiv 1511.08060"
    ),
    domain="plant leaf",
    query="Which crop disease is shown in this leaf image?",
    labels=labels.PLANTVILLAGE,
    label_words=labels.plantvillage_words,
)
