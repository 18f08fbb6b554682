"""A folder or a zip archive, read alike and never unpacked: where authors' layouts are recognised."""

from __future__ import annotations

import functools
import json
import lzma
import os
import posixpath
import re
import zipfile
import zlib
from abc import abstractmethod
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import replace
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any

from craft_lightning.errors import CraftError
from craft_lightning.models.image_files import is_hidden, is_image_file, listing
from data_modules.sources.images import Shelf, StoredImage, file_image
from data_modules.sources.items import split_named
from data_modules.sources.values import nfc

QUESTIONS = ".jsonl"

MAX_BYTES = 1 << 30
"""A member of an archive that unpacks to more is refused (a question file of a million questions has 0.3 GB)."""

_UTF8 = 0x800
"""The flag of a member of an archive whose name is in UTF-8."""


class Tree(Shelf):
    """Files by their path relative to the root, in one form (:func:`.values.nfc`) however they are stored. A folder is
    named as its files are, "" is the root, and lists are sorted.

    Attributes:
        root: the folder or archive. names, folders: all that it holds. left_out: what is in neither, by reason.
    """

    root: Path
    names: tuple[str, ...]
    folders: frozenset[str]
    left_out: Counter[str]

    def __contains__(self, name: object) -> bool:
        return name in self._known

    @functools.cached_property
    def _known(self) -> frozenset[str]:
        return frozenset(self.names)

    @abstractmethod
    def image(self, name: str, known_as: str | None = None) -> StoredImage:
        """The image in a file, ``known_as`` something else than its path in keys."""

    def json(self, name: str) -> Any:
        """A parsed JSON file. Raises CraftError if it is none."""
        try:
            return json.loads(self.read(name))
        except (ValueError, RecursionError, OSError) as error:
            raise CraftError(f"{self.place(name)} is no JSON ({error})") from error

    def entries(self, name: str) -> list[tuple[Any, dict[str, Any]]]:
        """The JSON objects of a list with their numbers, or of an object with their names. Raises CraftError: the file
        holds anything else."""
        value = self.json(name)
        pairs = list(value.items() if isinstance(value, dict) else enumerate(value if isinstance(value, list) else [0]))
        for key, entry in pairs:
            if not isinstance(entry, dict):
                raise CraftError(f"{self.place(name)}: entry {key} is a {type(entry).__name__}, no JSON object")
        return pairs

    def mat(self, name: str) -> dict[str, Any]:
        """The variables of a MATLAB file. Raises CraftError if it is none."""
        from scipy.io import loadmat
        from scipy.io.matlab import MatReadError

        try:
            return loadmat(BytesIO(self.read(name)), squeeze_me=True)
        except (MatReadError, ValueError, TypeError, IndexError, NotImplementedError, OSError) as error:
            # Empty, no such file, its head cut off in two places, one in HDF5, its body cut off.
            raise CraftError(f"{self.root}: {name} is no MATLAB file that is read ({error})") from error

    def place(self, name: str) -> str:
        """Where a file or folder is, for messages."""
        return str(self.root / name) if name else str(self.root)

    def children(self, folder: str) -> list[str]:
        """Names of the folders right in a folder."""
        start = join(folder, "")
        return sorted(f[len(start) :] for f in self.folders if f.startswith(start) and "/" not in f[len(start) :])

    def inside(self, folder: str) -> list[str]:
        """Paths of the files in a folder at any depth."""
        return [name for name in self.names if name.startswith(join(folder, ""))]

    def files(self, folder: str) -> list[str]:
        """Paths of the files right in a folder."""
        return [name for name in self.inside(folder) if "/" not in name[len(join(folder, "")) :]]

    def questions(self, folder: str) -> list[str]:
        """Paths of the question files right in a folder."""
        return [name for name in self.files(folder) if name.lower().endswith(QUESTIONS)]

    def top(self, folder: str = "") -> str:
        """The folder that data start from: the one given, or what is in it behind folders that hold a folder alone. A
        folder of images is a class, and one named like a split is a split: they hold no data set."""
        top = folder
        while len(inner := self.children(top)) == 1 and not self.questions(top):
            within, below = join(top, inner[0]), self.children(join(top, inner[0]))
            holds_splits = any(map(split_named, below))
            beside = any(map(is_image_file, self.files(top) + self.files(within)))
            holds_classes = below and not (split_named(inner[0]) or beside)
            if not (self.questions(within) or holds_splits or holds_classes):
                break
            top = within
        return top

    def find(self, file: str) -> str | None:
        """The path of a file of that name, the least deep one."""
        paths = [name for name in self.names if posixpath.basename(name) == file]
        return min(paths, key=lambda name: (name.count("/"), name), default=None)

    def tails(self, parts: int) -> dict[str, str]:
        """The last parts of an image's path to the path, as authors' lists name images."""
        return {"/".join(name.split("/")[-parts:]): name for name in self.images()}

    def matching(self, pattern: str) -> Iterator[tuple[str, re.Match[str]]]:
        """Paths whose last components match a regular expression."""
        wanted = re.compile(rf"(?:^|.*/){pattern}$")
        yield from ((name, found) for name in self.names if (found := wanted.match(name)))

    def images(self) -> Iterator[str]:
        """Paths of all image files."""
        return filter(is_image_file, self.names)


class FolderTree(Tree):
    """Files below a folder, without what is hidden or lies behind a link to a folder, and without question files but
    the ``only`` one, if one is given."""

    def __init__(self, root: Path, only: str | None = None) -> None:
        self.root = root
        found = listing(root)
        if only is not None:
            found = replace(found, names=(only, *filter(is_image_file, found.names)))
        there = (*sorted(found.folders), *found.names)
        self._stored = {nfc(name): name for name in there}
        self.names, self.folders = tuple(sorted(map(nfc, found.names))), frozenset(map(nfc, found.folders))
        self.left_out = found.left_out
        if len(self._stored) < len(there):
            twice = next(name for name in there if self._stored[nfc(name)] != name)
            raise CraftError(f"{root} holds {nfc(twice)!r} twice, with its accents written in two ways; rename one")

    def read(self, key: str | int) -> bytes:
        return self.path(str(key)).read_bytes()

    def image(self, name: str, known_as: str | None = None) -> StoredImage:
        return file_image(known_as or name, self.path(name))

    def path(self, name: str) -> Path:
        """Where a file or folder lies, under the name that it is stored under."""
        return self.root / self._stored.get(name, name)


class ZipTree(Tree):
    """Members of a zip archive. Raises CraftError if the file is none."""

    def __init__(self, root: Path) -> None:
        self.root, self._changed = root, root.stat().st_mtime_ns
        # Some archivers of Windows write backslashes, and some of Unix begin every name with "./".
        infos = self._archive().infolist()
        named = {posixpath.normpath(_name(info).replace("\\", "/")).lstrip("/"): info for info in infos}
        shown = {name: info for name, info in named.items() if not is_hidden(name)}
        self._members = {name: info for name, info in shown.items() if not info.filename.endswith(("/", "\\"))}
        self.names = tuple(sorted(self._members))
        parents = {str(p) for name in self.names for p in PurePosixPath(name).parents}
        self.folders = frozenset(parents - {"."} | (shown.keys() - self._members.keys()))
        hidden = sum(map(is_image_file, named.keys() - shown.keys()))
        self.left_out = +Counter({"hidden image": hidden, "file twice in the archive": len(infos) - len(named)})

    def read(self, key: str | int) -> bytes:
        member = self._members[str(key)]
        if member.file_size > MAX_BYTES:
            raise CraftError(f"{self.root}: {key} unpacks to {member.file_size:,} bytes, more than {MAX_BYTES:,}")
        try:
            return self._archive().read(member)
        except (zipfile.BadZipFile, zlib.error, lzma.LZMAError, EOFError, RuntimeError) as error:
            # Damaged (the first four), with a password, or packed in a way that Python lacks.
            raise OSError(str(error)) from error

    def _archive(self) -> zipfile.ZipFile:
        return _archive(self.root, self._changed, os.getpid())

    def size(self, key: str | int) -> int:
        return self._members[str(key)].file_size

    def place(self, name: str) -> str:
        return f"{self.root}: {name}" if name else str(self.root)

    def image(self, name: str, known_as: str | None = None) -> StoredImage:
        return StoredImage(known_as or name, self.place(name), self, name)


def open_tree(root: Path) -> Tree:
    """The files of a folder or of a zip archive; or a question file, whose images start from its folder."""
    if root.is_dir():
        return FolderTree(root)
    return FolderTree(root.parent, root.name) if root.name.lower().endswith(QUESTIONS) else ZipTree(root)


def _name(info: zipfile.ZipInfo) -> str:
    """The name of a member: Macs write UTF-8 without the flag that says so, which is then read as code page 437."""
    name = info.filename
    if not info.flag_bits & _UTF8:
        with suppress(UnicodeError):
            name = name.encode("cp437").decode()
    return nfc(name)


def join(folder: str, name: str) -> str:
    """The path of what is in a folder ("": the root)."""
    return f"{folder}/{name}" if folder else name


@functools.lru_cache(maxsize=8)
def _archive(path: Path, changed: int, process: int) -> zipfile.ZipFile:
    """An open archive as it was at a time, of this process: a position in a file must not be shared with a worker."""
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError, UnicodeDecodeError) as error:
        raise CraftError(f"{path} is neither a folder, a .jsonl file nor a zip archive ({error})") from error
