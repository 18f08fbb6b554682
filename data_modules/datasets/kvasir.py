"""Kvasir, version 1: 8 endoscopic findings with 500 images each; there is no official split, and no copy on the hub.

Version 2 has 1,000 a class, the first ones among them. Some images carry a green inset of the endoscope's position:
a shortcut that the images keep, as in the paper.
"""

from __future__ import annotations

from data_modules.datasets.facts import DatasetFacts
from data_modules.datasets.labels import LABELS, kvasir_words

FACTS = DatasetFacts(
    name="kvasir",
    title="Kvasir",
    kind="classification",
    licence="free for research and education; commercial use needs consent",
    domain="endoscopic finding",
    as_printed=True,
    query="Which of these endoscopic findings is shown in the image?",
    labels=LABELS["kvasir"],
    label_words=kvasir_words,
    cite="pogorelov2017kvasir",
    counts=({"all": 4_000},),
    siblings={8_000: "Kvasir version 2, which contains version 1", 10_662: "HyperKvasir"},
    strangers={
        "lower-gi-tract": "HyperKvasir",
        "upper-gi-tract": "HyperKvasir",
        "images": "Kvasir-SEG",
        "masks": "Kvasir-SEG",
    },
    elsewhere="get kvasir-dataset.zip (version 1) from https://datasets.simula.no/kvasir",
)
