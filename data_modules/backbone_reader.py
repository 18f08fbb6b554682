"""What the data need to know of a backbone: its tokenizer, how its prompts are written, and its image size."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from craft_lightning.checkpoints import configs
from craft_lightning.checkpoints.continuous_towers import clip_model
from craft_lightning.checkpoints.load import load_tower
from craft_lightning.checkpoints.tensors import read_json
from craft_lightning.checkpoints.tokenizer import load_tokenizer
from craft_lightning.models.image_processing import Aspect
from craft_lightning.models.vlm_spec import VlmSpec, resolve
from craft_lightning.text.prompts import PromptBuilder


@dataclass(frozen=True)
class Reader:
    """How a backbone reads: ``builder`` writes prompts; images become squares of ``side`` pixels by ``aspect``."""

    builder: PromptBuilder
    side: int
    aspect: Aspect = "resize"


def read_backbone(spec: VlmSpec) -> Reader:
    """Read tokenizer and configs of a checkpoint, no weights if its ``preprocessor_config.json`` tells the size. Raises
    CraftError: no such backbone, or a tokenizer that multiple choice cannot be asked in."""
    root = configs.checkpoint_root(resolve(spec))
    config = configs.top_config_of(root)
    builder = PromptBuilder(load_tokenizer(configs.llm_folder(root)), config.get("conversation", "vicuna_v1"))
    return Reader(builder, _side(root, spec), configs.aspect_of(root))


def _side(root: Path, spec: VlmSpec) -> int:
    if configs.tower_kind(root) == "clip":
        with torch.device("meta"):
            return int(clip_model(root).config.image_size)
    file = configs.tower_folder(root) / "preprocessor_config.json"
    size: Any = read_json(file).get("size") if file.is_file() else None
    if isinstance(size, dict):
        size = size.get("height", size.get("shortest_edge"))
    return size if isinstance(size, int) else load_tower(spec).image_size
