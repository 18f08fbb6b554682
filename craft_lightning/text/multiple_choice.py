"""Labels become lettered options: which distractors, in which order, and the stored test items.

Everything here is a pure function. Randomness is a hash of words (dataset, split, key, epoch, seed), so a stored item
is the same in every process, on every machine, for every method and every seed of a run.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from craft_lightning.io import write_text
from craft_lightning.text.prompts import LETTERS as LETTERS
from craft_lightning.types import VqaExample

OPTIONS = 4
"""Options of a question made from a class label (the paper, following FOCI)."""


def words(count: int, *seed: object) -> NDArray[np.uint64]:
    """``[count]`` 64-bit words that depend on nothing but ``seed``."""
    digest = hashlib.shake_256("\x1f".join(map(str, seed)).encode()).digest(8 * count)
    return np.frombuffer(digest, dtype="<u8")


def permutation(n: int, *seed: object) -> list[int]:
    """A permutation of 0..n-1 that depends on nothing but ``seed``."""
    return np.argsort(words(n, *seed), kind="stable").tolist() if n else []


def pick(n: int, *seed: object) -> int:
    """A number in 0..n-1 that depends on nothing but ``seed``."""
    return int(words(1, *seed)[0] % np.uint64(n))


def hold_out(labels: Sequence[str], share: float, dataset: str) -> frozenset[int]:
    """Indices of the ``round(share * C)`` labels that adaptation never sees in any form (section 4.1); at least two
    stay. The choice depends on the dataset's name and on the label texts only, so a run's seed changes nothing and the
    drawn and the real images of a benchmark hold out the same labels."""
    count = min(int(share * len(labels) + 0.5), max(len(labels) - 2, 0))
    order = sorted(range(len(labels)), key=lambda i: int(words(1, "holdout", dataset, labels[i])[0]))
    return frozenset(order[:count])


def nearest_labels(table: NDArray[np.float64]) -> list[list[int]]:
    """For each row of ``[C, A]`` attributes the other rows, nearest first; ties go to the lower index."""
    distance = np.linalg.norm(table[:, None, :] - table[None, :, :], axis=-1).round(9)
    np.fill_diagonal(distance, -1.0)
    return [row[1:].tolist() for row in np.argsort(distance, axis=1, kind="stable")]


def random_distractors(right: int, pool: Sequence[int], count: int, *seed: object) -> list[int]:
    """At most ``count`` members of ``pool`` other than ``right``."""
    others = [label for label in pool if label != right]
    return [others[i] for i in permutation(len(others), *seed)[:count]]


def nearest_distractors(right: int, pool: Iterable[int], count: int, neighbours: Sequence[Sequence[int]]) -> list[int]:
    """The ``count`` members of ``pool`` that look most like ``right``, nearest first."""
    allowed = set(pool)
    return [label for label in neighbours[right] if label in allowed and label != right][:count]


def balanced_slots(counts: Sequence[int], *seed: object) -> list[int]:
    """The position of the right option for each stored item, by their numbers of options (0 for open questions, whose
    slot is 0), balanced over the letters: items with the same number take the positions in turn, each block of
    ``count`` items in its own random order by ``seed`` (dataset and split). The letters are then equally frequent, tell
    nothing about the label, and do not change when a split grows."""
    seen: dict[int, int] = {}
    slots = []
    for count in counts:
        position = seen.get(count, 0)
        seen[count] = position + 1
        block, place = divmod(position, max(count, 1))
        slots.append(permutation(count, *seed, count, block)[place] if count else 0)
    return slots


def place(right: str, wrong: Sequence[str], slot: int) -> tuple[str, ...]:
    """Option texts with the right one at ``slot``."""
    return (*wrong[:slot], right, *wrong[slot:])


def item_hash(example: VqaExample) -> str:
    """Twelve hexadecimal digits of an item as asked: key, question, options in order, the scored answer, and a
    directive other than the usual one."""
    asked = [example.key, example.question, list(example.options), example.answer]
    asked += [example.meta["directive"]] if "directive" in example.meta else []
    text = json.dumps(asked, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def items_hash(examples: Iterable[VqaExample]) -> str:
    """One hash of a whole stored split."""
    return hashlib.sha256("".join(item_hash(e) for e in examples).encode()).hexdigest()[:12]


def write_items(path: Path, examples: Iterable[VqaExample]) -> None:
    """Store items as JSON lines: key, question, options, answer, seen, hash (written aside, then renamed)."""
    lines = []
    for e in examples:
        row = {"key": e.key, "question": e.question, "options": list(e.options), "answer": e.answer, "seen": e.seen}
        lines.append(json.dumps({**row, "hash": item_hash(e)}, ensure_ascii=False))
    write_text(path, "".join(line + "\n" for line in lines))
