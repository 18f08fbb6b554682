"""Questions about one image read as branches: what stands before and in the image once, then every question.

A question's positions go on where the image ends, and it sees the image and itself alone, as if it stood there alone:
the language model makes the same of it as of a row of its own, up to rounding.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache, PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import DynamicLayer
from transformers.masking_utils import create_causal_mask

from craft_lightning.models.last_block import hidden_at

_PREFIX, _PADDING = -1, -2


@dataclass(frozen=True)
class Branches:
    """How B rows of L positions become S sequences of W, and come back.

    Attributes:
        take: ``[S, W]`` long, the place among all B * L that stands there. owner: ``[S, W]`` long, the number of the
            branch, or that of what all share, or of padding. back: ``[B, L]`` long, where among all S * W it went
            (padding: anywhere). rows: ``[S, m]`` long, the row of each branch (of a branch that a sequence lacks: any).
            branch: ``[B]`` long, the place of each row among all S * m.
    """

    take: Tensor
    owner: Tensor
    back: Tensor
    rows: Tensor
    branch: Tensor

    def read(
        self,
        decoder: PreTrainedModel,
        embeds: Tensor,
        gaps: Tensor | None,
        at: Tensor | None,
        cache: DynamicCache | None,
    ) -> Tensor:
        """``[B, L | n, D]`` hidden states of ``embeds`` ``[B, L, D]``, at the positions ``at`` ``[B, n]`` or all, with
        position ids ``[B, L]`` that have ``gaps``, else in order; a cache then holds the B rows."""
        owner, step = self.owner, embeds.shape[1]
        where = self.take % step if gaps is None else gaps.flatten()[self.take]

        def sees(row: Tensor, head: Tensor, query: Tensor, key: Tensor) -> Tensor:
            return (owner[row, key] == _PREFIX) | (owner[row, key] == owner[row, query])

        laid = _at(embeds, self.take)
        mask = create_causal_mask(decoder.config, laid, None, cache, and_mask_function=sees)
        inputs: dict[str, Any] = {"inputs_embeds": laid, "attention_mask": mask, "position_ids": where}
        inputs |= {"cache": cache, "use_cache": cache is not None}
        if at is None:
            hidden = _at(decoder(**inputs).last_hidden_state, self.back)
        else:
            columns = self.back.gather(1, at) % laid.shape[1]
            few = hidden_at(decoder, columns[self.rows].flatten(1), **inputs)
            hidden = few.unflatten(1, (-1, at.shape[1])).flatten(0, 1).index_select(0, self.branch)
        layers: list[Any] = [] if cache is None else cache.layers
        for layer in layers:
            layer.keys, layer.values = (
                _at(held.transpose(1, 2), self.back).transpose(1, 2) for held in (layer.keys, layer.values)
            )
        return hidden


def branches_known(config: PreTrainedConfig) -> bool:
    """Whether what a position sees hangs on its mask and its position id alone: attention over everything in every
    block, of rotary positions. A sliding window counts what stands between two positions."""
    plain = all(type(layer) is DynamicLayer for layer in DynamicCache(config=config).layers)
    return plain and getattr(config, "rope_parameters", None) is not None


def _at(values: Tensor, places: Tensor) -> Tensor:
    """``[B, L, ...]``: what stands at ``places`` ``[B, L]`` among all S * W of ``[S, W, ...]``."""
    return values.flatten(0, 1).index_select(0, places.flatten()).view(*places.shape, *values.shape[2:])


def find_branches(alike: Sequence[Hashable], prefix: Tensor, mask: Tensor, width: int) -> Branches | None:
    """How to read rows of which some begin alike; None where reading them one by one is less work.

    Args:
        alike: of each of B rows; equal where what stands before the question is. prefix: ``[B]`` positions that takes.
        mask: ``[B, L]`` bool, False at padding. width: of the language model.
    """
    ends, lengths = prefix.tolist(), mask.sum(dim=1).tolist()
    groups: dict[Hashable, list[int]] = {}
    for row, key in enumerate(alike):
        groups.setdefault(key, []).append(row)
    longest = max(length - end for length, end in zip(lengths, ends, strict=True))
    most = _most([len(rows) for rows in groups.values()], max(ends), longest, width)
    if most == 1:
        return None
    sequences = [rows[at : at + most] for rows in groups.values() for at in range(0, len(rows), most)]
    return _laid_out(sequences, ends, lengths, mask)


def _most(counts: Sequence[int], prefix: int, branch: int, width: int) -> int:
    """How many branches a sequence has at most, for the least work: of matrices and, with the square of a sequence's
    length, of attention. All sequences are as long as the longest."""

    def work(most: int) -> int:
        length = prefix + most * branch
        return sum(-(-count // most) for count in counts) * length * (6 * width + length)

    return min(range(1, max(counts) + 1), key=work)


def _laid_out(
    sequences: Sequence[Sequence[int]], ends: Sequence[int], lengths: Sequence[int], mask: Tensor
) -> Branches:
    step, width = mask.shape[1], max(ends[rows[0]] + sum(lengths[r] - ends[r] for r in rows) for rows in sequences)
    most = max(map(len, sequences))
    back, branches = torch.zeros(mask.shape, dtype=torch.long), torch.zeros(len(mask), dtype=torch.long)
    takes, owners = [], []
    for number, rows in enumerate(sequences):
        end = ends[rows[0]]
        take, owner = [torch.arange(end) + rows[0] * step], [torch.full((end,), _PREFIX)]
        at = number * width + end
        for branch, row in enumerate(rows):
            own = torch.arange(end, lengths[row])
            take.append(own + row * step)
            owner.append(torch.full_like(own, branch))
            branches[row] = number * most + branch
            back[row, :end] = torch.arange(end) + number * width
            back[row, own] = own + at - end
            at += len(own)
        takes.append(torch.cat(take))
        owners.append(torch.cat(owner))
    numbers = pad_sequence([torch.tensor(rows) for rows in sequences], True)
    laid = (pad_sequence(takes, True), pad_sequence(owners, True, _PADDING), back, numbers, branches)
    return Branches(*(each.to(mask.device) for each in laid))
