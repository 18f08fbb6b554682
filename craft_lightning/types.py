"""The values that travel between data, models, methods and metrics.

One direction: rows become :class:`VqaExample`, examples become :class:`VqaBatch`, the model turns a batch into
:class:`VisualTokens` and :class:`MethodOutput`, generation into :class:`Prediction`. Nothing flows back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, is_dataclass, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

IMAGE_TOKEN_ID = -200
"""Stands for the whole image in ``input_ids``; replaced by the projected visual tokens (VILA-U's placeholder)."""

IGNORED_LABEL = -100
"""Positions of ``labels`` that carry no loss."""


@dataclass(frozen=True)
class Fact:
    """One attribute of a synthetic image, in words: the ground truth for justifications and their offline judge.

    Attributes:
        name: for example ``"petals"``.
        phrase: how a sentence says it, ``"five petals"``; unique to this value.
        varies: True if images of one class differ in it, so that it cannot be guessed from the label.
    """

    name: str
    phrase: str
    varies: bool


@dataclass(frozen=True)
class VqaExample:
    """One image with one question: the only row format between datasets and tensors.

    Attributes:
        key: unique and stable within the dataset, for example ``"eurosat/test/17"``.
        image: RGB, of any size. question: without options and without an answer directive.
        answer: the exact reply that is scored: an option letter if ``options`` is not empty, else a short text.
        options: option texts in the order of their letters; empty for open questions.
        label_id: class of the image (classification) or a number of the image itself (questions): two examples
            with equal ``label_id`` are never each other's negatives in the contrastive loss.
        seen: False if the label is held out of training.
        captions: sentences that state the answer; the contrastive loss draws one.
        meta: anything else; ``meta["facts"]`` is a tuple of :class:`Fact` for synthetic images.
    """

    key: str
    image: Image.Image
    question: str
    answer: str
    options: tuple[str, ...] = ()
    label_id: int = -1
    seen: bool = True
    captions: tuple[str, ...] = ()
    meta: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class StepShare:
    """A process's share of an optimiser step, as each of its accumulated parts knows it.

    The images of a part are scored against the sentences of the whole step, and its tokens count among all of the step.

    Attributes:
        label_ids: ``[S]`` of the share. caption_ids: ``[S]`` of the share. tokens: number of its labelled tokens.
        parts: how many batches the share is cut into. part: which of them this is.
    """

    label_ids: Tensor
    caption_ids: Tensor
    tokens: int
    parts: int
    part: int


@dataclass(frozen=True)
class VqaBatch:
    """A collated batch.

    Attributes:
        pixel_values: ``[I, 3, H, W]`` float32 in [-1, 1]; an image that several rows ask about stands there once where
            ``image_of`` is given, else I = B.
        input_ids: ``[B, T]`` long, prompt and (in training) reply, right-padded; one :data:`IMAGE_TOKEN_ID` each.
        attention_mask: ``[B, T]`` bool, False at padding.
        labels: ``[B, T]`` long, :data:`IGNORED_LABEL` except at the reply and its end token.
        prompt_lengths: ``[B]`` long, number of leading positions of ``input_ids`` that are the prompt.
        label_ids: ``[B]`` long, see :class:`VqaExample`.
        caption_ids: ``[B]`` long, row of the data module's caption list drawn for this example; -1 without captions.
        seen: ``[B]`` bool.
        answers: reference replies. keys: example keys. option_counts: number of options, 0 for open questions.
        image_names: of ``pixel_values``; equal names, equal pixels in every epoch. Empty where that cannot be said;
            whoever changes pixels at random empties it.
        image_of: ``[B]`` long, each row's place in ``pixel_values``; None if every row has one of its own.
        repeats: ``[B]`` bool, rows that another process counts: they only fill up the last batch. None: no row is.
        step: the share of the optimiser step that the batch is a part of; None if it is all of it.
    """

    pixel_values: Tensor
    input_ids: Tensor
    attention_mask: Tensor
    labels: Tensor
    prompt_lengths: Tensor
    label_ids: Tensor
    caption_ids: Tensor
    seen: Tensor
    answers: tuple[str, ...]
    keys: tuple[str, ...]
    option_counts: tuple[int, ...]
    image_names: tuple[str, ...] = ()
    image_of: Tensor | None = None
    repeats: Tensor | None = None
    step: StepShare | None = None

    def __len__(self) -> int:
        return len(self.keys)

    @property
    def share(self) -> StepShare:
        """The share of the optimiser step that the batch is a part of, or all of."""
        return self.step or self._share(parts=1, part=0)

    @property
    def counted(self) -> Tensor:
        """``[B]`` bool: rows that are this process's to count."""
        return torch.ones_like(self.seen) if self.repeats is None else ~self.repeats

    def by_row(self, images: Tensor) -> Tensor:
        """``[B, ...]`` of ``[I, ...]``: for each row what is said of its image."""
        return images if self.image_of is None else images.index_select(0, self.image_of)

    def _share(self, parts: int, part: int) -> StepShare:
        tokens = int((self.labels != IGNORED_LABEL).sum())
        return StepShare(self.label_ids, self.caption_ids, tokens, parts, part)

    def split(self, parts: int) -> Iterator[VqaBatch]:
        """The batch as ``parts`` batches of equal size, each with its :class:`StepShare`."""
        size, share = len(self) // parts, self._share(parts, part=0)
        for part in range(parts):
            rows = slice(part * size, (part + 1) * size)
            cut: dict[str, Any] = {k: v[rows] for k, v in vars(self).items() if isinstance(v, Tensor | tuple)}
            if self.image_of is not None:
                shown, cut["image_of"] = self.image_of[rows].unique(return_inverse=True)
                cut["pixel_values"] = self.pixel_values[shown]
                cut["image_names"] = self.image_names and tuple(self.image_names[place] for place in shown.tolist())
            yield replace(self, **cut, step=replace(share, part=part))

    def to(self, *args: Any, **kwargs: Any) -> VqaBatch:
        """A copy with every tensor moved, as ``Tensor.to`` (Lightning calls it for frozen dataclasses)."""
        return _mapped(self, lambda t: t.to(*args, **kwargs))

    def pin_memory(self) -> VqaBatch:
        """A copy in pinned memory (the data loader calls it)."""
        return _mapped(self, torch.Tensor.pin_memory)


def _mapped(value: Any, function: Callable[[Tensor], Tensor]) -> Any:
    """A copy of a dataclass with ``function`` applied to its tensors, those of dataclasses in it included."""
    moved = {k: function(v) for k, v in vars(value).items() if isinstance(v, Tensor)}
    inner = {k: _mapped(v, function) for k, v in vars(value).items() if is_dataclass(v)}
    return replace(value, **moved, **inner)


@dataclass(frozen=True)
class Selection:
    """Which visual tokens of each image stay when some are pruned.

    Attributes:
        positions: ``[B, M]`` long, raster positions of the tokens kept, ascending. A row that keeps fewer than M
            repeats the last position of the grid behind its own.
        counts: ``[B]`` long, tokens kept of each image, where they differ; None if every row keeps M.
        gamma: ``[B]`` float64, the pruning strength that the budget came to: 0 where all are kept, inf beyond what
            quotas can reach, nan where no quota ruled.
        gaps: kept tokens have the language-model positions that they had before, with gaps between them.
    """

    positions: Tensor
    counts: Tensor | None
    gamma: Tensor
    gaps: bool = False

    def mask(self, num_tokens: int) -> Tensor:
        """``[B, num_tokens]`` bool, True for the tokens kept."""
        rows, width = self.positions.shape
        own = torch.ones_like(self.positions)
        if self.counts is not None:
            own = (torch.arange(width, device=own.device) < self.counts[:, None]).long()
        # Added, not assigned: a position that is repeated behind a row's own may be one of its own, too.
        return torch.zeros(rows, num_tokens, dtype=own.dtype, device=own.device).scatter_add(1, self.positions, own) > 0


@dataclass(frozen=True)
class VisualTokens:
    """What the encoder made of the images.

    Attributes:
        features: ``[B, N, d]`` before quantisation, z.
        tokens: ``[B, M, d]`` what the projector sees: straight-through sums of codewords (or features, if the tower
            is continuous); M = N unless pruned.
        codes: ``[B, N, R]`` long, or None for a continuous tower.
        image_embedding: ``[B, d]`` pre-quantisation read-out for the contrastive loss, or None.
        grid: (rows, columns), rows * columns = N.
        energy: ``[B, N]`` float32, squared distance of z to its first-level codeword, or None for a continuous tower.
        selection: which of the N tokens ``tokens`` are, or None when all are.
        slices: ``[B, N, d]`` each, features after fewer blocks, for a method that asked for them.
    """

    features: Tensor
    tokens: Tensor
    codes: Tensor | None
    image_embedding: Tensor | None
    grid: tuple[int, int]
    energy: Tensor | None = None
    selection: Selection | None = None
    slices: tuple[Tensor, ...] = ()

    def rows(self, places: Tensor) -> VisualTokens:
        """Those of the images at these places ``[B]``, in their order."""
        slices = tuple(features.index_select(0, places) for features in self.slices)
        return replace(_mapped(self, lambda t: t.index_select(0, places)), slices=slices)


@dataclass(frozen=True)
class MethodOutput:
    """A forward pass with labels.

    Attributes:
        visual: see :class:`VisualTokens`.
        logits: ``[P, V]`` float32 at the P labelled positions of the batch only, in row-major order.
        targets: ``[P]`` long, the tokens to be predicted there.
        answer_loss: scalar, mean next-token loss over the P positions (eq. 2, mean over labelled tokens).
    """

    visual: VisualTokens
    logits: Tensor
    targets: Tensor
    answer_loss: Tensor


@dataclass(frozen=True)
class Prediction:
    """A scored reply: key of the example, generated text, correct by exact match, seen label, letter likelihoods, and
    what the image is called in the run (several questions may share one)."""

    key: str
    text: str
    answer: str
    correct: bool
    seen: bool
    letter_correct: bool | None = None
    image: str = ""

    def to(self, *args: Any, **kwargs: Any) -> Prediction:
        """Itself: nothing in it lives on a device (Lightning moves what ``predict`` returns)."""
        return self
