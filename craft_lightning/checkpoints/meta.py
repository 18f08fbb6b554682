"""A model without its weights: names and shapes from the config files alone, and what they say about memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase, SiglipVisionModel

from craft_lightning.checkpoints.llava import clip_model, language_config, projector_kind
from craft_lightning.checkpoints.paths import checkpoint_root, has_clip, llm_folder, top_config_of, tower_folder
from craft_lightning.checkpoints.published_configs import config_folder
from craft_lightning.checkpoints.tensors import building, read_as, read_json
from craft_lightning.checkpoints.timm_tower import read_timm_tower
from craft_lightning.checkpoints.vila_u import entries_of, levels_of, section_of, siglip_half
from craft_lightning.errors import CraftError
from craft_lightning.models.projector import Projector
from craft_lightning.models.quantizer import ResidualQuantizer
from craft_lightning.models.sharding import blocks
from craft_lightning.models.towers.clip import ClipTower
from craft_lightning.models.towers.siglip import VisionTower
from craft_lightning.models.vlm import DiscreteVlm
from craft_lightning.models.vlm_spec import VlmSpec


def skeleton(spec: VlmSpec) -> DiscreteVlm:
    """The model of a spec on the meta device; no weight file is opened, and there need not be one.

    It has no tokenizer and no codebook hash. A known model need not be on this machine at all.

    Raises:
        CraftError: a config file that is missing or cannot be read.
    """
    with config_folder(spec) as folder, torch.device("meta"), building():
        root = checkpoint_root(folder)
        tower, quantizer = _tower(root)
        llm = llm_folder(root)
        config: Any = language_config(llm)
        with read_as(llm / "config.json", "a language model"):
            language_model = AutoModelForCausalLM.from_config(config)
        language_model.tie_weights()  # which is a part of the initialisation that was left out
        projector = Projector(projector_kind(root), tower.width, config.hidden_size)
        vlm = DiscreteVlm(tower, projector, language_model, cast(PreTrainedTokenizerBase, None)).eval()
        tower.quantizer = quantizer  # after the model took the hash of nothing
    return vlm


def _tower(root: Path) -> tuple[Any, ResidualQuantizer | None]:
    if has_clip(root):
        return ClipTower(clip_model(root)), None
    folder = tower_folder(root)
    if "timm" in read_json(folder / "config.json"):
        return read_timm_tower(folder, None), None
    vision = siglip_half(SiglipVisionModel, folder, root)
    section, quantizer = section_of(folder), None
    if "n_embed" in section and not top_config_of(root).get("continuous", False):
        levels, entries = levels_of(section, folder), entries_of(section, folder)
        tables = torch.empty(1 if section.get("shared_codebook") else levels, entries, vision.config.hidden_size)
        quantizer = ResidualQuantizer(tables, levels)
    try:
        return VisionTower(vision), quantizer
    except ValueError as error:
        raise CraftError(f"{folder}: {error}") from error


@dataclass(frozen=True)
class Stack:
    """Transformer blocks as memory sees them: ``blocks`` that run, ``width``, width of keys and values, of the MLP."""

    blocks: int
    width: int
    kv_width: int
    mlp: int


@dataclass(frozen=True)
class Profile:
    """What a method holds and computes, in numbers.

    Attributes:
        trained, frozen: parameters. tables: bytes of the codebook and its norms.
        outside: parameters outside of the blocks. block: of the largest block.
        tower, language: the blocks that run; ``tower`` is None where its shapes are not known (timm).
        tokens: of one picture. vocabulary: rows of the output layer.
        distances: FLOPs of a picture's distances to all codewords at all levels.
        tower_trains, language_trains: whether some of their parameters are trained.
    """

    trained: int
    frozen: int
    tables: int
    outside: int
    block: int
    tower: Stack | None
    language: Stack
    tokens: int
    vocabulary: int
    distances: int
    tower_trains: bool
    language_trains: bool

    @property
    def parameters(self) -> int:
        """All of them."""
        return self.trained + self.frozen


def profile(module: nn.Module, vlm: DiscreteVlm) -> Profile:
    """The numbers of a module (a method, usually on the meta device) around a model."""
    trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
    total = sum(p.numel() for p in module.parameters())
    sizes = [sum(p.numel() for p in block.parameters()) for block in blocks(module)]
    config: Any = vlm.language_model.config
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    language = Stack(
        config.num_hidden_layers, config.hidden_size, config.num_key_value_heads * head, config.intermediate_size
    )
    quantizer = vlm.tower.quantizer
    tables: list[Tensor] = [] if quantizer is None else [b for b in quantizer.buffers() if b is not None]
    return Profile(
        trained=trained,
        frozen=total - trained,
        tables=sum(t.numel() * t.element_size() for t in tables),
        outside=total - sum(sizes),
        block=max(sizes, default=0),
        tower=_tower_stack(vlm.tower),
        language=language,
        tokens=vlm.tower.num_tokens,
        vocabulary=config.vocab_size,
        distances=2 * vlm.tower.num_tokens * quantizer.entries * quantizer.levels * vlm.tower.width if quantizer else 0,
        tower_trains=any(p.requires_grad for p in vlm.tower.parameters()),
        language_trains=any(p.requires_grad for p in vlm.language_model.parameters()),
    )


def _tower_stack(tower: Any) -> Stack | None:
    if not isinstance(tower, VisionTower | ClipTower):
        return None
    config: Any = tower.vision.config
    return Stack(config.num_hidden_layers - 1, config.hidden_size, config.hidden_size, config.intermediate_size)
