"""Writes checkpoint folders in the layout that :mod:`.vila_u` describes and reads."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase, SiglipTextModel, SiglipVisionModel

from craft_lightning.checkpoints.adapter import fill_adapter
from craft_lightning.checkpoints.pretrained import fill_lora
from craft_lightning.checkpoints.tensors import SAFE, dtype_name, fresh_folder, quiet, read_json, save_tensors
from craft_lightning.checkpoints.vila_u import CODEBOOKS, CONVERSATIONS, SCALARS, TEXT, VISION
from craft_lightning.errors import CraftError
from craft_lightning.io import write_json
from craft_lightning.models.langbridge import LangBridge
from craft_lightning.models.vlm import DiscreteVlm, Projector


@dataclass(frozen=True)
class TowerParts:
    """What a ``vision_tower/`` folder holds.

    Attributes:
        vision: the whole SigLIP vision model, last block and head included.
        codebooks: ``[1 | R, K, d]`` without padding row; None for a tower that never had a quantiser. levels: R.
        text, text_tokenizer: the text tower of the same contrastive training and its tokenizer, or None.
        logit_scale, logit_bias: the contrastive scalars (scale before the exponential).
    """

    vision: SiglipVisionModel
    codebooks: Tensor | None
    levels: int = 4
    text: SiglipTextModel | None = None
    text_tokenizer: PreTrainedTokenizerBase | None = None
    logit_scale: float = 0.0
    logit_bias: float = 0.0


def tower_tensors(parts: TowerParts) -> dict[str, Tensor]:
    """The tensors of ``vision_tower/`` under the host's names; a shared table is stored once, as ``codebooks.0``."""
    tensors = {f"{VISION}{name}": value for name, value in parts.vision.state_dict().items()}
    if parts.text is not None:
        tensors |= {f"{TEXT}{name}": value for name, value in parts.text.state_dict().items()}
    if parts.codebooks is not None:
        for index, table in enumerate(parts.codebooks):
            padding = table.new_zeros(1, table.shape[1])
            tensors[f"{CODEBOOKS}{index}.weight"] = torch.cat([table, padding])
    return tensors | {f"rqvaesiglip.{name}": torch.tensor([getattr(parts, name)]) for name in SCALARS}


def tower_config(parts: TowerParts, pretrained_model: str, dtype: torch.dtype) -> dict[str, Any]:
    """``vision_tower/config.json``, with the fields that the host's own code asks for."""
    config: Any = parts.vision.config
    side, width = config.image_size // config.patch_size, config.hidden_size
    trained = {"decay": 0.99, "restart_unused_codes": True, "latent_loss_weight": 0.25, "loss_type": "mse"}
    shapes = {"pretrained_model": pretrained_model, "latent_shape": [side, side, width], "embed_dim": width}
    section: dict[str, Any] = shapes | trained
    if parts.codebooks is not None:
        tables, entries = parts.codebooks.shape[:2]
        section |= {"code_shape": [side, side, parts.levels], "n_embed": entries, "shared_codebook": tables == 1}
    return {
        "architectures": ["RQVAESIGLIPTransformer"],
        "model_type": "rqvaesigliptransformer_model",
        "hidden_size": width,
        "torch_dtype": dtype_name(dtype),
        "rqvaesiglip": section,
        "rqtransformer": {},
    }


def _fill_tower(folder: Path, name: str, parts: TowerParts, dtype: torch.dtype) -> None:
    siglip = folder / "siglip"  # the SigLIP config that fixes the shapes of both towers
    siglip.mkdir(parents=True)
    vision: Any = parts.vision.config
    with quiet():
        config = {"model_type": "siglip", "vision_config": vision.to_diff_dict()}
        config |= {} if parts.text is None else {"text_config": parts.text.config.to_diff_dict()}
    write_json(siglip / "config.json", config)
    if parts.text_tokenizer is not None:
        parts.text_tokenizer.save_pretrained(siglip)
    save_tensors(folder / SAFE, {k: v.to(dtype) for k, v in tower_tensors(parts).items()})
    # What a CLIPImageProcessor reads; our own pixels are image_processing's.
    square, half = {"height": vision.image_size, "width": vision.image_size}, [0.5, 0.5, 0.5]
    steps = dict.fromkeys(("do_convert_rgb", "do_resize", "do_center_crop", "do_rescale", "do_normalize"), True)
    sizes = {"size": square, "resample": 3, "crop_size": square, "rescale_factor": 1 / 255}
    processor = {"image_processor_type": "CLIPImageProcessor", **steps, **sizes, "image_mean": half, "image_std": half}
    write_json(folder / "preprocessor_config.json", processor)
    write_json(folder / "config.json", tower_config(parts, f"{name}/siglip", dtype))


def write_tower(folder: str | Path, parts: TowerParts, *, dtype: torch.dtype = torch.float16) -> None:
    """A ``vision_tower/`` folder on its own, to be named by several checkpoints or to stand in one; replaced as a whole
    when everything is written. ``dtype``: of every stored tensor, the codebook included."""
    with fresh_folder(folder) as fresh:
        _fill_tower(fresh, Path(folder).name, parts, dtype)


def _fill_llm(folder: Path, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, dtype: torch.dtype) -> None:
    """Tensors are cast on the way out; tied ones stay tied. Of a published model low-rank updates alone are written."""
    if hasattr(model, "peft_config"):
        fill_lora(folder, model, dtype)
    else:
        cast: dict[int, Tensor] = {}
        state = {k: cast.setdefault(value.data_ptr(), value.to(dtype)) for k, value in model.state_dict().items()}
        with quiet():
            model.save_pretrained(folder, state_dict=state)
        tokenizer.save_pretrained(folder)
    path = folder / "config.json"
    write_json(path, read_json(path) | {"dtype": dtype_name(dtype)})


def write_vlm(
    folder: str | Path,
    *,
    tower: TowerParts | str,
    projector: Projector | LangBridge,
    language_model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    dtype: torch.dtype = torch.float16,
    image_wrap: bool = True,
    conversation: str = "vicuna_v1",
    continuous: bool = False,
    aspect: str = "resize",
) -> None:
    """A whole checkpoint in the VILA-U layout, replaced as a whole when everything is written. Raises CraftError: the
    named tower does not exist, or an unknown conversation or aspect.

    Args:
        tower: written in full to ``vision_tower/``, or the tower's folder relative to ``folder`` (``"../tower"``).
        language_model: a transformers causal language model (Llama, Qwen2), or one that :func:`.pretrained.start_lora`
            gave low-rank updates: these are written, weights and tokenizer stay the base's.
        tokenizer: its tokenizer; has ``<im_start>`` and ``<im_end>`` if ``image_wrap``.
        dtype: of every stored tensor. aspect: ``"resize"`` or ``"pad"``, how images become squares.
        image_wrap, conversation, continuous: see :mod:`.vila_u`.
    """
    if conversation not in CONVERSATIONS or aspect not in ("resize", "pad"):
        raise CraftError(f"conversation {conversation!r} is not one of {CONVERSATIONS}, or aspect {aspect!r} unknown")
    if isinstance(tower, str) and not (Path(folder) / tower / "config.json").resolve().is_file():
        raise CraftError(f"no tower in {Path(folder) / tower}: write it first")
    with fresh_folder(folder) as fresh:
        tower_folder = Path(folder) / tower if isinstance(tower, str) else fresh / "vision_tower"
        if not isinstance(tower, str):
            _fill_tower(tower_folder, "vision_tower", tower, dtype)
        _fill_llm(fresh / "llm", language_model, tokenizer, dtype)
        (fresh / "mm_projector").mkdir()
        weights = {k: v.to(dtype) for k, v in projector.state_dict().items()}
        projector_facts = fill_adapter(fresh / "mm_projector", projector, weights)
        tower_facts = read_json(tower_folder.resolve() / "config.json")
        kind = language_model.config.model_type
        host = {  # the fields of the host's own top config
            "architectures": ["VILAULlamaModel" if kind == "llama" else f"VILAU{kind.capitalize()}Model"],
            "model_type": f"vila_u_{kind}",
            "hidden_size": language_model.config.hidden_size,
            "mm_hidden_size": tower_facts["hidden_size"],
            "image_aspect_ratio": aspect,
            "num_video_frames": 8,
            "mm_use_im_start_end": image_wrap,
            "mm_use_vi_start_end": False,
            "mm_use_im_patch_token": False,
            "mm_vision_select_layer": -2,
            "model_dtype": str(dtype),
        }
        ours = {"image_wrap": image_wrap, "conversation": conversation, "continuous": continuous}
        parts = {
            "llm_cfg": read_json(fresh / "llm" / "config.json"),
            "vision_tower_cfg": tower if isinstance(tower, str) else tower_facts,
            "mm_projector_cfg": projector_facts,
        }
        write_json(fresh / "config.json", host | ours | parts)


def write_model(folder: Path, vlm: DiscreteVlm, tower: str, dtype: torch.dtype = torch.float16) -> None:
    """:func:`write_vlm` of a model that reads the tower of this folder, as it stands in memory."""
    write_vlm(
        folder,
        tower=tower,
        projector=vlm.projector,
        language_model=vlm.language_model,
        tokenizer=vlm.tokenizer,
        dtype=dtype,
        image_wrap=vlm.wrap_ids is not None,
        conversation=vlm.conversation,
        continuous=vlm.tower.quantizer is None,
        aspect="resize" if vlm.aspect == "resize" else "pad",
    )
