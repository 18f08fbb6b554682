"""Images read by processes of their own and handed out in order: decoding a file takes longer than encoding it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Generic, TypeVar

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from craft_lightning.errors import CraftError

T = TypeVar("T")
FEW = 64
"""Fewer images are read before other processes have started."""
MOST = 8
AHEAD = 64
"""Images that are read before they are asked for: as many as the batch in which the others are encoded."""


class _Reading(Dataset[Any], Generic[T]):
    """What ``read`` makes of an item, or the error that it raised."""

    def __init__(self, read: Callable[[T], Tensor], items: Sequence[T]) -> None:
        self.read, self.items = read, items

    def __len__(self) -> int:
        return len(self.items)

    def __getitem__(self, index: int) -> np.ndarray | CraftError:
        try:
            # Arrays go through a pipe; tensors would lie in shared memory, of which a container has 64 MB.
            return self.read(self.items[index]).numpy()
        except CraftError as error:
            return error


def usual_workers(images: int) -> int:
    """Processes that read so many images unless a number is given: one for each thread that this process computes with,
    at most :data:`MOST`; none for a :data:`FEW` images, or where there is one thread."""
    threads = min(torch.get_num_threads(), MOST)
    return threads if threads > 1 and images >= FEW else 0


def in_order(
    read: Callable[[T], Tensor], items: Sequence[T], workers: int | None = None
) -> Iterator[Tensor | CraftError]:
    """What ``read`` makes of each item, in their order, or why it cannot.

    Args:
        read: may be pickled where processes are not forked. items: what it is given.
        workers: processes; 0 reads in this one, when an item is asked for. None: see :func:`usual_workers`.

    Raises:
        RuntimeError: a process was lost. Torch raises it wherever this process is at that moment; ``__main__`` makes
            one line of it.
    """
    workers = min(usual_workers(len(items)) if workers is None else workers, len(items))
    loader = DataLoader(
        _Reading(read, items),
        batch_size=None,
        num_workers=workers,
        prefetch_factor=math.ceil(AHEAD / workers) if workers else None,
        collate_fn=_as_it_is,
        generator=torch.Generator(),  # the run's own draws nothing for this
    )
    for found in loader:
        yield found if isinstance(found, CraftError) else torch.from_numpy(found)


def _as_it_is(found: Any) -> Any:
    return found
