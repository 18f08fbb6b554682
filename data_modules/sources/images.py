"""Images wherever they lie (a file, an archive, a table), read at the model's side when they are needed."""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import BinaryIO

from PIL import Image
from torch import Tensor

from craft_lightning.errors import CraftError
from craft_lightning.models.image_processing import Aspect, opened, square


class Shelf(ABC):
    """What hands out the bytes of images by a key: a file system, an archive, or the image column of a table."""

    @abstractmethod
    def read(self, key: str | int) -> bytes:
        """All bytes of one. Raises OSError: it cannot be read."""

    def source(self, key: str | int) -> Path | BinaryIO:
        """Its file, or its bytes. Raises as :meth:`read` does."""
        return BytesIO(self.read(key))

    def size(self, key: str | int) -> int:
        """Number of bytes, 0 where counting them means reading them."""
        return 0


class _Files(Shelf):
    """Files by their path."""

    def read(self, key: str | int) -> bytes:
        return self.source(key).read_bytes()

    def source(self, key: str | int) -> Path:
        return Path(str(key))

    def size(self, key: str | int) -> int:
        try:
            return self.source(key).stat().st_size
        except OSError:  # whoever reads it says so
            return 0


_FILES = _Files()


@dataclass(frozen=True)
class StoredImage:
    """An image that is not read yet.

    Attributes:
        name: unique in its dataset and the same on every machine: keys and cuts are made of it. An image that many
            questions ask about has one name.
        place: where it is, for messages. shelf, key: what hands out its bytes.
    """

    name: str
    place: str
    shelf: Shelf
    key: str | int

    def content(self) -> bytes:
        """All bytes of the file. Raises CraftError: it cannot be read; the message names it."""
        with self._readable():
            return self.shelf.read(self.key)

    def size(self) -> int:
        """Bytes, as far as they cost nothing to count; 0 of a file that is not there."""
        return self.shelf.size(self.key)

    @contextmanager
    def opened(self) -> Iterator[Image.Image]:
        """:func:`.image_processing.opened`, also where the bytes cannot be had (a damaged member of an archive)."""
        with self._readable():
            source = self.shelf.source(self.key)
        with opened(source, self.place) as image:
            yield image

    @contextmanager
    def _readable(self) -> Iterator[None]:
        try:
            yield
        except OSError as error:
            raise CraftError(f"{self.place}: broken image ({error})") from error


def file_image(name: str, path: Path) -> StoredImage:
    """An image in a file of its own."""
    return StoredImage(name, str(path), _FILES, str(path))


def contents(images: Iterable[StoredImage]) -> dict[str, str]:
    """By name, the SHA-256 of every image that may be another's copy: only files of equal size are read. An image that
    cannot be read is left out."""
    sizes: dict[int, dict[str, StoredImage]] = {}
    for image in images:
        sizes.setdefault(image.size(), {})[image.name] = image
    found: dict[str, str] = {}
    for alike in sizes.values():
        for name, image in alike.items() if len(alike) > 1 else ():
            with suppress(CraftError):
                found[name] = hashlib.sha256(image.content()).hexdigest()
    return found


def read_square(stored: StoredImage, side: int, aspect: Aspect = "resize") -> Tensor:
    """``[3, side, side]`` uint8. Raises CraftError: no image, broken, or too large; the message names it."""
    with stored.opened() as image:
        return square(image, side, aspect)


def to_pil(image: Tensor) -> Image.Image:
    """A PIL image of ``[3, S, S]`` uint8."""
    return Image.fromarray(image.permute(1, 2, 0).numpy())


class LazyImages:
    """Images ``[3, side, side]`` uint8 that are read when they are needed, for sets too large to keep in memory; one
    that is asked for again and again is read once."""

    def __init__(self, stored: Sequence[StoredImage], side: int, aspect: Aspect = "resize") -> None:
        self.stored, self.side, self.aspect = tuple(stored), side, aspect
        self._last: tuple[int, Tensor] | None = None

    def __len__(self) -> int:
        return len(self.stored)

    def __getitem__(self, index: int) -> Tensor:
        """One image. Raises CraftError: broken; unless bad inputs are skipped, only its header was read before."""
        if self._last is None or self._last[0] != index:
            self._last = index, read_square(self.stored[index], self.side, self.aspect)
        return self._last[1]
