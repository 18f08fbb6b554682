"""A dataset of the hub from its parquet files: which file is which split, and which label is which class.

A result names the snapshot's commit: a set that was read from an older local copy says so.
"""

from __future__ import annotations

import glob
import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from craft_lightning.errors import CraftError
from craft_lightning.io import check_root
from data_modules.datasets.facts import DatasetFacts, HubTable
from data_modules.sources.hub import WORDS, choose, download, further, no_space
from data_modules.sources.images import Shelf, StoredImage
from data_modules.sources.items import Asked, Found, Labelled, Problems, SplitName, Splits, split_named
from data_modules.sources.tree import open_tree
from data_modules.sources.values import absent, as_index, shown

if TYPE_CHECKING:
    import datasets

_FIELD = re.compile(r"(question_)?id|questions?|answers?|answer_index|choices|options|hint|ques_type|texts")
"""Columns that question records are made of. Others are not read: OCR-VQA's boxes are larger than its questions."""

FILE_NAMES = ("filename", "file_name", "image_id")

_OPTION = re.compile(r"^\(?([A-Z])[.:)]\s*(.+)$", re.M)
_LETTER = re.compile(r"^(?:Answer:\s*)?\(?([A-Z])\b[.:)]?", re.I)


def open_hub(
    facts: DatasetFacts, hub_id: str | None, revision: str | None, root: str | None, problems: Problems
) -> Found:
    """A copy of the dataset from the hub. Raises CraftError: no copy is known or it cannot be read; the message ends
    with the command to try next.

    Args:
        facts: of the dataset. hub_id: a repository other than the first choice. revision: its branch, tag or commit.
        root: a copy of the repository on this machine, which is read instead. problems: counts bad inputs.
    """
    table = choose(facts, hub_id, revision)
    if not root:
        folder = download(facts, table)
        found = _Table(facts, table, table.id, problems).found(folder, folder.name)
        found.told["revision"] = folder.name
        return found
    folder = check_root(root, facts.name)
    files = sorted(f for f in folder.rglob("*.parquet") if f.is_file()) if folder.is_dir() else []
    stamp = " ".join(f"{f.relative_to(folder).as_posix()}:{f.stat().st_size}" for f in files) or "empty"
    return _Table(facts, table, f"{table.id} in {folder}", problems).found(folder, stamp)


@dataclass(frozen=True)
class _Table:
    """A dataset in parquet files: what is known of it and of its columns, and its place for messages."""

    facts: DatasetFacts
    table: HubTable
    place: str
    problems: Problems

    def found(self, folder: Path, stamp: str) -> Found:
        """The dataset in a folder; ``stamp`` stands for the contents of its files. Raises CraftError: no files of known
        splits, or other columns than expected."""
        files = self._split_files(folder)
        read = self._labelled if self.facts.kind == "classification" else self._asked
        splits: Splits = {split: partial(read, paths, split) for split, paths in files.items()}
        counts: dict[str, int] | None = {split or "all": sum(map(_length, paths)) for split, paths in files.items()}
        if self.facts.listed and None in files and (listed := self.facts.listed(open_tree(folder))):
            at = {file.rsplit("/", 1)[-1]: split for file, split in listed.items()}
            splits = {split: partial(self._part, files[None], at, split) for split in sorted(set(at.values()))}
            counts = None
        told = {"hub": self.table.id, **({"note": self.table.note} if self.table.note else {})}
        return Found(self.place, "hub table", splits, True, counts, stamp, told)

    def _split_files(self, folder: Path) -> dict[SplitName | None, list[Path]]:
        """The parquet files of each split. A lone training split is everything: it has to be cut. Rows of other files
        are counted as left out: of splits of another name, and of a second table for a split."""
        found: dict[str, list[Path]] = {}
        others: dict[str, list[Path]] = {}
        homes: set[str] = set()
        for path in sorted(folder.rglob("*.parquet")):
            parts = path.relative_to(folder).parts
            if self.table.config and self.table.config not in parts:
                continue
            word = re.split(r"[-.]", parts[-1])[0]
            if word.isdigit() and len(parts) > 1:  # CONFIG/SPLIT/0000.parquet of converted branches
                word, parts = parts[-2], parts[:-1]
            known = split_named(word) or word in WORDS
            (found if known else others).setdefault(word.lower(), []).append(path)
            if known:
                homes.add("/".join(parts[:-1]))
        if not found:
            raise CraftError(f"{self.place} holds no parquet files of train, validation or test")
        if len(homes) > 1:
            raise CraftError(f"{self.place} holds several tables ({', '.join(sorted(homes))}); --data.root one of them")
        splits: dict[SplitName | None, list[Path]] = {}
        for word in sorted(found, key=WORDS.index):
            split = split_named(word)
            if split in splits or (split is None and splits):
                others[word] = found[word]
            else:
                splits[split] = found[word]
        for word, paths in others.items():
            self.problems.leave_out(f"row of {word!r}, no split of its own", sum(map(_length, paths)))
        return {None: splits["train"]} if set(splits) == {"train"} else splits

    def _load(self, paths: list[Path]) -> datasets.Dataset:
        """The rows of a split. Raises CraftError: broken files, no space left, or no image column."""
        import datasets
        import pyarrow

        table, broken = self.table, (OSError, datasets.exceptions.DatasetsError, pyarrow.ArrowException)
        try:
            files = {"rows": [glob.escape(str(path)) for path in paths]}  # it reads names of files as patterns
            rows = datasets.load_dataset("parquet", data_files=files, split="rows")
        except broken as error:
            cause = error if isinstance(error, OSError) else error.__cause__ or error
            if isinstance(cause, OSError):
                raise no_space(cause, self.place) from error
            raise CraftError(f"{self.place}: broken parquet files ({' '.join(str(cause).split())[:160]})") from error
        for column in (table.image, table.label if self.facts.kind == "classification" else table.image):
            kind = rows.features.get(column)
            if kind is None or (column == table.image and getattr(kind, "dtype", "") == "string"):
                raise CraftError(
                    self._lacks(rows, f"{'images in' if kind else 'column'} {column!r} of {self.facts.title}")
                )
        return rows

    def _lacks(self, rows: datasets.Dataset, what: str) -> str:
        have = ", ".join(f"{name} ({getattr(kind, 'dtype', kind)})" for name, kind in rows.features.items())
        return f"{self.place} has no {what}; it has {have}; {further(self.facts, self.table)}"

    def _labelled(self, paths: list[Path], split: SplitName | None) -> list[Labelled]:
        rows, label = self._load(paths), self.table.label
        values = [_label(value) for value in rows[label][:]]
        if strange := next((value for value in values if isinstance(value, list | dict)), None):
            raise CraftError(f"{self.place}: column {label!r} holds {shown(strange)}, and an image has one label")
        with_image = [(image, value) for image, value in zip(self._images(rows, split), values, strict=True) if image]
        self.problems.leave_out("row without an image", len(values) - len(with_image))
        words = self._words(rows.features[label], [value for _, value in with_image])
        return [Labelled(image, words[value]) for image, value in with_image if value in words]

    def _part(self, paths: list[Path], at: Mapping[str, SplitName], split: SplitName) -> list[Labelled]:
        """What an official list puts into a split, by the names of files."""
        entries = [e for e in self._labelled(paths, None) if at.get(e.image.name.rsplit("/", 1)[-1]) == split]
        if not entries:
            why = "so the official list beside it cannot be used; remove it"
            raise CraftError(f"{self.place} kept no names of files, {why}")
        return entries

    def _asked(self, paths: list[Path], split: SplitName | None) -> list[Asked]:
        rows = self._load(paths)
        named = [name for name in rows.column_names if _FIELD.fullmatch(name)]
        texts: list[dict[str, Any]] = rows.select_columns(named).to_list() if named else [{}] * len(rows)
        try:
            found = list(self.facts.hub_records(texts))
        except (KeyError, TypeError) as error:
            lacks = f"the questions of {self.facts.title} ({type(error).__name__}: {error})"
            raise CraftError(self._lacks(rows, lacks)) from error
        asked: list[Asked] = []
        for number, (records, image) in enumerate(zip(found, self._images(rows, split), strict=True)):
            where, key = f"{self.place}, row {number}", f"{self.facts.name}/{split or 'all'}/{number}"
            asked += [Asked(where, f"{key}/{i}" if i else key, record, image) for i, record in enumerate(records)]
            self.problems.leave_out("row of another task", 0 if records else 1)
        return asked

    def _images(self, rows: datasets.Dataset, split: str | None) -> list[StoredImage | None]:
        """The image of each row; None where there is none."""
        import pyarrow
        from pyarrow import compute

        column, shelf, part = rows.data.column(self.table.image), _Column(rows, self.table.image), split or "all"
        struct = pyarrow.types.is_struct(column.type)
        if pyarrow.types.is_list(column.type) or pyarrow.types.is_large_list(column.type):
            empty = [not length for length in compute.list_value_length(column).to_pylist()]
        else:
            empty = compute.is_null(compute.struct_field(column, "bytes") if struct else column).to_pylist()
        paths: Sequence[Any] = [None] * len(rows)  # what the files were called, where the table kept that
        if named := next((name for name in FILE_NAMES if name in rows.column_names), None):
            paths = rows[named][:]
        elif struct:
            paths = compute.struct_field(column, "path").to_pylist()
        found: list[StoredImage | None] = []
        for row, (missing, path) in enumerate(zip(empty, paths, strict=True)):
            file = "" if absent(path) else Path(str(path)).name
            name = f"{part}/{row:06d}{'/' if file else ''}{file}"
            if self.table.repeats and not missing:
                name = hashlib.sha256(shelf.read(row)).hexdigest()[:16]
            found.append(None if missing else StoredImage(name, f"{self.place}, {part} row {row}", shelf, row))
        return found

    def _words(self, feature: Any, values: Iterable[Any]) -> dict[Any, str]:
        """Every label value to the words of its class; by name wherever there are names. None is no label. Raises
        CraftError: numbers without names whose order nobody has checked; or a strange label."""
        facts, table, place, counts = self.facts, self.table, self.place, Counter(values)
        if unlabelled := counts.pop(None, 0):
            self.problems.bad("image without a label", f"{place}: {unlabelled} images without a label", unlabelled)
        names: Mapping[Any, str] = dict(enumerate(getattr(feature, "names", None) or ()))
        if not names and all(isinstance(value, str) for value in counts):
            names = {value: value for value in counts}
        size = len(facts.labels)
        if names and {str(n) for n in names.values()} == {str(i) for i in range(1, size + 1)}:
            # Official numbers as names, often in the order of the alphabet: 1, 10, 100, 101, ...
            names = {value: facts.labels[int(name) - 1] for value, name in names.items()}
        elif not names or all(str(name).isdigit() for name in names.values()):
            if not table.by_index:
                hint = further(facts, table)
                raise CraftError(f"{place} has labels without names, and their order was never checked; {hint}")
            names = {value: facts.labels[value] for value in counts if isinstance(value, int) and 0 <= value < size}
        words: dict[Any, str] = {}
        for value, count in counts.items():
            known = facts.class_words(names[value]) if value in names else None
            if known is None and table.by_index and isinstance(value, int) and len(names) == size:
                known = facts.label_words(facts.labels[value])
            if known is None:
                said = facts.no_class(str(names.get(value, value)))
                self.problems.bad("unknown class", f"{place}, {count} images: {said}", count)
            else:
                words[value] = known
        return words


class _Column(Shelf):
    """The image column of a table as it is stored: nothing but our own loader decodes an image."""

    def __init__(self, rows: datasets.Dataset, column: str) -> None:
        self.rows, self.column = rows.select_columns([column]), column

    def read(self, key: str | int) -> bytes:
        value = self.rows.data.column(self.column)[int(key)].as_py()
        if isinstance(value, list):
            value = value[0]
        data = value.get("bytes") if isinstance(value, dict) else value
        if not isinstance(data, bytes):
            raise OSError("the table holds no bytes of it")
        return data


def _length(file: Path) -> int:
    """Rows of a parquet file. Raises CraftError if it is broken, as half a download is."""
    import pyarrow
    from pyarrow import parquet

    try:
        return int(parquet.read_metadata(file).num_rows)
    except (pyarrow.ArrowException, OSError) as error:
        raise CraftError(f"{file} is no whole parquet file; delete it and run the same command again") from error


def _label(value: Any) -> Any:
    """A label as its column means it: None where there is none, a whole number where a gap made it a float."""
    if absent(value) or value == -1:  # what `datasets` writes for a class that is not known
        return None
    return as_index(value) if isinstance(value, float) else value


def turns_as_records(row: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    r"""The question records of a row of HuggingFaceM4/the_cauldron, whose questions are turns of a conversation.

    Its wording was not seen, only described by programs that read it: what does not parse is left out and counted.

    >>> turn = {"user": "Is it?\nChoices:\nA. yes\nB. no\nAnswer with the letter.", "assistant": "Answer: B"}
    >>> list(turns_as_records({"texts": [turn]}))
    [{'question': 'Is it?', 'choices': ['yes', 'no'], 'answer_index': 1}]
    """
    for turn in row["texts"] or ():
        asked, _, listed = (turn["user"] or "").partition("\nChoices:")
        choices = {letter: text.strip() for letter, text in _OPTION.findall(listed)}
        said = (turn["assistant"] or "").strip()
        letter = _LETTER.match(said)
        at = [*choices].index(letter[1].upper()) if letter and letter[1].upper() in choices else None
        named = {"answer": said} if at is None else {"answer_index": at}
        # Without its label and, after a question mark, without the directive in the last lines.
        text = asked.strip().removeprefix("Question:").strip()
        end = text.rfind("?\n")
        question = text[: end + 1] if end >= 0 else text
        yield {"question": question, "choices": [*choices.values()] or None, **named}
