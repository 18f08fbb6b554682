"""Question records, from a file or a table, as items.

Fields: ``question`` and ``answer`` (text). Choice questions add ``choices`` (or ``options``), a list, and name the
right one by its text or letter in ``answer``, or by ``answer_index``, which counts from 0; a number in ``answer`` is a
text. An answer that can be read in two ways, or that ``answer_index`` contradicts, is refused. ``hint`` is put before
the question. ``null``, NaN and empty texts say nothing, wherever they stand. Records without an image or whose choices
are images are left out and counted. Letters of choices (``B. dog``) are taken off.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from craft_lightning.errors import CraftError
from craft_lightning.models.image_files import is_image_file
from craft_lightning.text.multiple_choice import LETTERS
from data_modules.captioning.statements import declarative
from data_modules.sources.images import StoredImage
from data_modules.sources.items import Asked, Item, Problems
from data_modules.sources.values import absent, as_index, as_text, shown

_MANY = 30
"""So many indices of which none is 0 are odd enough to be told."""

_ONE_CHOICE = re.compile(r"((options?|choices?|opt?)[ _-]?)?[a-h]|(options?|choices?|opt)[ _-]?\d", re.IGNORECASE)
"""Fields that hold a choice each."""

_NAMES_RIGHT = re.compile(
    r"answer(idx|id|key|letter|number|option)|correct(idx|index|answer|choice|option)?|cop|gt|label|target"
)
"""Fields by which others name the right choice, without blanks and underscores: none is read, none may contradict."""

_MARK = re.compile(r"\(?([a-z])(?:\)\s*|[.:]\s+)(\S.*)", re.IGNORECASE)
"""A choice with a letter of its own, ``B. dog``, ``(B) dog`` or ``b) dog``."""

_LETTER = re.compile(r"\(?([a-z])[.):]?", re.IGNORECASE)

log = logging.getLogger("craft_lightning.data")


class BadRecordError(Exception):
    """Why a record cannot be used, and how such records are counted."""

    def __init__(self, kind: str, why: str) -> None:
        super().__init__(why)
        self.kind = kind


class LeftOut(Exception):  # noqa: N818
    """A record that this kind of model cannot be asked, left out by design."""


@dataclass(frozen=True)
class Unread:
    """An item whose image is not read yet: ``item.image`` is -1."""

    image: StoredImage
    item: Item


def unread_items(asked: Sequence[Asked], most: int, problems: Problems, published: bool) -> Iterator[Unread]:
    """An item for every usable record; at ``most`` so many options can be lettered. Bad records of a ``published`` set
    are left out and counted. Raises CraftError: indices that count from 1; or the first bad record of another set,
    named by its place, unless bad ones are skipped."""
    _counts_from_zero(asked)
    if not published:
        _tell_unread(asked)
    keys: dict[str, str] = {}
    for entry in asked:
        try:
            if entry.image is None:
                raise LeftOut("question without an image")
            item = _item(entry.record, entry.key, most)
            if entry.key in keys:
                raise BadRecordError("id twice", f"id {entry.key.split('/', 2)[-1]!r} twice, also in {keys[entry.key]}")
        except LeftOut as e:
            problems.leave_out(str(e))
        except BadRecordError as e:
            if published:
                problems.leave_out(e.kind)
            else:
                problems.bad(e.kind, f"{entry.where}: {e}")
        else:
            keys[entry.key] = entry.where.rsplit(", ", 1)[-1]
            yield Unread(entry.image, item)


def _item(record: Mapping[str, Any], key: str, most: int) -> Item:
    """The item of a record, without image and ``label_id``. Raises BadRecordError: a field is missing or contradicts
    another. Raises LeftOut: the choices are images."""
    question = text_of(record, "question")
    asked = question if absent(record.get("hint")) else f"Context: {text_of(record, 'hint')}\n{question}"
    options = _options(record, most)
    if not options and not absent(record.get("answer_index")):
        raise BadRecordError("bad choices", "answer_index without choices")
    answer = options[_uncontradicted(record, options)] if options else text_of(record, "answer")
    return Item(key, -1, asked, answer, -1, declarative(question, answer), options=options)


def text_of(record: Mapping[str, Any], field: str) -> str:
    """The text of a field. Raises BadRecordError if there is none, or it can be read in two ways."""
    value = record.get(field)
    if absent(value):
        have = ", ".join(record) or "nothing"
        raise BadRecordError("missing field", f"no text in field {field!r} (the record has {have})")
    return _said(value, f"field {field!r}")


def _said(value: Any, what: str) -> str:
    try:
        return as_text(value)
    except ValueError as e:
        raise BadRecordError("unclear field", f"{what}: {e}") from e


# choices


def _listed(record: Mapping[str, Any]) -> Any:
    """The choices as they are given, None of an open question; refused where they are given twice, or elsewhere."""
    given = [record[name] for name in ("choices", "options") if not absent(record.get(name))]
    if len(given) > 1 and given[0] != given[1]:
        raise BadRecordError("bad choices", "choices and options differ")
    fields = [name for name in record if _ONE_CHOICE.fullmatch(name) and not absent(record[name])]
    if not given and len(fields) > 1:
        have = ", ".join(fields)
        raise BadRecordError("bad choices", f"choices in fields {have}; write them as one list in field 'choices'")
    return given[0] if given else None


def _options(record: Mapping[str, Any], most: int) -> tuple[str, ...]:
    raw = _listed(record)
    if raw is None:
        return ()
    if not isinstance(raw, list):
        raise BadRecordError("bad choices", "choices is not a list")
    if empty := [number for number, value in enumerate(raw, start=1) if absent(value)]:
        raise BadRecordError("missing field", f"choice {empty[0]} has no text")
    options = tuple(" ".join(_said(value, f"choice {n}").split()) for n, value in enumerate(raw, start=1))
    if options and all(map(is_image_file, options)):
        raise LeftOut("choices are images")
    if not 2 <= len(options) <= most:
        hint = "" if options else "; an open question has null there, or no such field"
        raise BadRecordError("bad choices", f"{len(options)} choices; 2 to {most} can be lettered{hint}")
    # Without letters of their own, for they are lettered anew, in an order of ours.
    marks = [found for option in options if (found := _MARK.fullmatch(option))]
    letters, own = [mark[1].upper() for mark in marks], list(LETTERS[: len(options)])
    if letters != own and sorted(letters) == own:  # a letter as answer may mean a mark or a place
        raise BadRecordError("bad choices", f"choices are marked {', '.join(letters)}; bring them in order")
    options = tuple(mark[2] for mark in marks) if letters == own else options
    if len(set(options)) < len(options):
        raise BadRecordError("bad choices", f"the same choice twice: {', '.join(options)}")
    return options


# the right one


def _uncontradicted(record: Mapping[str, Any], options: tuple[str, ...]) -> int:
    """The position of the right choice. Raises BadRecordError: see :func:`_right`; or a field that is not read names
    another (its index may count from 0 or from 1)."""
    unread = _unread(record)
    if unread and absent(record.get("answer")) and absent(record.get("answer_index")):
        how = "write answer (a text or letter) or answer_index (from 0)"
        raise BadRecordError("missing field", f"field {unread[0]!r} is not read; {how}")
    right = _right(record, options)
    for name in unread:
        value = record[name]
        number, text = as_index(value), " ".join(value.split()) if isinstance(value, str) else ""
        named = set(_readings(text, options)) if number is None else {number, number - 1} & set(range(len(options)))
        if named and right not in named:
            said = f"field {name!r} says {shown(value)}, but the right choice is {options[right]!r}"
            raise BadRecordError("answer in two ways", f"{said}; leave one out")
    return right


def _unread(record: Mapping[str, Any]) -> list[str]:
    """Fields that may name the right choice and are not read."""
    bare = {name: re.sub(r"[\W_]+", "", name).casefold() for name in record}
    return [name for name, form in bare.items() if _NAMES_RIGHT.fullmatch(form) and not absent(record[name])]


def _tell_unread(asked: Sequence[Asked]) -> None:
    """Say it once where a field that may name the right choice is passed over."""
    for entry in asked:
        fields = _unread(entry.record)
        if fields and not (absent(entry.record.get("choices")) and absent(entry.record.get("options"))):
            said = "%s: %s is not read; answer and answer_index name the right choice"
            log.warning(said, entry.where, ", ".join(fields))
            return


def _right(record: Mapping[str, Any], options: tuple[str, ...]) -> int:
    """The position of the right choice. Raises BadRecordError if nothing names it, or two things do."""
    given, value, index = record.get("answer_index"), record.get("answer"), None
    if not absent(given):
        index = as_index(given)
        if index is None or not 0 <= index < len(options):
            raise BadRecordError("bad choices", f"answer_index {shown(given)} is none of 0 to {len(options) - 1}")
        if absent(value):
            return index
    said, number = " ".join(text_of(record, "answer").split()), as_index(value)
    readings = _readings(said, options)
    if index is not None:
        if index in readings or (number == index and not readings):
            return index
        named = f"answer_index {index} is {options[index]!r}, counted from 0, but answer is {said!r}"
        raise BadRecordError("answer in two ways", named)
    if readings and number is not None and 0 <= number < len(options) and not isinstance(value, str):
        readings.setdefault(number, f"the index of {options[number]!r}, counted from 0")
    if len(readings) == 1:
        return next(iter(readings))
    if readings:
        ways = f"answer {said!r} may be {' or '.join(readings.values())}; say which by answer_index, from 0"
        raise BadRecordError("answer in two ways", ways)
    hint = "" if number is None else "; an index is answer_index, which counts from 0"
    unnamed = f"the right choice is not named: answer {said!r}, choices {', '.join(options)}{hint}"
    raise BadRecordError("bad choices", unnamed)


def _readings(said: str, options: tuple[str, ...]) -> dict[int, str]:
    """What an answer may name: positions of choices to how they are named."""
    same = [i for i, option in enumerate(options) if option == said]
    alike = same or [i for i, option in enumerate(options) if option.casefold() == said.casefold()]
    readings = {i: f"the text {options[i]!r}" for i in alike}
    lettered = dict(zip(LETTERS, range(len(options)), strict=False))
    if (letter := _LETTER.fullmatch(said)) and (at := lettered.get(letter[1].upper())) is not None:
        readings.setdefault(at, f"the letter of {options[at]!r}")
    mark = _MARK.fullmatch(said)
    if mark and (at := lettered.get(mark[1].upper())) is not None and options[at].casefold() == mark[2].casefold():
        readings.setdefault(at, f"the letter and text of {options[at]!r}")
    return readings


def _counts_from_zero(asked: Sequence[Asked]) -> None:
    """Refuse indices that count from 1: none is 0, and some are as large as the number of choices. Row by row only the
    largest would be refused, and all others would name the choice after the right one."""
    indexed = []
    for entry in asked:
        index, choices = as_index(entry.record.get("answer_index")), None
        with suppress(BadRecordError):  # told where the record is read
            choices = _listed(entry.record)
        if index is not None and isinstance(choices, list):
            indexed.append((entry, index, len(choices)))
    inside = [entry for entry, index, count in indexed if 0 < index < count]
    beyond = [entry for entry, index, count in indexed if index == count]
    if not inside or any(index == 0 for _, index, _ in indexed):
        return
    said = f"none of {len(indexed)} answer_index is 0"
    if beyond:
        raise CraftError(f"{beyond[0].where}: answer_index is the number of choices, and {said}: it counts from 0 here")
    if len(inside) >= _MANY:
        log.warning("%s: %s; it counts from 0", inside[0].where, said)
