"""Question files: one JSON object a line, with a picture, a question and an answer.

Fields: ``image`` (path relative to the file's folder), ``question``, and ``answer`` (text). Choice questions add
``choices`` (or ``options``) and may name the right one by ``answer_index``, by a number or a letter in ``answer``, or
by its text. ``id`` names the item (default: the line number); ``hint`` is put before the question. Records without a
picture (``null``) or whose choices are pictures are left out and counted.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from craft_lightning.mcq import LETTERS
from data_modules.sources.images import SUFFIXES
from data_modules.sources.split import Item, Problems
from data_modules.statements import declarative


class _BadLineError(Exception):
    """Why a line cannot be used, and how such lines are counted."""

    def __init__(self, kind: str, why: str) -> None:
        super().__init__(why)
        self.kind = kind


class _LeftOut(Exception):  # noqa: N818
    """A record that this kind of model cannot be asked, left out by design."""


def read_questions(file: Path, base: Path, dataset: str, most: int, problems: Problems) -> Iterator[tuple[Path, Item]]:
    """Picture path and item of every usable line; ``item.picture`` and ``item.label_id`` are not set yet.

    Args:
        file: the JSONL file. base: folder that picture paths start from and may not leave.
        dataset: name for the keys. most: options that can be lettered. problems: what happens to bad lines.

    Raises:
        CraftError: the first bad line, named by file and number, unless bad lines are skipped.
    """
    keys: dict[str, int] = {}
    for number, line in enumerate(file.read_bytes().splitlines(), start=1):
        if not line.strip():
            continue
        try:
            path, item = _record(_object(line), base, f"{dataset}/{file.stem}", number, most)
            if item.key in keys:
                raise _BadLineError(
                    "id twice", f"id {item.key.split('/', 2)[-1]!r} twice, also in line {keys[item.key]}"
                )
        except _LeftOut as e:
            problems.leave_out(str(e))
            continue
        except _BadLineError as e:
            problems.bad(e.kind, f"{file}, line {number}: {e}")
            continue
        keys[item.key] = number
        yield path, item


def _object(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line)
    except (json.JSONDecodeError, UnicodeDecodeError, RecursionError) as e:
        raise _BadLineError("no JSON", f"no JSON ({str(e) or type(e).__name__})") from e
    if not isinstance(value, dict):
        raise _BadLineError(
            "no JSON", f"a JSON {type(value).__name__} instead of an object with image, question, answer"
        )
    return value


def _record(record: dict[str, Any], base: Path, prefix: str, number: int, most: int) -> tuple[Path, Item]:
    if "image" in record and record["image"] is None:
        raise _LeftOut("question without a picture")
    question = _text(record, "question")
    if hint := record.get("hint"):
        question = f"Context: {str(hint).strip()}\n{question}"
    options = _options(record, most)
    answer = options[_right(record, options)] if options else _text(record, "answer")
    path = _inside(_text(record, "image"), base)
    key = f"{prefix}/{record.get('id', number)}"
    return path, Item(key, -1, question, answer, -1, declarative(_text(record, "question"), answer), options=options)


def _text(record: dict[str, Any], field: str) -> str:
    value = record.get(field)
    if isinstance(value, bool) or not isinstance(value, str | int | float) or not str(value).strip():
        have = ", ".join(record) or "nothing"
        raise _BadLineError("missing field", f"no text in field {field!r} (the record has {have})")
    return str(value).strip()


def _options(record: dict[str, Any], most: int) -> tuple[str, ...]:
    raw = record.get("choices") or record.get("options") or []
    if not isinstance(raw, list):
        raise _BadLineError("bad choices", "choices is not a list")
    options = tuple(" ".join(str(option).split()) for option in raw)
    if options and all(Path(option).suffix.lower() in SUFFIXES for option in options):
        raise _LeftOut("choices are pictures")
    if len(options) == 1 or len(options) > most:
        raise _BadLineError("bad choices", f"{len(options)} choices; 2 to {most} can be lettered")
    if len(set(options)) < len(options):
        raise _BadLineError("bad choices", f"the same choice twice: {', '.join(options)}")
    return options


def _right(record: dict[str, Any], options: tuple[str, ...]) -> int:
    index = record.get("answer_index", record.get("answer"))
    if isinstance(index, int) and not isinstance(index, bool) and 0 <= index < len(options):
        return index
    said = " ".join(str(record.get("answer", "")).split())
    folded = [option.casefold() for option in options]
    if said.casefold() in folded:
        return folded.index(said.casefold())
    if len(said) == 1 and said.upper() in LETTERS[: len(options)]:
        return LETTERS.index(said.upper())
    raise _BadLineError("bad choices", f"the right choice is not named: answer {said!r}, choices {', '.join(options)}")


def _inside(image: str, base: Path) -> Path:
    """The picture's path; links are followed, so that neither ``..`` nor a link leads out of the folder."""
    path = base / image
    if not Path(os.path.realpath(path)).is_relative_to(os.path.realpath(base)):
        raise _BadLineError("path leaves its root", f"picture path {image!r} leaves {base}")
    if not path.is_file():
        raise _BadLineError("missing picture", f"no such picture: {path}")
    return path
