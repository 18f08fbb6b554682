"""How much arithmetic a run does and how long it takes, from shapes alone; memory is :mod:`.memory`'s.

FLOPs are those of ``2 P S + 4 n S^2 D``, one multiply-add being two; logits count where they are computed. Time is
arithmetic at a stated share of a card's peak plus a stated time for every pass. docs/scale.md sets both beside the
paper's Table 4.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, replace

from craft_lightning.strategies.memory import REPLY_TOKENS, TEXT_TOKENS, Profile, Stack

EFFICIENCY = 0.4
"""Share of the peak that large matrices reach in bfloat16: what trainings of models of this size report."""
PASS_SECONDS = 0.25
"""Of a pass of any size: launching some thousand kernels, handing over images, stepping, logging. Chosen so that the
paper's smallest training (Table 4, Qwen2-0.5B) takes its 1.35 minutes; the four others there check it."""
LOADING = 10**9
"""Bytes of a checkpoint that are read in a second, once in each run."""


@dataclass(frozen=True)
class Card:
    """A GPU: memory in GiB, peak 10^12 FLOP/s of matrices in bfloat16 (dense, sums in float32) and in float32."""

    name: str
    memory: int
    half: float
    full: float

    @property
    def rate(self) -> float:
        """FLOP/s that are counted on in bfloat16."""
        return self.half * 1e12 * EFFICIENCY


CARDS = (
    Card("RTX 3070", 8, 40.6, 20.3),
    Card("RTX 3090", 24, 71.0, 35.6),
    Card("A100-40GB", 40, 312.0, 19.5),
    Card("A6000", 48, 154.8, 38.7),
    Card("A100-80GB", 80, 312.0, 19.5),
)
"""By memory; datasheet numbers."""


def card_of(memory: float) -> Card:
    """The known card whose memory (GiB) is nearest to this."""
    return min(CARDS, key=lambda card: abs(card.memory - memory))


@dataclass(frozen=True)
class Work:
    """FLOPs of one row: images through the tower, distances to codewords (in float32), the language model."""

    tower: float
    codes: float
    language: float

    def seconds(self, card: Card) -> float:
        """On one card."""
        return (self.tower + self.language + self.codes * card.half / card.full) / card.rate

    @property
    def flops(self) -> float:
        """All of them."""
        return self.tower + self.codes + self.language


def matrices(stack: Stack, gated: bool) -> int:
    """Weights of the matrices of a stack's blocks; a ``gated`` MLP has three of them, another two."""
    attention = 2 * stack.width**2 + 2 * stack.width * stack.kv_width
    return stack.blocks * (attention + (3 if gated else 2) * stack.width * stack.mlp)


def stack_flops(stack: Stack, positions: int, gated: bool, read: int | None = None) -> float:
    """Of a forward pass over so many positions; where the output is ``read`` at a few of them alone, the last block
    makes keys and values of the others and nothing else (:mod:`.last_block`)."""
    last = matrices(replace(stack, blocks=1), gated) - 2 * stack.width * stack.kv_width
    unread = 0 if read is None else positions - read
    whole = 2.0 * matrices(stack, gated) * positions + 4.0 * stack.blocks * positions**2 * stack.width
    return whole - unread * (2.0 * last + 4.0 * positions * stack.width)


def training_work(p: Profile, recompute: bool, teachers: int = 0, sharing: float = 1.0) -> Work:
    """Of one row of a training step, forward and backward: what is trained costs three forward passes, what the
    gradient only goes through two, CRAFT's language model, too. ``p`` is of the method on its backbone; with
    ``recompute`` activations are computed twice; ``teachers`` are frozen towers beside it; so many rows are ``sharing``
    an image, which is read once (:func:`rows_an_image`)."""
    again = 1 if recompute else 0
    tower = stack_flops(p.tower, p.tokens, False) / sharing if p.tower else 0.0
    language = min(
        stack_flops(p.language, p.tokens + round(n * TEXT_TOKENS), True, round(n * REPLY_TOKENS)) / n
        for n in (1.0, sharing)
    )
    language += 2.0 * REPLY_TOKENS * p.vocabulary * p.language.width
    trained = (3 + again if p.tower_trains else 1) + teachers
    return Work(tower * trained, p.distances / sharing, language * (2 + again))


def rows_an_image(questions: float, rows: int) -> float:
    """Rows of a pass for each of its images, where the ``questions`` about an image follow each other: whatever the
    number of ``rows``, an image at the beginning and one at the end are asked about in two passes."""
    return rows / ((rows - 1) / max(questions, 1.0) + 1)


def evaluation_work(p: Profile, keeps: Collection[float] = (1.0,)) -> Work:
    """Of one item of an evaluation that replies once at each keep ratio of visual tokens."""
    new, text = p.reply, TEXT_TOKENS + p.reply - 1
    tower = stack_flops(p.tower, p.tokens, False) if p.tower else 0.0
    replies = [stack_flops(p.language, int(keep * p.tokens) + text, True, new) for keep in keeps]
    logits = 2.0 * new * p.vocabulary * p.language.width
    return Work(tower, p.distances, sum(replies) + len(keeps) * logits)


def seconds(work: Work, card: Card, rows: int, passes: int, devices: int = 1) -> float:
    """Of so many rows in so many passes of each device."""
    return work.seconds(card) * rows / devices + passes * PASS_SECONDS
