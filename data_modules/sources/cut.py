"""Splits that a dataset lacks, cut by a hash of the picture's name: the same on every machine and for every seed.

Shares are rounded, and at least one of four or more pictures:

* everything in one piece: 20 % test, 10 % validation, the rest training;
* training without validation: 10 % of the training pictures.

Classes are cut one by one. Questions are cut by picture, with all that is asked about it, so that no validation picture
is trained on. Pictures that belong together (shots of one leaf) stay together.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable

from data_modules.sources.split import SplitName

VAL_SHARE, TEST_SHARE = 0.1, 0.2

Group = Callable[[str], str]
"""Name of a picture to the name of what it must not be parted from."""


def owner(split: SplitName, own: Iterable[SplitName | None]) -> SplitName | None:
    """Which of a dataset's own splits holds the pictures of a split.

    Raises:
        KeyError: none does.
    """
    have = set(own)
    if None in have:
        return None
    if split == "val" and "val" not in have:
        split = "train"
    if split not in have:
        raise KeyError(split)
    return split


def divide(split: SplitName | None, names: Iterable[str], has_val: bool, group: Group) -> dict[SplitName, list[str]]:
    """Cut the missing splits from the pictures of one of the dataset's own.

    Args:
        split: the own split, None for everything. names: of its pictures. has_val: there is an own validation split.
        group: see :data:`Group`.
    """
    if split is not None and (split != "train" or has_val):
        return {split: list(names)}
    order = sorted(names, key=lambda name: (hashlib.sha256(group(name).encode()).digest(), name))
    tests = _whole(order, _share(len(order), TEST_SHARE) if split is None else 0, group)
    vals = _whole(order, tests + _share(len(order), VAL_SHARE), group)
    parts: dict[SplitName, list[str]] = {"val": order[tests:vals], "train": order[vals:]}
    if split is None:
        parts["test"] = order[:tests]
    return {name: sorted(part) for name, part in parts.items()}


def _share(count: int, share: float) -> int:
    """A rounded share, at least one of four or more."""
    return max(int(share * count + 0.5), 1 if count >= 4 else 0)


def _whole(order: list[str], end: int, group: Group) -> int:
    """The end moved on to where a group ends."""
    while 0 < end < len(order) and group(order[end - 1]) == group(order[end]):
        end += 1
    return end
