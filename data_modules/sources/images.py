"""Pictures wherever they lie (a file, a zip, a table) at the model's side, as bytes.

Opening, reading and refusing them is :mod:`.image_processing`'s.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

import torch
from PIL import Image
from torch import Tensor

from craft_lightning.errors import CraftError
from craft_lightning.models.image_processing import Aspect, opened, preprocess


@dataclass(frozen=True)
class Picture(ABC):
    """A picture that is not read yet.

    Attributes:
        name: unique in its dataset and the same on every machine: keys and cuts are made of it. One picture that many
            questions ask about has one name.
    """

    name: str

    @property
    @abstractmethod
    def place(self) -> str:
        """Where it is, for messages."""

    @abstractmethod
    def source(self) -> Path | BinaryIO:
        """Its file, or its bytes.

        Raises:
            OSError: it cannot be read.
        """

    def content(self) -> bytes:
        """All bytes of the file.

        Raises:
            CraftError: it cannot be read; the message names it.
        """
        try:
            source = self.source()
            return source.read_bytes() if isinstance(source, Path) else source.read()
        except OSError as error:
            raise CraftError(f"{self.place}: broken picture ({error})") from error

    def size(self) -> int:
        """Bytes, as far as they cost nothing to count; 0 of a file that is not there."""
        return 0


@dataclass(frozen=True)
class FilePicture(Picture):
    """A picture in a file of its own."""

    path: Path

    @property
    def place(self) -> str:
        return str(self.path)

    def source(self) -> Path:
        return self.path

    def size(self) -> int:
        try:
            return self.path.stat().st_size
        except OSError:  # whoever reads it says so
            return 0


@dataclass(frozen=True)
class BytesPicture(Picture):
    """A picture whose bytes something else hands out, by a key."""

    where: str
    shelf: Shelf
    key: str | int

    @property
    def place(self) -> str:
        return self.where

    def source(self) -> BinaryIO:
        return BytesIO(self.shelf.read(self.key))

    def size(self) -> int:
        return self.shelf.size(self.key)


class Shelf(ABC):
    """What hands out bytes of pictures: an archive, or the picture column of a table."""

    @abstractmethod
    def read(self, key: str | int) -> bytes:
        """All bytes of one.

        Raises:
            OSError: it cannot be read.
        """

    def size(self, key: str | int) -> int:
        """Number of bytes, 0 where counting them means reading them."""
        return 0

    def __eq__(self, other: object) -> bool:
        return self is other

    def __hash__(self) -> int:
        return id(self)


def read_square(picture: Picture, side: int, aspect: Aspect = "resize") -> Tensor:
    """``[3, side, side]`` uint8.

    Raises:
        CraftError: no picture, broken, or too large; the message names it.
    """
    with _opened(picture) as image:
        return to_bytes(preprocess(image, side, aspect))


@contextmanager
def _opened(picture: Picture) -> Iterator[Image.Image]:
    """:func:`opened`, also where the bytes themselves cannot be had (a damaged member of an archive)."""
    try:
        source = picture.source()
    except OSError as error:
        raise CraftError(f"{picture.place}: broken picture ({error})") from error
    with opened(source, picture.place) as image:
        yield image


def to_bytes(pixels: Tensor) -> Tensor:
    """Pixels in [-1, 1] as the bytes they came from (exact for pixels made by :func:`preprocess`)."""
    return ((pixels + 1.0) * 127.5).round().to(torch.uint8)


def to_pixels(images: Tensor) -> Tensor:
    """Bytes as float32 pixels in [-1, 1], with the same arithmetic as :func:`preprocess`."""
    return (images.float() / 255.0 - 0.5) / 0.5


def to_picture(images: Tensor) -> Image.Image:
    """A PIL picture of ``[3, S, S]`` uint8."""
    return Image.fromarray(images.permute(1, 2, 0).numpy())


def check(picture: Picture, decode: bool) -> None:
    """Refuse what is no picture or a far too large one, and with ``decode`` also one whose body is broken.

    Raises:
        CraftError: see above.
    """
    with _opened(picture) as image:
        if decode:
            image.load()


class LazyImages:
    """Pictures read when they are needed, for sets too large to keep in memory.

    Args:
        pictures: where they are. side: side length of the result. aspect: how a picture becomes a square.
    """

    def __init__(self, pictures: Sequence[Picture], side: int, aspect: Aspect = "resize") -> None:
        self.pictures = tuple(pictures)
        self.side = side
        self.aspect: Aspect = aspect

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: int) -> Tensor:
        """``[3, side, side]`` uint8.

        Raises:
            CraftError: the picture is broken (where bad inputs are not skipped, its header alone was checked before).
        """
        return read_square(self.pictures[index], self.side, self.aspect)

    def content(self, index: int) -> bytes:
        """A picture's file as it is.

        Raises:
            CraftError: it cannot be read.
        """
        return self.pictures[index].content()
