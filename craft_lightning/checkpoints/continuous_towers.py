"""Towers without codebook, read from checkpoints: CLIP's, out of LLaVA's layout, and timm's, in folders of their own.

Of a timm tower ``config.json`` names the model, and ``model.safetensors`` holds it.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from transformers import CLIPVisionConfig, CLIPVisionModel

from craft_lightning.checkpoints.configs import KNOWN_CLIP, is_single, top_config_of, tower_folder
from craft_lightning.checkpoints.tensors import TensorFiles, building, load_strict, read_as
from craft_lightning.errors import CraftError
from craft_lightning.models.towers.continuous import ClipTower, TimmTower

TOWER = "model.vision_tower.vision_tower."
"""Beginning of the names of a CLIP tower in a single folder."""


def clip_shapes(root: Path) -> dict[str, Any]:
    """Config of the CLIP tower of a checkpoint. Raises CraftError: an unknown shape, or another layer or feature than
    VILA-7B reads."""
    top = top_config_of(root)
    for field, value in {"mm_vision_select_layer": -2, "mm_vision_select_feature": "patch"}.items():
        if top.get(field, value) != value:
            raise CraftError(f"{root / 'config.json'}: {field} is {top[field]!r}; only {value!r} is known here")
    name = str(top.get("mm_vision_tower"))
    if is_single(root) and name in KNOWN_CLIP:
        return dict(KNOWN_CLIP[name])
    folder = tower_folder(root)
    facts = top_config_of(folder)
    if not str(facts.get("model_type")).startswith("clip"):
        raise CraftError(
            f"{root / 'config.json'}: mm_vision_tower {name!r} is neither a known id ({', '.join(KNOWN_CLIP)}) nor a "
            "folder with a CLIP model"
        )
    shapes = facts.get("vision_config", facts)
    if not isinstance(shapes, dict):
        raise CraftError(f"{folder / 'config.json'}: no section vision_config")
    return dict(shapes)


def clip_model(root: Path, attention: str = "sdpa") -> Any:
    """The CLIP model of a checkpoint, its weights not read. Raises CraftError: see :func:`clip_shapes`; shapes that
    make no model."""
    shapes = clip_shapes(root)
    with building(), read_as(tower_folder(root) / "config.json", "a CLIP vision tower"):
        return CLIPVisionModel._from_config(CLIPVisionConfig(**shapes), attn_implementation=attention)


def load_clip_tower(root: Path, attention: str) -> ClipTower:
    """The CLIP tower of a checkpoint: out of its own files, or of the repository that it names. Raises CraftError: it
    is in neither, or tensors do not fit."""
    vision, folder, prefix = clip_model(root, attention), tower_folder(root), ""
    files = TensorFiles(root if is_single(root) else folder)
    if is_single(root) and any(name.startswith(TOWER) for name in files.names()):
        prefix = TOWER
    elif is_single(root) and folder == root:
        name = top_config_of(root).get("mm_vision_tower")
        raise CraftError(f"{root}: its tower {name} is not on this machine: `hf download {name}`")
    elif is_single(root):
        files = TensorFiles(folder)
    if any(name.startswith(f"{prefix}vision_model.") for name in files.names()):
        prefix += "vision_model."  # as transformers wrote it until version 5; beside it stands CLIP's text half
    state = {k: v for k, v in files.under(prefix).items() if k != "embeddings.position_ids"}
    load_strict(vision, state, files.folder, prefix)
    return ClipTower(vision)


def timm_tower(root: Path) -> TimmTower:
    """The timm tower that a checkpoint describes, its weights not read; CraftError if timm has no such model."""
    folder = tower_folder(root)
    with building(), read_as(folder / "config.json", "a timm tower"):
        facts = top_config_of(folder)["timm"]
        return TimmTower(facts["name"], facts.get("image_size"))


def load_timm_tower(root: Path) -> TimmTower:
    """The timm tower of a checkpoint. Raises CraftError: no such model, no weights, or weights that do not fit."""
    tower, files = timm_tower(root), TensorFiles(tower_folder(root))
    state = {k: v for k, v in files.under("").items() if not k.startswith(("head.", "fc_norm."))}
    load_strict(tower.vision, state, files.folder)
    return tower
