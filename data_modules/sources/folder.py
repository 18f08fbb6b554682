"""Pictures and questions on disk.

Labelled images: ``ROOT/{train,test[,val]}/CLASS/*.jpg``, or ``ROOT/CLASS/*.jpg`` alone; folders below a class belong
to it, folders and files whose names begin with a dot and links to folders are passed over. Questions:
``ROOT/{train,test[,val]}.jsonl`` with picture paths relative to ROOT, or one ``FILE.jsonl``. Where a split is missing
it is cut from what is there by a hash of the picture's path, so it is the same on every machine and for every seed
(shares are rounded, and at least one of four or more pictures):

* classes without splits: of each class 20 % test, 10 % validation, the rest training;
* training without validation: 10 % of the training pictures of each class (questions: 10 % of the pictures, with all
  their questions, so that no validation picture is trained on).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from craft_lightning import mcq
from craft_lightning.errors import CraftError, nearest
from craft_lightning.models.pixels import read_image
from data_modules.facts import DatasetFacts, Kind
from data_modules.reader import Reader
from data_modules.sources.images import SUFFIXES, FileImages, check_header, read_square
from data_modules.sources.jsonl import read_questions
from data_modules.sources.split import Item, Problems, Source, Split, SplitName

CACHE_BYTES = 1 << 30
"""A split whose pictures need more memory than this is read picture by picture."""

VAL_SHARE, TEST_SHARE = 0.1, 0.2

SPLIT_NAMES: dict[SplitName, tuple[str, ...]] = {
    "train": ("train", "training"),
    "val": ("val", "valid", "validation"),
    "test": ("test", "testing"),
}


@dataclass(frozen=True)
class Row:
    """An item on disk before its picture is read: ``item.picture`` is not set yet."""

    path: Path
    item: Item


def check_root(root: str | None, dataset: str) -> Path:
    """The folder (or JSONL file) to read.

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
    """Whether a folder holds class folders or question files.

    Raises:
        CraftError: neither.
    """
    if root.is_file() or any(root.glob("*.jsonl")):
        return "question"
    if any(_folders(root)):
        return "classification"
    raise CraftError(f"{root} is empty: no class folders (train/CLASS/*.jpg or CLASS/*.jpg) and no train.jsonl")


class FolderSource(Source):
    """A dataset on disk.

    Args:
        facts: of the dataset (kind, wording, label list). reader: what the backbone needs.
        root: folder or JSONL file. sizes: largest number of items of each split, None for all.
        holdout: share of the labels kept out of training. problems: what happens to bad inputs.

    Raises:
        CraftError: nothing usable in the folder, or the first bad input (see :class:`Problems`).
    """

    def __init__(
        self,
        facts: DatasetFacts,
        reader: Reader,
        root: Path,
        sizes: dict[SplitName, int | None],
        holdout: float,
        problems: Problems,
    ) -> None:
        self.dataset, self.reader, self.root, self.sizes, self.problems = facts, reader, root, sizes, problems
        found = folder_kind(root)
        if found != facts.kind:
            hint = "class folders" if found == "classification" else "question files"
            raise CraftError(f"{root} holds {hint}, but {facts.title} is a {facts.kind} set")
        self._rows = self._questions() if found == "question" else self._classes(holdout)
        if not any(self._rows.values()):
            raise CraftError(f"{root}: no usable picture")

    def facts(self) -> dict[str, Any]:
        return {"root": str(self.root), "side": self.reader.side, "data_hash": self._data_hash()}

    def split(self, name: SplitName) -> Split:
        rows = self._rows[name]
        cap = self.sizes[name]
        if cap is not None and len(rows) > cap:
            chosen = sorted(mcq.permutation(len(rows), "cap", self.dataset.name, name)[:cap])
            rows = [rows[i] for i in chosen]
        paths = list(dict.fromkeys(row.path for row in rows))
        images, index = self._pictures(paths)
        items = [replace(row.item, picture=index[row.path]) for row in rows if row.path in index]
        if self.dataset.kind == "question":
            items = [replace(item, label_id=item.picture) for item in items]
        return Split(tuple(items), images)

    def _pictures(self, paths: list[Path]) -> tuple[Tensor | FileImages, dict[Path, int]]:
        side = self.reader.side
        lazy = len(paths) * 3 * side**2 > CACHE_BYTES
        # Where bad pictures are left out, each is decoded now: which rows a batch holds is settled after this.
        check: Callable[[Path], object] = read_image if self.problems.on_bad == "skip" else check_header
        read: list[Tensor] = []
        good: list[Path] = []
        for path in paths:
            try:
                if lazy:
                    check(path)
                else:
                    read.append(read_square(path, side, self.reader.aspect))
            except CraftError as e:
                self.problems.bad("broken picture", str(e))
                continue
            good.append(path)
        empty = torch.empty(0, 3, self.reader.side, self.reader.side, dtype=torch.uint8)
        images = (
            FileImages(good, self.reader.side, self.reader.aspect) if lazy else (torch.stack(read) if read else empty)
        )
        return images, {path: i for i, path in enumerate(good)}

    def _data_hash(self) -> str:
        digest = hashlib.sha256()
        for name, rows in self._rows.items():
            for row in rows:
                digest.update(f"{name}\0{row.item.key}\0{row.item.answer}\0{row.path.stat().st_size}\n".encode())
        return digest.hexdigest()[:12]

    # class folders

    def _classes(self, holdout: float) -> dict[SplitName, list[Row]]:
        splits = _split_folders(self.root)
        found = {name: self._class_files(folder) for name, folder in splits.items()}
        self.class_names = self._order({words for files in found.values() for words in files})
        self.held_out = mcq.hold_out(self.class_names, holdout, self.dataset.name)
        rows: dict[SplitName, list[Row]] = {"train": [], "val": [], "test": []}
        for split, files in found.items():
            for words, paths in files.items():
                for name, chosen in _divide(split, paths, self.root, "val" in splits).items():
                    if name == "test" or self.class_names.index(words) not in self.held_out:
                        rows[name] += [self._labelled(path, words) for path in chosen]
        if rows["train"]:
            # A class that only the test pictures show is unseen, too.
            self.held_out = frozenset(range(len(self.class_names))) - {row.item.label for row in rows["train"]}
            rows["val"] = [row for row in rows["val"] if row.item.label not in self.held_out]
        return rows

    def _order(self, present: Iterable[str]) -> tuple[str, ...]:
        official = [self.dataset.class_words(label) or label for label in self.dataset.labels]
        rank = {words: i for i, words in enumerate(official)}
        return tuple(sorted(present, key=lambda words: (rank.get(words, len(rank)), words)))

    def _class_files(self, folder: Path) -> dict[str, list[Path]]:
        classes: dict[str, list[Path]] = {}
        origin: dict[str, Path] = {}
        for sub in _folders(folder):
            words = self.dataset.class_words(sub.name)
            files = _pictures_below(sub)
            if words is None:
                close = nearest(sub.name, self.dataset.labels)
                hint = f"; did you mean {close!r}?" if close else ""
                self.problems.bad("unknown class", f"{sub}: {self.dataset.title} has no class {sub.name!r}{hint}")
            elif words in origin:
                self.problems.bad("label twice", f"{sub}: label {words!r} twice, also in {origin[words]}")
            elif not files:
                self.problems.bad("class without pictures", f"{sub}: class {words!r} has no picture")
            else:
                classes[words], origin[words] = files, sub
        return classes

    def _labelled(self, path: Path, words: str) -> Row:
        label = self.class_names.index(words)
        key = f"{self.dataset.name}/{path.relative_to(self.root).as_posix()}"
        caption = self.dataset.caption(words)
        return Row(path, Item(key, -1, self.dataset.query, words, label, caption, label=label))

    # question files

    def _questions(self) -> dict[SplitName, list[Row]]:
        base = self.root if self.root.is_dir() else self.root.parent
        letters = len(self.reader.builder.letters)
        files = _split_files(self.root)
        rows: dict[SplitName, list[Row]] = {"train": [], "val": [], "test": []}
        for split, file in files.items():
            read = [
                Row(path, item) for path, item in read_questions(file, base, self.dataset.name, letters, self.problems)
            ]
            paths = list(dict.fromkeys(row.path for row in read))
            for name, chosen in _divide(split, paths, base, "val" in files).items():
                keep = set(chosen)
                rows[name] += [row for row in read if row.path in keep]
        return rows


def _folders(folder: Path) -> list[Path]:
    return sorted(p for p in folder.iterdir() if p.is_dir() and not p.name.startswith("."))


def _pictures_below(folder: Path) -> list[Path]:
    """A class's picture files, at any depth: its own first, then those of each folder in it, by name."""
    shown = [p for p in folder.iterdir() if not p.name.startswith(".")]
    files = sorted(p for p in shown if p.suffix.lower() in SUFFIXES and p.is_file())
    for sub in sorted(p for p in shown if p.is_dir() and not p.is_symlink()):
        files += _pictures_below(sub)
    return files


def _split_folders(root: Path) -> dict[SplitName | None, Path]:
    """The folder of each split; ``{None: root}`` if there are none."""
    found: dict[SplitName | None, Path] = {
        split: root / name for split, names in SPLIT_NAMES.items() for name in names if (root / name).is_dir()
    }
    return found or {None: root}


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


def _divide(split: SplitName | None, paths: list[Path], base: Path, has_val: bool) -> dict[SplitName, list[Path]]:
    """Cut the missing splits from a list of pictures (see the top of this file)."""
    if split is not None and (split != "train" or has_val):
        return {split: paths}
    order = sorted(paths, key=lambda p: hashlib.sha256(_relative(p, base).encode()).digest())
    tests = _share(len(order), TEST_SHARE) if split is None else 0
    vals = _share(len(order), VAL_SHARE)
    parts: dict[SplitName, list[Path]] = {"val": order[tests : tests + vals], "train": order[tests + vals :]}
    if split is None:
        parts["test"] = order[:tests]
    return {name: sorted(part) for name, part in parts.items()}


def _share(count: int, share: float) -> int:
    """A rounded share, at least one of four or more."""
    return max(int(share * count + 0.5), 1 if count >= 4 else 0)


def _relative(path: Path, base: Path) -> str:
    return path.relative_to(base).as_posix() if path.is_relative_to(base) else path.as_posix()
