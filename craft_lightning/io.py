"""Files: what is written is there whole or not at all (a temporary name, then the own), YAML that holds settings."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import yaml

from craft_lightning.errors import CraftError, nearest

LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
"""The one in C where there is one: six times faster."""


@contextmanager
def fresh_file(path: str | Path) -> Iterator[Path]:
    """A temporary name beside ``path``, with its ending, which takes its place when the block ends without an error.

    Whenever the writer dies, a reader sees the old file or the whole new one. The folder is made if it is not there.
    """
    target = Path(path)
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.stem}.{os.getpid()}.tmp{target.suffix}")
    try:
        yield temporary
        temporary.replace(target)
    finally:
        temporary.unlink(missing_ok=True)


def check_file(path: Path, flag: str) -> None:
    """Make sure that a verb can write the file that a flag names. Raises CraftError: it is a folder, or lies in
    none."""
    if path.is_dir():
        raise CraftError(f"{flag} {path} is a folder: name a file in it")
    if not path.absolute().parent.is_dir():
        raise CraftError(f"{flag} {path}: no folder {path.parent}")


def check_root(root: str | None, dataset: str) -> Path:
    """The folder, JSONL file or archive to read. Raises CraftError if there is none, naming the nearest that exists."""
    if not root:
        raise CraftError(f"source 'folder' of {dataset} needs a folder: --data.root FOLDER")
    path = Path(root).expanduser()
    if os.path.exists(path):  # unlike Path's, it takes a name that is too long for one that is not there
        return path
    parent = next(p for p in path.absolute().parents if os.path.exists(p))
    if parent.is_file():
        raise CraftError(f"--data.root {root}: {parent} is a file; give that, and all of it is read")
    close = nearest(path.absolute().relative_to(parent).parts[0], (p.name for p in parent.iterdir()))
    hint = f"did you mean {parent / close}?" if close else f"{parent} has no such entry"
    raise CraftError(f"no folder {root!r} for --data.root; {hint}")


def write_text(path: str | Path, text: str) -> Path:
    """Write UTF-8 text; returns the path."""
    with fresh_file(path) as temporary, temporary.open("w", encoding="utf-8") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    return Path(path)


def write_json(path: str | Path, value: Mapping[str, Any]) -> None:
    """Write an object as indented JSON with a final newline."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False) + "\n")


def read_json(path: Path) -> dict[str, Any]:
    """The mapping in a JSON file; an empty one if it is not there or not whole."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Objects of a file of JSON lines; none if it is not there. Raises CraftError: a line is none, with its number."""
    text, rows = path.read_bytes() if path.is_file() else b"", []
    for number, line in enumerate(text.split(b"\n"), start=1):  # a text may hold other ends of lines
        if not line:
            continue
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        if not isinstance(row, dict):
            raise CraftError(f"{path} cannot be read: line {number} is no JSON object")
        rows.append(row)
    return rows


def read_mapping(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file.

    Raises:
        CraftError: the file is no YAML or no mapping; names the line.
    """
    try:
        value = yaml.load(path.read_text(encoding="utf-8"), LOADER)
    except (OSError, yaml.YAMLError, UnicodeDecodeError) as error:
        raise CraftError(f"{path} cannot be read: {' '.join(str(error).split())}") from error
    if not isinstance(value, dict):
        raise CraftError(f"{path} must hold a mapping, got {type(value).__name__}")
    return value


def read_settings(path: Path) -> dict[str, Any]:
    """The mapping in a YAML file; one with ``like: FILE`` says only what differs from that file beside it. Raises
    CraftError: see :func:`read_mapping`."""
    settings: dict[str, Any] = {}
    seen: list[Path] = []
    while path not in seen:
        seen.append(path)
        settings = {**read_mapping(path), **settings}
        if (like := settings.pop("like", None)) is None:
            return settings
        path = path.parent / str(like)
    raise CraftError(f"{seen[0]} is like itself: {' is like '.join(map(str, [*seen, path]))}")
