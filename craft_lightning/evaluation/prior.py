"""How often each code occurs in images: the prior that token pruning asks (section 3.3)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from weakref import WeakKeyDictionary

import torch
from lightning.pytorch import LightningModule, Trainer
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from craft_lightning.errors import CraftError
from craft_lightning.models.pruning import count_codes
from craft_lightning.models.sharding import as_forward

_counted: WeakKeyDictionary[LightningModule, tuple[int, Tensor]] = WeakKeyDictionary()
"""Counts by model and step of its training: a validation on the last step and the export after it ask for the same."""


@torch.no_grad()
def counts_in(trainer: Trainer, module: LightningModule, images: Iterable[Tensor]) -> Tensor:
    """``[K]`` int64 counts of first-level codes over all tokens of all ``images`` (batches ``[b, 3, S, S]``), on the
    CPU, as a method with a codebook sees them in eval mode. Every process counts all images: the passes are few beside
    a training, and nothing has to be exchanged."""
    method: Any = module
    with _evaluating(module), trainer.precision_plugin.forward_context():
        codes = (as_forward(method, method.visual_tokens, pixels.to(module.device)).codes for pixels in images)
        return count_codes(codes, method.vlm.tower.quantizer.entries)


def domain_counts(trainer: Trainer, module: LightningModule) -> Tensor:
    """:func:`counts_in` of the training split with the encoder as it is now, since adaptation moves codes. Raises
    CraftError: the trainer has no data module."""
    step, counts = _counted.get(module, (-1, None))
    if counts is None or trainer.state.fn != "fit" or step != trainer.global_step:
        counts = counts_in(trainer, module, data_of(trainer).training_images())
        _counted[module] = (trainer.global_step, counts)
    return counts


def data_of(trainer: Trainer) -> Any:
    """The data module. Raises CraftError: there is none."""
    data = getattr(trainer, "datamodule", None)
    if data is None:
        raise CraftError("pruning by quotas counts codes of the training images: give the trainer a data module")
    return data


def read_counts(path: Path, entries: int) -> Tensor:
    """``[K]`` counts of a file that ``tokenize --counts`` wrote, or of an encoder's folder. Raises CraftError: no such
    file, not a file of counts, or those of another codebook."""
    if not path.is_file():
        raise CraftError(f"no prior {path}: 'domain', 'generic', or a file that tokenize --counts wrote")
    try:
        counts = load_file(path)["counts"]
    except (SafetensorError, OSError, KeyError) as error:
        raise CraftError(f"{path}: not a file of counts ({type(error).__name__})") from error
    if len(counts) != entries:
        raise CraftError(f"{path}: counts of {len(counts)} codes, this codebook has {entries}")
    return counts


@contextmanager
def _evaluating(module: LightningModule) -> Iterator[None]:
    """Eval mode; frozen parts are in it already and stay in it."""
    training = [part for part in module.modules() if part.training]
    module.eval()
    try:
        yield
    finally:
        for part in training:
            part.training = True
