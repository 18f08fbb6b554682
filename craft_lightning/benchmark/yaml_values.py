"""Typed values out of a YAML mapping; mistakes are noted, not raised, so that all of them can be told together."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import yaml

from craft_lightning.errors import CraftError, nearest

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The one in C where there is one: six times faster."""


def read_mapping(path: Path) -> dict[str, Any]:
    """A YAML file that holds a mapping.

    Raises:
        CraftError: if the file is no YAML or no mapping; names the line.
    """
    try:
        value = yaml.load(path.read_text(encoding="utf-8"), LOADER)
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise CraftError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(value, dict):
        raise CraftError(f"{path} must hold a mapping, got {type(value).__name__}")
    return value


class Reader:
    """Takes typed values out of one YAML mapping and notes what is wrong instead of raising."""

    def __init__(self, value: Any, where: str, folder: Path, errors: list[str]) -> None:
        self.where, self.folder, self.errors = where, folder, errors
        self.value: dict[str, Any] = value if isinstance(value, dict) else {}
        self.known: list[str] = []
        if not isinstance(value, dict):
            self.fail(f"must be a mapping, got {value!r}")

    def fail(self, message: str, key: str = "") -> None:
        """Note what is wrong, with where it stands: all mistakes of a spec are told at once."""
        where = ".".join(part for part in (self.where, key) if part)
        self.errors.append(f"{where}: {message}" if where else message)

    def take(self, key: str, kind: type | tuple[type, ...], default: Any = None) -> Any:
        """The value of ``key``; ``default`` None means that the key is needed."""
        self.known.append(key)
        if key not in self.value:
            if default is None:
                self.fail("is missing", key)
            return default
        value = self.value[key]
        if not isinstance(value, kind) or isinstance(value, bool):
            name = kind.__name__ if isinstance(kind, type) else " or ".join(k.__name__ for k in kind)
            self.fail(f"must be a {name}, got {value!r}", key)
            return default
        return value

    def one_of(self, key: str, known: Sequence[str]) -> str:
        """One of a few words; the first of them if the key is not there."""
        value = str(self.take(key, str, known[0]))
        check_known(self, key, value, known)
        return value

    def names(self, key: str, known: Iterable[str]) -> tuple[str, ...]:
        """A list of ids, each of which must be in ``known``."""
        values = tuple(str(v) for v in self.take(key, list, []))
        for value in values:
            check_known(self, key, value, known)
        return values

    def file(self, key: str) -> Path:
        """A path relative to the spec's folder that must exist."""
        return self.existing(key, str(self.take(key, str) or ""))

    def files(self, key: str) -> tuple[Path, ...]:
        """A list of paths as :meth:`file` takes one; empty if the key is not there."""
        return tuple(self.existing(key, str(v)) for v in self.take(key, list, []))

    def existing(self, key: str, text: str) -> Path:
        """The path that ``text`` says, relative to the spec's folder; it must exist."""
        path = self.folder / text
        if text and not path.is_file():
            there = [p.name for p in path.parent.glob(f"*{path.suffix}")] if path.parent.is_dir() else []
            close = nearest(path.name, there)
            self.fail(f"{text!r} does not exist" + (f"; did you mean {close!r}?" if close else ""), key)
        return path

    def done(self) -> None:
        """Report keys that nothing asked for."""
        for key in self.value:
            if key not in self.known:
                check_known(self, "", str(key), self.known, kind="key")


def check_known(reader: Reader, key: str, name: str, known: Iterable[str], kind: str = "name") -> None:
    """Note a name that is not among the known ones, with the nearest."""
    known = list(known)
    if name not in known:
        close = nearest(name, known)
        hint = f"; did you mean {close!r}?" if close else ""
        reader.fail(f"unknown {kind} {name!r}{hint} Known: {', '.join(known)}", key)
