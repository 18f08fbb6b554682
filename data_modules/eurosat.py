"""EuroSAT (RGB): 27,000 Sentinel-2 tiles of 64 x 64 pixels in 10 classes; there is no official split."""

from __future__ import annotations

from data_modules import labels
from data_modules.facts import DatasetFacts

FACTS = DatasetFacts(
    name="eurosat",
    title="EuroSAT",
    kind="classification",
    licence="MIT",
    citation=(
        "Helber et al., EuroSAT: A Novel Dataset and Deep Learning Benchmark for Land Use and Land "
        "Cover Classification, IEEE JSTARS 2019"
    ),
    domain="land cover",
    query="Which land cover is shown in this satellite image?",
    labels=labels.EUROSAT,
    label_words=labels.eurosat_words,
)
