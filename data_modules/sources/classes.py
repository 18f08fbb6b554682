"""Class folders: ``{train,test[,val]}/CLASS/*.jpg``, or ``CLASS/*.jpg`` alone, at any depth, in a zip archive, too."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import PurePosixPath

from craft_lightning.errors import CraftError
from craft_lightning.models.picture_files import escaped, gathered, is_picture, no_pictures, told
from data_modules.datasets.facts import DatasetFacts
from data_modules.sources.found import Found, Labelled, Splits, split_named
from data_modules.sources.split import Problems, SplitName
from data_modules.sources.tree import Tree, join

log = logging.getLogger("craft_lightning.data")

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
        twice = [name for split, name in named if [other for other, _ in named].count(split) > 1]
        raise CraftError(f"{tree.place(top)} holds a split twice: {', '.join(twice)}; merge them")
    inner = {split: tree.top(folder) for split, folder in found.items()}
    if all(inner[split] != folder for split, folder in found.items()):
        found = inner
    at = found or {None: top}
    problems.leave_out_all(_left_out(tree, top, sorted(at.values())))
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


def _left_out(tree: Tree, top: str, homes: Sequence[str]) -> Counter[str]:
    """What is in no class folder, by reason.

    Args:
        tree: the files. top: folder that the data start from. homes: folders that class folders are in.
    """
    others, strays = no_pictures(tree.names), []
    for name in tree.pictures():
        within = [name[len(home) + 1 :] if home else name for home in homes if not home or name.startswith(f"{home}/")]
        if within and "/" not in within[0]:
            strays.append("picture beside the class folders")
        elif not within:
            strays.append(_outside(name, top))
    if others.total() > sum(1 for _ in tree.pictures()):
        log.warning("%s: more files are left out for their endings than are pictures: %s", tree.root, told(others))
    return gathered(strays, "picture in other folders") + others


def _outside(name: str, top: str) -> str:
    """Why a picture that is in no split's folder is left out."""
    if top and not name.startswith(f"{top}/"):
        return f"picture outside of {escaped(top)}"
    folder, _, below = name[len(top) + 1 if top else 0 :].partition("/")
    return f"picture in {escaped(folder)}, which is no split" if below else "picture beside the splits"


def _labelled(facts: DatasetFacts, tree: Tree, top: str, folder: str, problems: Problems) -> list[Labelled]:
    entries: list[Labelled] = []
    origin: dict[str, str] = {}
    for name in tree.children(folder):
        sub = join(folder, name)
        place, words = tree.place(sub), facts.class_words(name)
        if _undecoded(name):
            inside = sum(map(is_picture, tree.below(sub)))
            problems.bad("file name", f"{tree.root}: {escaped(sub)} is no name in UTF-8; rename it", max(inside, 1))
            continue
        there = tree.below(sub)
        files = [f for f in there if is_picture(f)]
        for strange in filter(_undecoded, files):
            problems.bad("file name", f"{tree.root}: {escaped(strange)} is no name in UTF-8; rename it")
        files = [f for f in files if not _undecoded(f)]
        if words is None:
            problems.bad("unknown class", f"{place}: {facts.no_class(name)}", max(len(files), 1))
        elif len({split_named(inner) for inner in tree.children(sub)} - {None}) > 1:
            raise CraftError(f"{place} is no class, it holds splits ({', '.join(tree.children(sub))}); {_SPLITS}")
        elif not words:
            problems.bad("class without a name", f"{place}: no class has that name", max(len(files), 1))
        elif words in origin:
            problems.bad("label twice", f"{place}: label {words!r} twice, also in {origin[words]}", max(len(files), 1))
        elif not files:
            held = f", but {told(no_pictures(there))}" if there else ""
            problems.bad("class without pictures", f"{place}: class {words!r} has no picture{held}")
        else:
            origin[words] = place
            entries += [Labelled(tree.picture(f, f[len(top) :].lstrip("/")), words) for f in files]
    return entries


def _undecoded(name: str) -> bool:
    """Bytes that are no UTF-8 stand in a name as surrogates, which keys, hashes and result files cannot hold."""
    return escaped(name) != name
