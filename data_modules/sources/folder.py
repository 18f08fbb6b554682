"""Pictures and questions on disk: the authors' own files, class folders, or JSONL.

Known datasets are recognised as their authors hand them out, unpacked or as one zip archive (``data_modules/NAME.py``).
Labelled images: ``ROOT/{train,test[,val]}/CLASS/*.jpg``, or ``ROOT/CLASS/*.jpg`` alone; folders below a class belong to
it, folders and files whose names begin with a dot and links to folders are passed over. Questions:
``ROOT/{train,test[,val]}.jsonl`` with picture paths relative to ROOT, or one ``FILE.jsonl``. Where a split is missing
it is cut from what is there (:mod:`data_modules.sources.cut`).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from craft_lightning.errors import CraftError, nearest
from data_modules.facts import DatasetFacts, Kind
from data_modules.sources.classes import class_folders
from data_modules.sources.found import SPLIT_NAMES, Asked, Found, Splits
from data_modules.sources.questions import read_jsonl
from data_modules.sources.split import Problems, SplitName
from data_modules.sources.tree import Tree, open_tree


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


def folder_kind(root: Path) -> Kind:
    """Whether a user's own folder holds class folders or question files.

    Raises:
        CraftError: neither.
    """
    if _has_questions(root):
        return "question"
    if root.is_file() or any(p.is_dir() and not p.name.startswith(".") for p in root.iterdir()):
        return "classification"
    raise _empty(root)


def open_folder(facts: DatasetFacts, root: Path, problems: Problems) -> Found:
    """The dataset at a place on disk.

    Args:
        facts: of the dataset that is wanted. root: folder, JSONL file or zip archive. problems: what happens to bad
            inputs.

    Raises:
        CraftError: nothing usable there, or a dataset of another kind.
    """
    if _has_questions(root):
        found = _question_files(facts, root, problems)
    else:
        tree = open_tree(root)
        own = facts.layout(tree, problems) if facts.layout else None
        found = own or _class_folders(facts, tree, problems)
    kind = "classification" if found.layout == "class folders" else "question"
    if kind != facts.kind and not found.published:
        hint = "class folders" if kind == "classification" else "question files"
        raise CraftError(f"{root} holds {hint}, but {facts.title} is a {facts.kind} set")
    return found


def _class_folders(facts: DatasetFacts, tree: Tree, problems: Problems) -> Found:
    found = class_folders(facts, tree, problems)
    if found is None:
        raise _empty(tree.root)
    return found


def _empty(root: Path) -> CraftError:
    return CraftError(f"{root} is empty: no class folders (train/CLASS/*.jpg or CLASS/*.jpg) and no train.jsonl")


def _has_questions(root: Path) -> bool:
    return root.suffix == ".jsonl" if root.is_file() else any(root.glob("*.jsonl"))


def _question_files(facts: DatasetFacts, root: Path, problems: Problems) -> Found:
    base = root if root.is_dir() else root.parent
    splits: Splits = {
        split: partial(_read, facts.name, file, base, problems) for split, file in _split_files(root).items()
    }
    return Found(str(root), "question files", splits)


def _read(dataset: str, file: Path, base: Path, problems: Problems) -> list[Asked]:
    return list(read_jsonl(file, base, f"{dataset}/{file.stem}", problems))


def _split_files(root: Path) -> dict[SplitName | None, Path]:
    """The question file of each split; ``{None: root}`` if root is a file itself."""
    if root.is_file():
        return {None: root}
    found: dict[SplitName | None, Path] = {}
    for split, names in SPLIT_NAMES.items():
        files = [root / f"{name}.jsonl" for name in names]
        found |= {split: file for file in files if file.is_file()}  # noqa: B035  # at most one, or the last
    if not found:
        have = ", ".join(sorted(p.name for p in root.glob("*.jsonl")))
        raise CraftError(f"{root} has no train.jsonl or test.jsonl (it has {have}); or give one file as --data.root")
    return found
