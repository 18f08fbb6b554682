"""Question records, from a file or a table, as items; and the JSONL files that a user may write.

Fields: ``question`` and ``answer`` (text). Choice questions add ``choices`` (or ``options``) and may name the right one
by ``answer_index``, by a number or a letter in ``answer``, or by its text. ``hint`` is put before the question. In a
JSONL file, one object a line, ``image`` is a path relative to the file's folder and ``id`` names the item (default: the
line number). Records without a picture (``null``) or whose choices are pictures are left out and counted.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from craft_lightning.mcq import LETTERS
from data_modules.sources.found import Asked
from data_modules.sources.images import SUFFIXES, FilePicture, Picture
from data_modules.sources.split import Item, Problems
from data_modules.statements import declarative

_SHOWN = 60
"""Characters of a picture's path in a message: it may be the picture itself, in base64."""


class BadRecordError(Exception):
    """Why a record cannot be used, and how such records are counted."""

    def __init__(self, kind: str, why: str) -> None:
        super().__init__(why)
        self.kind = kind


class LeftOut(Exception):  # noqa: N818
    """A record that this kind of model cannot be asked, left out by design."""


@dataclass(frozen=True)
class Row:
    """An item before its picture is read: ``item.picture`` is not set yet."""

    picture: Picture
    item: Item


def rows_of(asked: Iterable[Asked], most: int, problems: Problems, published: bool) -> Iterator[Row]:
    """A row for every usable record.

    Args:
        asked: the records. most: options that can be lettered. problems: what happens to bad records.
        published: they are the authors', so bad ones are left out and counted.

    Raises:
        CraftError: the first bad record, named by its place, unless bad ones are skipped.
    """
    keys: dict[str, str] = {}
    for entry in asked:
        try:
            if entry.picture is None:
                raise LeftOut("question without a picture")
            item = item_of(entry.record, entry.key, most)
            if entry.key in keys:
                raise BadRecordError("id twice", f"id {entry.key.split('/', 2)[-1]!r} twice, also in {keys[entry.key]}")
        except LeftOut as e:
            problems.leave_out(str(e))
            continue
        except BadRecordError as e:
            if published:
                problems.leave_out(e.kind)
            else:
                problems.bad(e.kind, f"{entry.where}: {e}")
            continue
        keys[entry.key] = entry.where.rsplit(", ", 1)[-1]
        yield Row(entry.picture, item)


def item_of(record: Mapping[str, Any], key: str, most: int) -> Item:
    """The item of a record; its picture and ``label_id`` are not set yet.

    Raises:
        BadRecordError: a field is missing or contradicts another.
        LeftOut: the choices are pictures.
    """
    asked = question = _text(record, "question")
    if hint := record.get("hint"):
        asked = f"Context: {str(hint).strip()}\n{question}"
    options = _options(record, most)
    answer = options[_right(record, options)] if options else _text(record, "answer")
    return Item(key, -1, asked, answer, -1, declarative(question, answer), options=options)


def _text(record: Mapping[str, Any], field: str) -> str:
    value = record.get(field)
    if isinstance(value, bool) or not isinstance(value, str | int | float) or not str(value).strip():
        have = ", ".join(record) or "nothing"
        raise BadRecordError("missing field", f"no text in field {field!r} (the record has {have})")
    return str(value).strip()


def _options(record: Mapping[str, Any], most: int) -> tuple[str, ...]:
    raw = record.get("choices") or record.get("options") or []
    if not isinstance(raw, list):
        raise BadRecordError("bad choices", "choices is not a list")
    options = tuple(" ".join(str(option).split()) for option in raw)
    if options and all(Path(option).suffix.lower() in SUFFIXES for option in options):
        raise LeftOut("choices are pictures")
    if len(options) == 1 or len(options) > most:
        raise BadRecordError("bad choices", f"{len(options)} choices; 2 to {most} can be lettered")
    if len(set(options)) < len(options):
        raise BadRecordError("bad choices", f"the same choice twice: {', '.join(options)}")
    return options


def _right(record: Mapping[str, Any], options: tuple[str, ...]) -> int:
    index = record.get("answer_index", record.get("answer"))
    if isinstance(index, int) and not isinstance(index, bool) and 0 <= index < len(options):
        return index
    said = " ".join(str(record.get("answer", "")).split())
    folded = [option.casefold() for option in options]
    if said.casefold() in folded:
        return folded.index(said.casefold())
    if len(said) == 1 and said.upper() in LETTERS[: len(options)]:
        return LETTERS.index(said.upper())
    raise BadRecordError("bad choices", f"the right choice is not named: answer {said!r}, choices {', '.join(options)}")


def read_jsonl(file: Path, base: Path, prefix: str, problems: Problems) -> Iterator[Asked]:
    """The records of a JSONL file that have a usable picture path.

    Args:
        file: the JSONL file. base: folder that picture paths start from and may not leave. prefix: of the keys.
        problems: what happens to bad lines.

    Raises:
        CraftError: the first bad line, named by file and number, unless bad lines are skipped.
    """
    for number, line in enumerate(file.read_bytes().splitlines(), start=1):
        if not line.strip():
            continue
        where = f"{file}, line {number}"
        try:
            record = _object(line)
            missing = "image" in record and record["image"] is None
            picture = None if missing else picture_in(base, _text(record, "image"))
        except BadRecordError as e:
            problems.bad(e.kind, f"{where}: {e}")
            continue
        yield Asked(where, f"{prefix}/{record.get('id', number)}", record, picture)


def _object(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line)
        if b"\\u" in line:
            json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair may stand in JSON, but in no text
    except (ValueError, RecursionError) as e:
        raise BadRecordError("no JSON", f"no JSON ({str(e) or type(e).__name__})") from e
    if not isinstance(value, dict):
        raise BadRecordError(
            "no JSON", f"a JSON {type(value).__name__} instead of an object with image, question, answer"
        )
    return value


def picture_in(folder: Path, name: str) -> Picture:
    """The picture of a name; links are followed, so that neither ``..`` nor a link leads out of the folder.

    Raises:
        BadRecordError: it leads out, no file can have it, or none has.
    """
    path = folder / name
    shown = repr(name if len(name) <= _SHOWN else f"{name[:_SHOWN]}…")
    try:
        inside = Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))
        there = path.is_file()
    except (OSError, ValueError) as e:
        why = getattr(e, "strerror", None) or e
        raise BadRecordError("missing picture", f"no such picture: {shown} in {folder} ({why})") from e
    if not inside:
        raise BadRecordError("path leaves its root", f"picture path {shown} leaves {folder}")
    if not there:
        raise BadRecordError("missing picture", f"no such picture: {shown} in {folder}")
    return FilePicture(path.relative_to(folder).as_posix() if path.is_relative_to(folder) else path.as_posix(), path)
