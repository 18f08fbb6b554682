"""Loads models out of checkpoint folders, whatever their format.

Everything is strict: a tensor is used, is on the list of those known to be unused, or is an error by name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel

from craft_lightning.checkpoints.encoder import apply_encoder, weights_hash
from craft_lightning.checkpoints.llava import PARTS, language_config, load_clip_tower, projector_kind, projector_state
from craft_lightning.checkpoints.paths import (
    aspect_of,
    is_single,
    llm_folder,
    root_of,
    top_config_of,
    tower_folder,
    tower_kind,
)
from craft_lightning.checkpoints.tensors import TensorFiles, building, listed, load_strict, quiet, read_as, torch_dtype
from craft_lightning.checkpoints.timm_tower import load_timm_tower
from craft_lightning.checkpoints.tokenizer import load_tokenizer
from craft_lightning.checkpoints.vila_u import CONVERSATIONS, load_siglip_tower
from craft_lightning.errors import CraftError
from craft_lightning.models.projector import Projector
from craft_lightning.models.sharding import recompute
from craft_lightning.models.towers.base import Tower
from craft_lightning.models.vlm import DiscreteVlm
from craft_lightning.models.vlm_spec import VlmSpec


def load_tower(
    source: str | Path | VlmSpec,
    *,
    dtype: str = "float32",
    quantizer_dtype: str = "float32",
    attention: str = "sdpa",
) -> Tower:
    """The vision tower alone, in eval mode; without quantiser if the checkpoint is a continuous one.

    Args:
        source: checkpoint folder, tower folder, or a spec (whose own dtypes, attention and encoder then count).
        dtype, quantizer_dtype, attention: as in :class:`.vlm_spec.VlmSpec`.

    Raises:
        CraftError: missing or unexpected tensors by name (the text half's, too), an unknown SigLIP shape, unequal
            shared codebooks or one of another width, a dtype that distances are not computed in.
    """
    root = root_of(source)
    if isinstance(source, VlmSpec):
        dtype, quantizer_dtype, attention = source.dtype, source.quantizer_dtype, source.attention
    kind = tower_kind(root)
    try:
        if kind == "siglip":
            tower: Tower = load_siglip_tower(root, attention, quantizer_dtype)
        else:
            tower = load_clip_tower(root, attention) if kind == "clip" else load_timm_tower(root)
    except ValueError as error:
        raise CraftError(f"{tower_folder(root)}: {error}") from error
    if tower.quantizer is None:
        tower.base_hash = weights_hash(tower)  # before anything is rounded or plugged in
    tower = tower.to(torch_dtype(dtype)).eval()
    if isinstance(source, VlmSpec) and source.encoder is not None:
        apply_encoder(tower, source.encoder)
    return tower


def load_language_model(folder: Path, *, dtype: str = "float32", attention: str = "sdpa") -> PreTrainedModel:
    """A transformers causal language model, checked tensor by tensor; RoPE scaling as the config has it. Raises
    CraftError: unreadable, or missing, unexpected or misshapen tensors."""
    TensorFiles(folder)  # a damaged or unsafe file is refused before transformers sees it
    config = language_config(folder)
    with read_as(folder, "a language model"), torch.random.fork_rng(devices=[]), quiet():
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            str(folder),
            config=config,
            dtype=torch_dtype(dtype),
            attn_implementation=attention,
            local_files_only=True,
            trust_remote_code=False,
            output_loading_info=True,
            ignore_mismatched_sizes=True,  # so that they are listed; they are refused below
        )
    model, info = loaded
    others = PARTS if is_single(folder) else ()
    unexpected = [k for k in info["unexpected_keys"] if not (k.endswith("rotary_emb.inv_freq") or k.startswith(others))]
    mismatched = [k[0] for k in info["mismatched_keys"]]
    for word, keys in (("missing", info["missing_keys"]), ("unexpected", unexpected), ("misshapen", mismatched)):
        if keys:
            raise CraftError(f"{folder}: {word} {listed(map(str, keys))}")
    return model.eval()


def load_projector(root: Path, width: int, llm_width: int, dtype: str = "float32") -> Projector:
    """The projector of a checkpoint. Raises CraftError: an unknown kind, or tensors that do not fit the two widths."""
    with building():
        projector = Projector(projector_kind(root), width, llm_width)
    if projector.state_dict():
        load_strict(projector, projector_state(root), root if is_single(root) else root / "mm_projector")
    return projector.to(torch_dtype(dtype)).eval()


def load_vlm(spec: VlmSpec) -> DiscreteVlm:
    """A whole model in eval mode, with the adapted encoder that the spec names plugged in. Raises CraftError: anything
    that does not fit, by name; an encoder of another codebook, with both hashes."""
    root = root_of(spec)
    facts = top_config_of(root)
    conversation = facts.get("conversation", "vicuna_v1")
    if conversation not in CONVERSATIONS:
        raise CraftError(f"{root / 'config.json'}: conversation {conversation!r} is unknown; known: {CONVERSATIONS}")
    aspect, llm = aspect_of(root), llm_folder(root)
    tower = load_tower(root, dtype=spec.dtype, quantizer_dtype=spec.quantizer_dtype, attention=spec.attention)
    language_model = load_language_model(llm, dtype=spec.dtype, attention=spec.attention)
    tokenizer = load_tokenizer(llm)
    embedding: Any = language_model.get_input_embeddings()
    if len(tokenizer) > (rows := embedding.num_embeddings):
        raise CraftError(f"{llm}: the tokenizer has {len(tokenizer)} entries, the embedding {rows} rows")
    vlm = DiscreteVlm(
        tower,
        load_projector(root, tower.width, language_model.config.hidden_size, spec.dtype),
        language_model,
        tokenizer,
        image_wrap=bool(facts.get("image_wrap", False)),
        conversation=conversation,
        aspect=aspect,
    ).eval()
    if spec.encoder is not None:
        vlm.encoder_facts, vlm.token_prior = apply_encoder(tower, spec.encoder)
    if spec.gradient_checkpointing:
        recompute(vlm)
    return vlm
