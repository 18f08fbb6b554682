"""The replies of an evaluation as they are stored, and read again: tables compare them item by item."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import torch

from craft_lightning.text.scoring import normalise
from craft_lightning.types import Prediction

T = TypeVar("T")


def to_jsonl(predictions: Iterable[Prediction], items: Mapping[str, str]) -> str:
    """One line a reply, one an item, with the hash of its item: ``items`` holds them by the item's key."""
    lines = []
    for p in predictions:
        said = {"key": p.key, "item": items.get(p.key), "prediction": p.text, "answer": p.answer}
        scored = {"correct": p.correct, "seen": p.seen, "letter_correct": p.letter_correct}
        lines.append(json.dumps(said | scored | {"image": p.image}, ensure_ascii=False) + "\n")
    return "".join(lines)


def count_items(folder: Path) -> dict[str, int]:
    """``all``, ``seen``, ``unseen`` items in ``predictions.jsonl`` (a training's: of its last validation), and
    ``majority``: how many have the most frequent answer; {} without such a file."""
    path = folder / "predictions.jsonl"
    if not path.is_file():
        return {}
    with path.open(encoding="utf-8") as file:
        items = [json.loads(line) for line in file]
    seen = sum(bool(item["seen"]) for item in items)
    majority = max(Counter(normalise(item["answer"]) for item in items).values(), default=0)
    return {"all": len(items), "seen": seen, "unseen": len(items) - seen, "majority": majority}


def everywhere(values: Iterable[T]) -> list[T]:
    """The values of all processes, on each of them."""
    own = list(values)
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return own
    gathered: list[Any] = [None] * torch.distributed.get_world_size()
    torch.distributed.all_gather_object(gathered, own)
    return [value for part in gathered for value in part]
