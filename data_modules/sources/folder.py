"""Images and questions on disk: the authors' own files, class folders, or JSONL, in a folder or a zip archive.

Known datasets are recognised as their authors hand them out (``data_modules/datasets/NAME.py``). Labelled images:
``ROOT/{train,test[,val]}/CLASS/*.jpg``, or ``ROOT/CLASS/*.jpg`` alone; folders below a class belong to it; names that
begin with a dot, links to folders and whatever else is not read are counted. Question files:
``ROOT/{train,test[,val]}.jsonl``, or one ``FILE.jsonl`` of any name, with an object a line, as :mod:`.questions` reads
it; ``image`` is a path relative to the file's folder, which it may not leave, and ``id`` names the item (default: the
line number). All that may be in a folder that is alone in ROOT, or in one that is alone in that. Where a split is
missing it is cut (:mod:`.records`).
"""

from __future__ import annotations

import codecs
import json
import os
import posixpath
from collections.abc import Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path, PurePosixPath
from typing import Any

from craft_lightning.errors import CraftError
from craft_lightning.models.image_files import no_images, told
from data_modules.datasets.facts import DatasetFacts, Kind
from data_modules.sources.classes import class_folders
from data_modules.sources.images import StoredImage, file_image
from data_modules.sources.items import Asked, Found, Problems, SplitName, split_named
from data_modules.sources.questions import BadRecordError, text_of
from data_modules.sources.tree import FolderTree, Tree, open_tree
from data_modules.sources.values import absent, as_index, nfc, shown

_TABLES = (".json", ".csv", ".tsv", ".parquet", ".arrow", ".xlsx")


class Place:
    """What lies at ``--data.root``: a folder, question file or zip archive. Raises CraftError: it is a file that is
    neither a question file nor a zip archive.

    Attributes:
        root: its path. tree: its files. top: the folder in it that the data start from. questions: paths of the
            question files right in there.
    """

    def __init__(self, root: Path) -> None:
        self.root, self.tree = root, open_tree(root)
        self.top = self.tree.top()
        self.questions = self.tree.questions(self.top)

    @property
    def kind(self) -> Kind:
        """Whether a user's own folder holds class folders or question files. Raises CraftError if neither."""
        if not self.questions and not self.tree.children(self.top):
            raise _empty(self)
        return "question" if self.questions else "classification"


def open_folder(facts: DatasetFacts, place: Place, problems: Problems) -> Found:
    """The dataset at a place on disk. Raises CraftError: nothing usable there, or a dataset of another kind."""
    tree = place.tree
    problems.skipped += tree.left_out
    if place.questions:
        found = _question_files(facts, place, problems)
    elif (own := facts.layout(tree, problems) if facts.layout else None) is not None:
        found = own
    else:
        classes, lone = class_folders(facts, tree, problems), len(tree.children(place.top)) == 1
        if classes is None or (lone and any(name.lower().endswith(_TABLES) for name in tree.files(place.top))):
            raise _empty(place)
        found = classes
    kind = "classification" if found.layout == "class folders" else "question"
    if kind != facts.kind and not found.published:
        hint = "class folders" if kind == "classification" else "question files"
        raise CraftError(f"{place.root} holds {hint}, but {facts.title} is a {facts.kind} set")
    return found


def _empty(place: Place) -> CraftError:
    have = [PurePosixPath(name).name for name in place.tree.files(place.top)]
    has = f"; it has {', '.join(have[:3])}{', ...' if len(have) > 3 else ''}" if have else ""
    has += f"; left out: {told(place.tree.left_out)}" if place.tree.left_out else ""
    lacks = "no class folders (train/CLASS/*.jpg or CLASS/*.jpg) and no train.jsonl (one JSON object a line)"
    return CraftError(f"{place.tree.place(place.top)} holds {lacks}{has}")


def _question_files(facts: DatasetFacts, place: Place, problems: Problems) -> Found:
    files, tree = _split_files(place, problems), place.tree
    problems.skipped += no_images(name for name in tree.names if name not in place.questions)
    at = tree.place(files.get(None, place.top))
    there = frozenset(posixpath.relpath(name, place.top or ".") for name in tree.images())
    read = {s: partial(_read, tree, n, f"{facts.name}/{PurePosixPath(n).stem}", problems) for s, n in files.items()}
    return Found(at, "question files", dict(read), images=there)


def _split_files(place: Place, problems: Problems) -> dict[SplitName | None, str]:
    """The question file of each split; a lone file of another name is everything."""
    named = [(split_named(PurePosixPath(name).stem), name) for name in place.questions]
    found: dict[SplitName | None, str] = {split: name for split, name in named if split}
    if len(named) == 1 and (not found or (place.root.is_file() and place.questions == [place.root.name])):
        return {None: place.questions[0]}
    have = ", ".join(PurePosixPath(name).name for name in place.questions)
    where, strange = place.tree.place(place.top), sum(split is None for split, _ in named)
    if not found:
        raise CraftError(f"{where} has no train.jsonl or test.jsonl (it has {have}); or give one file as --data.root")
    if len(found) + strange < len(named):
        raise CraftError(f"{where} holds a split twice: {have}; merge them")
    problems.leave_out("question file of no split", strange)
    return found


def _read(tree: Tree, name: str, prefix: str, problems: Problems) -> list[Asked]:
    """The records of a JSONL file that have a usable image path; ``prefix`` begins their keys. Raises CraftError: the
    file cannot be read; or the first bad line, named by file and number, unless they are skipped."""
    asked, place = [], tree.place(name)
    try:
        content = tree.read(name)
    except OSError as error:
        raise CraftError(f"{place} cannot be read ({error})") from error
    lines = content.splitlines()
    if strange := _no_lines(content, lines):
        raise CraftError(f"{place} holds {strange} instead of one JSON object a line")
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            record = _object(line)
            missing = "image" in record and absent(record["image"])
            image = None if missing else _image(tree, posixpath.dirname(name), text_of(record, "image"))
            given = record.get("id")
            whole = as_index(given) if isinstance(given, float) else None  # a table with gaps makes 1.0 of 1
            key = number if absent(given) else text_of(record, "id") if whole is None else whole
        except BadRecordError as e:
            problems.bad(e.kind, f"{place}, line {number}: {e}")
        else:
            asked.append(Asked(f"{place}, line {number}", f"{prefix}/{key}", record, image))
    return asked


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


def _image(tree: Tree, base: str, name: str) -> StoredImage:
    """The image of a name that starts from a folder of a tree. Raises as :func:`image_in` does."""
    path = posixpath.normpath(posixpath.join(base, name))
    if isinstance(tree, FolderTree):
        home = tree.path(base)
        return image_in(home, os.path.relpath(tree.path(path), home) if path in tree else name)
    below = posixpath.relpath(path, base or ".")
    _accept(name, tree.place(base), not (posixpath.isabs(name) or below.startswith("..")), path in tree)
    return tree.image(path, below)


def image_in(folder: Path, name: str) -> StoredImage:
    """The image of a name; links are followed, so that neither ``..`` nor a link leads out of the folder. Raises
    BadRecordError: it leads out, no file can have it, or none has."""
    path, why = folder / name, ""
    try:
        inside = Path(os.path.realpath(path)).is_relative_to(os.path.realpath(folder))
        there = path.is_file()
    except (OSError, ValueError) as e:
        inside, there, why = True, False, f" ({getattr(e, 'strerror', None) or e})"
    _accept(name, str(folder), inside, there, why)
    found = Path(os.path.normpath(path))  # one image has one name, however a record writes it
    known = found.relative_to(folder) if found.is_relative_to(folder) else found
    return file_image(nfc(known.as_posix()), path)


def _accept(name: str, root: str, inside: bool, there: bool, why: str = "") -> None:
    if not inside:
        raise BadRecordError("path leaves its root", f"image path {shown(name)} leaves {root}")
    if not there:
        raise BadRecordError("missing image", f"no such image: {shown(name)} in {root}{why}")


def _object(line: bytes) -> dict[str, Any]:
    try:
        value = json.loads(line, object_pairs_hook=_object_of)
        if b"\\u" in line or b"\xed" in line:
            json.dumps(value, ensure_ascii=False).encode()  # half a surrogate pair may stand in JSON, but in no text
    except (ValueError, RecursionError) as e:
        raise BadRecordError("no JSON", f"no JSON ({str(e) or type(e).__name__})") from e
    if not isinstance(value, dict):
        said = f"a JSON {type(value).__name__} instead of an object with image, question, answer"
        raise BadRecordError("no JSON", said)
    return value


def _object_of(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) < len(pairs):
        names = [name for name, _ in pairs]
        raise ValueError(f"the field {next(name for name in names if names.count(name) > 1)!r} twice")
    return fields
