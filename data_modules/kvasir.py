"""Kvasir, version 1: 8 endoscopic findings with 500 pictures each; there is no official split."""

from __future__ import annotations

from data_modules import labels
from data_modules.facts import DatasetFacts

FACTS = DatasetFacts(
    name="kvasir",
    title="Kvasir",
    kind="classification",
    licence="free for research and education; commercial use needs consent",
    citation=(
        "Pogorelov et al., KVASIR: A Multi-Class Image Dataset for Computer Aided Gastrointestinal "
        "Disease Detection, MMSys 2017"
    ),
    domain="endoscopic finding",
    query="Which of these endoscopic findings is shown in the image?",
    labels=labels.KVASIR,
    label_words=labels.kvasir_words,
)
