"""Captions and conversations about images in LLaVA's format, from folders as their authors publish them.

A file is a JSON list of ``{"id", "image", "conversations": [{"from": "human" | "gpt", "value": ...}, ...]}``; the
image's place in the text is marked ``<image>``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from craft_lightning.errors import CraftError
from craft_lightning.text.prompts import PLACEHOLDER
from data_modules.sources.folder import image_in
from data_modules.sources.images import StoredImage
from data_modules.sources.questions import BadRecordError
from data_modules.sources.tree import ZipTree


@dataclass(frozen=True)
class Published:
    """A published set.

    Attributes:
        title: its name. file: of conversations, below the data folder. images: folders (or zip archives) that the names
            of its images may start from. rows: of the whole file. get: how to get both.
    """

    title: str
    file: str
    images: tuple[str, ...]
    rows: int
    get: str


_PUBLISHED = json.loads(Path(__file__).with_suffix(".json").read_text("utf-8"))
PUBLISHED = {name: Published(**{**known, "images": tuple(known["images"])}) for name, known in _PUBLISHED.items()}


@dataclass(frozen=True)
class Talk:
    """A conversation about an image: its number in :attr:`Talks.names`, and (human's text, reply) pairs."""

    image: int
    turns: tuple[tuple[str, str], ...]


class Talks:
    """A published set of conversations below a data folder. Raises CraftError: no file or folder of images (with what
    is expected where), or a row that is no conversation.

    Attributes:
        names: of its images, each once, in the order in which they are first spoken of. talks: the conversations.
        without: rows that are left out because they have no image.
    """

    def __init__(self, root: Path, published: Published) -> None:
        self.published, file = published, root / published.file
        get = published.get.replace("DATA", str(root))
        if not file.is_file():
            raise CraftError(f"no file {file} of {published.title}: {get}")
        places = [root / name for name in published.images]
        found = next((place for place in places if place.exists()), None)
        if found is None:
            raise CraftError(f"no images of {published.title} in {' or '.join(map(str, places))}: {get}")
        self.folder = found
        self.archive = ZipTree(found) if found.is_file() else None
        numbers: dict[str, int] = {}
        self.talks: list[Talk] = []
        self.without = 0
        for index, row in enumerate(_rows(file)):
            turns, image = _turns(row, f"{file}, row {index}"), row.get("image")
            if not image:
                self.without += 1
                continue
            if not isinstance(image, str):
                raise CraftError(f"{file}, row {index}: image is {type(image).__name__}, expected an image's name")
            self.talks.append(Talk(numbers.setdefault(image, len(numbers)), turns))
        self.names = tuple(numbers)
        if not self.talks:
            raise CraftError(f"{file}: no conversation about an image in it")

    def image(self, number: int) -> StoredImage:
        """An image that is not read yet; neither ``..`` nor a link leads out of the folder. Raises CraftError: it
        leaves the folder, has no possible name, or is not there."""
        name = self.names[number]
        if self.archive is not None:
            if name not in self.archive:
                raise CraftError(f"no image {name} in {self.folder}")
            return self.archive.image(name)
        try:
            return image_in(self.folder, name)
        except BadRecordError as error:
            raise CraftError(f"{self.published.title}: {error}") from error


def texts_of(file: Path) -> Iterator[str]:
    """All that is said in a file of this format, with or without images. Raises CraftError: it is not of this
    format."""
    for index, row in enumerate(_rows(file)):
        for said in _turns(row, f"{file}, row {index}"):
            yield from said


def _rows(file: Path) -> list[Mapping[str, Any]]:
    try:
        rows = json.loads(file.read_bytes())
    except (ValueError, RecursionError, OSError) as error:
        raise CraftError(f"{file} is no JSON ({error}); is the download whole?") from error
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise CraftError(f"{file} is no JSON list of objects with id, image and conversations")
    return rows


def _turns(row: Mapping[str, Any], where: str) -> tuple[tuple[str, str], ...]:
    """(human's text, reply) pairs, without the mark of the image."""
    said = row.get("conversations")
    known = isinstance(said, list) and all(isinstance(t, dict) and isinstance(t.get("value"), str) for t in said)
    if not known or not said or len(said) % 2 or [t.get("from") for t in said] != ["human", "gpt"] * (len(said) // 2):
        raise CraftError(f'{where}: conversations is no list of {{"from": "human" | "gpt", "value": text}} in turns')
    texts = [turn["value"].replace(PLACEHOLDER, "").strip() for turn in said]
    return tuple(zip(texts[::2], texts[1::2], strict=True))
