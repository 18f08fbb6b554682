"""Class folders: ``{train,test[,val]}/CLASS/*.jpg``, or ``CLASS/*.jpg`` alone, at any depth, in a zip archive, too."""

from __future__ import annotations

from functools import partial
from pathlib import PurePosixPath

from craft_lightning.errors import CraftError
from craft_lightning.models.pixels import suffixes
from data_modules.facts import DatasetFacts
from data_modules.sources.found import Found, Labelled, Splits, split_named
from data_modules.sources.split import Problems, SplitName
from data_modules.sources.tree import Tree, join

_SPLITS = "name one set of them as --data.root, or put the classes into train/ and test/"


def class_folders(facts: DatasetFacts, tree: Tree, problems: Problems, base: str | None = None) -> Found | None:
    """The dataset of class folders, or None if there is none.

    Args:
        facts: whose classes are looked for. tree: the files. problems: what happens to a strange folder.
        base: the folder that the class folders (or the folders of splits) are in, if that is known.

    Raises:
        CraftError: there are several copies, or splits where classes should be.
    """
    top = _base(facts, tree) if base is None else base
    below = tree.children(top)
    if not below:
        return None
    named = [(split, name) for name in below if (split := split_named(name))]
    found: dict[SplitName | None, str] = {split: join(top, name) for split, name in named}
    if len(found) < len(named):
        raise CraftError(f"{tree.place(top)} holds a split twice: {', '.join(name for _, name in named)}; merge them")
    inner = {split: tree.top(folder) for split, folder in found.items()}
    if all(inner[split] != folder for split, folder in found.items()):
        found = inner
    at = found or {None: top}
    splits: Splits = {split: partial(_labelled, facts, tree, top, folder, problems) for split, folder in at.items()}
    return Found(tree.place(top), "class folders", splits)


def _base(facts: DatasetFacts, tree: Tree) -> str:
    """Where the data start, unless known classes lie deeper."""
    top = tree.top()
    if not facts.labels or any(split_named(name) or facts.class_words(name) for name in tree.children(top)):
        return top
    bases = set()
    for folder in tree.folders:
        at = PurePosixPath(folder)
        if facts.class_words(at.name) is not None:
            above = at.parent.parent if split_named(at.parent.name) else at.parent
            bases.add(above.as_posix().removeprefix("."))
    if len(bases) > 1:
        copies = " and ".join(sorted(bases))
        raise CraftError(f"{tree.root} holds {copies}; name one: --data.root {tree.root / min(bases)}")
    return bases.pop() if bases else top


def _labelled(facts: DatasetFacts, tree: Tree, top: str, folder: str, problems: Problems) -> list[Labelled]:
    entries: list[Labelled] = []
    origin: dict[str, str] = {}
    for name in tree.children(folder):
        sub = join(folder, name)
        place, words = tree.place(sub), facts.class_words(name)
        if _undecoded(name):
            problems.bad("file name", f"{tree.root}: {_escaped(sub)} is no name in UTF-8; rename it")
            continue
        files = [f for f in tree.below(sub) if PurePosixPath(f).suffix.lower() in suffixes()]
        for strange in filter(_undecoded, files):
            problems.bad("file name", f"{tree.root}: {_escaped(strange)} is no name in UTF-8; rename it")
        files = [f for f in files if not _undecoded(f)]
        if words is None:
            problems.bad("unknown class", f"{place}: {facts.no_class(name)}")
        elif len({split_named(inner) for inner in tree.children(sub)} - {None}) > 1:
            raise CraftError(f"{place} is no class, it holds splits ({', '.join(tree.children(sub))}); {_SPLITS}")
        elif not words:
            problems.bad("class without a name", f"{place}: no class has that name")
        elif words in origin:
            problems.bad("label twice", f"{place}: label {words!r} twice, also in {origin[words]}")
        elif not files:
            problems.bad("class without pictures", f"{place}: class {words!r} has no picture")
        else:
            origin[words] = place
            entries += [Labelled(tree.picture(f, f[len(top) :].lstrip("/")), words) for f in files]
    return entries


def _undecoded(name: str) -> bool:
    """Bytes that are no UTF-8 stand in a name as surrogates, which keys, hashes and result files cannot hold."""
    return _escaped(name) != name


def _escaped(name: str) -> str:
    return name.encode(errors="backslashreplace").decode()
