"""New entries of a codebook as a file: behind which codebook they stand is part of it."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from craft_lightning.checkpoints.tensors import save_tensors
from craft_lightning.errors import CraftError
from craft_lightning.models.quantizer import ResidualQuantizer
from craft_lightning.models.vlm_spec import growth_file

ENTRIES = "entries"


def write_growth(file: Path, quantizer: ResidualQuantizer, entries: Tensor) -> None:
    """Store ``[T, n, d]`` entries in half precision, for a quantiser of T tables."""
    save_tensors(file, {ENTRIES: entries.half()}, {"codebook_hash": quantizer.hash()})


def grow(quantizer: ResidualQuantizer | None, name: str | Path) -> ResidualQuantizer:
    """A quantiser whose tables go on with the entries of a file, given by its name if it is shipped. Raises CraftError:
    no readable file of entries, or those of another codebook."""
    told = f"--model.backbone.codebook_growth {name}"
    try:
        with safe_open(growth_file(str(name)), "pt") as tensors:
            entries, theirs = tensors.get_tensor(ENTRIES), (tensors.metadata() or {}).get("codebook_hash")
    except (OSError, SafetensorError) as error:
        raise CraftError(
            f"{told}: no file of new entries ({error}); python -m craft_lightning grow writes one"
        ) from error
    own = None if quantizer is None else quantizer.hash()
    if quantizer is None or theirs != own:
        raise CraftError(f"{told}: grown from codebook {theirs or 'none'}, this model has {own or 'none'}")
    tables = torch.cat([quantizer.codebooks, entries.float()], dim=1)
    grown = ResidualQuantizer(tables, quantizer.levels, quantizer.dtype, quantizer.share)
    grown.grown_from = own
    return grown
