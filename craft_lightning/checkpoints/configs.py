"""What the config files of a checkpoint say: where it keeps what, and the published ones of models that are not here.

Besides VILA-U's layout (:mod:`.vila_u`) there is LLaVA's, in which VILA-7B comes: either three folders as well, with a
CLIP model in ``vision_tower/``, or a *single* folder whose weight files hold everything.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from craft_lightning.checkpoints.tensors import read_json
from craft_lightning.errors import CraftError
from craft_lightning.io import write_json
from craft_lightning.models.image_processing import Aspect
from craft_lightning.models.vlm_spec import VlmSpec, hub_folder, resolve

_PUBLISHED = json.loads(Path(__file__).with_name("published_configs.json").read_text(encoding="utf-8"))
KNOWN_SIGLIP: dict[str, dict[str, int]] = _PUBLISHED["siglip"]
"""SigLIP's shapes by hub id: VILA-U's checkpoints name one of these and do not hold its config."""
KNOWN_CLIP: dict[str, dict[str, int]] = _PUBLISHED["clip"]
"""CLIP's shapes by hub id, which a checkpoint in a single folder does not hold."""
BLUEPRINTS: dict[str, dict[str, dict[str, Any]]] = _PUBLISHED["checkpoints"]
"""Content of the config files by their path in the checkpoint, by the names of ``list backbones``."""

ADAPTER = "v2l_projector"
"""``model_type`` of a projector's own config."""


def write_blueprint(folder: str | Path, name: str) -> Path:
    """The config files of a known model, no weights; returns ``folder``."""
    for path, content in BLUEPRINTS[name].items():
        file = Path(folder) / path
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, content)
    return Path(folder)


@contextmanager
def config_folder(spec: VlmSpec) -> Iterator[Path]:
    """The checkpoint folder of a spec, or for a known model that is not on this machine a temporary one of its configs.
    Raises CraftError: neither is there."""
    try:
        found = resolve(spec)
    except CraftError:
        if spec.name not in BLUEPRINTS:
            raise
        with TemporaryDirectory() as made:
            yield write_blueprint(made, spec.name)
    else:
        yield found


def checkpoint_root(folder: str | Path) -> Path:
    """The folder that holds ``llm/`` and ``vision_tower/``: the given one, or ``model/`` in it. Raises CraftError:
    neither has a ``config.json``."""
    folder = Path(folder)
    for root in (folder, folder / "model"):
        if (root / "config.json").is_file() or (root / "vision_tower" / "config.json").is_file():
            return root
    raise CraftError(f"{folder} is no checkpoint: no config.json there or in {folder / 'model'}")


def root_of(source: str | Path | VlmSpec) -> Path:
    """The checkpoint folder of a folder or spec."""
    return checkpoint_root(resolve(source) if isinstance(source, VlmSpec) else source)


def top_config_of(root: Path) -> dict[str, Any]:
    """The top ``config.json``; empty if the folder holds a bare ``vision_tower/``."""
    return read_json(root / "config.json") if (root / "config.json").is_file() else {}


def is_single(root: Path) -> bool:
    """Whether one folder holds language model, projector and tower together, as LLaVA's checkpoints do."""
    return str(top_config_of(root).get("model_type")).startswith("llava") and not (root / "llm").is_dir()


def llm_folder(root: Path) -> Path:
    """Where the language model and its tokenizer are."""
    return root if is_single(root) else root / "llm"


def tower_folder(root: Path) -> Path:
    """Where a checkpoint keeps its tower: ``vision_tower/``, the folder its config names, or itself if it is one.

    A single folder names a CLIP model, which may be anywhere on this machine; without it, the tower is its own.
    """
    facts = top_config_of(root)
    if "rqvaesiglip" in facts or "timm" in facts:
        return root
    if is_single(root):
        name = str(facts.get("mm_vision_tower"))
        beside = root / name
        # os.path's answer is no, where pathlib's is an error, of a name that no file can have
        return beside if os.path.isfile(beside / "config.json") else hub_folder(name) or root
    named = facts.get("vision_tower_cfg")
    folder = root / (named if isinstance(named, str) else "vision_tower")
    if not os.path.isfile(folder / "config.json"):
        raise CraftError(f"{root}: no vision tower in {folder}")
    return folder


def tower_kind(root: Path) -> Literal["siglip", "clip", "timm"]:
    """Which of the towers a checkpoint has; a folder that says nothing should be VILA-U's, whose is SigLIP."""
    facts = {} if is_single(root) else read_json(tower_folder(root) / "config.json")
    if is_single(root) or str(facts.get("model_type")).startswith("clip"):
        return "clip"
    return "timm" if "timm" in facts else "siglip"


def aspect_of(root: Path) -> Aspect:
    """How images become squares, the border in the mean colour of the tower's pre-training; CraftError if unknown."""
    aspect = top_config_of(root).get("image_aspect_ratio", "resize")
    if aspect == "pad":
        return "pad_clip" if tower_kind(root) == "clip" else "pad"
    if aspect != "resize":
        raise CraftError(f"{root / 'config.json'}: image_aspect_ratio {aspect!r} is unknown; known: resize, pad")
    return "resize"


def projector_folder(root: Path) -> Path:
    """Where a checkpoint keeps its projector: ``mm_projector/``, or itself if it is single or an adapter alone."""
    alone = is_single(root) or top_config_of(root).get("model_type") == ADAPTER
    return root if alone else root / "mm_projector"


def projector_config(root: Path) -> dict[str, Any]:
    """The config that names a checkpoint's projector (``mm_projector_type``)."""
    return read_json(projector_folder(root) / "config.json")
