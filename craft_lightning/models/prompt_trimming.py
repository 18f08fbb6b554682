"""Cuts prompts to the room that the context leaves: text of the prompt goes, never visual tokens or the answer."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence

from craft_lightning.errors import CraftError
from craft_lightning.types import IGNORED_LABEL, IMAGE_TOKEN_ID, VqaBatch

PROMPT_TAIL = 4
"""Last prompt tokens that stay: they open the assistant's turn."""


def trim_prompts(batch: VqaBatch, room: int) -> tuple[VqaBatch, int]:
    """The batch with at most ``room`` positions per row (the placeholder counts as one), and the number of rows cut.

    The beginning of the question goes first (after the placeholder), then text before the image; the first token
    of the row, the placeholder, the last :data:`PROMPT_TAIL` prompt tokens and the reply stay.

    Raises:
        CraftError: what has to stay is longer than ``room``.
    """
    lengths, prompts = batch.attention_mask.sum(dim=1), batch.prompt_lengths
    kept = []
    for ids, length, prompt, key in zip(batch.input_ids, lengths.tolist(), prompts.tolist(), batch.keys, strict=True):
        head = _kept(ids[:prompt], length - room, key)
        kept.append(torch.cat([head, torch.arange(prompt, length, device=ids.device)]))
    new = torch.tensor([len(places) for places in kept], device=lengths.device)
    input_ids = pad_sequence([ids[places] for ids, places in zip(batch.input_ids, kept, strict=True)], True)
    labels = pad_sequence([row[at] for row, at in zip(batch.labels, kept, strict=True)], True, IGNORED_LABEL)
    mask = torch.arange(input_ids.shape[1], device=new.device) < new[:, None]
    left = prompts - (lengths - new)
    trimmed = replace(batch, input_ids=input_ids, labels=labels, attention_mask=mask, prompt_lengths=left)
    return trimmed, int((left < prompts).sum())


def _kept(prompt: Tensor, excess: int, key: str) -> Tensor:
    """Indices of the prompt tokens that stay when ``excess`` have to go."""
    places = torch.arange(len(prompt), device=prompt.device)
    if excess <= 0:
        return places
    image = int((prompt == IMAGE_TOKEN_ID).int().argmax())
    expendable = [*range(image + 1, len(prompt) - PROMPT_TAIL), *range(1, min(image, len(prompt) - PROMPT_TAIL))]
    if excess > len(expendable):
        raise CraftError(f"{key}: image and answer do not fit the context, {excess - len(expendable)} too many")
    gone = torch.tensor(expendable[:excess], device=prompt.device)
    return places[~torch.isin(places, gone)]
