"""Class folders: ``{train,test[,val]}/CLASS/*.jpg``, or ``CLASS/*.jpg`` alone, at any depth, in a zip archive, too."""

from __future__ import annotations

from functools import partial
from pathlib import PurePosixPath

from craft_lightning.errors import CraftError
from craft_lightning.models.pixels import suffixes
from data_modules.facts import DatasetFacts
from data_modules.sources.found import Found, Labelled, Splits, split_named
from data_modules.sources.split import Problems, SplitName
from data_modules.sources.tree import Tree


def class_folders(facts: DatasetFacts, tree: Tree, problems: Problems, base: str | None = None) -> Found | None:
    """The dataset of class folders, or None if there is none.

    Args:
        facts: whose classes are looked for. tree: the files. problems: what happens to a strange folder.
        base: the folder that the class folders (or the folders of splits) are in, if that is known.

    Raises:
        CraftError: there are several copies.
    """
    top = _base(facts, tree) if base is None else base
    below = _children(tree, top)
    if not below:
        return None
    found: dict[SplitName | None, str] = {s: _join(top, name) for name in below if (s := split_named(name))}
    at = found or {None: top}
    place = str(tree.root / top) if top else str(tree.root)
    splits: Splits = {split: partial(_labelled, facts, tree, top, folder, problems) for split, folder in at.items()}
    return Found(place, "class folders", splits)


def _base(facts: DatasetFacts, tree: Tree) -> str:
    """The root, unless known classes lie deeper."""
    top = _children(tree, "")
    if not facts.labels or any(split_named(name) or facts.class_words(name) for name in top):
        return ""
    bases = set()
    for folder in tree.folders:
        at = PurePosixPath(folder)
        if facts.class_words(at.name) is not None:
            above = at.parent.parent if split_named(at.parent.name) else at.parent
            bases.add(above.as_posix().removeprefix("."))
    if len(bases) > 1:
        copies = " and ".join(sorted(bases))
        raise CraftError(f"{tree.root} holds {copies}; name one: --data.root {tree.root / min(bases)}")
    return bases.pop() if bases else ""


def _labelled(facts: DatasetFacts, tree: Tree, top: str, folder: str, problems: Problems) -> list[Labelled]:
    entries: list[Labelled] = []
    origin: dict[str, str] = {}
    for name in _children(tree, folder):
        sub = _join(folder, name)
        place, words = tree.root / sub, facts.class_words(name)
        if _undecoded(name):
            problems.bad("file name", f"{tree.root}: {_escaped(sub)} is no name in UTF-8; rename it")
            continue
        files = [f for f in tree.below(sub) if PurePosixPath(f).suffix.lower() in suffixes()]
        for strange in filter(_undecoded, files):
            problems.bad("file name", f"{tree.root}: {_escaped(strange)} is no name in UTF-8; rename it")
        files = [f for f in files if not _undecoded(f)]
        if words is None:
            problems.bad("unknown class", f"{place}: {facts.no_class(name)}")
        elif words in origin:
            problems.bad("label twice", f"{place}: label {words!r} twice, also in {origin[words]}")
        elif not files:
            problems.bad("class without pictures", f"{place}: class {words!r} has no picture")
        else:
            origin[words] = str(place)
            entries += [Labelled(tree.picture(f, f[len(top) :].lstrip("/")), words) for f in files]
    return entries


def _children(tree: Tree, folder: str) -> list[str]:
    """Names of the folders in a folder, sorted."""
    start = f"{folder}/" if folder else ""
    return sorted(f[len(start) :] for f in tree.folders if f.startswith(start) and "/" not in f[len(start) :])


def _join(folder: str, name: str) -> str:
    return f"{folder}/{name}" if folder else name


def _undecoded(name: str) -> bool:
    """Bytes that are no UTF-8 stand in a name as surrogates, which keys, hashes and result files cannot hold."""
    return _escaped(name) != name


def _escaped(name: str) -> str:
    return name.encode(errors="backslashreplace").decode()
