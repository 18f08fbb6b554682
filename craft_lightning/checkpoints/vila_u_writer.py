"""Writes checkpoint folders in the VILA-U layout, and adapted encoders. Reading them is :mod:`.registry`'s.

A checkpoint is ``config.json``, ``llm/``, ``vision_tower/`` and ``mm_projector/``. Fields of the top config that the
public checkpoints do not have, all optional:

``image_wrap`` (bool, absent = false)
    picture tokens stand between the embeddings of ``<im_start>`` and ``<im_end>``, in training and inference.
``conversation`` (``"vicuna_v1"`` | ``"chat_template"``, absent = vicuna_v1)
    how prompts are written.
``continuous`` (bool, absent = false)
    the quantiser of the tower, if it has one, is left out of the path: a continuous twin.
``vision_tower_cfg`` (may be a string)
    the tower's folder relative to the checkpoint: one tower, many backbones.

A tower's ``pretrained_model`` is a known hub id or a folder with a SigLIP ``config.json`` and the text tower's
tokenizer; relative folders are looked up from the checkpoint, from the tower's parent and from the tower itself.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import PreTrainedModel, PreTrainedTokenizerBase, SiglipTextModel, SiglipVisionModel

from craft_lightning.checkpoints.tensors import fresh_folder, quiet, read_json, save_tensors
from craft_lightning.errors import CraftError
from craft_lightning.io import write_json

SIGLIP = "rqvaesiglip.siglip_model."
CODEBOOKS = "rqvaesiglip.quantizer.codebooks."
CONVERSATIONS = ("vicuna_v1", "chat_template")
WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class TowerParts:
    """What a ``vision_tower/`` folder holds.

    Attributes:
        vision: the whole SigLIP vision model, last block and head included.
        codebooks: ``[1 | R, K, d]`` without the padding row; None for a tower that never had a quantiser.
        levels: R.
        text: the text tower of the same contrastive training, or None.
        text_tokenizer: its tokenizer, or None.
        logit_scale, logit_bias: the contrastive scalars (scale before the exponential).
    """

    vision: SiglipVisionModel
    codebooks: Tensor | None
    levels: int = 4
    text: SiglipTextModel | None = None
    text_tokenizer: PreTrainedTokenizerBase | None = None
    logit_scale: float = 0.0
    logit_bias: float = 0.0


def _dtype_name(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def tower_tensors(parts: TowerParts) -> dict[str, Tensor]:
    """The tensors of ``vision_tower/`` under the host's names; a shared table is stored once, as ``codebooks.0``."""
    tensors = {f"{SIGLIP}vision_model.{name}": value for name, value in parts.vision.state_dict().items()}
    if parts.text is not None:
        tensors |= {f"{SIGLIP}text_model.{name}": value for name, value in parts.text.state_dict().items()}
    if parts.codebooks is not None:
        for index, table in enumerate(parts.codebooks):
            padding = table.new_zeros(1, table.shape[1])
            tensors[f"{CODEBOOKS}{index}.weight"] = torch.cat([table, padding])
    tensors["rqvaesiglip.logit_scale"] = torch.tensor([parts.logit_scale])
    tensors["rqvaesiglip.logit_bias"] = torch.tensor([parts.logit_bias])
    return tensors


def tower_config(parts: TowerParts, pretrained_model: str, dtype: torch.dtype) -> dict[str, Any]:
    """``vision_tower/config.json`` (host facts 1.3)."""
    config: Any = parts.vision.config
    side, width = config.image_size // config.patch_size, config.hidden_size
    section: dict[str, Any] = {
        "pretrained_model": pretrained_model,
        "latent_shape": [side, side, width],
        "embed_dim": width,
        "decay": 0.99,
        "restart_unused_codes": True,
        "latent_loss_weight": 0.25,
        "loss_type": "mse",
    }
    if parts.codebooks is not None:
        section["code_shape"] = [side, side, parts.levels]
        section["n_embed"] = parts.codebooks.shape[1]
        section["shared_codebook"] = parts.codebooks.shape[0] == 1
    return {
        "architectures": ["RQVAESIGLIPTransformer"],
        "model_type": "rqvaesigliptransformer_model",
        "hidden_size": width,
        "torch_dtype": _dtype_name(dtype),
        "rqvaesiglip": section,
        "rqtransformer": {},
    }


def siglip_config(parts: TowerParts) -> dict[str, Any]:
    """The SigLIP ``config.json`` that fixes the shapes of both towers."""
    with quiet():
        config = {"model_type": "siglip", "vision_config": parts.vision.config.to_diff_dict()}
        if parts.text is not None:
            config["text_config"] = parts.text.config.to_diff_dict()
    return config


def _preprocessor_config(side: int) -> dict[str, Any]:
    """What a ``CLIPImageProcessor`` reads; our own pixels are :func:`.image_processing.preprocess`."""
    return {
        "image_processor_type": "CLIPImageProcessor",
        "do_convert_rgb": True,
        "do_resize": True,
        "size": {"height": side, "width": side},
        "resample": 3,
        "do_center_crop": True,
        "crop_size": {"height": side, "width": side},
        "do_rescale": True,
        "rescale_factor": 1 / 255,
        "do_normalize": True,
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.5, 0.5, 0.5],
    }


def _fill_tower(folder: Path, name: str, parts: TowerParts, dtype: torch.dtype, pretrained_model: str | None) -> None:
    folder.mkdir(exist_ok=True)
    config: Any = parts.vision.config
    side = config.image_size
    if pretrained_model is None:
        pretrained_model = f"{name}/siglip"
        siglip = folder / "siglip"
        siglip.mkdir()
        write_json(siglip / "config.json", siglip_config(parts))
        if parts.text_tokenizer is not None:
            parts.text_tokenizer.save_pretrained(siglip)
    save_tensors(folder / WEIGHTS, {k: v.to(dtype) for k, v in tower_tensors(parts).items()})
    write_json(folder / "preprocessor_config.json", _preprocessor_config(side))
    write_json(folder / "config.json", tower_config(parts, pretrained_model, dtype))


def write_tower(
    folder: str | Path, parts: TowerParts, *, dtype: torch.dtype = torch.float16, pretrained_model: str | None = None
) -> None:
    """A ``vision_tower/`` folder on its own, to be named by several checkpoints or to stand in one.

    Args:
        folder: replaced as a whole when everything is written.
        dtype: of every stored tensor, the codebook included.
        pretrained_model: known hub id or folder with the SigLIP ``config.json``; None writes that folder inside,
            as ``siglip/``, with the text tokenizer.
    """
    with fresh_folder(folder) as fresh:
        _fill_tower(fresh, Path(folder).name, parts, dtype, pretrained_model)


def _projector_type(projector: nn.Module) -> str:
    layers = projector.get_submodule("layers")
    if isinstance(layers, nn.Linear):
        return "linear"
    linears = sum(isinstance(module, nn.Linear) for module in layers.modules())
    return f"mlp{linears}x_gelu" if linears else "identity"


def _fill_llm(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, dtype: torch.dtype) -> None:
    """Tensors are cast on the way out; tied ones stay tied."""
    cast: dict[int, Tensor] = {}
    state = {}
    for name, value in model.state_dict().items():
        state[name] = cast.setdefault(value.data_ptr(), value.to(dtype))
    with quiet():
        model.save_pretrained(folder, state_dict=state)
    tokenizer.save_pretrained(folder)
    path = folder / "config.json"
    write_json(path, read_json(path) | {"dtype": _dtype_name(dtype)})


def write_vlm(
    folder: str | Path,
    *,
    tower: TowerParts | str,
    projector: nn.Module,
    language_model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    dtype: torch.dtype = torch.float16,
    image_wrap: bool = True,
    conversation: str = "vicuna_v1",
    continuous: bool = False,
    aspect: str = "resize",
    pretrained_model: str | None = None,
) -> None:
    """A whole checkpoint in the VILA-U layout, replaced as a whole when everything is written.

    Args:
        tower: written in full to ``vision_tower/``, or the tower's folder relative to ``folder`` (``"../tower"``).
        projector: module whose ``layers`` are the projector (keys ``layers.0``, ``layers.2``).
        language_model: a transformers causal language model (Llama, Qwen2).
        tokenizer: its tokenizer; has ``<im_start>`` and ``<im_end>`` if ``image_wrap``.
        dtype: of every stored tensor.
        image_wrap, conversation, continuous: see the module's docstring.
        aspect: ``"resize"`` or ``"pad"``, how pictures become squares.
        pretrained_model: as in :func:`write_tower`.

    Raises:
        CraftError: the named tower does not exist, or an unknown conversation or aspect.
    """
    if conversation not in CONVERSATIONS or aspect not in ("resize", "pad"):
        raise CraftError(f"conversation {conversation!r} is not one of {CONVERSATIONS}, or aspect {aspect!r} unknown")
    if isinstance(tower, str) and not (Path(folder) / tower / "config.json").resolve().is_file():
        raise CraftError(f"no tower in {Path(folder) / tower}: write it first")
    with fresh_folder(folder) as fresh:
        tower_folder = Path(folder) / tower if isinstance(tower, str) else fresh / "vision_tower"
        if not isinstance(tower, str):
            _fill_tower(tower_folder, "vision_tower", tower, dtype, pretrained_model)
        _fill_llm(fresh / "llm", language_model, tokenizer, dtype)
        projector_facts = {"model_type": "v2l_projector", "mm_projector_type": _projector_type(projector)}
        (fresh / "mm_projector").mkdir()
        save_tensors(fresh / "mm_projector" / WEIGHTS, {k: v.to(dtype) for k, v in projector.state_dict().items()})
        write_json(fresh / "mm_projector" / "config.json", projector_facts)
        tower_facts = read_json(tower_folder.resolve() / "config.json")
        ours = {"image_wrap": image_wrap, "conversation": conversation, "continuous": continuous}
        parts = {
            "llm_cfg": read_json(fresh / "llm" / "config.json"),
            "vision_tower_cfg": tower if isinstance(tower, str) else tower_facts,
            "mm_projector_cfg": projector_facts,
        }
        top = top_config(language_model, tower_facts["hidden_size"], dtype, image_wrap, aspect)
        write_json(fresh / "config.json", top | ours | parts)


def top_config(
    language_model: PreTrainedModel, tower_width: int, dtype: torch.dtype, image_wrap: bool, aspect: str
) -> dict[str, Any]:
    """The host's own fields of the top ``config.json`` (host facts 1.2)."""
    kind = language_model.config.model_type
    return {
        "architectures": ["VILAULlamaModel" if kind == "llama" else f"VILAU{kind.capitalize()}Model"],
        "model_type": f"vila_u_{kind}",
        "hidden_size": language_model.config.hidden_size,
        "mm_hidden_size": tower_width,
        "image_aspect_ratio": aspect,
        "num_video_frames": 8,
        "mm_use_im_start_end": image_wrap,
        "mm_use_vi_start_end": False,
        "mm_use_im_patch_token": False,
        "mm_vision_select_layer": -2,
        "model_dtype": str(dtype),
    }


def write_encoder(
    folder: str | Path,
    state: Mapping[str, Tensor],
    *,
    base: str,
    codebook_hash: str | None,
    method: str,
    base_hash: str | None = None,
    dtype: torch.dtype = torch.float32,
    token_prior: Tensor | None = None,
    extra: Mapping[str, Any] | None = None,
) -> None:
    """An adapted encoder: ``encoder.safetensors``, ``config.json`` and, if given, ``token_prior.safetensors``.

    Args:
        state: the adapted parameters by the names of :meth:`.siglip.VisionTower.used_parameters`, all of them.
        base: checkpoint that it was adapted from.
        codebook_hash: SHA-256 of the codebook it was adapted to; None for a continuous tower.
        method: name of the method.
        base_hash: SHA-256 of the tower that it was adapted from, where there is no codebook.
        dtype: of the stored parameters.
        token_prior: ``[K]`` counts of first-level codes on the training split.
        extra: further facts for ``config.json``.
    """
    with fresh_folder(folder) as fresh:
        save_tensors(fresh / "encoder.safetensors", {k: v.to(dtype) for k, v in state.items()})
        if token_prior is not None:
            save_tensors(fresh / "token_prior.safetensors", {"counts": token_prior})
        facts = {"base": base, "codebook_hash": codebook_hash, "dtype": _dtype_name(dtype), "method": method}
        facts |= {"base_hash": base_hash} if codebook_hash is None else {}
        facts["token_prior"] = None if token_prior is None else "token_prior.safetensors"
        write_json(fresh / "config.json", dict(extra or {}) | facts)
