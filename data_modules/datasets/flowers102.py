"""Oxford Flowers-102: 102 flowers common in the United Kingdom; 1,020 training and 6,149 test images.

Mirrors number the labels in several ways (the most used one in the order of the alphabet: 1, 10, 100, 101, ...), so
they are read by name, or as the official numbers. The authors' files are ``jpg/image_00001.jpg``, ``imagelabels.mat``
and ``setid.mat``.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from craft_lightning.errors import CraftError
from data_modules.datasets.facts import DatasetFacts, HubTable
from data_modules.datasets.labels import LABELS
from data_modules.sources.items import Found, Labelled, Problems, SplitName, Splits
from data_modules.sources.tree import Tree

_IDS: dict[SplitName, str] = {"train": "trnid", "val": "valid", "test": "tstid"}


def official(tree: Tree, problems: Problems) -> Found | None:
    """The authors' images with their split of ten training images a class."""
    numbers, parts = tree.find("imagelabels.mat"), tree.find("setid.mat")
    if numbers is None and parts is None:
        return None
    if numbers is None or parts is None:
        there, lacks = (parts, "imagelabels.mat") if numbers is None else (numbers, "setid.mat")
        raise CraftError(f"{tree.root} has {there} but no {lacks}; {FACTS.elsewhere}")
    label, ids = tree.mat(numbers)["labels"], tree.mat(parts)
    files = tree.tails(1)

    def read(key: str) -> list[Labelled]:
        named = [(int(i), f"image_{int(i):05d}.jpg") for i in np.atleast_1d(ids[key])]
        return [
            Labelled(tree.image(files[file], f"jpg/{file}"), FACTS.labels[int(label[i - 1]) - 1])
            for i, file in named
            if file in files
        ]

    splits: Splits = {split: partial(read, key) for split, key in _IDS.items()}
    return Found(str(tree.root), "Flowers-102 .mat files", splits, published=True)


FACTS = DatasetFacts(
    name="flowers102",
    title="Oxford Flowers-102",
    kind="classification",
    licence="not stated by the authors",
    domain="flower",
    as_printed=True,
    query="Which of these flowers is shown in the image?",
    labels=LABELS["flowers102"],
    cite="nilsback2008flowers",
    counts=({"train": 1_020, "val": 1_020, "test": 6_149}, {"train": 7_169, "test": 1_020}),
    layout=official,
    hub=(
        HubTable("nkirschi/oxford-flowers", note="not the official split where it has 7,169 training images"),
        HubTable("dpdl-benchmark/oxford_flowers102"),
        HubTable("tanganke/flowers102"),
        HubTable("nelorth/oxford-flowers", note="the former name of nkirschi/oxford-flowers"),
    ),
    elsewhere="102flowers.tgz, imagelabels.mat and setid.mat are at https://www.robots.ox.ac.uk/~vgg/data/flowers/102",
)
