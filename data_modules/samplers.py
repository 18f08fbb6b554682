"""In which order which process sees which rows: the same for every method, and for one process as for many."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
from torch.utils.data import DataLoader
from torch.utils.data.distributed import DistributedSampler

from craft_lightning.text import multiple_choice as mcq
from data_modules.dataset import ItemRow, VqaDataset


def world() -> tuple[int, int]:
    """Number of processes and this one's rank; (1, 0) alone."""
    ready = torch.distributed.is_available() and torch.distributed.is_initialized()
    return (torch.distributed.get_world_size(), torch.distributed.get_rank()) if ready else (1, 0)


def by_image(order: Iterable[int], images: Sequence[int]) -> list[int]:
    """Rows in their ``order``, but all that ask about an image (``images`` names each row's) where its first stands."""
    rows: dict[int, list[int]] = {}
    for row in order:
        rows.setdefault(images[row], []).append(row)
    return [row for asked in rows.values() for row in asked]


class StoredSampler(DistributedSampler[Any]):
    """Deals stored items out to the processes in turn, a batch of ``rows`` each, those that ask about one image
    together. All take the same number, so that they reach every collective together; what fills up the last round is
    marked as a repetition (:data:`.dataset.Draw`), which does not count."""

    def __init__(self, dataset: VqaDataset, rows: int) -> None:
        processes, rank = world()
        super().__init__(dataset, num_replicas=processes, rank=rank, shuffle=False)
        self.rows = rows

    def __iter__(self) -> Iterator[int]:
        data: Any = self.dataset
        order, dealt = by_image(range(len(data)), [item.image for item in data.items]), 0
        while dealt < self.num_samples:
            rows = min(self.rows, self.num_samples - dealt)
            start = dealt * self.num_replicas + self.rank * rows
            for place in range(start, start + rows):
                yield order[place] if place < len(order) else -1 - order[place % len(order)]
            dealt += rows


class EpochSampler(DistributedSampler[Any]):
    """A new permutation each epoch from (seed, epoch) alone: the same for every method, and again after a resume; with
    ``grouped``, rows that ask about one image follow each other in it.

    It yields (epoch, index), so that the items redraw their options without shared state. Step s is rows
    ``[s * B, (s + 1) * B)`` of the permutation whatever the number of processes, each of which has an equal share of
    them. The incomplete last batch is dropped; no row is repeated. Lightning would wrap a sampler that is no
    ``DistributedSampler``.

    Attributes:
        batch_size: rows of one step over all processes. share: those of this one. batches: steps of an epoch. taken:
            those that the trainer takes. done: those of the present epoch that are not handed out again.
    """

    def __init__(self, dataset: VqaDataset, batch_size: int, seed: int, grouped: bool) -> None:
        processes, rank = world()
        super().__init__(dataset, num_replicas=processes, rank=rank, shuffle=True, seed=seed, drop_last=True)
        self.batch_size, self.share, self.grouped = batch_size, batch_size // processes, grouped
        self.done, self.counting = 0, False
        self.batches = self.taken = len(dataset) // batch_size

    def __len__(self) -> int:
        return self.batches * self.share

    def continue_from(self, epoch: int, done: int) -> None:
        """Go on after ``done`` steps of an epoch; from now on they are counted here and :meth:`set_epoch` is void, for
        the trainer of a run that ended at its last step, in the middle of an epoch, counts that as a whole one."""
        self.epoch, self.done = (epoch, done) if done < self.taken else (epoch + 1, 0)
        self.counting = True

    def set_epoch(self, epoch: int) -> None:
        """Begin an epoch."""
        if not self.counting:
            self.epoch, self.done = epoch, 0

    def __iter__(self) -> Iterator[tuple[int, int]]:
        data: Any = self.dataset
        epoch, done = self.epoch, self.done
        order = mcq.permutation(len(data), "order", self.seed, epoch)
        if self.grouped:
            order = by_image(order, [item.image for item in data.items])
        for step in range(done, self.batches):
            start = step * self.batch_size + self.rank * self.share
            yield from ((epoch, index) for index in order[start : start + self.share])


class TrainLoader(DataLoader[ItemRow]):
    """A loader that continues in the middle of an epoch; Lightning stores its state in every checkpoint. A process's
    share of a step is handed out in ``parts`` (gradient accumulation)."""

    _served = (0, 0)

    def __init__(self, *args: Any, parts: int = 1, **options: Any) -> None:
        super().__init__(*args, **options)
        self._parts = parts

    def __len__(self) -> int:
        return super().__len__() * self._parts

    def __iter__(self) -> Any:
        # A generator: the epoch is read when the first batch is asked for, not when the iterator is made.
        sampler: Any = self.sampler
        epoch, done = sampler.epoch, sampler.done
        for share in super().__iter__():
            *early, last = [share] if self._parts == 1 else share.split(self._parts)
            yield from early
            done += 1
            self._served = (epoch, done)
            if sampler.counting:
                sampler.continue_from(epoch, done)
            yield last

    def state_dict(self) -> dict[str, int]:
        """Epoch and number of its steps that were handed out whole: the same for any number of processes and parts."""
        return {"epoch": self._served[0], "batches": self._served[1]}

    def load_state_dict(self, state: dict[str, int]) -> None:
        """Continue after the step at which the state was taken."""
        sampler: Any = self.sampler
        sampler.continue_from(state["epoch"], state["batches"])
        self._served = (sampler.epoch, sampler.done)
