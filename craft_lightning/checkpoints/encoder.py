"""Plugs an adapted encoder into a tower."""

from __future__ import annotations

import hashlib
import logging
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from craft_lightning.checkpoints.tensors import first_line, listed, mismatches, read_json
from craft_lightning.errors import CraftError
from craft_lightning.models.towers.siglip import VisionTower

logger = logging.getLogger(__name__)


def weights_hash(tower: VisionTower) -> str:
    """SHA-256 over names, shapes and float32 little-endian bytes of what :meth:`.siglip.VisionTower.used_parameters`
    yields: what an adapted encoder replaces."""
    digest = hashlib.sha256()
    for name, parameter in tower.used_parameters():
        digest.update(f"{name} {tuple(parameter.shape)} ".encode())
        digest.update(parameter.detach().to("cpu", torch.float32).numpy().astype("<f4", copy=False).tobytes())
    return digest.hexdigest()


def apply_encoder(tower: VisionTower, folder: str | Path) -> tuple[dict[str, Any], Tensor | None]:
    """Put an adapted encoder's parameters into a tower of the same codebook, or into the very tower that it was adapted
    from where there is none: a projector then reads the features of one tower, and no codewords make two of them alike.

    Returns:
        Its ``config.json``, and its token prior ``[K]`` if it has one.

    Raises:
        CraftError: another codebook or base tower (both hashes named), or missing, unexpected or misshapen tensors.
    """
    folder = Path(folder)
    if not (folder / "encoder.safetensors").is_file():
        raise CraftError(f"no adapted encoder in {folder}: encoder.safetensors is missing")
    facts = read_json(folder / "config.json")
    own = None if tower.quantizer is None else tower.quantizer.hash()
    if facts.get("codebook_hash") != own:
        raise CraftError(
            f"{folder}: adapted to codebook {facts.get('codebook_hash') or 'none'}, this model has {own or 'none'}; "
            f"an encoder only fits models of its own codebook"
        )
    if own is None:
        _check_base(facts, tower, folder)
    try:
        state = load_file(folder / "encoder.safetensors")
        prior = facts.get("token_prior")
        counts = None if prior is None else load_file(folder / Path(str(prior)).name)["counts"]
    except (SafetensorError, OSError, KeyError) as error:
        raise CraftError(f"{folder}: unreadable ({first_line(error)})") from error
    parameters = dict(tower.used_parameters())
    problems = mismatches({k: tuple(v.shape) for k, v in parameters.items()}, state)
    if problems:
        raise CraftError(f"{folder}: {'; '.join(problems)}")
    broken = [name for name, value in state.items() if not bool(value.isfinite().all())]
    if broken:
        raise CraftError(f"{folder}: not finite: {listed(broken)}; its training diverged")
    for name, parameter in parameters.items():
        # In the precision that it was trained in, though the model around it be held in a coarser one.
        dtype = torch.promote_types(parameter.dtype, state[name].dtype)
        parameter.data = state[name].to(parameter.device, dtype)
    return facts, counts


def _check_base(facts: dict[str, Any], tower: VisionTower, folder: Path) -> None:
    """Compare the tower that a continuous encoder was adapted from with the one that it is to replace."""
    base, theirs = facts.get("base"), facts.get("base_hash")
    if theirs is None or tower.base_hash is None:
        logger.warning(
            "%s does not say which tower it was adapted from: whether it fits this model cannot be checked (its base "
            "is %s)",
            folder,
            base,
        )
    elif theirs != tower.base_hash:
        raise CraftError(
            f"{folder}: adapted from the tower of {base} ({theirs}), this model has another ({tower.base_hash}); "
            "without a codebook an encoder only fits models of its own tower"
        )
