"""Reads LLaVA's layout, in which VILA-7B comes: a CLIP tower, and folders that hold everything.

The names of a single folder: ``model.*`` and ``lm_head.*`` are the language model's, except for
``model.mm_projector.*`` and, where the tower is not left to its own repository, ``model.vision_tower.*``.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import AutoConfig, CLIPVisionConfig, CLIPVisionModel, PreTrainedConfig

from craft_lightning.checkpoints.paths import is_single, top_config_of, tower_folder
from craft_lightning.checkpoints.published_configs import KNOWN_CLIP
from craft_lightning.checkpoints.tensors import TensorFiles, building, load_strict, read_as, read_json
from craft_lightning.errors import CraftError
from craft_lightning.models.towers.clip import ClipTower
from craft_lightning.models.vlm import context_length

PROJECTOR = "model.mm_projector."
TOWER = "model.vision_tower.vision_tower."
PARTS = (PROJECTOR, "model.vision_tower.")
"""Beginnings of the names in a single folder that are not the language model's."""


def language_config(folder: Path) -> PreTrainedConfig:
    """The language model's config; that of a single folder is LLaVA's, around a Llama's. Raises CraftError: there is
    none, of a kind that transformers does not know, or with values that make no model."""
    file = folder / "config.json"
    facts = read_json(file) if file.is_file() else {}
    kind = str(facts.get("model_type"))
    with read_as(file, "the config of a language model"):
        if kind.startswith("llava_"):
            own = {k: v for k, v in facts.items() if k not in ("model_type", "architectures", "auto_map")}
            config = AutoConfig.for_model(kind.removeprefix("llava_"), **own)
        else:
            config = AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        context_length(config)  # whose fields transformers does not check
    return config


def projector_kind(root: Path) -> str:
    """``mm_projector_type``, from ``mm_projector/`` or from the top config of a single folder."""
    facts = top_config_of(root) if is_single(root) else read_json(root / "mm_projector" / "config.json")
    return str(facts.get("mm_projector_type"))


def projector_state(root: Path) -> dict[str, Tensor]:
    """The projector's tensors by the names of :class:`.projector.Projector`."""
    if is_single(root):
        return {f"layers.{name}": value for name, value in TensorFiles(root).under(PROJECTOR).items()}
    return TensorFiles(root / "mm_projector").under("")


def clip_shapes(root: Path) -> dict[str, Any]:
    """Config of the CLIP tower of a checkpoint. Raises CraftError: an unknown shape, or another layer or feature than
    VILA-7B reads."""
    top = top_config_of(root)
    wanted = {"mm_vision_select_layer": -2, "mm_vision_select_feature": "patch"}
    for field, value in wanted.items():
        if top.get(field, value) != value:
            raise CraftError(f"{root / 'config.json'}: {field} is {top[field]!r}; only {value!r} is known here")
    name = str(top.get("mm_vision_tower"))
    if is_single(root) and name in KNOWN_CLIP:
        return dict(KNOWN_CLIP[name])
    folder = tower_folder(root)
    facts = read_json(folder / "config.json")
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
    vision = clip_model(root, attention)
    folder = tower_folder(root)
    single = is_single(root)
    files = TensorFiles(root if single else folder)
    prefix = TOWER if single else ""
    if single and not any(name.startswith(TOWER) for name in files.names()):
        if folder == root:
            name = top_config_of(root).get("mm_vision_tower")
            raise CraftError(f"{root}: its tower {name} is not on this machine: `hf download {name}`")
        files, prefix = TensorFiles(folder), ""
    if any(name.startswith(f"{prefix}vision_model.") for name in files.names()):
        prefix += "vision_model."  # as transformers wrote it until version 5; beside it stands CLIP's text half
    state = {k: v for k, v in files.under(prefix).items() if k != "embeddings.position_ids"}
    load_strict(vision, state, files.folder, prefix)
    return ClipTower(vision)
