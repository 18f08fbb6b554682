"""Which files are images, and what is passed over on the way to them: told by reason, never in silence."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

from PIL import Image
from torch import Tensor

from craft_lightning.errors import CraftError
from craft_lightning.models.image_processing import Aspect, read_image, square, suffixes
from craft_lightning.models.image_workers import in_order

SYSTEM = frozenset({"__MACOSX", "@eaDir"})
"""Folders that systems put beside images, with files of the same names in them."""
_TOLD = 4
"""Endings (or folders) that are told one by one."""
log = logging.getLogger("craft_lightning.data")
T = TypeVar("T")


@dataclass(frozen=True)
class Listing:
    """Relative paths of the files (``names``, sorted) and folders below a folder; by reason, what is in neither."""

    names: tuple[str, ...]
    folders: frozenset[str]
    left_out: Counter[str]


def is_image_file(name: str) -> bool:
    """Whether a file is an image by its ending."""
    return os.path.splitext(name)[1].lower() in suffixes()


def is_hidden(name: str) -> bool:
    """Whether a path leads through a name that begins with a dot, or through a system's own folder."""
    return any(part.startswith(".") or part in SYSTEM for part in name.split("/"))


def listing(root: Path) -> Listing:
    """Files and folders below a folder, without what is hidden or lies behind a link to a folder."""
    names: list[str] = []
    folders: list[str] = []
    left_out: Counter[str] = Counter()

    def closed(error: OSError) -> None:
        left_out["folder that cannot be opened"] += 1

    for at, inner, files in os.walk(root, onerror=closed):
        below = os.path.relpath(at, root).replace(os.sep, "/")
        start = "" if below == "." else below + "/"
        linked = {name for name in inner if os.path.islink(os.path.join(at, name))}
        inner[:] = [name for name in inner if name not in linked]
        folders += [start + name for name in inner]
        names += [start + name for name in files]
        left_out["link to a folder"] += sum(not is_hidden(start + name) for name in linked)
    left_out["hidden image"] = sum(is_image_file(name) for name in names if is_hidden(name))
    shown, open_folders = (sorted(name for name in found if not is_hidden(name)) for found in (names, folders))
    return Listing(tuple(shown), frozenset(open_folders), +left_out)


def no_images(names: Iterable[str]) -> Counter[str]:
    """Files that are no images, counted by ending."""
    endings = (os.path.splitext(name)[1].lower() for name in names if not is_image_file(name))
    return gathered((f"{ending} file" if ending else "file without ending" for ending in endings), "other file")


def gathered(reasons: Iterable[str], other: str) -> Counter[str]:
    """Reasons counted; the rarer ones together, as ``other``."""
    counts = Counter(reasons)
    told = Counter(dict(counts.most_common(_TOLD)))
    told[other] = counts.total() - told.total()
    return +told


def told(left_out: Mapping[str, int]) -> str:
    """What is left out, in one line, as ``3 x hidden image, 1 x .heic file``."""
    return ", ".join(f"{count:,} x {what}" for what, count in left_out.items())


def find_images(inputs: Sequence[Path]) -> list[Path]:
    """The images that a person named: files as given, folders with all that is below them, sorted; what is left out of
    a folder is said in the log. Raises CraftError: an input that does not exist, a folder without an image, or a name
    that no result can hold."""
    files: list[Path] = []
    for path in inputs:
        if path.is_dir():
            there = listing(path)
            found = sorted(path / name for name in there.names if is_image_file(name))
            left_out = there.left_out + no_images(there.names)
            if not found:
                held = f"left out: {told(left_out)}; " if left_out else ""
                raise CraftError(f"no image in {path} ({held}images are {', '.join(sorted(suffixes()))})")
            if left_out:
                log.warning("left out of %s: %s", path, told(left_out))
            files += found
        elif path.is_file():
            files.append(path)
        else:
            raise CraftError(f"no image or folder {path}")
    for file in files:
        if (name := escaped(str(file))) != str(file):
            raise CraftError(f"{name} is no name in UTF-8; rename it")
    return files


def read_images(files: Iterable[Path]) -> Iterator[tuple[Path, Image.Image]]:
    """The files that can be read as images, with what is in them; how many cannot is said in the log at the end. Raises
    CraftError: none can, with what is wrong with the first."""
    return _readable((file, _tried(file)) for file in files)


def read_squares(
    files: Sequence[Path], side: int, aspect: Aspect, workers: int | None = None
) -> Iterator[tuple[Path, Tensor]]:
    """:func:`read_images` as ``[3, side, side]`` uint8, read by so many processes, see :func:`.in_order`."""
    read = partial(square_of, side=side, aspect=aspect)
    return _readable(zip(files, in_order(read, files, workers), strict=True))


def square_of(image: Path | Image.Image, side: int, aspect: Aspect) -> Tensor:
    """``[3, side, side]`` uint8 of a file, or of an open image. Raises CraftError: see :func:`.read_image`."""
    return square(image if isinstance(image, Image.Image) else read_image(image), side, aspect)


def _tried(file: Path) -> Image.Image | CraftError:
    try:
        return read_image(file)
    except CraftError as error:
        return error


def _readable(tried: Iterable[tuple[Path, T | CraftError]]) -> Iterator[tuple[Path, T]]:
    broken: list[CraftError] = []
    some = False
    for file, found in tried:
        if isinstance(found, CraftError):
            broken.append(found)
        else:
            some = True
            yield file, found
    if broken and not some:
        raise broken[0]
    if broken:
        log.warning("left out: %s; the first: %s", told({"broken image": len(broken)}), broken[0])


def escaped(name: str) -> str:
    """A name that can be printed: bytes that are no UTF-8 stand in a file's name as surrogates."""
    return name.encode(errors="backslashreplace").decode()
