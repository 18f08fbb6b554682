"""Items become examples, examples become batches, and every method sees the same ones in the same order."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from craft_lightning.models.image_processing import to_pixels
from craft_lightning.text import multiple_choice as mcq
from craft_lightning.text.prompts import Encoded, PromptBuilder, collate_text, justify
from craft_lightning.text.scoring import normalise
from craft_lightning.types import VqaBatch, VqaExample
from data_modules.sources.images import to_pil
from data_modules.sources.items import Item, Source, Split, SplitName

Distractors = Literal["nearest", "random"]
Draw = int | tuple[int, int]
"""What a sampler asks for: an index, or (epoch, index) for a training item; ``-1 - index`` stands for a stored item
that another process counts."""

_BLANK = Image.new("RGB", (1, 1))


@dataclass(frozen=True)
class ItemRow:
    """One example ready to be collated: ``example`` without its image, which is ``pixels`` ``[3, S, S]`` uint8 and
    known in the run as ``image_name``."""

    example: VqaExample
    image_name: str
    pixels: Tensor
    text: Encoded
    caption_id: int
    repeat: bool


class VqaDataset(Dataset[ItemRow]):
    """A split as examples with lettered options.

    Validation and test items are stored: options and order depend on (dataset, key) alone. Training items redraw
    distractors, order and caption from (run seed, epoch, key).

    Args:
        split: items and images, called ``name``. source: class names and their likeness. dataset: its name, for the
            hashes. builder: writes prompts. distractors: how stored items get their wrong options. seed: of the run.
        captions: sentence to row of the data module's caption list; empty for stored splits.
        shares: a batch holds an image once, however many of its rows ask about it.
        justified: items ask for a justification in place of a short answer.
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
        shares: bool,
        justified: bool = False,
    ) -> None:
        self.items, self.images = split.items, split.images
        self.name, self.source, self.dataset, self.builder = name, source, dataset, builder
        self.distractors, self.seed, self.captions, self.shares = distractors, seed, captions, shares
        self.training, self.justified = name == "train", justified
        self.pool = source.pool(name)
        named = min(mcq.OPTIONS, len(self.pool))
        counts = [len(item.options) or (named if item.label >= 0 else 0) for item in self.items]
        self.slots = [] if self.training else mcq.balanced_slots(counts, dataset, name)

    def __len__(self) -> int:
        return len(self.items)

    def too_long(self, decoded: int) -> int:
        """Items whose answer has more tokens than are decoded, as it stands and normalised: no reply can be right."""
        answers = [item.answer for item in self.items if item.label < 0 and not item.options]
        return sum(self.builder.tokens(a) > decoded < self.builder.tokens(normalise(a)) for a in answers)

    def __getitem__(self, draw: Draw) -> ItemRow:
        epoch, index = draw if isinstance(draw, tuple) else (0, draw)
        index, repeat = max(index, -1 - index), index < 0
        example = self.asked(index, epoch)
        said = example.captions
        drawn = said[mcq.pick(len(said), self.seed, epoch, example.key, "caption")]
        image = self.items[index].image
        text, caption_id = self.builder.encode(example), self.captions.get(drawn, -1)
        return ItemRow(example, f"{self.name}/{image}", self.images[image], text, caption_id, repeat)

    def example(self, index: int, epoch: int = 0) -> VqaExample:
        """The example as asked in an epoch (stored items are the same in every epoch)."""
        return replace(self.asked(index, epoch), image=to_pil(self.images[self.items[index].image]))

    def asked(self, index: int, epoch: int = 0) -> VqaExample:
        """:meth:`example` with a blank image: nothing is read or decoded."""
        item = self.items[index]
        options, slot = self._options(item, index, epoch)
        answer = mcq.LETTERS[slot] if options else item.answer
        example = VqaExample(
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
        return justify(example) if self.justified else example

    def items_hash(self) -> str:
        """SHA-256 of everything that can be asked and said of the images, in order."""
        digest = hashlib.sha256(repr([self.source.class_names[label] for label in self.pool]).encode())
        for item in self.items:
            asked = (item.key, item.image, item.question, item.answer, item.options, item.label_id, item.captions)
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

    def collate(self, rows: Sequence[ItemRow]) -> VqaBatch:
        """A batch; replies are part of ``input_ids`` and ``labels`` in training only."""
        examples = [row.example for row in rows]
        names, pixels, image_of = [row.image_name for row in rows], [row.pixels for row in rows], None
        shown = dict(zip(names, pixels, strict=True))
        if self.shares and len(shown) < len(rows):
            places = {name: place for place, name in enumerate(shown)}
            image_of = torch.tensor([places[name] for name in names])
            names, pixels = list(shown), list(shown.values())
        return VqaBatch(
            pixel_values=to_pixels(torch.stack(pixels)),
            **collate_text([row.text for row in rows], self.builder.pad_id, with_reply=self.training),
            label_ids=torch.tensor([e.label_id for e in examples]),
            caption_ids=torch.tensor([row.caption_id for row in rows]),
            seen=torch.tensor([e.seen for e in examples]),
            answers=tuple(e.answer for e in examples),
            keys=tuple(e.key for e in examples),
            option_counts=tuple(len(e.options) for e in examples),
            image_names=tuple(names),
            image_of=image_of,
            repeats=torch.tensor([row.repeat for row in rows]) if any(row.repeat for row in rows) else None,
        )
