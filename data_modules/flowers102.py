"""Oxford Flowers-102: 102 flowers common in the United Kingdom; 1,020 training and 6,149 test pictures."""

from __future__ import annotations

from data_modules import labels
from data_modules.facts import DatasetFacts

FACTS = DatasetFacts(
    name="flowers102",
    title="Oxford Flowers-102",
    kind="classification",
    licence="not stated by the authors",
    citation=("Nilsback and Zisserman, Automated Flower Classification over a Large Number of Classes, ICVGIP 2008"),
    domain="flower",
    query="Which of these flowers is shown in the image?",
    labels=labels.FLOWERS102,
)
