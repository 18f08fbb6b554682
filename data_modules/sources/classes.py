"""Class folders: ``{train,test[,val]}/CLASS/*.jpg``, or ``CLASS/*.jpg`` alone, at any depth, in a zip archive, too."""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import PurePosixPath

from craft_lightning.errors import CraftError
from craft_lightning.models.image_files import escaped, gathered, is_image_file, no_images, told
from data_modules.datasets.facts import DatasetFacts
from data_modules.sources.items import Found, Labelled, Problems, SplitName, Splits, split_named
from data_modules.sources.tree import Tree, join

log = logging.getLogger("craft_lightning.data")

_SPLITS = "name one set of them as --data.root, or put the classes into train/ and test/"


def class_folders(facts: DatasetFacts, tree: Tree, problems: Problems, base: str | None = None) -> Found | None:
    """The dataset of class folders, or None if there is none; ``base``: the folder that they (or the folders of splits)
    are in, if that is known. Raises CraftError: there are several copies, or splits where classes should be."""
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
    problems.skipped += _left_out(tree, top, sorted(at.values()))
    for home in at.values():
        _doubt(facts, tree, home)
    splits: Splits = {split: partial(_labelled, facts, tree, top, folder, problems) for split, folder in at.items()}
    return Found(tree.place(top), "class folders", splits)


def _doubt(facts: DatasetFacts, tree: Tree, home: str) -> None:
    """Say where the folders in a folder may be something else than classes. Raises CraftError: it is likely, for they
    are splits under other names, sets beside each other, or a lone folder with classes and an image beside it."""
    own: dict[str, str] = {}
    below: dict[str, set[str]] = {}
    for image in filter(is_image_file, tree.inside(home)):
        name, *rest = image[len(join(home, "")) :].split("/")
        if len(rest) > 1:
            below.setdefault(name, set()).add(rest[0])
        else:
            own.setdefault(name if rest else "", image)
    for name, inner in below.items():
        splits = sorted(filter(split_named, inner))
        if facts.class_words(name) and splits and (name not in own or len(splits) > 1):
            held = f"it holds splits ({', '.join(splits)})"
            raise CraftError(f"{tree.place(join(home, name))} is no class, {held}; {_SPLITS}")
    if facts.labels:  # folders of these names are classes
        return
    place, names = tree.place(home), tree.children(home)
    if twins := _split_twins(names):
        like = f"{' and '.join(twins)}, which look like splits"
        raise CraftError(f"{place} holds {like}; name them train and test (or val)")
    stray = next((own[name] for name in ("", *names) if name in own), None)
    if len(names) == 1 and stray and len(below.get(names[0], ())) > 1:
        beside = f"an image lies beside its folders ({PurePosixPath(stray).name})"
        raise CraftError(f"{place}: it shows one class, {names[0]!r}, for {beside}; move it away")
    deep = {name: inner for name, inner in below.items() if name not in own}
    named = {name: {i for i in inner if not re.search(r"\d", i)} for name, inner in deep.items()}  # no serial numbers
    shared = sorted(i for i, count in Counter(i for inner in named.values() for i in inner).items() if count > 1)
    if len(shared) > 1:
        sets = " and ".join([name for name, inner in sorted(named.items()) if shared[0] in inner][:2])
        mend = "Name one set of them as --data.root, or put the images of a class into its folder itself"
        held = f"{' and '.join(shared[:2])}, in folders"
        raise CraftError(f"{place}: {sets} both hold {held}: which are the classes? {mend}")
    if any(len(inner) > 1 for inner in named.values()):
        many, first = f"{len(deep)} class{'es' if len(deep) > 1 else ''}", ", ".join(sorted(deep)[:3])
        log.warning("%s: %s with images in inner folders alone: %s; are these the classes?", place, many, first)


def _split_twins(names: Sequence[str]) -> list[str]:
    """Two folders named alike but for the splits in their names, as train2017 and val2017; or none."""
    seen: dict[str, dict[SplitName, str]] = {}
    for name in names:
        parts = re.findall(r"[^\W\d_]+|[\W\d_]+", name.casefold())
        for i, part in enumerate(parts):
            if len(parts) > 1 and (split := split_named(part)):
                rest = re.sub(r"\d", "0", "\0".join([*parts[:i], "", *parts[i + 1 :]]))
                seen.setdefault(rest, {})[split] = name
    return next((list(found.values()) for found in seen.values() if len(found) > 1), [])


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
    """What is in no class folder, by reason; ``homes``: folders that class folders are in."""
    others, images = no_images(tree.names), list(tree.images())
    strays = [why for name in images if (why := _astray(name, top, homes))]
    if others.total() > len(images):
        log.warning("%s: more files are left out for their endings than are images: %s", tree.root, told(others))
    return gathered(strays, "image in other folders") + others


def _astray(name: str, top: str, homes: Sequence[str]) -> str:
    """Why an image is left out; empty if it lies in a class folder."""
    start = next((start for home in homes if name.startswith(start := join(home, ""))), None)
    if start is not None:
        return "" if "/" in name[len(start) :] else "image beside the class folders"
    if not name.startswith(join(top, "")):
        return f"image outside of {escaped(top)}"
    folder, _, below = name[len(join(top, "")) :].partition("/")
    return f"image in {escaped(folder)}, which is no split" if below else "image beside the splits"


def _labelled(facts: DatasetFacts, tree: Tree, top: str, folder: str, problems: Problems) -> list[Labelled]:
    entries: list[Labelled] = []
    origin: dict[str, str] = {}
    for name in tree.children(folder):
        sub = join(folder, name)
        there = sorted(tree.inside(sub), key=lambda file: (file.split("/")[:-1], file))  # its own files come first
        place, words, files = tree.place(sub), facts.class_words(name), list(filter(is_image_file, there))
        strange = [sub] if _undecoded(name) else list(filter(_undecoded, files))
        for odd in strange:
            said = f"{tree.root}: {escaped(odd)} is no name in UTF-8; rename it"
            problems.bad("file name", said, max(len(files), 1) if odd == sub else 1)
        if sub in strange:
            continue
        files = [file for file in files if file not in strange]
        count = max(len(files), 1)
        if words is None:
            problems.bad("unknown class", f"{place}: {facts.no_class(name)}", count)
        elif not words:
            problems.bad("class without a name", f"{place}: no class has that name", count)
        elif words in origin:
            problems.bad("label twice", f"{place}: label {words!r} twice, also in {origin[words]}", count)
        elif not files:
            held = f", but {told(no_images(there))}" if there else ""
            problems.bad("class without images", f"{place}: class {words!r} has no image{held}")
        else:
            origin[words] = place
            entries += [Labelled(tree.image(f, f[len(top) :].lstrip("/")), words) for f in files]
    return entries


def _undecoded(name: str) -> bool:
    """Bytes that are no UTF-8 stand in a name as surrogates, which keys, hashes and result files cannot hold."""
    return escaped(name) != name
