"""Which model: a dataclass of primitives and the table of known backbones. Imports neither torch nor transformers."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from craft_lightning.errors import CraftError, unknown

POCKET = Path(__file__).resolve().parent.parent / "pocket"


@dataclass(frozen=True)
class Backbone:
    """A known model.

    Attributes:
        name: what users type.
        source: ``pocket`` (in the package, or planned there), ``models`` (below ``$CRAFT_MODELS``), or a hub id.
        about: one line.
    """

    name: str
    source: str
    about: str

    @property
    def origin(self) -> str:
        """Where to get it."""
        if self.source == "pocket":
            return "shipped" if (POCKET / self.name / "config.json").is_file() else "not built yet: make pocket-family"
        if self.source == "models":
            return f"make surrogate BACKBONE={self.name}"
        return f"hf download {self.source}"


BACKBONES: dict[str, Backbone] = {
    backbone.name: backbone
    for backbone in (
        Backbone("pocket-vila-u", "pocket", "pocket discrete host: SigLIP-shaped tower, one codebook, Llama-shaped LM"),
        Backbone("pocket-vila", "pocket", "continuous twin of pocket-vila-u: the same without the quantiser"),
        Backbone("pocket-qwen2-xs", "pocket", "smaller Qwen2-shaped LM with another tokenizer on the same codebook"),
        Backbone("pocket-qwen2.5-xs", "pocket", "Qwen2-shaped LM of about the same size, trained apart"),
        Backbone("pocket-qwen2-s", "pocket", "the next larger Qwen2-shaped LM"),
        Backbone("pocket-qwen2.5-m", "pocket", "the largest Qwen2-shaped LM, below pocket-vila-u"),
        Backbone("vila-u-7b-256", "mit-han-lab/vila-u-7b-256", "VILA-U-7B at 256 pixels, the paper's host"),
        Backbone("vila-u-7b-384", "mit-han-lab/vila-u-7b-384", "VILA-U-7B at 384 pixels: 729 tokens of 16 levels"),
        Backbone(
            "vila-7b", "Efficient-Large-Model/VILA-7b", "VILA-7B, the paper's continuous model: CLIP at 336 pixels"
        ),
        Backbone("qwen2-0.5b", "models", "Qwen2-0.5B on VILA-U's codebook (a surrogate that you build)"),
        Backbone("qwen2-1.5b", "models", "Qwen2-1.5B on VILA-U's codebook (a surrogate that you build)"),
        Backbone("qwen2.5-0.5b", "models", "Qwen2.5-0.5B on VILA-U's codebook (a surrogate that you build)"),
        Backbone("qwen2.5-3b", "models", "Qwen2.5-3B on VILA-U's codebook (a surrogate that you build)"),
    )
}


CHOICES = {
    "quantizer_dtype": ("float32", "bfloat16"),
    "dtype": ("float32", "bfloat16", "float16"),
    "attention": ("sdpa", "eager"),
}


@dataclass(frozen=True)
class VlmSpec:
    """A vision-language model, in primitives.

    Args:
        name: a known backbone, or a checkpoint folder in the VILA-U layout.
        encoder: folder of an adapted encoder to plug in, or None.
        quantizer_dtype: what code distances are computed in, ``float32`` or ``bfloat16`` (the host's own).
        dtype: what weights are held in: ``float32``, ``bfloat16`` or ``float16``. Trained ones are float32 throughout.
        attention: ``sdpa`` or ``eager``. Only with both dtypes ``bfloat16`` and ``eager`` codes are those of the host's
            published code, bit for bit: ``sdpa`` changes some 2 % of them.
        gradient_checkpointing: blocks compute their activations again in the backward pass instead of keeping them:
            less memory, a third more time.

    Raises:
        CraftError: a dtype or kernel that is none of :data:`CHOICES`.
    """

    name: str = "pocket-vila-u"
    encoder: str | None = None
    quantizer_dtype: str = "float32"
    dtype: str = "float32"
    attention: str = "sdpa"
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        for setting, known in CHOICES.items():
            if getattr(self, setting) not in known:
                raise unknown(f"backbone.{setting}", str(getattr(self, setting)), known)


def models_root() -> Path:
    """``$CRAFT_MODELS``, or ``models`` in the working folder: where checkpoints that are not shipped live."""
    return Path(os.environ.get("CRAFT_MODELS", "models"))


def hub_folder(repository: str) -> Path | None:
    """The snapshot of a hub repository on this machine, or None. Never downloads."""
    local = models_root() / repository.rsplit("/", 1)[-1]
    if os.path.isdir(local):
        return local
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, LocalEntryNotFoundError

    try:
        return Path(snapshot_download(repository, local_files_only=True))
    except (LocalEntryNotFoundError, HFValidationError):
        return None


def resolve(spec: VlmSpec) -> Path:
    """The checkpoint folder of a spec.

    Raises:
        CraftError: unknown name, or a known backbone whose folder is not on this machine (with the command that
            brings it).
    """
    folder = Path(spec.name).expanduser()
    if spec.name not in BACKBONES:
        if os.path.isdir(folder):
            return folder
        if os.sep in spec.name:
            raise CraftError(f"no checkpoint folder {spec.name}; known names: {', '.join(BACKBONES)}")
        raise unknown("backbone", spec.name, BACKBONES, "python -m craft_lightning list backbones")
    backbone = BACKBONES[spec.name]
    if backbone.source == "pocket":
        folder = POCKET / backbone.name
        if not folder.is_dir():
            raise CraftError(f"{spec.name} is not in {POCKET}: build it with `make pocket-family`")
        return folder
    folder = models_root() / backbone.name
    if folder.is_dir():
        return folder
    if backbone.source == "models":
        raise CraftError(f"{spec.name}: no folder {folder}: `{backbone.origin}` builds it, or set CRAFT_MODELS")
    found = hub_folder(backbone.source)
    if found is None:
        raise CraftError(f"{spec.name}: {backbone.source} is not on this machine: `hf download {backbone.source}`")
    return found
