"""EuroSAT (RGB): 27,000 Sentinel-2 tiles of 64 x 64 pixels in 10 classes.

There is no official split, so numbers from different mirrors are not comparable; the result names the mirror. The
authors' zip (``EuroSAT_RGB/CLASS/*.jpg``, ``2750/CLASS/*.jpg``) is cut by a hash.
"""

from __future__ import annotations

from data_modules.datasets.facts import DatasetFacts, HubTable
from data_modules.datasets.labels import ALIASES, LABELS, eurosat_words

FACTS = DatasetFacts(
    name="eurosat",
    title="EuroSAT",
    kind="classification",
    licence="MIT",
    domain="land cover",
    as_printed=True,
    query="Which land cover is shown in this satellite image?",
    labels=LABELS["eurosat"],
    label_words=eurosat_words,
    aliases=ALIASES["eurosat"],  # of blanchon's table, and of those made for CLIP
    cite="helber2019eurosat",
    counts=({"train": 16_200, "val": 5_400, "test": 5_400}, {"train": 21_600, "test": 2_700}, {"all": 27_000}),
    hub=(
        HubTable("blanchon/EuroSAT_RGB", note="a mirror's own split"),
        HubTable("timm/eurosat-rgb", note="the split of remote_sensing_representations"),
        HubTable("giswqs/EuroSAT_RGB"),
        HubTable("tanganke/eurosat", note="a mirror's own split of 24,300 images"),
        HubTable("torchgeo/eurosat", unusable="it holds zip files, no tables"),
    ),
    elsewhere="the authors' EuroSAT_RGB.zip is at https://zenodo.org/records/7711810",
    paper={"test": 5_400},
)
