"""Stanford Dogs: 120 breeds, 20,580 images of ImageNet; 12,000 train and 8,580 test.

Mirrors often merge the two. The authors' files are ``Images/n02085620-Chihuahua/*.jpg`` with ``train_list.mat`` and
``test_list.mat``, which give the official split back, also of a mirror's table that lies beside them and kept the names
of its files. Without the lists it is cut by a hash.
"""

from __future__ import annotations

from functools import partial

import numpy as np

from data_modules.datasets.facts import DatasetFacts, HubTable
from data_modules.datasets.labels import LABELS
from data_modules.sources.items import Found, Labelled, Problems, SplitName
from data_modules.sources.tree import Tree

_LISTS: dict[SplitName, str] = {"train": "train_list.mat", "test": "test_list.mat"}


def listed(tree: Tree) -> dict[str, SplitName]:
    """Files of the official lists (``n02085620-Chihuahua/n02085620_10074.jpg``) to their splits; empty without them."""
    lists = {split: at for split, file in _LISTS.items() if (at := tree.find(file))}
    if len(lists) < len(_LISTS):
        return {}
    return {str(file): s for s, at in lists.items() for file in np.atleast_1d(tree.mat(at)["file_list"])}


def official(tree: Tree, problems: Problems) -> Found | None:
    """The authors' images with their split."""
    if not (splits := listed(tree)):
        return None
    files = tree.tails(2)
    words = {breed: FACTS.class_words(breed) for breed in {file.split("/")[0] for file in splits}}

    def read(wanted: SplitName) -> list[Labelled]:
        there = [file for file, split in splits.items() if split == wanted and file in files]
        pairs = [(tree.image(files[file], f"Images/{file}"), words[file.split("/")[0]]) for file in there]
        return [Labelled(image, known) for image, known in pairs if known]

    return Found(str(tree.root), "Stanford Dogs lists", {s: partial(read, s) for s in _LISTS}, published=True)


FACTS = DatasetFacts(
    name="stanford_dogs",
    title="Stanford Dogs",
    kind="classification",
    licence="non-commercial research (ImageNet terms)",
    domain="dog",
    as_printed=True,
    query="Which of these dog breeds is shown in the image?",
    labels=LABELS["stanford_dogs"],
    cite="khosla2011dogs",
    counts=({"train": 12_000, "test": 8_580}, {"all": 20_580}),
    layout=official,
    listed=listed,
    hub=(
        HubTable("maurice-fp/stanford-dogs", note="not the official split if it comes in one piece"),
        HubTable("amaye15/stanford-dogs", image="pixel_values"),
        HubTable("Alanox/stanford-dogs", unusable="it is a loading script, which datasets 4 and later do not run"),
    ),
    elsewhere="images.tar and lists.tar are at http://vision.stanford.edu/aditya86/ImageNetDogs",
    paper={"test": 3_000},
)
