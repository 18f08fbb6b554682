"""Config files of the paper's models, for building one without its checkpoint (:mod:`.meta`).

Shapes only. Where the checkpoint itself is on this machine, its own files are read and nothing of this.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from craft_lightning.errors import CraftError
from craft_lightning.io import write_json
from craft_lightning.models.vlm_spec import VlmSpec, resolve

LLAMA_2_7B: dict[str, Any] = {
    "model_type": "llama",
    "vocab_size": 32000,
    "hidden_size": 4096,
    "intermediate_size": 11008,
    "num_hidden_layers": 32,
    "num_attention_heads": 32,
    "num_key_value_heads": 32,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "tie_word_embeddings": False,
}


def _qwen(width: int, mlp: int, layers: int, heads: int) -> dict[str, Any]:
    """A small Qwen2 or Qwen2.5: tied embeddings, two heads of keys and values."""
    return {
        "model_type": "qwen2",
        "vocab_size": 151936,
        "hidden_size": width,
        "intermediate_size": mlp,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": 2,
        "max_position_embeddings": 32768,
        "rope_theta": 1e6,
        "rms_norm_eps": 1e-6,
        "tie_word_embeddings": True,
    }


def _vila_u(llm: dict[str, Any], siglip: str, grid: int, levels: int, width: int) -> dict[str, dict[str, Any]]:
    """A checkpoint in the VILA-U layout."""
    section = {
        "pretrained_model": siglip,
        "latent_shape": [grid, grid, width],
        "code_shape": [grid, grid, levels],
        "n_embed": 16384,
        "shared_codebook": True,
        "embed_dim": width,
    }
    tower = {"model_type": "rqvaesigliptransformer_model", "hidden_size": width, "rqvaesiglip": section}
    return {
        "config.json": {"hidden_size": llm["hidden_size"], "mm_hidden_size": width, "image_aspect_ratio": "resize"},
        "llm/config.json": llm,
        "vision_tower/config.json": tower,
        "mm_projector/config.json": {"model_type": "v2l_projector", "mm_projector_type": "mlp2x_gelu"},
    }


_HOST_LLM = {
    **LLAMA_2_7B,
    "vocab_size": 32004,  # with the marks around pictures and videos
    "rope_scaling": {"type": "linear", "factor": 2.0},
    "tokenizer_model_max_length": 8192,
}
_AT_256 = ("google/siglip-large-patch16-256", 16, 4, 1024)
_AT_384 = ("google/siglip-so400m-patch14-384", 27, 16, 1152)
_VILA = {
    "model_type": "llava_llama",
    "mm_vision_tower": "openai/clip-vit-large-patch14-336",
    "mm_projector_type": "mlp2x_gelu",
    "mm_hidden_size": 1024,
    "mm_vision_select_layer": -2,
    "mm_vision_select_feature": "patch",
    "mm_use_im_start_end": False,
    "image_aspect_ratio": "pad",
}

BLUEPRINTS: dict[str, dict[str, dict[str, Any]]] = {
    "vila-u-7b-256": _vila_u(_HOST_LLM, *_AT_256),
    "vila-u-7b-384": _vila_u(_HOST_LLM, *_AT_384),
    "vila-7b": {"config.json": {**LLAMA_2_7B, **_VILA}},
    "qwen2-0.5b": _vila_u(_qwen(896, 4864, 24, 14), *_AT_256),
    "qwen2-1.5b": _vila_u(_qwen(1536, 8960, 28, 12), *_AT_256),
    "qwen2.5-0.5b": _vila_u(_qwen(896, 4864, 24, 14), *_AT_256),
    "qwen2.5-3b": _vila_u(_qwen(2048, 11008, 36, 16), *_AT_256),
}
"""Content of the config files by their path in the checkpoint, by the names of ``list backbones``."""


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

    Raises:
        CraftError: neither is there.
    """
    try:
        found: Path | None = resolve(spec)
    except CraftError:
        if spec.name not in BLUEPRINTS:
            raise
        found = None
    if found is not None:
        yield found
        return
    with TemporaryDirectory() as made:
        yield write_blueprint(made, spec.name)
