"""Adapted encoders: written as a folder of their own, and plugged into a tower."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from craft_lightning.checkpoints.tensors import (
    dtype_name,
    first_line,
    fresh_folder,
    listed,
    mismatches,
    read_json,
    save_tensors,
)
from craft_lightning.errors import CraftError
from craft_lightning.io import write_json
from craft_lightning.models.towers.base import Tower

logger = logging.getLogger(__name__)


def weights_hash(tower: Tower) -> str:
    """SHA-256 over names, shapes and float32 little-endian bytes of what :meth:`.base.Tower.used_parameters` yields:
    what an adapted encoder replaces."""
    digest = hashlib.sha256()
    for name, parameter in tower.used_parameters():
        digest.update(f"{name} {tuple(parameter.shape)} ".encode())
        digest.update(parameter.detach().to("cpu", torch.float32).numpy().astype("<f4", copy=False).tobytes())
    return digest.hexdigest()


def write_encoder(
    folder: str | Path,
    state: Mapping[str, Tensor],
    *,
    base: str,
    codebook_hash: str | None,
    method: str,
    base_hash: str | None = None,
    dtype: torch.dtype = torch.float32,
    token_prior: Tensor | None = None,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """An adapted encoder: ``encoder.safetensors``, ``config.json`` and, if given, ``token_prior.safetensors``.

    Args:
        state: the adapted parameters by the names of :meth:`.base.Tower.used_parameters`, all of them.
        base: checkpoint that it was adapted from. method: name of the method.
        codebook_hash: SHA-256 of the codebook it was adapted to; None for a continuous tower.
        base_hash: SHA-256 of the tower that it was adapted from, where there is no codebook.
        dtype: of the stored parameters.
        token_prior: ``[K]`` counts of first-level codes on the training split.
        extra: further facts for ``config.json``.
    """
    with fresh_folder(folder) as fresh:
        save_tensors(fresh / "encoder.safetensors", {k: v.to(dtype) for k, v in state.items()})
        if token_prior is not None:
            save_tensors(fresh / "token_prior.safetensors", {"counts": token_prior})
        facts = {"base": base, "codebook_hash": codebook_hash, "dtype": dtype_name(dtype), "method": method}
        facts |= {"base_hash": base_hash} if codebook_hash is None else {}
        facts["token_prior"] = None if token_prior is None else "token_prior.safetensors"
        write_json(fresh / "config.json", dict(extra or {}) | facts)


def apply_encoder(tower: Tower, folder: str | Path) -> tuple[dict[str, Any], Tensor | None]:
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
    if problems := mismatches(parameters, state):
        raise CraftError(f"{folder}: {'; '.join(problems)}")
    if broken := [name for name, value in state.items() if not bool(value.isfinite().all())]:
        raise CraftError(f"{folder}: not finite: {listed(broken)}; its training diverged")
    for name, parameter in parameters.items():
        # In the precision that it was trained in, though the model around it be held in a coarser one.
        dtype = torch.promote_types(parameter.dtype, state[name].dtype)
        parameter.data = state[name].to(parameter.device, dtype)
    return facts, counts


def _check_base(facts: dict[str, Any], tower: Tower, folder: Path) -> None:
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
