"""Parquet files of a hub repository as records: which file is which split, and which label is which class."""

from __future__ import annotations

import hashlib
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from craft_lightning.errors import CraftError
from data_modules.datasets.facts import DatasetFacts, HubTable
from data_modules.sources.found import SPLIT_NAMES, Asked, Entries, Found, Labelled, Splits, split_named
from data_modules.sources.images import BytesPicture, Picture, Shelf
from data_modules.sources.split import Problems, SplitName
from data_modules.sources.tree import open_tree
from data_modules.sources.values import absent, as_index, shown

if TYPE_CHECKING:
    import datasets

UNCUT = ("full", "all")
"""Names that mirrors give to everything in one piece."""

FIELDS = frozenset(
    (
        *("id", "question_id", "question", "questions", "answer", "answers", "answer_index"),
        *("choices", "options", "hint", "ques_type", "texts"),
    )
)
"""Columns that question records are made of. Others are not read: OCR-VQA's boxes are larger than its questions."""

FILE_NAMES = ("filename", "file_name", "image_id")


def read_tables(
    facts: DatasetFacts, table: HubTable, folder: Path, stamp: str, place: str, problems: Problems
) -> Found:
    """The dataset in a folder of parquet files.

    Args:
        facts: of the dataset. table: columns and known faults. folder: where the files are.
        stamp: stands for their contents. place: for messages. problems: what happens to bad inputs.

    Raises:
        CraftError: no files of known splits, or other columns than expected.
    """
    files = _split_files(folder, table.config, place, problems)
    read = _labelled if facts.kind == "classification" else _asked
    splits: Splits = {
        split: partial(read, facts, table, paths, split, place, problems) for split, paths in files.items()
    }
    counts: dict[str, int] = {split or "all": sum(map(_length, paths)) for split, paths in files.items()}
    told = {"hub": table.id, **({"note": table.note} if table.note else {})}
    found = Found(place, "hub table", splits, True, counts, stamp, told)
    listed = facts.listed(open_tree(folder)) if facts.listed and None in files else {}
    if listed:
        at = {file.rsplit("/", 1)[-1]: split for file, split in listed.items()}
        found.splits = {split: partial(_part, splits[None], at, split, place) for split in sorted(set(at.values()))}
        found.counts = None
    return found


def _length(file: Path) -> int:
    """Rows of a parquet file.

    Raises:
        CraftError: it is broken, as half a download is.
    """
    import pyarrow
    from pyarrow import parquet

    try:
        return int(parquet.read_metadata(file).num_rows)
    except (pyarrow.ArrowException, OSError) as error:
        raise CraftError(f"{file} is no whole parquet file; delete it and run the same command again") from error


def _part(whole: Callable[[], Entries], at: Mapping[str, SplitName], split: SplitName, place: str) -> list[Labelled]:
    """What an official list puts into a split, by the names of files."""
    rows = cast("Sequence[Labelled]", whole())
    entries = [row for row in rows if at.get(row.picture.name.rsplit("/", 1)[-1]) == split]
    if not entries:
        raise CraftError(f"{place} kept no names of files, so the official list beside it cannot be used; remove it")
    return entries


def _split_files(
    folder: Path, config: str | None, place: str, problems: Problems
) -> dict[SplitName | None, list[Path]]:
    """The parquet files of each split. A lone training split is everything: it has to be cut.

    Rows of other files are counted as left out: of splits of another name, and of a second table for a split.
    """
    found: dict[str, list[Path]] = {}
    others: dict[str, list[Path]] = {}
    homes: set[str] = set()
    for path in sorted(folder.rglob("*.parquet")):
        parts = path.relative_to(folder).parts
        if config and config not in parts:
            continue
        word = re.split(r"[-.]", parts[-1])[0]
        if word.isdigit() and len(parts) > 1:  # CONFIG/SPLIT/0000.parquet of converted branches
            word, parts = parts[-2], parts[:-1]
        known = split_named(word) or word in UNCUT
        (found if known else others).setdefault(word.lower(), []).append(path)
        if known:
            homes.add("/".join(parts[:-1]))
    if not found:
        raise CraftError(f"{place} holds no parquet files of train, validation or test")
    if len(homes) > 1:
        raise CraftError(f"{place} holds several tables ({', '.join(sorted(homes))}); --data.root one of them")
    order = [word for names in SPLIT_NAMES.values() for word in names] + list(UNCUT)
    splits: dict[SplitName | None, list[Path]] = {}
    for word in sorted(found, key=order.index):
        split = split_named(word)
        if split in splits or (split is None and splits):
            others[word] = found[word]
        else:
            splits[split] = found[word]
    for word, paths in others.items():
        problems.leave_out(f"row of {word!r}, no split of its own", sum(map(_length, paths)))
    return {None: splits["train"]} if set(splits) == {"train"} else splits


class _Column(Shelf):
    """The picture column of a table as it is stored: nothing but our own loader decodes a picture."""

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


def _load(facts: DatasetFacts, table: HubTable, paths: list[Path], place: str) -> datasets.Dataset:
    """The rows of a split.

    Raises:
        CraftError: broken files, no space left, or no picture column.
    """
    import datasets
    import pyarrow

    from data_modules.sources.hub import further, no_space

    try:
        rows = datasets.load_dataset("parquet", data_files={"rows": [str(path) for path in paths]}, split="rows")
    except OSError as error:
        raise no_space(error, place) from error
    except (datasets.exceptions.DatasetsError, datasets.exceptions.DatasetGenerationError, pyarrow.ArrowException) as e:
        cause = e.__cause__ or e
        if isinstance(cause, OSError):
            raise no_space(cause, place) from e
        raise CraftError(f"{place}: broken parquet files ({' '.join(str(cause).split())[:160]})") from e
    for column in (table.image, table.label if facts.kind == "classification" else table.image):
        kind = rows.features.get(column)
        if kind is None or (column == table.image and getattr(kind, "dtype", "") == "string"):
            have = ", ".join(f"{name} ({getattr(kind, 'dtype', kind)})" for name, kind in rows.features.items())
            raise CraftError(
                f"{place} has no {'pictures in' if kind else 'column'} {column!r} of {facts.title}; "
                f"it has {have}; {further(facts, table)}"
            )
    return rows


def _labelled(
    facts: DatasetFacts,
    table: HubTable,
    paths: list[Path],
    split: SplitName | None,
    place: str,
    problems: Problems,
) -> list[Labelled]:
    rows = _load(facts, table, paths, place)
    values = [_label(value) for value in rows[table.label][:]]
    if strange := next((value for value in values if isinstance(value, list | dict)), None):
        raise CraftError(f"{place}: column {table.label!r} holds {shown(strange)}, and a picture has one label")
    pictured = [(p, v) for p, v in zip(_pictures(table, rows, split, place), values, strict=True) if p]
    problems.leave_out("row without a picture", len(values) - len(pictured))
    words = _words(facts, table, rows.features[table.label], [value for _, value in pictured], place, problems)
    return [Labelled(picture, words[value]) for picture, value in pictured if value in words]


def _asked(
    facts: DatasetFacts,
    table: HubTable,
    paths: list[Path],
    split: SplitName | None,
    place: str,
    problems: Problems,
) -> list[Asked]:
    rows = _load(facts, table, paths, place)
    pictures = _pictures(table, rows, split, place)
    texts = rows.select_columns([name for name in rows.column_names if name in FIELDS])
    asked: list[Asked] = []
    for number, (records, picture) in enumerate(zip(facts.hub_records(texts.to_list()), pictures, strict=True)):
        where, key = f"{place}, row {number}", f"{facts.name}/{split or 'all'}/{number}"
        asked += [Asked(where, f"{key}/{i}" if i else key, record, picture) for i, record in enumerate(records)]
        problems.leave_out("row of another task", 0 if records else 1)
    return asked


def _pictures(table: HubTable, rows: datasets.Dataset, split: str | None, place: str) -> list[Picture | None]:
    """The picture of each row; None where there is none."""
    import pyarrow
    from pyarrow import compute

    column = rows.data.column(table.image)
    if pyarrow.types.is_list(column.type) or pyarrow.types.is_large_list(column.type):
        empty = [not length for length in compute.list_value_length(column).to_pylist()]
    else:
        stored = compute.struct_field(column, "bytes") if pyarrow.types.is_struct(column.type) else column
        empty = compute.is_null(stored).to_pylist()
    files = _file_names(rows, table.image)
    shelf = _Column(rows, table.image)
    found: list[Picture | None] = []
    for row, (missing, file) in enumerate(zip(empty, files, strict=True)):
        name = f"{split or 'all'}/{row:06d}{'/' if file else ''}{file}"
        if table.repeats and not missing:
            name = hashlib.sha256(shelf.read(row)).hexdigest()[:16]
        found.append(None if missing else BytesPicture(name, f"{place}, {split or 'all'} row {row}", shelf, row))
    return found


def _file_names(rows: datasets.Dataset, image: str) -> list[str]:
    """What the picture files were called, where the table kept that."""
    import pyarrow
    from pyarrow import compute

    column = rows.data.column(image)
    if named := next((name for name in FILE_NAMES if name in rows.column_names), None):
        paths = rows[named][:]
    elif pyarrow.types.is_struct(column.type):
        paths = compute.struct_field(column, "path").to_pylist()
    else:
        paths = [None] * len(rows)
    return ["" if absent(path) else Path(str(path)).name for path in paths]


def _label(value: Any) -> Any:
    """A label as its column means it: None where there is none, a whole number where a gap made it a float."""
    if absent(value) or value == -1:  # what `datasets` writes for a class that is not known
        return None
    return as_index(value) if isinstance(value, float) else value


def _words(
    facts: DatasetFacts, table: HubTable, feature: Any, values: Iterable[Any], place: str, problems: Problems
) -> dict[Any, str]:
    """Every label value to the words of its class; by name wherever there are names. None is no label.

    Raises:
        CraftError: numbers without names whose order nobody has checked; or a strange label (see :class:`Problems`).
    """
    from data_modules.sources.hub import further

    counts = Counter(values)
    if unlabelled := counts.pop(None, 0):
        problems.bad("picture without a label", f"{place}: {unlabelled} pictures without a label", unlabelled)
    names: Mapping[Any, str] = dict(enumerate(getattr(feature, "names", None) or ()))
    if not names and all(isinstance(value, str) for value in counts):
        names = {value: value for value in counts}
    size = len(facts.labels)
    if names and {str(n) for n in names.values()} == {str(i) for i in range(1, size + 1)}:
        # Official numbers as names, often in the order of the alphabet: 1, 10, 100, 101, ...
        names = {value: facts.labels[int(name) - 1] for value, name in names.items()}
    elif not names or all(str(name).isdigit() for name in names.values()):
        if not table.by_index:
            raise CraftError(
                f"{place} has labels without names, and their order was never checked; {further(facts, table)}"
            )
        names = {value: facts.labels[value] for value in counts if isinstance(value, int) and 0 <= value < size}
    words: dict[Any, str] = {}
    for value, count in counts.items():
        known = facts.class_words(names[value]) if value in names else None
        if known is None and table.by_index and value in names and len(names) == size:
            known = facts.label_words(facts.labels[value])
        if known is None:
            said = facts.no_class(str(names.get(value, value)))
            problems.bad("unknown class", f"{place}, {count} pictures: {said}", count)
        else:
            words[value] = known
    return words
