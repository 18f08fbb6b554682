"""Reads vision and text towers out of checkpoint folders (:mod:`.registry` re-exports what users need)."""

from __future__ import annotations

import logging
import os
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import SiglipTextModel, SiglipVisionModel

from craft_lightning.checkpoints.encoder import apply_encoder, weights_hash
from craft_lightning.checkpoints.llava import load_clip_tower
from craft_lightning.checkpoints.paths import checkpoint_root, has_clip, root_of, top_config_of, tower_folder
from craft_lightning.checkpoints.published_configs import config_folder
from craft_lightning.checkpoints.tensors import (
    TensorFiles,
    building,
    listed,
    load_strict,
    read_as,
    read_json,
    torch_dtype,
)
from craft_lightning.checkpoints.timm_tower import read_timm_tower
from craft_lightning.checkpoints.tokenizer import load_tokenizer
from craft_lightning.checkpoints.vila_u_writer import CODEBOOKS, SIGLIP
from craft_lightning.errors import CraftError
from craft_lightning.models.quantizer import ResidualQuantizer
from craft_lightning.models.text_tower import TextTower
from craft_lightning.models.towers.siglip import VisionTower
from craft_lightning.models.vlm_spec import VlmSpec, hub_folder, resolve

logger = logging.getLogger(__name__)

KNOWN_SIGLIP: dict[str, dict[str, int]] = {
    "google/siglip-large-patch16-256": {
        "hidden_size": 1024,
        "intermediate_size": 4096,
        "num_hidden_layers": 24,
        "num_attention_heads": 16,
        "patch_size": 16,
        "image_size": 256,
    },
    "google/siglip-so400m-patch14-384": {
        "hidden_size": 1152,
        "intermediate_size": 4304,
        "num_hidden_layers": 27,
        "num_attention_heads": 16,
        "patch_size": 14,
        "image_size": 384,
    },
}
"""Shapes that the checkpoints do not hold (host facts 1.3)."""

UNUSED = (
    "rqtransformer.",
    "rqvaesiglip.decoder.",
    "rqvaesiglip.post_quant_conv.",
    "rqvaesiglip.siglip_model.text_model.embeddings.position_ids",
    "rqvaesiglip.siglip_model.vision_model.embeddings.position_ids",
)
"""Tensors of a tower folder that understanding never touches: skipped and reported."""

UNUSED_BUFFERS = ("cluster_size_ema", "embed_ema")
SCALARS = ("logit_scale", "logit_bias")


def siglip_folder(name: str, folder: Path, root: Path) -> Path | None:
    """The folder that ``pretrained_model`` names, if there is one."""
    # The last place finds the folder inside a tower that was copied under another name.
    for place in (root / name, folder.parent / name, folder / name, folder / Path(name).name):
        if os.path.isfile(place / "config.json"):  # which is False, too, of what no file can be called
            return place
    return None


def section_of(folder: Path) -> dict[str, Any]:
    """What a SigLIP tower's ``config.json`` says of it.

    Raises:
        CraftError: nothing.
    """
    section = read_json(folder / "config.json").get("rqvaesiglip")
    if not isinstance(section, dict):
        raise CraftError(f"{folder / 'config.json'}: no section rqvaesiglip")
    return section


def levels_of(section: dict[str, Any], folder: Path) -> int:
    """R, the codes of one token.

    Raises:
        CraftError: the section does not say.
    """
    shape = section.get("code_shape")
    if not isinstance(shape, list) or not shape or not isinstance(shape[-1], int) or shape[-1] < 1:
        raise CraftError(
            f"{folder / 'config.json'}: rqvaesiglip.code_shape is {shape!r}, expected [rows, columns, levels] "
            "(VILA-U's is [16, 16, 4])"
        )
    return shape[-1]


def entries_of(section: dict[str, Any], folder: Path) -> int:
    """K, the codes of the codebook.

    Raises:
        CraftError: the section does not say.
    """
    entries = section.get("n_embed")
    if not isinstance(entries, int) or entries < 1:
        raise CraftError(
            f"{folder / 'config.json'}: rqvaesiglip.n_embed is {entries!r}, expected a number of codes (VILA-U's is "
            "16384)"
        )
    return entries


def siglip_shapes(folder: Path, root: Path, part: str) -> tuple[dict[str, Any], Path]:
    """Config of a SigLIP half (``"vision_config"`` or ``"text_config"``) for the tower in ``folder``, and its file."""
    name = section_of(folder).get("pretrained_model")
    if not isinstance(name, str):
        raise CraftError(f"{folder / 'config.json'}: rqvaesiglip.pretrained_model is missing")
    known = KNOWN_SIGLIP.get(name)
    if known is not None:
        text = {"vocab_size": 32000, "max_position_embeddings": 64}
        sizes = {k: v for k, v in known.items() if k not in ("patch_size", "image_size")} | text
        return known if part == "vision_config" else sizes, folder / "config.json"
    found = siglip_folder(name, folder, root)
    if found is None:
        raise CraftError(
            f"{folder / 'config.json'}: pretrained_model {name!r} is neither a known id ({', '.join(KNOWN_SIGLIP)}) "
            f"nor a folder with a config.json, from {root} or {folder}"
        )
    file = found / "config.json"
    facts = read_json(file)
    if part == "vision_config" and facts.get("model_type") == "siglip_vision_model":
        return facts, file
    if not isinstance(facts.get(part), dict):
        raise CraftError(f"{file}: no section {part}")
    return facts[part], file


def siglip_half(kind: Any, folder: Path, root: Path, attention: str = "sdpa") -> Any:
    """The SigLIP vision or text model (``kind`` is its class) of the tower in ``folder``, its weights not read.

    Raises:
        CraftError: an unknown shape, or one that makes no model.
    """
    part = "vision_config" if kind is SiglipVisionModel else "text_config"
    shapes, file = siglip_shapes(folder, root, part)
    with building(), read_as(file, f"SigLIP's {part}"):
        return kind._from_config(kind.config_class(**shapes), attn_implementation=attention)


def load_tower(
    source: str | Path | VlmSpec,
    *,
    dtype: str = "float32",
    quantizer_dtype: str = "float32",
    attention: str = "sdpa",
) -> VisionTower:
    """The vision tower alone; the language model is not read.

    Args:
        source: checkpoint folder, tower folder, or a spec (whose own dtypes, attention and encoder then count).
        dtype, quantizer_dtype, attention: as in :class:`.vlm_spec.VlmSpec`.

    Returns:
        The tower in eval mode; without quantiser if the checkpoint is a continuous one. A CLIP model gives a
        ``ClipTower``, a folder written by :func:`.write_timm_tower` a ``TimmTower``; both have the same
        surface except for [CLS].

    Raises:
        CraftError: missing or unexpected tensors by name (the text half's, too), an unknown SigLIP shape, unequal
            shared codebooks or one of another width, a dtype that distances are not computed in.
    """
    if isinstance(source, VlmSpec):
        tower = load_tower(
            resolve(source),
            dtype=source.dtype,
            quantizer_dtype=source.quantizer_dtype,
            attention=source.attention,
        )
        if source.encoder is not None:
            apply_encoder(tower, source.encoder)
        return tower
    tower = _stored_tower(root_of(source), quantizer_dtype, attention)
    if tower.quantizer is None:
        tower.base_hash = weights_hash(tower)  # before anything is rounded or plugged in
    return tower.to(torch_dtype(dtype)).eval()


def _stored_tower(root: Path, quantizer_dtype: str, attention: str) -> Any:
    """The tower as it is stored, in float32."""
    if has_clip(root):
        return load_clip_tower(root, attention)
    folder = tower_folder(root)
    if "timm" in read_json(folder / "config.json"):
        return read_timm_tower(folder, folder / "model.safetensors")
    section = section_of(folder)
    files = TensorFiles(folder)
    _report_unused(files.names(), folder)
    _check_text(files.names(), folder, root)
    prefix = f"{SIGLIP}vision_model."
    vision = siglip_half(SiglipVisionModel, folder, root, attention)
    state = {k: v for k, v in files.under(prefix).items() if k != "embeddings.position_ids"}
    load_strict(vision, state, folder, prefix)
    tables = read_codebooks(files, folder, section)
    quantizer = None
    try:
        if tables is not None and not top_config_of(root).get("continuous", False):
            quantizer = ResidualQuantizer(tables, levels_of(section, folder), torch_dtype(quantizer_dtype))
        return VisionTower(vision, quantizer)
    except ValueError as error:
        raise CraftError(f"{folder}: {error}") from error


def _report_unused(names: set[str], folder: Path) -> None:
    """Log the tensors that are left out; anything unknown is an error."""
    skipped, unknown = unused(names)
    if unknown:
        raise CraftError(f"{folder}: unexpected {listed(unknown)}")
    if skipped:
        logger.info("%s: left out %s", folder, ", ".join(f"{k} ({n})" for k, n in sorted(skipped.items())))


def unused(names: Iterable[str]) -> tuple[Counter[str], list[str]]:
    """How many of a tower folder's tensors are left out, by their reason, and which are neither used nor known."""
    skipped: Counter[str] = Counter()
    unknown = []
    for name in names:
        prefix = next((p for p in UNUSED if name.startswith(p)), None)
        if prefix is not None:
            skipped[prefix] += 1
        elif name.startswith(CODEBOOKS) and name.endswith(UNUSED_BUFFERS):
            skipped["EMA buffers of the codebook"] += 1
        elif not name.startswith((f"{SIGLIP}vision_model.", f"{SIGLIP}text_model.")) and not _is_ours(name):
            unknown.append(name)
    return skipped, unknown


def _check_text(names: set[str], folder: Path, root: Path) -> None:
    """Compare the names of a text half's tensors; they are read by whoever embeds captions, and by nobody else."""
    prefix = f"{SIGLIP}text_model."
    present = {name.removeprefix(prefix) for name in names if name.startswith(prefix) and not name.startswith(UNUSED)}
    if not present:
        return
    with torch.device("meta"):
        model = siglip_half(SiglipTextModel, folder, root)
    wanted = model.state_dict().keys()
    for word, wrong in (("missing", wanted - present), ("unexpected", present - wanted)):
        if wrong:
            raise CraftError(f"{folder}: {word} {listed(prefix + name for name in wrong)}")


def _is_ours(name: str) -> bool:
    """A codebook's table or one of the contrastive scalars, under either of their names."""
    if name.startswith(CODEBOOKS):
        index, _, field = name.removeprefix(CODEBOOKS).partition(".")
        return index.isdecimal() and field == "weight"
    return name in {f"{prefix}{scalar}" for prefix in ("rqvaesiglip.", SIGLIP) for scalar in SCALARS}


def read_codebooks(files: TensorFiles, folder: Path, section: dict[str, Any]) -> Tensor | None:
    """``[1 | R, K, d]`` tables without the padding row; None if the config describes no quantiser.

    Raises:
        CraftError: a table is missing, not described, of another shape, or differs from the others although they are
            shared.
    """
    present = sorted(n for n in files.names() if n.startswith(CODEBOOKS) and n.endswith(".weight"))
    if "n_embed" not in section:
        if present:
            raise CraftError(f"{folder / 'config.json'}: no rqvaesiglip.n_embed, but the folder holds {present[0]}")
        return None
    levels, entries = levels_of(section, folder), entries_of(section, folder)
    shared = bool(section.get("shared_codebook", False))
    wanted = [f"{CODEBOOKS}{level}.weight" for level in range(levels)]
    missing = [wanted[0]] * (not present) if shared else [n for n in wanted if n not in present]
    extra = [n for n in present if n not in wanted]
    if missing or extra:
        raise CraftError(f"{folder}: {'missing' if missing else 'unexpected'} {listed(missing or extra)}")
    tables = [files[name] for name in present]
    for name, table in zip(present, tables, strict=True):
        if table.dim() != 2 or table.shape[0] != entries + 1:
            raise CraftError(f"{folder}: {name} is {list(table.shape)}, expected {entries} codes and a padding row")
        if shared and not torch.equal(table, tables[0]):
            raise CraftError(f"{folder}: shared_codebook is true, but {name} differs from {present[0]}")
    return torch.stack([table[:entries].float() for table in (tables[:1] if shared else tables)])


def load_text_tower(source: str | Path | VlmSpec, *, dtype: str = "float32", attention: str = "sdpa") -> TextTower:
    """The frozen SigLIP text tower of a checkpoint, with its tokenizer and the contrastive scalars.

    Raises:
        CraftError: the checkpoint has none, tensors do not fit, or the tokenizer is not on this machine.
    """
    root = root_of(source)
    folder = tower_folder(root)
    files = TensorFiles(folder)
    prefix = f"{SIGLIP}text_model."
    if not any(name.startswith(prefix) for name in files.names()):
        raise CraftError(f"{folder}: no text tower ({prefix}*); without captions: --model.lambda_contrastive 0")
    model = siglip_half(SiglipTextModel, folder, root, attention)
    state = {k: v for k, v in files.under(prefix).items() if k != "embeddings.position_ids"}
    load_strict(model, state, folder, prefix)
    name = section_of(folder)["pretrained_model"]
    tokens = siglip_folder(name, folder, root) or (hub_folder(name) if name in KNOWN_SIGLIP else None)
    if tokens is None:
        raise CraftError(f"the text tower's tokenizer is not on this machine: `hf download {name}`")
    scale, bias = (_scalar(files, name, folder) for name in SCALARS)
    tower = TextTower(model.to(torch_dtype(dtype)), load_tokenizer(tokens), scale, bias)
    return tower.eval().requires_grad_(False)


def text_width(source: str | Path | VlmSpec) -> int:
    """dT, width of the text tower's embeddings, from the configs alone.

    Raises:
        CraftError: the tower has no SigLIP text half.
    """
    with config_folder(source if isinstance(source, VlmSpec) else VlmSpec(str(source))) as found:
        root = checkpoint_root(found)
        folder = tower_folder(root)
        if "rqvaesiglip" not in read_json(folder / "config.json"):
            raise CraftError(f"{folder}: no text tower to contrast captions with; set --model.lambda_contrastive 0")
        with torch.device("meta"):
            return int(siglip_half(SiglipTextModel, folder, root).head.out_features)


def _scalar(files: TensorFiles, name: str, folder: Path) -> float:
    for prefix in (SIGLIP, "rqvaesiglip."):
        if f"{prefix}{name}" in files.names():
            return float(files[f"{prefix}{name}"].float().reshape(()))
    raise CraftError(f"{folder}: missing rqvaesiglip.{name}")
