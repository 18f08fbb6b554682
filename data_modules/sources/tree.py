"""A folder or a zip archive, read alike and never unpacked: where authors' layouts are recognised."""

from __future__ import annotations

import functools
import json
import os
import re
import zipfile
import zlib
from abc import abstractmethod
from collections.abc import Iterator
from io import BytesIO
from pathlib import Path, PurePosixPath
from typing import Any

from craft_lightning.errors import CraftError
from craft_lightning.models.pixels import suffixes
from data_modules.sources.images import BytesPicture, FilePicture, Picture, Shelf

MAX_BYTES = 1 << 30
"""A member of an archive that unpacks to more is refused (a question file of a million questions has 0.3 GB)."""


class Tree(Shelf):
    """Files by their path relative to the root.

    Attributes:
        root: the folder or archive. names: of all files, sorted. folders: all folders.
    """

    root: Path
    names: tuple[str, ...]
    folders: frozenset[str]

    @abstractmethod
    def picture(self, name: str, shown: str | None = None) -> Picture:
        """The picture in a file, known as ``shown`` in keys (default: its path)."""

    def json(self, name: str) -> Any:
        """A parsed JSON file.

        Raises:
            CraftError: it is no JSON.
        """
        try:
            return json.loads(self.read(name))
        except (ValueError, RecursionError, OSError) as error:
            raise CraftError(f"{self.root}: {name} is no JSON ({error})") from error

    def mat(self, name: str) -> dict[str, Any]:
        """The variables of a MATLAB file.

        Raises:
            CraftError: it is none.
        """
        from scipy.io import loadmat

        try:
            found: dict[str, Any] = loadmat(BytesIO(self.read(name)), squeeze_me=True)
        except (ValueError, TypeError, NotImplementedError, OSError) as error:
            raise CraftError(f"{self.root}: {name} is no MATLAB file ({error})") from error
        return found

    def find(self, file: str) -> str | None:
        """The path of a file of that name, the least deep one."""
        paths = [name for name in self.names if name.rsplit("/", 1)[-1] == file]
        return min(paths, key=lambda name: (name.count("/"), name), default=None)

    def below(self, folder: str) -> list[str]:
        """Paths of the files in a folder at any depth: its own first, then those of each folder in it, by name."""
        found = [name for name in self.names if name.startswith(f"{folder}/")]
        return sorted(found, key=lambda name: (name.split("/")[:-1], name))

    def matching(self, pattern: str) -> Iterator[tuple[str, re.Match[str]]]:
        """Paths that end in a regular expression (which starts at a whole path component)."""
        wanted = re.compile(rf"(?:^|.*/){pattern}$")
        for name in self.names:
            if found := wanted.match(name):
                yield name, found

    def pictures(self) -> Iterator[str]:
        """Paths of all picture files."""
        return (name for name in self.names if PurePosixPath(name).suffix.lower() in suffixes())


class FolderTree(Tree):
    """Files below a folder; what is hidden or lies behind a link to a folder is not there."""

    def __init__(self, root: Path) -> None:
        self.root = root
        names: list[str] = []
        folders: list[str] = []
        for at, inner, files in os.walk(root):
            inner[:] = [name for name in inner if not _hidden(name) and not os.path.islink(os.path.join(at, name))]
            below = os.path.relpath(at, root).replace(os.sep, "/")
            start = "" if below == "." else below + "/"
            folders += [start + name for name in inner]
            names += [start + name for name in files if not _hidden(name)]
        self.names, self.folders = tuple(sorted(names)), frozenset(folders)

    def read(self, key: str | int) -> bytes:
        return (self.root / str(key)).read_bytes()

    def size(self, key: str | int) -> int:
        return (self.root / str(key)).stat().st_size

    def picture(self, name: str, shown: str | None = None) -> Picture:
        return FilePicture(shown or name, self.root / name)


class ZipTree(Tree):
    """Members of a zip archive.

    Raises:
        CraftError: it is no zip archive.
    """

    def __init__(self, root: Path) -> None:
        self.root = root
        infos = [i for i in _archive(root, os.getpid()).infolist() if not any(map(_hidden, i.filename.split("/")))]
        self._sizes = {info.filename: info.file_size for info in infos if not info.is_dir()}
        self.names = tuple(sorted(self._sizes))
        parents = {str(p) for name in self.names for p in PurePosixPath(name).parents}
        self.folders = frozenset(parents - {"."} | {i.filename.rstrip("/") for i in infos if i.is_dir()})

    def read(self, key: str | int) -> bytes:
        if self._sizes[str(key)] > MAX_BYTES:
            raise CraftError(f"{self.root}: {key} unpacks to {self._sizes[str(key)]:,} bytes, more than {MAX_BYTES:,}")
        try:
            return _archive(self.root, os.getpid()).read(str(key))
        except (zipfile.BadZipFile, zlib.error, EOFError, RuntimeError, NotImplementedError) as error:
            raise OSError(str(error)) from error

    def size(self, key: str | int) -> int:
        return self._sizes[str(key)]

    def picture(self, name: str, shown: str | None = None) -> Picture:
        return BytesPicture(shown or name, f"{self.root}: {name}", self, name)


def open_tree(root: Path) -> Tree:
    """The files of a folder or of a zip archive.

    Raises:
        CraftError: a file that is no zip archive.
    """
    return FolderTree(root) if root.is_dir() else ZipTree(root)


@functools.lru_cache(maxsize=8)
def _archive(path: Path, process: int) -> zipfile.ZipFile:
    """An open archive of this process: a position in a file must not be shared with a worker."""
    try:
        return zipfile.ZipFile(path)
    except (zipfile.BadZipFile, OSError) as error:
        raise CraftError(f"{path} is neither a folder, a .jsonl file nor a zip archive ({error})") from error


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"
