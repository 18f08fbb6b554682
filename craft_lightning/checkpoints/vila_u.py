"""Reads the layout of VILA-U: ``config.json``, ``llm/``, ``vision_tower/`` and ``mm_projector/``.

Fields of the top config that the public checkpoints do not have, all optional: with ``image_wrap`` (absent = false)
visual tokens stand between the embeddings of ``<im_start>`` and ``<im_end>``, in training and inference;
``conversation`` (``vicuna_v1``, ``chat_template``; absent = vicuna_v1) is how prompts are written; ``continuous``
(absent = false) leaves the tower's quantiser out of the path, for a continuous twin; ``vision_tower_cfg`` may be a
string, the tower's folder relative to the checkpoint: one tower, many backbones.

A tower's ``pretrained_model`` is a known hub id or a folder with a SigLIP ``config.json`` and the text tower's
tokenizer; relative folders are looked up from the checkpoint, from the tower's parent and from the tower itself.
"""

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

from craft_lightning.checkpoints import configs
from craft_lightning.checkpoints.tensors import TensorFiles, building, listed, load_strict, read_as, read_json
from craft_lightning.checkpoints.tokenizer import load_tokenizer
from craft_lightning.errors import CraftError
from craft_lightning.models.quantizer import ResidualQuantizer
from craft_lightning.models.towers.siglip import SiglipTower, TextTower
from craft_lightning.models.vlm_spec import VlmSpec, hub_folder

logger = logging.getLogger(__name__)

SIGLIP = "rqvaesiglip.siglip_model."
VISION, TEXT = f"{SIGLIP}vision_model.", f"{SIGLIP}text_model."
CODEBOOKS = "rqvaesiglip.quantizer.codebooks."
SCALARS = ("logit_scale", "logit_bias")
CONVERSATIONS = ("vicuna_v1", "chat_template")

POSITION_IDS = "embeddings.position_ids"
UNUSED = (
    *("rqtransformer.", "rqvaesiglip.decoder.", "rqvaesiglip.post_quant_conv."),
    *(TEXT + POSITION_IDS, VISION + POSITION_IDS),
)
"""Tensors of a tower folder that understanding never touches: skipped and reported."""
UNUSED_BUFFERS = ("cluster_size_ema", "embed_ema")


def section_of(folder: Path) -> dict[str, Any]:
    """The section of a tower's ``config.json`` about SigLIP and its quantiser; CraftError if there is none."""
    section = read_json(folder / "config.json").get("rqvaesiglip")
    if not isinstance(section, dict):
        raise CraftError(f"{folder / 'config.json'}: no section rqvaesiglip")
    return section


def codebook_size(folder: Path) -> tuple[int, int, bool] | None:
    """R, the codes of one token, K, those of a table, and whether one table serves all levels; None if the config
    describes no quantiser. Raises CraftError: it describes half of one."""
    section, file = section_of(folder), folder / "config.json"
    if "n_embed" not in section:
        return None
    shape, entries = section.get("code_shape"), section["n_embed"]
    if not isinstance(shape, list) or not shape or not isinstance(shape[-1], int) or shape[-1] < 1:
        raise CraftError(
            f"{file}: rqvaesiglip.code_shape is {shape!r}, expected [rows, columns, levels] (VILA-U's is [16, 16, 4])"
        )
    if not isinstance(entries, int) or entries < 1:
        raise CraftError(f"{file}: rqvaesiglip.n_embed is {entries!r}, expected a number of codes (VILA-U's is 16384)")
    return shape[-1], entries, bool(section.get("shared_codebook", False))


def siglip_folder(name: str, folder: Path, root: Path) -> Path | None:
    """The folder that ``pretrained_model`` names, if there is one."""
    # The last place finds the folder inside a tower that was copied under another name.
    for place in (root / name, folder.parent / name, folder / name, folder / Path(name).name):
        if os.path.isfile(place / "config.json"):  # which is False, too, of what no file can be called
            return place
    return None


def siglip_half(kind: Any, root: Path, attention: str = "sdpa") -> Any:
    """The SigLIP vision or text model (``kind`` is its class) of a checkpoint, its weights not read. Raises CraftError:
    an unknown shape, or one that makes no model."""
    part = "vision_config" if kind is SiglipVisionModel else "text_config"
    folder = configs.tower_folder(root)
    file, name = folder / "config.json", section_of(folder).get("pretrained_model")
    if not isinstance(name, str):
        raise CraftError(f"{file}: rqvaesiglip.pretrained_model is missing")
    if known := configs.KNOWN_SIGLIP.get(name):
        text = {"vocab_size": 32000, "max_position_embeddings": 64}
        sizes = {k: v for k, v in known.items() if k not in ("patch_size", "image_size")}
        shapes: Any = known if part == "vision_config" else sizes | text
    elif found := siglip_folder(name, folder, root):
        file = found / "config.json"
        facts = read_json(file)
        alone = part == "vision_config" and facts.get("model_type") == "siglip_vision_model"
        shapes = facts if alone else facts.get(part)
        if not isinstance(shapes, dict):
            raise CraftError(f"{file}: no section {part}")
    else:
        raise CraftError(
            f"{file}: pretrained_model {name!r} is neither a known id ({', '.join(configs.KNOWN_SIGLIP)}) nor a folder "
            f"with a config.json, from {root} or {folder}"
        )
    with building(), read_as(file, f"SigLIP's {part}"):
        return kind._from_config(kind.config_class(**shapes), attn_implementation=attention)


def load_siglip_tower(root: Path, attention: str, quantizer_dtype: torch.dtype, codebook_share: float) -> SiglipTower:
    """The tower of a checkpoint as it is stored, in float32; see :func:`.load.load_tower`."""
    folder = configs.tower_folder(root)
    section_of(folder)
    files = TensorFiles(folder)
    skipped, unknown = unused(files.names())
    if unknown:
        raise CraftError(f"{folder}: unexpected {listed(unknown)}")
    if skipped:
        logger.info("%s: left out %s", folder, ", ".join(f"{k} ({n})" for k, n in sorted(skipped.items())))
    # Of a text half the names: its tensors are read by whoever embeds captions, and by nobody else.
    if text := {n.removeprefix(TEXT) for n in files.names() if n.startswith(TEXT) and not n.startswith(UNUSED)}:
        with torch.device("meta"):
            wanted = siglip_half(SiglipTextModel, root).state_dict().keys()
        for word, wrong in (("missing", wanted - text), ("unexpected", text - wanted)):
            if wrong:
                raise CraftError(f"{folder}: {word} {listed(TEXT + name for name in wrong)}")
    vision = siglip_half(SiglipVisionModel, root, attention)
    _fill(vision, files, VISION)
    tables, size, quantizer = read_codebooks(files, folder), codebook_size(folder), None
    if tables is not None and size is not None and not configs.top_config_of(root).get("continuous", False):
        quantizer = ResidualQuantizer(tables, size[0], quantizer_dtype, codebook_share)
    return SiglipTower(vision, quantizer)


def _fill(model: Any, files: TensorFiles, prefix: str) -> None:
    """Load a SigLIP half; the numbers of positions that older versions of transformers stored are passed over."""
    load_strict(model, {k: v for k, v in files.under(prefix).items() if k != POSITION_IDS}, files.folder, prefix)


def unused(names: Iterable[str]) -> tuple[Counter[str], list[str]]:
    """How many of a tower folder's tensors are left out, by their reason, and which are neither used nor known."""
    scalars = {f"{prefix}{scalar}" for prefix in ("rqvaesiglip.", SIGLIP) for scalar in SCALARS}
    skipped, unknown = Counter[str](), []
    for name in names:
        prefix = next((p for p in UNUSED if name.startswith(p)), None)
        if prefix is not None:
            skipped[prefix] += 1
        elif name.startswith(CODEBOOKS) and name.endswith(UNUSED_BUFFERS):
            skipped["EMA buffers of the codebook"] += 1
        elif name.startswith(CODEBOOKS):
            index, _, field = name.removeprefix(CODEBOOKS).partition(".")
            unknown += [] if index.isdecimal() and field == "weight" else [name]
        elif not name.startswith((VISION, TEXT)) and name not in scalars:
            unknown.append(name)
    return skipped, unknown


def read_codebooks(files: TensorFiles, folder: Path) -> Tensor | None:
    """``[1 | R, K, d]`` tables without the padding row; None if the config describes no quantiser. Raises CraftError: a
    table is missing, not described, of another shape, or differs from the others although they are shared."""
    present = sorted(n for n in files.names() if n.startswith(CODEBOOKS) and n.endswith(".weight"))
    size = codebook_size(folder)
    if size is None:
        if present:
            raise CraftError(f"{folder / 'config.json'}: no rqvaesiglip.n_embed, but the folder holds {present[0]}")
        return None
    levels, entries, shared = size
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


def load_text_tower(source: str | Path | VlmSpec) -> TextTower:
    """The frozen SigLIP text tower of a checkpoint, with its tokenizer and the contrastive scalars. Raises CraftError:
    the checkpoint has none, tensors do not fit, or the tokenizer is not on this machine."""
    root = configs.root_of(source)
    folder = configs.tower_folder(root)
    files = TensorFiles(folder)
    if not any(name.startswith(TEXT) for name in files.names()):
        raise CraftError(f"{folder}: no text tower ({TEXT}*)")
    model = siglip_half(SiglipTextModel, root)
    _fill(model, files, TEXT)
    name = section_of(folder)["pretrained_model"]
    tokens = siglip_folder(name, folder, root) or (hub_folder(name) if name in configs.KNOWN_SIGLIP else None)
    if tokens is None:
        raise CraftError(f"the text tower's tokenizer is not on this machine: `hf download {name}`")
    scale, bias = (_scalar(files, name) for name in SCALARS)
    tower = TextTower(model.float(), load_tokenizer(tokens), scale, bias)
    return tower.eval().requires_grad_(False)


def _scalar(files: TensorFiles, name: str) -> float:
    for prefix in (SIGLIP, "rqvaesiglip."):
        if f"{prefix}{name}" in files.names():
            return float(files[f"{prefix}{name}"].float().reshape(()))
    raise CraftError(f"{files.folder}: missing rqvaesiglip.{name}")


def text_width(spec: VlmSpec) -> int:
    """dT, width of the text tower's embeddings, from the configs alone; CraftError without a SigLIP text half."""
    with configs.config_folder(spec) as found:
        root = configs.checkpoint_root(found)
        if configs.tower_kind(root) != "siglip":
            place = configs.tower_folder(root)
            raise CraftError(f"{place}: no text tower to contrast captions with; set --model.lambda_contrastive 0")
        with torch.device("meta"):
            return int(siglip_half(SiglipTextModel, root).head.out_features)
