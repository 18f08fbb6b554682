"""New entries of a codebook as a file: behind which codebook they stand is part of it."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from craft_lightning.checkpoints.tensors import save_tensors
from craft_lightning.errors import CraftError
from craft_lightning.models.quantizer import ResidualQuantizer
from craft_lightning.models.vlm_spec import growth_file

ENTRIES, SETTING = "entries", "--model.backbone.codebook_growth"


def write_growth(file: Path, quantizer: ResidualQuantizer, entries: Tensor) -> None:
    """Store ``[T, n, d]`` entries in half precision, for a quantiser of T tables."""
    save_tensors(file, {ENTRIES: entries.half()}, {"codebook_hash": quantizer.hash()})


@contextmanager
def _opened(name: str | Path) -> Iterator[Any]:
    """A file of new entries, given by its name if it is shipped. Raises CraftError: none that can be read."""
    try:
        with safe_open(growth_file(str(name)), "pt") as tensors:
            yield tensors
    except (OSError, SafetensorError) as error:
        raise CraftError(
            f"{SETTING} {name}: no file of new entries ({error}); python -m craft_lightning grow writes one"
        ) from error


def entries_in(name: str | Path) -> int:
    """Number of the new entries of each table in a file, which :func:`grow` reads whole. Raises CraftError: none that
    can be read."""
    with _opened(name) as tensors:
        return int(tensors.get_slice(ENTRIES).get_shape()[1])


def grow(quantizer: ResidualQuantizer | None, name: str | Path) -> ResidualQuantizer:
    """A quantiser whose tables go on with the entries of a file, given by its name if it is shipped. Raises CraftError:
    no readable file of entries, or those of another codebook."""
    with _opened(name) as tensors:
        entries, theirs = tensors.get_tensor(ENTRIES), (tensors.metadata() or {}).get("codebook_hash")
    own = None if quantizer is None else quantizer.hash()
    if quantizer is None or theirs != own:
        raise CraftError(f"{SETTING} {name}: grown from codebook {theirs or 'none'}, this model has {own or 'none'}")
    tables = torch.cat([quantizer.codebooks, entries.float()], dim=1)
    grown = ResidualQuantizer(tables, quantizer.levels, quantizer.dtype, quantizer.share)
    grown.grown_from, grown.grown_at = own, quantizer.entries
    return grown


def growth_bytes(quantizer: ResidualQuantizer | None) -> bytes | None:
    """The file of entries that a quantiser's tables have grown by; None where they have not."""
    if quantizer is None or quantizer.grown_from is None:
        return None
    entries = quantizer.codebooks[:, quantizer.grown_at :].half().cpu().contiguous()
    return save({ENTRIES: entries}, {"format": "pt", "codebook_hash": quantizer.grown_from})
