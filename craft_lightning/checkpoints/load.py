"""Models out of checkpoint folders, whatever their format: loaded, or as skeletons without weights.

Loading is strict: a tensor is used, is on the list of those known to be unused, or is an error by name.
"""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel, SiglipVisionModel

from craft_lightning.checkpoints import configs
from craft_lightning.checkpoints.adapter import PROJECTOR, empty_projector, load_projector
from craft_lightning.checkpoints.codebook_growth import entries_in, grow
from craft_lightning.checkpoints.continuous_towers import clip_model, load_clip_tower, load_timm_tower, timm_tower
from craft_lightning.checkpoints.encoder import apply_encoder, growth_of, weights_hash
from craft_lightning.checkpoints.pretrained import base_folder, lora_of, merge_lora
from craft_lightning.checkpoints.tensors import TensorFiles, building, listed, quiet, read_as, torch_dtype
from craft_lightning.checkpoints.tokenizer import load_tokenizer
from craft_lightning.checkpoints.vila_u import CONVERSATIONS, codebook_size, load_siglip_tower, siglip_half
from craft_lightning.errors import CraftError
from craft_lightning.models.langbridge import LangBridge
from craft_lightning.models.quantizer import ResidualQuantizer
from craft_lightning.models.sharding import recompute
from craft_lightning.models.towers.continuous import ClipTower
from craft_lightning.models.towers.siglip import SiglipTower
from craft_lightning.models.towers.tower import Tower
from craft_lightning.models.vlm import DiscreteVlm, context_length
from craft_lightning.models.vlm_spec import SMALL_PACKAGE, VlmSpec


def load_tower(
    source: str | Path | VlmSpec,
    *,
    dtype: str = "float32",
    quantizer_dtype: str = "float32",
    attention: str = "sdpa",
    codebook_share: float = 1.0,
    codebook_growth: str | None = None,
) -> Tower:
    """The vision tower alone, in eval mode; without quantiser if the checkpoint is a continuous one. Raises CraftError:
    missing or unexpected tensors by name (the text half's, too), an unknown SigLIP shape, unequal shared codebooks or
    one of another width, a dtype that distances are not computed in, a share of a codebook that is not there.

    Args:
        source: checkpoint folder, tower folder, or a spec (whose own settings and encoder then count).
        dtype, quantizer_dtype, attention, codebook_share, codebook_growth: as in :class:`.vlm_spec.VlmSpec`.
    """
    root = configs.root_of(source)
    if isinstance(source, VlmSpec):
        dtype, quantizer_dtype, attention = source.dtype, source.quantizer_dtype, source.attention
        codebook_share, codebook_growth = source.codebook_share, growth_of(source)
    kind = configs.tower_kind(root)
    with read_as(configs.tower_folder(root), "a vision tower"):
        if kind == "siglip":
            tower: Tower = load_siglip_tower(root, attention, torch_dtype(quantizer_dtype), codebook_share)
        else:
            tower = load_clip_tower(root, attention) if kind == "clip" else load_timm_tower(root)
    if tower.quantizer is None:
        if codebook_share < 1.0:
            raise CraftError(f"{root} has no codebook: --model.backbone.codebook_share {codebook_share:g} is of none")
        tower.base_hash = weights_hash(tower)  # before anything is rounded or plugged in
    if codebook_growth is not None:
        tower.quantizer = grow(tower.quantizer, codebook_growth)
    tower = tower.to(torch_dtype(dtype)).eval()
    if isinstance(source, VlmSpec) and source.encoder is not None:
        apply_encoder(tower, source.encoder)
    return tower


def language_config(folder: Path) -> PreTrainedConfig:
    """The language model's config; that of a single folder is LLaVA's, around a Llama's. Raises CraftError: there is
    none, of a kind that transformers does not know, or with values that make no model."""
    facts = configs.top_config_of(folder)
    kind = str(facts.get("model_type"))
    with read_as(folder / "config.json", "the config of a language model"):
        if kind.startswith("llava_"):
            own = {k: v for k, v in facts.items() if k not in ("model_type", "architectures", "auto_map")}
            config = AutoConfig.for_model(kind.removeprefix("llava_"), **own)
        else:
            config = AutoConfig.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
        context_length(config)  # whose fields transformers does not check
    return config


def load_language_model(folder: Path, *, dtype: str = "float32", attention: str = "sdpa") -> PreTrainedModel:
    """A transformers causal language model, checked tensor by tensor; RoPE scaling as the config has it. Low-rank
    updates are merged into their base. Raises CraftError: unreadable, or missing, unexpected or misshapen tensors; a
    base that is not on this machine."""
    if lora := lora_of(folder):
        base = base_folder(str(lora.base_model_name_or_path))
        return merge_lora(load_language_model(base, dtype=dtype, attention=attention), folder, lora).eval()
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
    others = (PROJECTOR, "model.vision_tower.") if configs.is_single(folder) else ()
    unexpected = [k for k in info["unexpected_keys"] if not (k.endswith("rotary_emb.inv_freq") or k.startswith(others))]
    mismatched = [k[0] for k in info["mismatched_keys"]]
    for word, keys in (("missing", info["missing_keys"]), ("unexpected", unexpected), ("misshapen", mismatched)):
        if keys:
            raise CraftError(f"{folder}: {word} {listed(map(str, keys))}")
    return model.eval()


def load_langbridge(source: str | Path, tower: Tower, llm_width: int) -> LangBridge:
    """The LangBridge of a model (its name or folder), or of a folder on its own, for the same tower and any language
    model of this width. Raises CraftError: it has none, or one of another tower."""
    root = configs.root_of(VlmSpec(str(source)))
    if (kind := configs.projector_config(root).get("mm_projector_type")) != LangBridge.kind:
        raise CraftError(f"{source} has no LangBridge: a projector {kind!r} knows one language model alone")
    theirs, own = _tower_of_adapter(root), tower_facts(tower)
    if other := [name for name, value in own.items() if theirs.get(name) != value]:
        told = " and ".join(f"{name} {theirs.get(name)}, here {own[name]}" for name in other)
        raise CraftError(f"the adapter of {source} reads another tower: {told}")
    return cast(LangBridge, load_projector(root, tower.width, llm_width))


def _tower_of_adapter(root: Path) -> dict[str, Any]:
    """:func:`tower_facts` of the tower that a checkpoint's projector reads; an adapter's folder says it."""
    facts = configs.top_config_of(root)
    return facts if facts.get("model_type") == configs.ADAPTER else tower_facts(load_tower(root))


def tower_facts(tower: Tower) -> dict[str, Any]:
    """What a projector knows a tower by: the hash of its codebook, or its own where it has none."""
    if tower.quantizer is not None:
        return {"codebook_hash": tower.quantizer.hash(), "base_hash": None}
    return {"codebook_hash": None, "base_hash": tower.base_hash or weights_hash(tower)}


def shrink(language_model: PreTrainedModel, spec: VlmSpec) -> None:
    """Hold the matrices of a frozen language model in what the spec says. Raises CraftError: the package for it is
    missing, with the command that brings it."""
    if spec.language_dtype == "same":
        return
    if find_spec("bitsandbytes") is None:
        raise CraftError(f"--model.backbone.language_dtype {spec.language_dtype} needs bitsandbytes: `{SMALL_PACKAGE}`")
    from craft_lightning.models.small_weights import pack

    pack(language_model, spec.language_dtype)


def load_vlm(spec: VlmSpec) -> DiscreteVlm:
    """A whole model in eval mode, with the adapted encoder and the adapter that the spec names. Raises CraftError: what
    does not fit, by name; an encoder of another codebook, or an adapter of another tower, with both hashes; see
    :func:`shrink`."""
    root = configs.root_of(spec)
    facts = configs.top_config_of(root)
    conversation = facts.get("conversation", "vicuna_v1")
    if conversation not in CONVERSATIONS:
        raise CraftError(f"{root / 'config.json'}: conversation {conversation!r} is unknown; known: {CONVERSATIONS}")
    aspect, llm = configs.aspect_of(root), configs.llm_folder(root)
    tower = load_tower(replace(spec, encoder=None, codebook_growth=growth_of(spec)))
    language_model = load_language_model(llm, dtype=spec.dtype, attention=spec.attention)
    tokenizer = load_tokenizer(llm)
    embedding: Any = language_model.get_input_embeddings()
    if len(tokenizer) > (rows := embedding.num_embeddings):
        raise CraftError(f"{llm}: the tokenizer has {len(tokenizer)} entries, the embedding {rows} rows")
    width = language_model.config.hidden_size
    adapter: Any = spec.adapter and load_langbridge(spec.adapter, tower, width)
    vlm = DiscreteVlm(
        tower,
        (adapter or load_projector(root, tower.width, width)).to(torch_dtype(spec.dtype)),
        language_model,
        tokenizer,
        image_wrap=bool(facts.get("image_wrap", False)),
        conversation=conversation,
        aspect=aspect,
    ).eval()
    if spec.adapter is not None:
        vlm.adapter_facts = configs.projector_config(configs.root_of(VlmSpec(spec.adapter)))
    if spec.encoder is not None:
        vlm.encoder_facts, vlm.token_prior = apply_encoder(tower, spec.encoder)
    if spec.gradient_checkpointing:
        recompute(vlm)
    shrink(language_model, spec)
    return vlm


def skeleton(spec: VlmSpec) -> DiscreteVlm:
    """The model of a spec on the meta device; no weight file is opened, and there need not be one (but of new codebook
    entries, for their number).

    It has no tokenizer and no codebook hash. A known model need not be on this machine at all. Raises CraftError: a
    config file that is missing or cannot be read.
    """
    with configs.config_folder(spec) as folder, torch.device("meta"), building():
        root = configs.checkpoint_root(folder)
        llm, kind, quantizer = configs.llm_folder(root), configs.tower_kind(root), None
        with read_as(configs.tower_folder(root), "a vision tower"):
            if kind == "siglip":
                tower: Tower = SiglipTower(siglip_half(SiglipVisionModel, root))
                size = codebook_size(configs.tower_folder(root))
                if size is not None and not configs.top_config_of(root).get("continuous", False):
                    levels, entries, shared = size
                    entries += entries_in(growth) if (growth := growth_of(spec)) else 0
                    tables = torch.empty(1 if shared else levels, entries, tower.width)
                    quantizer = ResidualQuantizer(tables, levels, share=spec.codebook_share)
            else:
                tower = ClipTower(clip_model(root)) if kind == "clip" else timm_tower(root)
        config: Any = language_config(llm)
        with read_as(llm / "config.json", "a language model"):
            language_model = AutoModelForCausalLM.from_config(config)
        language_model.tie_weights()  # which is a part of the initialisation that was left out
        place = root if spec.adapter is None else configs.root_of(VlmSpec(spec.adapter))
        projector, tokenizer = empty_projector(place, tower.width, config.hidden_size), cast(Any, None)
        vlm = DiscreteVlm(tower, projector, language_model, tokenizer).eval()
        tower.quantizer = quantizer  # after the model took the hash of nothing
    return vlm
