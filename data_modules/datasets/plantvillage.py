"""PlantVillage: 54,303 leaves in 38 pairs of crop and disease; there is no official split.

A leaf was photographed several times in a row, so images with neighbouring numbers stay in one part of a cut. The
authors' repository holds three variants of each photo; the colour one is taken.
"""

from __future__ import annotations

import re

from data_modules.datasets.facts import DatasetFacts, HubTable
from data_modules.datasets.labels import LABELS, plantvillage_words
from data_modules.sources.classes import class_folders
from data_modules.sources.items import Found, Problems
from data_modules.sources.tree import Tree

SHOTS = 10
"""Numbers of a photo series in one block: shots of one leaf rarely lie farther apart."""

_NUMBER = re.compile(r"^(.*?)(\d+)(?:_final_masked)?(?:\.\w+)?$")
_ID = re.compile(r"[0-9a-f-]{36}___")

_MENDELEY = {
    name.replace("Cherry_(including_sour)", "Cherry").replace("Corn_(maize)", "Corn"): name
    for name in LABELS["plantvillage"]
    if name.startswith(("Cherry", "Corn"))
}
"""Class names of the re-release on Mendeley Data."""


def leaf(name: str) -> str:
    """The block of a photo series that an image belongs to.

    >>> leaf("Apple___Apple_scab/01a66316-0e98-4d3b-a56f-d78752cd043f___FREC_Scab 3003.JPG")
    'FREC_Scab 300'
    """
    file = name.rsplit("/", 1)[-1]
    found = _NUMBER.match(_ID.sub("", file))
    return f"{found[1]}{int(found[2]) // SHOTS}" if found else file


def colour(tree: Tree, problems: Problems) -> Found | None:
    """Class folders; of ``raw/{color,grayscale,segmented}/CLASS``, as in the authors' repository, the colour ones."""
    base = next((folder for folder in sorted(tree.folders, key=len) if folder.split("/")[-1] == "color"), None)
    found = class_folders(FACTS, tree, problems, base)
    if found is not None and any(name.endswith("_final_masked.jpg") for name in tree.names):
        found.told["variant"] = "color" if base else "segmented"
    return found


FACTS = DatasetFacts(
    name="plantvillage",
    title="PlantVillage",
    kind="classification",
    licence="CC BY-SA 3.0",
    domain="plant leaf",
    as_printed=True,
    query="Which crop disease is shown in this leaf image?",
    labels=LABELS["plantvillage"],
    label_words=plantvillage_words,
    aliases=_MENDELEY,
    cite="hughes2015plantvillage",
    counts=({"all": 54_303}, {"all": 54_305}, {"all": 54_306}),
    siblings={61_486: "the augmented re-release on Mendeley Data", 87_867: 'the augmented "New Plant Diseases"'},
    strangers={"Background_without_leaves": "the re-release on Mendeley Data, which has augmented copies"},
    group=leaf,
    layout=colour,
    hub=(
        HubTable("BrandonFors/Plant-Diseases-PlantVillage-Dataset", by_index=True),
        HubTable("dpdl-benchmark/plant_village"),
        HubTable("mohanty/PlantVillage", unusable="it holds data.zip, and its table is a column of paths"),
    ),
    elsewhere="the authors' images are at https://github.com/spMohanty/PlantVillage-Dataset",
    paper={"test": 3_000},
)
