"""Folders of a timm tower: ``config.json`` names the model, ``model.safetensors`` holds it."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors.torch import load_file

from craft_lightning.checkpoints.paths import tower_folder
from craft_lightning.checkpoints.tensors import building, fresh_folder, read_as, read_json, save_tensors
from craft_lightning.errors import CraftError
from craft_lightning.io import write_json

if TYPE_CHECKING:
    from craft_lightning.models.towers.timm import TimmTower


def build_timm_tower(root: Path) -> TimmTower:
    """The timm tower that a checkpoint describes, its weights not read; CraftError if timm has no such model."""
    from craft_lightning.models.towers.timm import TimmTower  # timm takes a second to import and is rarely needed

    file = tower_folder(root) / "config.json"
    with building(), read_as(file, "a timm tower"):
        facts = read_json(file)["timm"]
        return TimmTower(facts["name"], facts.get("image_size"))


def load_timm_tower(root: Path) -> TimmTower:
    """The timm tower of a checkpoint. Raises CraftError: no such model, no weights, or weights that do not fit."""
    tower, file = build_timm_tower(root), tower_folder(root) / "model.safetensors"
    if not file.is_file():
        raise CraftError(f"no weight file {file} for the timm tower")
    with read_as(file, "weights of a timm tower"):
        state = {k: v for k, v in load_file(file).items() if not k.startswith(("head.", "fc_norm."))}
    try:
        tower.vision.load_state_dict(state)
    except RuntimeError as error:
        raise CraftError(f"{file}: {' '.join(str(error).split())}") from error
    return tower


def write_timm_tower(folder: str | Path, tower: TimmTower, dtype: torch.dtype = torch.float32) -> None:
    """A tower folder that :func:`.load.load_tower` reads and that a checkpoint may name in ``vision_tower_cfg``."""
    facts = {"name": tower.name, "image_size": tower.image_size}
    with fresh_folder(folder) as fresh:
        save_tensors(fresh / "model.safetensors", {k: v.to(dtype) for k, v in tower.vision.state_dict().items()})
        write_json(fresh / "config.json", {"model_type": "timm", "hidden_size": tower.width, "timm": facts})
