"""Plugs an adapted encoder into a tower."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from craft_lightning.errors import CraftError
from craft_lightning.models.files import first_line, listed, mismatches, read_json
from craft_lightning.models.tower import VisionTower


def apply_encoder(tower: VisionTower, folder: str | Path) -> tuple[dict[str, Any], Tensor | None]:
    """Put an adapted encoder's parameters into a tower of the same codebook.

    Returns:
        Its ``config.json``, and its token prior ``[K]`` if it has one.

    Raises:
        CraftError: another codebook (both hashes named), or missing, unexpected or misshapen tensors.
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
