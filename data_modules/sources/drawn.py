"""Synthetic datasets as items: images that the dataset's twin draws at run time."""

from __future__ import annotations

import functools
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from craft_lightning.errors import CraftError
from craft_lightning.text import multiple_choice as mcq
from data_modules.datasets.facts import DatasetFacts
from data_modules.sources.items import Item, Source, Split, SplitName
from data_modules.twins import TWINS, world_hash
from data_modules.twins.rng import Rng
from data_modules.twins.twin import ClassificationTwin, Drawing, Look

_CHUNK = 256  # images drawn at once, for speed at little memory
STUDIO_IMAGES = 100
"""Of each twin, in a generic prior: together about as many as a training split has."""


@functools.lru_cache(maxsize=12)
def draw_split(name: str, split: str, indices: tuple[int, ...], side: int, look: Look) -> Drawing:
    """Draw items of a split, kept for the next run of this process (a full split takes seconds)."""
    twin = TWINS[name]()
    parts = [twin.draw(split, indices[i : i + _CHUNK], side, look) for i in range(0, len(indices), _CHUNK)]
    return Drawing(
        torch.cat([part.images for part in parts]),
        np.concatenate([part.labels for part in parts]),
        tuple(facts for part in parts for facts in part.facts),
        tuple(questions for part in parts for questions in part.questions),
    )


@functools.lru_cache(maxsize=1)
def draw_studio(side: int) -> Tensor:
    """``[n, 3, side, side]`` uint8, the first studio images of every twin."""
    indices = range(STUDIO_IMAGES)
    return torch.cat([twin().draw("studio", indices, side, "studio").images for twin in TWINS.values()])


class TwinSource(Source):
    """A drawn dataset, of ``sizes`` images a split. Held-out labels are never drawn for training and validation. Raises
    CraftError: no drawing has that name."""

    def __init__(self, facts: DatasetFacts, side: int, look: Look, sizes: dict[SplitName, int], holdout: float) -> None:
        self.dataset, self.side, self.look, self.sizes = facts, side, look, sizes
        if facts.name not in TWINS:
            raise CraftError(f"{facts.name} is not drawn: take --data.source folder with --data.root, or hub")
        self.twin = TWINS[facts.name]()
        if isinstance(self.twin, ClassificationTwin):
            self.class_names = self.twin.class_names
            self.neighbours = mcq.nearest_labels(self.twin.class_attributes())
            self.held_out = mcq.hold_out(self.class_names, holdout, facts.name)

    def facts(self) -> dict[str, Any]:
        return {"look": self.look, "shift": self.twin.shift_name, "side": self.side, "world_hash": world_hash()}

    def identity(self, name: SplitName) -> str:
        """Of the world; which of its images, the keys of the items say."""
        return f"{world_hash()} {self.look} {self.side}"

    def split(self, name: SplitName) -> Split:
        """See :meth:`.Source.split`: an item for each class label or question."""
        indices = self._indices(name)
        drawing = draw_split(self.twin.name, name, tuple(indices.tolist()), self.side, self.look)
        items: list[Item] = []
        for image, index in enumerate(indices.tolist()):
            key, facts = f"{self.dataset.name}/{name}/{index}", drawing.facts[image]
            label = int(drawing.labels[image])
            if label >= 0:
                words = self.class_names[label]
                caption, query = self.dataset.caption(words), self.dataset.query
                items.append(Item(key, image, query, words, label, caption, label=label, facts=facts))
            # Training asks everything about an image, evaluation the stored question alone.
            asked = drawing.questions[image]
            for number, qa in enumerate(asked if name == "train" else asked[:1]):
                named, said = f"{key}/{number}" if number else key, qa.statement
                items.append(Item(named, image, qa.question, qa.answer, image, said, qa.options, facts=facts))
        return Split(tuple(items), drawing.images)

    def _indices(self, name: SplitName) -> NDArray[np.int64]:
        """Positions in the split: the first ones whose label may be seen there."""
        wanted = self.sizes[name]
        if name == "test" or not self.held_out:
            return np.arange(wanted)
        count = len(self.class_names)
        candidates = np.arange((wanted * count) // (count - len(self.held_out)) + 2 * count)
        rng = Rng.for_items(self.twin.name, name, candidates)
        labels = self.twin.labels(self.twin.sample(rng.fork("sample"), candidates))
        return candidates[~np.isin(labels, sorted(self.held_out))][:wanted]
