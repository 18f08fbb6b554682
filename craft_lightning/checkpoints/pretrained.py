"""Language models that others published: GGUF files, and low-rank updates in the layout of peft.

An ``llm/`` folder with an ``adapter_config.json`` holds ``W + (alpha / r) B A`` for some linear layers of the base, the
model that ``base_model_name_or_path`` names, and the base's ``config.json``; weights and tokenizer are the base's. The
library peft reads such a folder, too.
"""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping
from dataclasses import fields
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from filelock import FileLock
from safetensors.torch import load_file
from tokenizers.pre_tokenizers import ByteLevel, Digits, Sequence
from torch import Tensor
from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig, PreTrainedModel

from craft_lightning.checkpoints.tensors import (
    fresh_folder,
    listed,
    mismatches,
    quiet,
    read_as,
    read_json,
    save_tensors,
)
from craft_lightning.errors import CraftError
from craft_lightning.io import write_json
from craft_lightning.models.vlm_spec import LORA, cache_root, language_base

if TYPE_CHECKING:
    from peft import LoraConfig  # imported where it is needed: most checkpoints need none of it, and it takes its time

LORA_WEIGHTS = "adapter_model.safetensors"
CONVERSION = 1
"""How GGUF files are converted: another number where it changes, so that folders made otherwise are made anew."""
_PEFT = "base_model.model."
"""What peft puts before the names of a model's tensors."""
_READ = ("r", "lora_alpha", "target_modules", "base_model_name_or_path")
_WITHOUT_EFFECT = ("lora_dropout", "task_type", "inference_mode", "peft_version", "init_lora_weights")
"""Settings of training that are nothing to a trained update."""


def base_folder(name: str) -> Path:
    """Folder of a published language model (a hub id, a folder or a GGUF file) in transformers' layout. Raises
    CraftError: it is not on this machine, with the command that brings it, or is no readable GGUF file."""
    found = language_base(name)
    return found if found.is_dir() else converted(found)


def converted(file: Path) -> Path:
    """A GGUF file as a folder of bfloat16 weights and tokenizer, made on first use below ``$HF_HOME``: to parse the
    file takes many times as long as to read the folder. Raises CraftError: it is not a language model's."""
    if find_spec("gguf") is None:
        raise CraftError(f"{file}: the reader of its format is missing: `pip install gguf`")
    now = file.stat()
    folder = cache_root() / "gguf" / f"{_bytes_digest(file, now.st_size, now.st_mtime_ns)[:16]}-{CONVERSION}"
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        with FileLock(folder.with_suffix(".lock")):
            if not folder.is_dir():
                print(f"converting {file.name} to {folder}, once", file=sys.stderr)
                _convert(file, folder)
    except OSError as error:
        raise CraftError(f"{folder} cannot be written ({error.strerror}): set HF_HOME to a folder that can") from error
    return folder


@cache
def _bytes_digest(file: Path, size: int, changed: int) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def _convert(file: Path, folder: Path) -> None:
    place: dict[str, Any] = {"gguf_file": file.name, "local_files_only": True, "trust_remote_code": False}
    with read_as(file, "a GGUF file of a language model"), quiet(), torch.random.fork_rng(devices=[]):
        loaded: Any = AutoModelForCausalLM.from_pretrained(
            str(file.parent),
            **place,
            dtype=torch.bfloat16,
            quantization_config=GgufConfig(dequantize=True),
            output_loading_info=True,
        )
        model, found = loaded
        tokenizer: Any = AutoTokenizer.from_pretrained(str(file.parent), **place)
        if wrong := [key for name in ("missing_keys", "unexpected_keys", "mismatched_keys") for key in found[name]]:
            raise CraftError(f"{file}: missing or unexpected {listed(map(str, wrong))}")
        if _splitter(file) == "smollm":
            # transformers passes over how a file's tokenizer splits words: this one takes every digit alone.
            tokenizer.backend_tokenizer.pre_tokenizer = Sequence([Digits(True), ByteLevel(add_prefix_space=False)])
        with fresh_folder(folder) as fresh:
            model.save_pretrained(fresh)
            tokenizer.save_pretrained(fresh)


def _splitter(file: Path) -> Any:
    """The name of the rule by which a GGUF file's tokenizer splits text into words."""
    from gguf import GGUFReader

    field = GGUFReader(file).get_field("tokenizer.ggml.pre")
    return None if field is None else field.contents()


def start_lora(model: PreTrainedModel, base: str, rank: int, alpha: float) -> None:
    """Put A (Kaiming) and B (zero) in float32 beside every linear layer but the head, in place; all else is frozen."""
    from peft import LoraConfig, inject_adapter_in_model

    config = LoraConfig(r=rank, lora_alpha=alpha, target_modules="all-linear", base_model_name_or_path=base)  # type: ignore[arg-type]  # peft divides by r
    inject_adapter_in_model(config, model)
    for name, parameter in model.named_parameters():
        if ".lora_" in name:  # peft gives them the layer's type, and bfloat16 would swallow most steps
            parameter.data = parameter.data.float()


def fill_lora(folder: Path, model: PreTrainedModel, dtype: torch.dtype) -> None:
    """Write a model's low-rank updates, as :func:`start_lora` puts them there, into a folder."""
    injected: Any = model
    config, state = injected.peft_config["default"], model.state_dict()
    folder.mkdir(parents=True)
    with quiet():
        model.config.save_pretrained(folder)
    save_tensors(folder / LORA_WEIGHTS, {_name(k): v.to(dtype) for k, v in state.items() if ".lora_" in k})
    facts = {key: sorted(value) if isinstance(value, set) else value for key, value in config.to_dict().items()}
    write_json(folder / LORA, {**facts, "task_type": "CAUSAL_LM", "inference_mode": True})


def _name(own: str) -> str:
    return _PEFT + own.replace(".default.", ".")


def lora_of(folder: Path) -> LoraConfig | None:
    """What a folder's low-rank updates are of, or None if it holds none. Raises CraftError: they are more than plain
    ones of linear layers (DoRA, trained biases, ...)."""
    file = folder / LORA
    if not file.is_file():
        return None
    from peft import LoraConfig

    facts = read_json(file)
    with read_as(file, "the config of low-rank updates"):
        config = LoraConfig(**{key: facts[key] for key in _READ})
    plain = config.to_dict()
    known = {field.name: plain.get(field.name) for field in fields(LoraConfig)} | {"peft_type": "LORA"}
    asked = {key: value for key, value in facts.items() if key not in (*_READ, *_WITHOUT_EFFECT) and value}
    if other := [key for key, value in asked.items() if value != known.get(key)]:
        raise CraftError(f"{file}: {listed(other)} ask for more than W + (alpha / r) B A, which is all that is read")
    return config


def merge_lora(model: PreTrainedModel, folder: Path, config: LoraConfig) -> PreTrainedModel:
    """The base with a folder's updates added to its weights: a plain model of its class. Raises CraftError: unreadable,
    or tensors that are missing, unexpected or of another shape, by name."""
    from peft import LoraModel

    file = folder / LORA_WEIGHTS
    with torch.random.fork_rng(devices=[]), read_as(file, "low-rank updates"):
        stored: Mapping[str, Tensor] = load_file(file)
        tuner: Any = LoraModel(model, config, "default")
        own = {_name(name): value for name, value in model.state_dict().items() if ".lora_" in name}
        if problems := mismatches(own, stored):
            raise CraftError(f"{file}: {'; '.join(problems)}")
        for name, value in own.items():
            value.copy_(stored[name])
        return tuner.merge_and_unload()
