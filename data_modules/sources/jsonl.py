"""The JSONL files of questions that a user may write: one object a line, as :mod:`.questions` reads it.

``image`` is a path relative to the file's folder, which it may not leave, and ``id`` names the item (default: the line
number).
"""

from __future__ import annotations

import codecs
import json
import os
import posixpath
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from craft_lightning.errors import CraftError
from data_modules.sources.found import Asked
from data_modules.sources.images import FilePicture, Picture
from data_modules.sources.questions import BadRecordError, text_of
from data_modules.sources.split import Problems
from data_modules.sources.tree import FolderTree, Tree
from data_modules.sources.values import absent, as_index, nfc, shown


def read_jsonl(tree: Tree, name: str, prefix: str, problems: Problems) -> Iterator[Asked]:
    """The records of a JSONL file that have a usable picture path.

    Args:
        tree: the files. name: of the JSONL file; its folder is where picture paths start from and may not leave.
        prefix: of the keys. problems: what happens to bad lines.

    Raises:
        CraftError: the file cannot be read; or the first bad line, named by file and number, unless they are skipped.
    """
    try:
        content = tree.read(name)
    except OSError as error:
        raise CraftError(f"{tree.place(name)} cannot be read ({error})") from error
    lines = content.splitlines()
    if strange := _no_lines(content, lines):
        raise CraftError(f"{tree.place(name)} holds {strange} instead of one JSON object a line")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        where = f"{tree.place(name)}, line {number}"
        try:
            record = _object(line)
            missing = "image" in record and absent(record["image"])
            picture = None if missing else _picture(tree, posixpath.dirname(name), text_of(record, "image"))
            given = record.get("id")
            whole = as_index(given) if isinstance(given, float) else None  # a table with gaps makes 1.0 of 1
            key = number if absent(given) else text_of(record, "id") if whole is None else whole
        except BadRecordError as e:
            problems.bad(e.kind, f"{where}: {e}")
            continue
        yield Asked(where, f"{prefix}/{key}", record, picture)


def _no_lines(content: bytes, lines: Sequence[bytes]) -> str:
    """What a file looks like that is no JSONL as a whole; empty: it may be."""
    first = next((line.strip() for line in lines if line.strip()), b"").removeprefix(codecs.BOM_UTF8)
    if content.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or b"\0" in first:
        return "UTF-16 text (save it as UTF-8)"
    if first == b"{":
        return "JSON objects over several lines"
    if first.startswith(b"["):
        with suppress(ValueError, RecursionError):
            return "one JSON list" if isinstance(json.loads(content), list) else ""
    table = any(mark in first for mark in (b",", b";", b"\t"))
    return "a table (CSV)" if table and not any(line.lstrip().startswith((b"{", b"[")) for line in lines) else ""


def _picture(tree: Tree, base: str, name: str) -> Picture:
    """The picture of a name that starts from a folder of a tree.

    Raises:
        BadRecordError: see :func:`picture_in`.
    """
    path = posixpath.normpath(posixpath.join(base, name))
    if isinstance(tree, FolderTree):
        home = tree.path(base)
        return picture_in(home, os.path.relpath(tree.path(path), home) if path in tree else name)
    if posixpath.isabs(name) or posixpath.relpath(path, base or ".").startswith(".."):
        raise BadRecordError("path leaves its root", f"picture path {shown(name)} leaves {tree.place(base)}")
    if path not in tree:
        raise BadRecordError("missing picture", f"no such picture: {shown(name)} in {tree.place(base)}")
    return tree.picture(path, posixpath.relpath(path, base or "."))


def _object(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line, object_pairs_hook=_object_of)
        if b"\\u" in line:
            json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair may stand in JSON, but in no text
    except (ValueError, RecursionError) as e:
        raise BadRecordError("no JSON", f"no JSON ({str(e) or type(e).__name__})") from e
    if not isinstance(value, dict):
        raise BadRecordError(
            "no JSON", f"a JSON {type(value).__name__} instead of an object with image, question, answer"
        )
    return value


def _object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the field {next(name for name in names if names.count(name) > 1)!r} twice")
    return fields


def picture_in(folder: Path, name: str) -> Picture:
    """The picture of a name; links are followed, so that neither ``..`` nor a link leads out of the folder.

    Raises:
        BadRecordError: it leads out, no file can have it, or none has.
    """
    path = folder / name
    try:
        inside = Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))
        there = path.is_file()
    except (OSError, ValueError) as e:
        why = getattr(e, "strerror", None) or e
        raise BadRecordError("missing picture", f"no such picture: {shown(name)} in {folder} ({why})") from e
    if not inside:
        raise BadRecordError("path leaves its root", f"picture path {shown(name)} leaves {folder}")
    if not there:
        raise BadRecordError("missing picture", f"no such picture: {shown(name)} in {folder}")
    found = Path(os.path.normpath(path))  # one picture has one name, however a record writes it
    known = found.relative_to(folder) if found.is_relative_to(folder) else found
    return FilePicture(nfc(known.as_posix()), path)
