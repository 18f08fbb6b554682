"""Stanford Cars: 196 models; 8,144 training and 8,041 test images.

The authors' files are ``cars_train/00001.jpg``, ``cars_test/``, and ``.mat`` lists, the test one of which comes with
labels (``cars_test_annos_withlabels.mat``) and without. Their links are dead. Some copies are cropped to the bounding
boxes, which is told, or have red and blue swapped, which only eyes can see: look at a few.
"""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np

from craft_lightning.errors import CraftError
from data_modules.datasets.facts import DatasetFacts, HubTable
from data_modules.datasets.labels import LABELS
from data_modules.sources.images import StoredImage
from data_modules.sources.items import Found, Labelled, Problems, SplitName
from data_modules.sources.tree import Tree

_LISTS: dict[SplitName, tuple[str, str]] = {
    "train": ("cars_train", "cars_train_annos.mat"),
    "test": ("cars_test", "cars_test_annos_withlabels.mat"),
}
_LOOKED_AT = 20


def official(tree: Tree, problems: Problems) -> Found | None:
    """The authors' images with their split."""
    lists = {split: (folder, at) for split, (folder, file) in _LISTS.items() if (at := tree.find(file))}
    if "test" not in lists and (unlabelled := tree.find("cars_test_annos.mat")):
        raise CraftError(f"{tree.root}: {unlabelled} has no labels; put {_LISTS['test'][1]} beside it")
    if not lists:
        return None
    files = tree.tails(2)
    found = Found(str(tree.root), "Stanford Cars devkit", {}, published=True)

    def read(folder: str, file: str) -> list[Labelled]:
        rows = np.atleast_1d(tree.mat(file)["annotations"])
        there = [(row, tree.image(files[at], at)) for row in rows if (at := f"{folder}/{row['fname']}") in files]
        found.told["cropped"] = _cropped(there[:_LOOKED_AT])
        return [Labelled(image, FACTS.labels[int(row["class"]) - 1]) for row, image in there]

    found.splits = {split: partial(read, *at) for split, at in lists.items()}
    return found


def _cropped(images: list[tuple[Any, StoredImage]]) -> bool:
    """Whether images are as large as the cars in them."""
    fits = []
    for row, stored in images:
        box = [int(row[f"bbox_{side}"]) for side in ("x1", "y1", "x2", "y2")]
        try:
            with stored.opened() as image:
                width, height = image.size
        except CraftError:
            continue
        fits.append(abs(box[2] - box[0] - width) <= 2 and abs(box[3] - box[1] - height) <= 2)
    return bool(fits) and sum(fits) * 2 > len(fits)


FACTS = DatasetFacts(
    name="stanford_cars",
    title="Stanford Cars",
    kind="classification",
    licence="non-commercial research",
    domain="car",
    as_printed=True,
    query="Which of these cars is shown in the image?",
    labels=LABELS["stanford_cars"],
    aliases={" ".join(name.rsplit(" ", 1)[::-1]): name for name in LABELS["stanford_cars"]},  # the year first
    cite="krause2013cars",
    counts=({"train": 8_144, "test": 8_041},),
    layout=official,
    hub=(
        HubTable("tanganke/stanford_cars", revision="9abf6cf7d6dfa7b95152a0d6e791ea9435b47a40", by_index=True),
        HubTable("Donghyun99/Stanford-Cars"),
        HubTable("Multimodal-Fatima/StanfordCars_train", note="training images alone"),
    ),
    elsewhere="the authors' links are dead; torchvision's page on StanfordCars tells where copies are",
    paper={"test": 3_000},
)
