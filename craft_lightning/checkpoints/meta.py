"""A model without its weights: names and shapes from the config files alone, and what they say about memory."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, PreTrainedTokenizerBase, SiglipVisionModel

from craft_lightning.checkpoints.llava import clip_model, language_config, projector_kind
from craft_lightning.checkpoints.paths import checkpoint_root, llm_folder, top_config_of, tower_folder, tower_kind
from craft_lightning.checkpoints.published_configs import config_folder
from craft_lightning.checkpoints.tensors import building, read_as
from craft_lightning.checkpoints.timm_tower import build_timm_tower
from craft_lightning.checkpoints.vila_u import codebook_size, section_of, siglip_half
from craft_lightning.errors import CraftError
from craft_lightning.models.projector import Projector
from craft_lightning.models.quantizer import ResidualQuantizer
from craft_lightning.models.sharding import blocks
from craft_lightning.models.towers.base import Tower
from craft_lightning.models.towers.clip import ClipTower
from craft_lightning.models.towers.siglip import SiglipTower
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
        try:
            tower = _tower(root)
            quantizer = _quantizer(root, tower.width)
        except ValueError as error:
            raise CraftError(f"{tower_folder(root)}: {error}") from error
        llm = llm_folder(root)
        config: Any = language_config(llm)
        with read_as(llm / "config.json", "a language model"):
            language_model = AutoModelForCausalLM.from_config(config)
        language_model.tie_weights()  # which is a part of the initialisation that was left out
        projector = Projector(projector_kind(root), tower.width, config.hidden_size)
        vlm = DiscreteVlm(tower, projector, language_model, cast(PreTrainedTokenizerBase, None)).eval()
        tower.quantizer = quantizer  # after the model took the hash of nothing
    return vlm


def _tower(root: Path) -> Tower:
    kind = tower_kind(root)
    if kind == "siglip":
        return SiglipTower(siglip_half(SiglipVisionModel, root))
    return ClipTower(clip_model(root)) if kind == "clip" else build_timm_tower(root)


def _quantizer(root: Path, width: int) -> ResidualQuantizer | None:
    if tower_kind(root) != "siglip" or top_config_of(root).get("continuous", False):
        return None
    folder = tower_folder(root)
    size = codebook_size(folder)
    if size is None:
        return None
    tables = 1 if section_of(folder).get("shared_codebook") else size[0]
    return ResidualQuantizer(torch.empty(tables, size[1], width), size[0])


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
        tokens: of one image. vocabulary: rows of the output layer.
        distances: FLOPs of an image's distances to all codewords at all levels.
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
    tower, quantizer = vlm.tower, vlm.tower.quantizer
    tables: list[Tensor] = [] if quantizer is None else [b for b in quantizer.buffers() if b is not None]
    return Profile(
        trained=trained,
        frozen=total - trained,
        tables=sum(t.numel() * t.element_size() for t in tables),
        outside=total - sum(sizes),
        block=max(sizes, default=0),
        tower=None if tower.mlp is None else Stack(tower.depth, tower.width, tower.width, tower.mlp),
        language=language,
        tokens=tower.num_tokens,
        vocabulary=config.vocab_size,
        distances=2 * tower.num_tokens * quantizer.entries * quantizer.levels * tower.width if quantizer else 0,
        tower_trains=any(p.requires_grad for p in tower.parameters()),
        language_trains=any(p.requires_grad for p in vlm.language_model.parameters()),
    )
