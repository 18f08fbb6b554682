"""The paper's models as folders of config files: enough for whoever only asks about shapes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

QWEN2 = {"model_type": "qwen2", "vocab_size": 151936, "num_key_value_heads": 2, "tie_word_embeddings": True}
HALF_BILLION = {**QWEN2, "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24}

LANGUAGE_MODELS: dict[str, dict[str, Any]] = {
    "vila-u-7b": {
        "model_type": "llama",
        "vocab_size": 32004,
        "hidden_size": 4096,
        "intermediate_size": 11008,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
    },
    "vila-u-qwen2-0.5b": {**HALF_BILLION, "num_attention_heads": 14},
    "vila-u-qwen2-1.5b": {
        **QWEN2,
        "hidden_size": 1536,
        "intermediate_size": 8960,
        "num_hidden_layers": 28,
        "num_attention_heads": 12,
    },
    "vila-u-qwen2.5-3b": {
        **QWEN2,
        "hidden_size": 2048,
        "intermediate_size": 11008,
        "num_hidden_layers": 36,
        "num_attention_heads": 16,
    },
}
"""Language models of the paper by the names of ``python -m craft_lightning list backbones``."""

TOWER = {
    "model_type": "rqvaesigliptransformer_model",
    "hidden_size": 1024,
    "rqvaesiglip": {
        "pretrained_model": "google/siglip-large-patch16-256",
        "code_shape": [16, 16, 4],
        "n_embed": 16384,
        "shared_codebook": True,
    },
}


def write_configs(folder: Path, name: str) -> Path:
    """A checkpoint folder of the named model without weights; returns it."""
    language = LANGUAGE_MODELS[name]
    files = {
        "config.json": {"hidden_size": language["hidden_size"], "mm_hidden_size": 1024},
        "llm/config.json": language,
        "vision_tower/config.json": TOWER,
        "mm_projector/config.json": {"mm_projector_type": "mlp2x_gelu"},
    }
    for path, content in files.items():
        (folder / name / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / name / path).write_text(json.dumps(content), encoding="utf-8")
    return folder / name
