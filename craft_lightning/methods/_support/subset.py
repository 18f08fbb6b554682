"""Methods that move a few places of the encoder, chosen by a gradient (LoRSU, "Imperfect Vision Encoders"): rows of
attention heads by low-rank updates, and entries of each block's first MLP matrix."""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from itertools import islice
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils import parametrize

from craft_lightning.errors import CraftError
from craft_lightning.methods.base import BaseMethod
from craft_lightning.models.sharding import whole

RANK, HEADS = 64, 8
"""The authors' rank, and of how many heads of a block one moves, where a method is not told otherwise."""


def largest(scores: Tensor, count: int) -> Tensor:
    """Places of the ``count`` largest of ``[n]`` scores, ascending; of equal ones the first. Among all choices of that
    many places, of the entries of a gradient or of disjoint groups of them, it keeps most of the gradient's norm where
    the scores are their squares (lemma 3.2 and corollary 3.4 of the paper)."""
    return scores.sort(descending=True, stable=True).indices[:count].sort().values


class HeadRows(nn.Module):
    """A weight plus ``scale * left @ right`` on chosen rows: LoRA of which the other rows do not exist.

    One factor starts at zero, so that nothing changes at first, the other one as LoRA's.

    Args:
        weight: ``[out, in]``. count: rows that move. rank, scale: of the update. left_starts: the left factor is the
            one that is not zero.

    Attributes:
        rows: ``[count]`` long. left: ``[count, rank]``. right: ``[rank, in]``.
    """

    rows: Tensor

    def __init__(self, weight: Tensor, count: int, rank: int, scale: float, left_starts: bool) -> None:
        super().__init__()
        self.scale = scale
        self.left = nn.Parameter(torch.zeros(count, rank, device=weight.device))
        self.right = nn.Parameter(torch.zeros(rank, weight.shape[1], device=weight.device))
        nn.init.kaiming_uniform_(self.left if left_starts else self.right, a=math.sqrt(5))
        self.register_buffer("rows", torch.arange(count, device=weight.device))

    def forward(self, weight: Tensor) -> Tensor:
        with torch.autocast(weight.device.type, enabled=False):  # the sum is what is exported: never rounded
            return weight.index_add(0, self.rows, self.left @ self.right, alpha=self.scale)


class Entries(nn.Module):
    """A weight plus ``values`` ``[count]``, which start at zero, at the chosen ``entries`` ``[count]`` of it, counted
    row by row. Only they exist: no decay or momentum can move another entry."""

    entries: Tensor

    def __init__(self, weight: Tensor, count: int) -> None:
        super().__init__()
        self.values = nn.Parameter(torch.zeros(count, device=weight.device))
        self.register_buffer("entries", torch.arange(count, device=weight.device))

    def forward(self, weight: Tensor) -> Tensor:
        return weight.flatten().index_add(0, self.entries, self.values).view_as(weight)


def update_of(linear: nn.Module) -> Any:
    """What is added to the weight of a layer."""
    parametrizations: Any = linear.parametrizations
    return parametrizations.weight[0]


@dataclass(frozen=True)
class Block:
    """The layers of a transformer block that move: q, k and v, each alone or all in one, and the first of its MLP (two
    where that is gated); with the number of its heads."""

    projections: tuple[nn.Linear, ...]
    first: tuple[nn.Linear, ...]
    heads: int

    @classmethod
    def of(cls, block: nn.Module) -> Block | None:
        """The layers by the names that transformers and timm give them; None where they are not all there."""
        named = [(name.rpartition(".")[2], m) for name, m in block.named_modules() if isinstance(m, nn.Linear)]
        projections = tuple(m for name, m in named if name in ("q_proj", "k_proj", "v_proj", "qkv"))
        first = tuple(m for name, m in named if name.startswith("fc1"))
        heads: Any = next((m.num_heads for m in block.modules() if hasattr(m, "num_heads")), 0)
        return cls(projections, first, heads) if len(projections) in (1, 3) and first and heads else None

    @property
    def layers(self) -> tuple[nn.Linear, ...]:
        """All of them."""
        return (*self.projections, *self.first)

    @property
    def head_width(self) -> int:
        """Rows of a head in each of q, k and v."""
        return sum(layer.out_features for layer in self.projections) // 3 // self.heads

    def choose(self, gradients: Mapping[nn.Module, Tensor]) -> None:
        """Choose heads and entries by the gradients of the layers' weights."""
        stacked = torch.cat([gradients[update_of(layer)] for layer in self.projections])  # q, k and v, in any order
        scores = stacked.view(3, self.heads, -1).square().sum((0, 2))
        parts, width = 3 // len(self.projections), self.head_width
        for layer in self.projections:
            rows = update_of(layer).rows
            heads = largest(scores, len(rows) // parts // width)
            starts = torch.arange(parts, device=rows.device)[:, None] * self.heads + heads
            rows.copy_((starts[..., None] * width + torch.arange(width, device=rows.device)).flatten())
        for layer in self.first:
            entries = update_of(layer).entries
            entries.copy_(largest(gradients[update_of(layer)].flatten().abs(), len(entries)))


class SubsetMethod(BaseMethod):
    """Moves a subset of the encoder that it chooses once, before the first step, by the mean gradient of its own loss.

    In each block, these are the heads whose rows in the gradients of the query, key and value matrices have the largest
    norm, moved by low-rank updates, the largest entries in the gradient of the first MLP matrix, and all of its bias.
    A training that goes on has chosen already; a new one on an exported encoder, where all is merged, chooses anew.

    Args:
        rank: of the updates; null is 64, or a quarter of the tower's width where that is less.
        alpha: updates are scaled by ``alpha / rank``; null is the rank.
        heads: of each block that move; null is one in eight.
        density: share of the entries of the first MLP matrix that move.
        samples: training rows whose gradient chooses; whole steps, so that they are the same on any number of devices.

    Attributes:
        whole_tower: move the last block, too, which is not a part of what the language model sees, and all biases of
            queries, keys and values; LoRA's left factor is then the one that starts at random.
    """

    whole_tower: bool = False

    def __init__(
        self,
        *,
        rank: int | None = None,
        alpha: float | None = None,
        heads: int | None = None,
        density: float = 0.1,
        samples: int = 1000,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        for name, number in (("rank", rank), ("heads", heads), ("samples", samples)):
            if number is not None and number < 1:
                raise CraftError(f"--model.{name} {number}: at least 1")
        if not 0 < density <= 1:
            raise CraftError(f"--model.density {density}: a share of the entries, above 0 and at most 1")
        self.rank, self.alpha, self.heads, self.density, self.samples = rank, alpha, heads, density, samples

    def build(self) -> None:
        """Put the updates, still zero, beside the weights. Raises CraftError: a tower of other blocks, or of fewer
        heads than are to move."""
        super().build()
        tower = self.vlm.tower
        tower.vision.float()  # as whatever trains: a coarser sum would swallow the updates
        rank = self.rank or max(1, min(RANK, tower.width // 4))
        scale = (rank if self.alpha is None else self.alpha) / rank
        blocks = [Block.of(block) for block in tower.blocks[: None if self.whole_tower else tower.depth]]
        self.blocks = [block for block in blocks if block is not None]
        if len(self.blocks) < len(blocks):
            raise CraftError(
                f"{self.name} moves attention with q_proj, k_proj and v_proj, or qkv, and an MLP with fc1: not all "
                f"blocks of {self.backbone.name} have them"
            )
        for block in self.blocks:
            heads = self.heads or max(1, block.heads // HEADS)
            if heads > block.heads:
                raise CraftError(f"--model.heads {heads}: a block of {self.backbone.name} has {block.heads}")
            for layer in block.projections:
                rows = heads * block.head_width * (3 // len(block.projections))
                update: nn.Module = HeadRows(layer.weight, rows, rank, scale, self.whole_tower)
                parametrize.register_parametrization(layer, "weight", update, unsafe=True)
            for layer in block.first:
                update = Entries(layer.weight, max(1, int(self.density * layer.weight.numel())))
                parametrize.register_parametrization(layer, "weight", update, unsafe=True)  # not tried out: may be meta

    def trainable(self) -> Iterator[tuple[str, nn.Parameter]]:
        """The updates, and the biases that go with them."""
        moved = {id(parameter) for parameter in self._moved()}
        yield from ((name, parameter) for name, parameter in self.named_parameters() if id(parameter) in moved)

    def _moved(self) -> Iterable[nn.Parameter]:
        for block in self.blocks:
            for layer in block.layers:
                yield from update_of(layer).parameters()
                if layer.bias is not None and (self.whole_tower or layer in block.first):
                    yield layer.bias

    def on_train_start(self) -> None:
        """Choose what moves, unless it has moved already."""
        if not any(bool(whole(update_of(layer).values).any()) for block in self.blocks for layer in block.first):
            gradients = self._gradients()
            for block in self.blocks:
                block.choose(gradients)

    def _gradients(self) -> dict[nn.Module, Tensor]:
        """By update, the mean gradient of the loss at the weight that it is added to, in units that do not matter: of
        the first steps of the first epoch, together at least :attr:`samples` rows, if there are as many. Raises
        CraftError: one is not finite."""
        found: dict[nn.Module, Tensor] = {}

        def watch(update: nn.Module, given: Any, weight: Tensor) -> None:
            def add(gradient: Tensor) -> None:
                found[update] = found[update] + gradient if update in found else gradient.clone()

            weight.register_hook(add)

        trainer, rows = self.trainer, 0
        loader: Any = trainer.train_dataloader
        updates = [update_of(layer) for block in self.blocks for layer in block.layers]
        with ExitStack() as hooks:
            for update in updates:
                hooks.callback(update.register_forward_hook(watch).remove)
            for batch in islice(loader, int(trainer.num_training_batches)):
                batch = trainer.strategy.batch_to_device(batch)
                with trainer.precision_plugin.train_step_context():
                    loss = sum(self.losses(batch, self._balanced(self(batch), batch)).values(), torch.tensor(0.0))
                (loss * 2**10).backward()  # exact, and float16 holds smaller gradients so
                self.zero_grad()
                rows += len(batch) * trainer.world_size
                if rows >= self.samples and batch.share.part == batch.share.parts - 1:
                    break
        means = {u: trainer.strategy.reduce(total / 2**10, reduce_op="mean") for u, total in found.items()}
        if not all(bool(mean.isfinite().all()) for mean in means.values()):
            raise CraftError(f"{self.name} cannot choose what moves: a gradient of the first steps is not finite")
        return means
