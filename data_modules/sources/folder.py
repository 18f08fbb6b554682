"""Pictures and questions on disk: the authors' own files, class folders, or JSONL, in a folder or a zip archive.

Known datasets are recognised as their authors hand them out, unpacked or as one zip archive
(``data_modules/datasets/NAME.py``).
Labelled images: ``ROOT/{train,test[,val]}/CLASS/*.jpg``, or ``ROOT/CLASS/*.jpg`` alone; folders below a class belong to
it; names that begin with a dot, links to folders and whatever else is not read are counted. Questions:
``ROOT/{train,test[,val]}.jsonl``, or one ``FILE.jsonl`` of any name, with picture paths relative to its folder. All
that may be in a folder that is alone in ROOT, or in one that is alone in that. Where a split is missing it is cut from
what is there (:mod:`.cut`).
"""

from __future__ import annotations

import posixpath
from dataclasses import dataclass
from functools import partial
from pathlib import Path, PurePosixPath

from craft_lightning.errors import CraftError, nearest
from craft_lightning.models.picture_files import no_pictures, told
from data_modules.datasets.facts import DatasetFacts, Kind
from data_modules.sources.classes import class_folders
from data_modules.sources.found import Asked, Found, Splits, split_named
from data_modules.sources.jsonl import read_jsonl
from data_modules.sources.split import Problems, SplitName
from data_modules.sources.tree import Tree, open_tree

_TABLES = (".json", ".csv", ".tsv", ".parquet", ".arrow", ".xlsx")


def check_root(root: str | None, dataset: str) -> Path:
    """The folder (or JSONL file, or zip archive) to read.

    Raises:
        CraftError: none was given, or it does not exist; the message names the nearest one that does.
    """
    if not root:
        raise CraftError(f"source 'folder' of {dataset} needs a folder: --data.root FOLDER")
    path = Path(root).expanduser()
    if path.exists():
        return path
    parent = next(p for p in path.absolute().parents if p.exists())
    close = nearest(path.absolute().relative_to(parent).parts[0], (p.name for p in parent.iterdir()))
    hint = f"did you mean {parent / close}?" if close else f"{parent} has no such entry"
    raise CraftError(f"no folder {root!r} for --data.root; {hint}")


@dataclass(frozen=True)
class Place:
    """What lies at ``--data.root``.

    Attributes:
        root: folder, question file or zip archive. tree: its files. top: the folder in it that the data start from.
        questions: paths of the question files right in there.
    """

    root: Path
    tree: Tree
    top: str
    questions: tuple[str, ...]

    @property
    def kind(self) -> Kind:
        """Whether a user's own folder holds class folders or question files.

        Raises:
            CraftError: neither.
        """
        if not self.questions and not self.tree.children(self.top):
            raise _empty(self)
        return "question" if self.questions else "classification"


def look(root: Path) -> Place:
    """What lies at a place that :func:`check_root` knows.

    Raises:
        CraftError: a file that is neither a question file nor a zip archive.
    """
    tree = open_tree(root)
    top = tree.top()
    return Place(root, tree, top, tuple(tree.questions(top)))


def open_folder(facts: DatasetFacts, place: Place, problems: Problems) -> Found:
    """The dataset at a place on disk.

    Args:
        facts: of the dataset that is wanted. place: where it is. problems: what happens to bad inputs.

    Raises:
        CraftError: nothing usable there, or a dataset of another kind.
    """
    problems.leave_out_all(place.tree.left_out)
    if place.questions:
        found = _question_files(facts, place, problems)
    else:
        own = facts.layout(place.tree, problems) if facts.layout else None
        found = own or _class_folders(facts, place, problems)
    kind = "classification" if found.layout == "class folders" else "question"
    if kind != facts.kind and not found.published:
        hint = "class folders" if kind == "classification" else "question files"
        raise CraftError(f"{place.root} holds {hint}, but {facts.title} is a {facts.kind} set")
    return found


def _class_folders(facts: DatasetFacts, place: Place, problems: Problems) -> Found:
    found = class_folders(facts, place.tree, problems)
    lone = len(place.tree.children(place.top)) == 1
    if found is None or (lone and any(map(_table, place.tree.files(place.top)))):
        raise _empty(place)
    return found


def _table(name: str) -> bool:
    return PurePosixPath(name).suffix.lower() in _TABLES


def _empty(place: Place) -> CraftError:
    have = [PurePosixPath(name).name for name in place.tree.files(place.top)]
    has = f"; it has {', '.join(have[:3])}{', ...' if len(have) > 3 else ''}" if have else ""
    has += f"; left out: {told(place.tree.left_out)}" if place.tree.left_out else ""
    return CraftError(
        f"{place.tree.place(place.top)} holds no class folders (train/CLASS/*.jpg or CLASS/*.jpg) and no train.jsonl "
        f"(one JSON object a line){has}"
    )


def _question_files(facts: DatasetFacts, place: Place, problems: Problems) -> Found:
    files, tree = _split_files(place, problems), place.tree
    problems.leave_out_all(no_pictures(name for name in tree.names if name not in place.questions))
    splits: Splits = {split: partial(_read, facts.name, tree, name, problems) for split, name in files.items()}
    at = tree.place(next(iter(files.values())) if None in files else place.top)
    there = frozenset(posixpath.relpath(name, place.top or ".") for name in tree.pictures())
    return Found(at, "question files", splits, pictures=there)


def _read(dataset: str, tree: Tree, name: str, problems: Problems) -> list[Asked]:
    return list(read_jsonl(tree, name, f"{dataset}/{PurePosixPath(name).stem}", problems))


def _split_files(place: Place, problems: Problems) -> dict[SplitName | None, str]:
    """The question file of each split; a lone file of another name is everything.

    Raises:
        CraftError: no file is a split's, or two are.
    """
    named = [(split_named(PurePosixPath(name).stem), name) for name in place.questions]
    found: dict[SplitName | None, str] = {split: name for split, name in named if split}
    if len(named) == 1 and (not found or (place.root.is_file() and place.questions == (place.root.name,))):
        return {None: place.questions[0]}
    have = ", ".join(PurePosixPath(name).name for name in place.questions)
    where, strange = place.tree.place(place.top), sum(split is None for split, _ in named)
    if not found:
        raise CraftError(f"{where} has no train.jsonl or test.jsonl (it has {have}); or give one file as --data.root")
    if len(found) + strange < len(named):
        raise CraftError(f"{where} holds a split twice: {have}; merge them")
    if strange:
        problems.leave_out("question file of no split", strange)
    return found
