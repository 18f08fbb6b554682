"""Writes checkpoints of random weights in real layouts, read like any others: small ones for tests, some 100 kB each,
and larger ones for benchmarks."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    PreTrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    SiglipTextConfig,
    SiglipTextModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)

from craft_lightning.checkpoints.load import load_tower
from craft_lightning.checkpoints.tensors import fresh_folder, save_tensors
from craft_lightning.checkpoints.vila_u_writer import TowerParts, write_tower, write_vlm
from craft_lightning.io import write_json
from craft_lightning.models.langbridge import LangBridge, token_texts
from craft_lightning.models.towers.continuous import TimmTower
from craft_lightning.models.vlm import WRAP_TOKENS, Projector

Family = Literal["llama", "qwen2"]

_TEXT = [
    "What is shown in this picture? Answer in one letter only. Answer as succinctly as possible.",
    "A. river B. forest C. pasture D. highway E. lake F. sea G. field H. houses",
    "A chat between a curious user and an artificial intelligence assistant. USER: ASSISTANT:",
    "The assistant gives helpful, detailed, and polite answers to the user's questions.",
    "An image of a satellite view, specifically a river. yes no red blue one two three",
]
_CHATML = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)

_SPECIAL = {
    "llama": ["<unk>", "<s>", "</s>", *WRAP_TOKENS],
    "qwen2": ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *WRAP_TOKENS],
    "siglip": ["</s>"],
}
_NAMED = {
    "llama": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<unk>"},
    "qwen2": {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
    "siglip": {"eos_token": "</s>", "pad_token": "</s>"},
}


def tiny_tokenizer(family: Literal["llama", "qwen2", "siglip"], size: int = 400) -> PreTrainedTokenizerBase:
    """A byte-level BPE tokenizer of at most ``size`` entries, trained on a few sentences in code."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    alphabet, special = pre_tokenizers.ByteLevel.alphabet(), _SPECIAL[family]
    core.train_from_iterator(
        _TEXT,
        trainers.BpeTrainer(vocab_size=size, special_tokens=special, initial_alphabet=alphabet, show_progress=False),
    )
    fast = PreTrainedTokenizerFast(tokenizer_object=core, clean_up_tokenization_spaces=False, **_NAMED[family])
    if family == "qwen2":
        fast.chat_template = _CHATML
    return fast


def tiny_tower(
    *,
    width: int = 32,
    layers: int = 3,
    image_size: int = 32,
    patch: int = 8,
    codes: int = 64,
    levels: int = 4,
    shared: bool = True,
) -> TowerParts:
    """A random tower with its text half; codewords have the spread of the features, so that codes vary."""
    sizes: dict[str, Any] = {"hidden_size": width, "intermediate_size": 2 * width, "num_hidden_layers": layers}
    sizes["num_attention_heads"] = max(1, width // 16)
    vision = SiglipVisionConfig(**sizes, image_size=image_size, patch_size=patch)
    tokenizer = tiny_tokenizer("siglip", 300)
    pad, end = tokenizer.pad_token_id, tokenizer.eos_token_id
    ids: dict[str, Any] = {"pad_token_id": pad, "bos_token_id": None, "eos_token_id": end}
    text = SiglipTextConfig(**sizes, **ids, vocab_size=len(tokenizer), max_position_embeddings=64)
    tables = torch.randn(1 if shared else levels, codes, width)
    if shared:
        tables = tables * torch.logspace(0, -1, codes).view(1, codes, 1)
    return TowerParts(SiglipVisionModel(vision), tables, levels, SiglipTextModel(text), tokenizer, 2.3, -10.0)


def tiny_language_model(family: Family, tokenizer: PreTrainedTokenizerBase, width: int = 48) -> PreTrainedModel:
    """A random Llama or Qwen2 of two blocks and 640 positions."""
    config = (LlamaConfig if family == "llama" else Qwen2Config)(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=2 * width,
        num_hidden_layers=2,
        num_attention_heads=max(1, width // 16),
        num_key_value_heads=max(1, width // 32),
        max_position_embeddings=640,
        initializer_range=width**-0.5,
        tie_word_embeddings=False,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    return LlamaForCausalLM(config) if isinstance(config, LlamaConfig) else Qwen2ForCausalLM(config)


def write_tiny(
    folder: str | Path,
    *,
    llm: Family = "llama",
    width: int = 48,
    tower: str | None = None,
    continuous: bool = False,
    image_wrap: bool = True,
    words: int = 0,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
    **shape: Any,
) -> Path:
    """A random checkpoint folder, which is returned; the same arguments give the same weights.

    Args:
        llm: shape of the language model, of ``width``; ``qwen2`` also takes the chat template as its conversation.
        tower: folder of an existing tower, relative to ``folder``, to share; else ``shape`` is of :func:`tiny_tower`.
        continuous, image_wrap: see :mod:`.vila_u`. dtype: of the stored tensors.
        words: of a LangBridge, the first texts of its tokenizer; 0 for the usual projector.
    """
    folder = Path(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        parts = tower or tiny_tower(**shape)
        tower_width = load_tower((folder / tower).resolve()).width if tower else shape.get("width", 32)
        torch.manual_seed(seed + 1)
        tokenizer = tiny_tokenizer(llm, 400 if llm == "llama" else 360)
        model = tiny_language_model(llm, tokenizer, width)
        known = [*token_texts(tokenizer)][:words]
        write_vlm(
            folder,
            tower=parts,
            projector=LangBridge(known, tower_width, 24) if known else Projector("mlp2x_gelu", tower_width, width),
            language_model=model,
            tokenizer=tokenizer,
            dtype=dtype,
            image_wrap=image_wrap,
            conversation="vicuna_v1" if llm == "llama" else "chat_template",
            continuous=continuous,
        )
    return folder


def write_tiny_tower(folder: str | Path, *, seed: int = 0, dtype: torch.dtype = torch.float32) -> Path:
    """A random tower folder on its own, for checkpoints that share it."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        write_tower(folder, tiny_tower(), dtype=dtype)
    return Path(folder)


def write_random(folder: Path, vision: dict[str, Any], language: PreTrainedConfig, dtype: torch.dtype) -> Path:
    """A checkpoint of random weights with 16,384 codes. ``vision``: shape of a SigLIP tower, whose text half has two
    blocks. ``language``: shape of the language model, whose tokenizer knows a few words."""
    torch.manual_seed(0)
    words, width = tiny_tokenizer("siglip", 300), vision["hidden_size"]
    sizes = {name: value for name, value in vision.items() if name not in ("image_size", "patch_size")}
    text = SiglipTextConfig(**{**sizes, "num_hidden_layers": 2}, vocab_size=len(words), pad_token_id=words.pad_token_id)
    tables = torch.randn(1, 16384, width) * torch.logspace(0, -1, 16384)[:, None]
    tokenizer = tiny_tokenizer("llama")
    language.update({name: getattr(tokenizer, name) for name in ("bos_token_id", "eos_token_id", "pad_token_id")})
    write_vlm(
        folder,
        tower=TowerParts(
            SiglipVisionModel(SiglipVisionConfig(**vision)), tables, 4, SiglipTextModel(text), words, 2.3, -10.0
        ),
        projector=Projector("mlp2x_gelu", width, language.hidden_size),
        language_model=AutoModelForCausalLM.from_config(language),
        tokenizer=tokenizer,
        dtype=dtype,
        image_wrap=True,
        conversation="vicuna_v1",
        continuous=False,
    )
    return folder


def write_middle(folder: Path, layers: Sequence[int] = (12, 30), side: int = 224) -> Path:
    """Random weights: a ViT-B tower at ``side`` pixels, and a language model of 135M parameters."""
    vision = {"hidden_size": 768, "intermediate_size": 3072, "num_attention_heads": 12, "num_hidden_layers": layers[0]}
    llama = LlamaConfig(
        vocab_size=49152,
        hidden_size=576,
        intermediate_size=1536,
        num_hidden_layers=layers[1],
        num_attention_heads=9,
        num_key_value_heads=3,
        tie_word_embeddings=True,
    )
    return write_random(folder, {**vision, "image_size": side, "patch_size": 16}, llama, torch.float32)


def write_timm_tower(folder: str | Path, tower: TimmTower) -> None:
    """A tower folder that :func:`.load.load_tower` reads and that a checkpoint may name in ``vision_tower_cfg``."""
    facts = {"name": tower.name, "image_size": tower.image_size}
    with fresh_folder(folder) as fresh:
        save_tensors(fresh / "model.safetensors", tower.vision.state_dict())
        write_json(fresh / "config.json", {"model_type": "timm", "hidden_size": tower.width, "timm": facts})
