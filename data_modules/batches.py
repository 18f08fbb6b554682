"""Items become examples, examples become batches, and every method sees the same ones in the same order."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torch.utils.data.distributed import DistributedSampler

from craft_lightning import mcq
from craft_lightning.prompts import Encoded, PromptBuilder, collate_text
from craft_lightning.scoring import MAX_NEW_TOKENS, normalise
from craft_lightning.types import VqaBatch, VqaExample
from data_modules.sources.images import to_picture, to_pixels
from data_modules.sources.split import Item, Source, Split, SplitName

Distractors = Literal["nearest", "random"]
Draw = int | tuple[int, int]
"""What a sampler asks for: an index, or (epoch, index) for a training item; ``-1 - index`` stands for a stored item
that another process counts."""


_BLANK = Image.new("RGB", (1, 1))


@dataclass(frozen=True)
class Row:
    """One example ready to be collated: ``example`` without its picture, which is ``pixels`` ``[3, S, S]`` uint8 and
    known in the run as ``picture``."""

    example: VqaExample
    picture: str
    pixels: Tensor
    text: Encoded
    caption_id: int
    repeat: bool


class VqaDataset(Dataset[Row]):
    """A split as examples with lettered options.

    Validation and test items are stored: options and order depend on (dataset, key) alone. Training items redraw
    distractors, order and caption from (run seed, epoch, key).

    Args:
        split: items and pictures. name: of the split. source: class names and their likeness.
        dataset: name of the dataset, for the hashes. builder: writes prompts.
        distractors: how stored items get their wrong options. seed: of the run.
        captions: sentence to row of the data module's caption list; empty for stored splits.
    """

    def __init__(
        self,
        split: Split,
        name: SplitName,
        source: Source,
        dataset: str,
        builder: PromptBuilder,
        distractors: Distractors,
        seed: int,
        captions: dict[str, int],
    ) -> None:
        self.items, self.images = split.items, split.images
        self.name, self.source, self.dataset, self.builder = name, source, dataset, builder
        self.distractors, self.seed, self.captions = distractors, seed, captions
        self.training = name == "train"
        self.pool = source.pool(name)
        counts = [
            len(item.options) or (min(mcq.OPTIONS, len(self.pool)) if item.label >= 0 else 0) for item in self.items
        ]
        self.slots = [] if self.training else mcq.balanced_slots(counts, dataset, name)

    def __len__(self) -> int:
        return len(self.items)

    @functools.cached_property
    def too_long(self) -> int:
        """Items whose answer has more tokens than are decoded, as it stands and normalised: no reply can be right."""
        answers = [item.answer for item in self.items if item.label < 0 and not item.options]
        return sum(self.builder.tokens(a) > MAX_NEW_TOKENS < self.builder.tokens(normalise(a)) for a in answers)

    def __getitem__(self, draw: Draw) -> Row:
        epoch, index = draw if isinstance(draw, tuple) else (0, draw)
        index, repeat = max(index, -1 - index), index < 0
        example = self.asked(index, epoch)
        said = example.captions
        drawn = said[mcq.pick(len(said), self.seed, epoch, example.key, "caption")]
        picture = self.items[index].picture
        text, caption_id = self.builder.encode(example), self.captions.get(drawn, -1)
        return Row(example, f"{self.name}/{picture}", self.images[picture], text, caption_id, repeat)

    def example(self, index: int, epoch: int = 0) -> VqaExample:
        """The example as asked in an epoch (stored items are the same in every epoch)."""
        return replace(self.asked(index, epoch), image=to_picture(self.images[self.items[index].picture]))

    def asked(self, index: int, epoch: int = 0) -> VqaExample:
        """:meth:`example` with a blank picture: nothing is read or decoded."""
        item = self.items[index]
        options, slot = self._options(item, index, epoch)
        answer = mcq.LETTERS[slot] if options else item.answer
        return VqaExample(
            key=item.key,
            image=_BLANK,
            question=item.question,
            answer=answer,
            options=options,
            label_id=item.label_id,
            seen=item.label not in self.source.held_out,
            captions=item.captions,
            meta={"facts": item.facts, "answer_text": item.answer},
        )

    def items_hash(self) -> str:
        """SHA-256 of everything that can be asked and said of the pictures, in order."""
        digest = hashlib.sha256(repr([self.source.class_names[label] for label in self.pool]).encode())
        for item in self.items:
            asked = (item.key, item.picture, item.question, item.answer, item.options, item.label_id, item.captions)
            digest.update(repr(asked).encode())
        return digest.hexdigest()

    def _options(self, item: Item, index: int, epoch: int) -> tuple[tuple[str, ...], int]:
        """Option texts in order of their letters, and the position of the right one."""
        seed = (self.seed, epoch, item.key) if self.training else (self.dataset, item.key)
        wrong = self._wrong(item, seed)
        if not wrong:
            return (), 0
        slot = mcq.pick(len(wrong) + 1, *seed, "slot") if self.training else self.slots[index]
        order = mcq.permutation(len(wrong), *seed, "order")
        return mcq.place(item.answer, [wrong[i] for i in order], slot), slot

    def _wrong(self, item: Item, seed: tuple[Any, ...]) -> list[str]:
        if item.label < 0:
            return [option for option in item.options if option != item.answer]
        count, neighbours = mcq.OPTIONS - 1, self.source.neighbours
        if self.training or self.distractors == "random" or neighbours is None:
            labels = mcq.random_distractors(item.label, self.pool, count, *seed, "distractors")
        else:
            labels = mcq.nearest_distractors(item.label, self.pool, count, neighbours)
        return [self.source.class_names[label] for label in labels]

    def collate(self, rows: Sequence[Row]) -> VqaBatch:
        """A batch; replies are part of ``input_ids`` and ``labels`` in training only."""
        examples = [row.example for row in rows]
        return VqaBatch(
            pixel_values=to_pixels(torch.stack([row.pixels for row in rows])),
            **collate_text([row.text for row in rows], self.builder.pad_id, with_reply=self.training),
            label_ids=torch.tensor([e.label_id for e in examples]),
            caption_ids=torch.tensor([row.caption_id for row in rows]),
            seen=torch.tensor([e.seen for e in examples]),
            answers=tuple(e.answer for e in examples),
            keys=tuple(e.key for e in examples),
            option_counts=tuple(len(e.options) for e in examples),
            pictures=tuple(row.picture for row in rows),
            repeats=torch.tensor([row.repeat for row in rows]) if any(row.repeat for row in rows) else None,
        )


def world() -> tuple[int, int]:
    """Number of processes and this one's rank; (1, 0) alone."""
    ready = torch.distributed.is_available() and torch.distributed.is_initialized()
    return (torch.distributed.get_world_size(), torch.distributed.get_rank()) if ready else (1, 0)


class StoredSampler(DistributedSampler[Any]):
    """Deals stored items out to the processes in turn.

    All take the same number, so that they reach every collective together; what fills up the last round is marked as a
    repetition (see :data:`Draw`) and counted by the process that has it as its own.
    """

    def __init__(self, dataset: Dataset[Any]) -> None:
        processes, rank = world()
        super().__init__(dataset, num_replicas=processes, rank=rank, shuffle=False)

    def __iter__(self) -> Iterator[int]:
        count = len(self.dataset)  # type: ignore[arg-type]
        for place in range(self.rank, self.total_size, self.num_replicas):
            yield place if place < count else -1 - place % count


class EpochSampler(DistributedSampler[Any]):
    """A new permutation each epoch from (seed, epoch) alone: the same for every method, and again after a resume.

    It yields (epoch, index), so that the items redraw their options without shared state. Step s is rows
    ``[s * B, (s + 1) * B)`` of the permutation whatever the number of processes, each of which has an equal share of
    them. The incomplete last batch is dropped; no row is repeated.

    Being a ``DistributedSampler`` it is left alone by Lightning, which would otherwise wrap it.

    Args:
        dataset: anything with a length. batch_size: rows of one step over all processes. seed: of the run.

    Attributes:
        share: rows of this process and step. batches: steps of an epoch. taken: those that the trainer takes.
    """

    def __init__(self, dataset: Dataset[Any], batch_size: int, seed: int) -> None:
        processes, rank = world()
        super().__init__(dataset, num_replicas=processes, rank=rank, shuffle=True, seed=seed, drop_last=True)
        self.batch_size, self.share = batch_size, batch_size // processes
        self.done = 0  # steps of the present epoch that are not handed out again
        self.counting = False
        self.batches = self.taken = len(dataset) // batch_size  # type: ignore[arg-type]

    def __len__(self) -> int:
        return self.batches * self.share

    def continue_from(self, epoch: int, done: int) -> None:
        """Go on after ``done`` steps of an epoch; from now on they are counted here and :meth:`set_epoch` is void.

        A continued trainer may be ahead of the data: a run that ended at its last step in the middle of an epoch counts
        that epoch as a whole one.
        """
        self.epoch, self.done = (epoch, done) if done < self.taken else (epoch + 1, 0)
        self.counting = True

    def set_epoch(self, epoch: int) -> None:
        """Begin an epoch."""
        if not self.counting:
            self.epoch, self.done = epoch, 0

    def __iter__(self) -> Iterator[tuple[int, int]]:
        epoch, done = self.epoch, self.done
        order = mcq.permutation(len(self.dataset), "order", self.seed, epoch)  # type: ignore[arg-type]
        for step in range(done, self.batches):
            start = step * self.batch_size + self.rank * self.share
            yield from ((epoch, index) for index in order[start : start + self.share])


class TrainLoader(DataLoader[Row]):
    """A loader that continues in the middle of an epoch; Lightning stores its state in every checkpoint.

    Args:
        parts: batches that a process's share of a step is handed out in (gradient accumulation).
    """

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
