"""Cuts prompts to the room that the context leaves (methods.md 1.6): text of the prompt goes, nothing else."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from craft_lightning.errors import CraftError
from craft_lightning.types import IGNORED_LABEL, IMAGE_TOKEN_ID, VqaBatch

PROMPT_TAIL = 4
"""Last prompt tokens that stay: they open the assistant's turn."""


def trim_prompts(batch: VqaBatch, room: int) -> tuple[VqaBatch, int]:
    """The batch with at most ``room`` positions per row (the placeholder counts as one), and the number of rows cut.

    The beginning of the question goes first (after the placeholder), then text before the picture; the first token
    of the row, the placeholder, the last :data:`PROMPT_TAIL` prompt tokens and the reply stay.

    Raises:
        CraftError: what has to stay is longer than ``room``.
    """
    ids, labels, prompts, cut = [], [], [], 0
    for row in range(len(batch.input_ids)):
        length = int(batch.attention_mask[row].sum())
        prompt = int(batch.prompt_lengths[row])
        keep = _kept(batch.input_ids[row, :prompt], length - room, batch.keys[row])
        cut += len(keep) < prompt
        keep = torch.cat([keep, torch.arange(prompt, length, device=keep.device)])
        ids.append(batch.input_ids[row, keep])
        labels.append(batch.labels[row, keep])
        prompts.append(prompt - (length - len(keep)))
    width = max(map(len, ids))
    input_ids = batch.input_ids.new_zeros(len(ids), width)
    new_labels = batch.labels.new_full((len(ids), width), IGNORED_LABEL)
    mask = torch.zeros_like(input_ids, dtype=torch.bool)
    for row, (row_ids, row_labels) in enumerate(zip(ids, labels, strict=True)):
        input_ids[row, : len(row_ids)] = row_ids
        new_labels[row, : len(row_ids)] = row_labels
        mask[row, : len(row_ids)] = True
    lengths = torch.tensor(prompts, dtype=torch.long, device=input_ids.device)
    return replace(batch, input_ids=input_ids, labels=new_labels, attention_mask=mask, prompt_lengths=lengths), cut


def _kept(prompt: Tensor, excess: int, key: str) -> Tensor:
    """Indices of the prompt tokens that stay when ``excess`` have to go."""
    places = torch.arange(len(prompt), device=prompt.device)
    if excess <= 0:
        return places
    image = int((prompt == IMAGE_TOKEN_ID).int().argmax())
    expendable = [*range(image + 1, len(prompt) - PROMPT_TAIL), *range(1, min(image, len(prompt) - PROMPT_TAIL))]
    if excess > len(expendable):
        raise CraftError(f"{key}: picture and answer do not fit the context, {excess - len(expendable)} too many")
    gone = torch.tensor(expendable[:excess], device=prompt.device)
    return places[~torch.isin(places, gone)]
