"""Files of checkpoint folders: atomic writing, tensors by name whatever files hold them. No pickle."""

from __future__ import annotations

import json
import os
import shutil
import zipfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers.initialization import no_init_weights
from transformers.utils import logging as hf_logging

from craft_lightning.errors import CraftError
from craft_lightning.io import fresh_file

SAFE, SAFE_INDEX = "model.safetensors", "model.safetensors.index.json"
TORCH, TORCH_INDEX = "pytorch_model.bin", "pytorch_model.bin.index.json"
_LISTED = 5
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def torch_dtype(name: str) -> torch.dtype:
    """The dtype of a name. Raises CraftError: not one of :data:`DTYPES`."""
    if name not in DTYPES:
        raise CraftError(f"no dtype {name!r}; known: {', '.join(DTYPES)}")
    return DTYPES[name]


def dtype_name(dtype: torch.dtype) -> str:
    """The name of a dtype, as configs write it."""
    return str(dtype).removeprefix("torch.")


def first_line(error: Exception) -> str:
    """The first line of an error's message, or its type."""
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


@contextmanager
def fresh_folder(folder: str | Path) -> Iterator[Path]:
    """A temporary folder that takes the place of ``folder`` when the block ends without an error. Raises CraftError:
    ``folder`` is a file, or a folder that is not empty and holds no ``config.json``."""
    target = Path(folder)
    if target.exists() and (not target.is_dir() or (any(target.iterdir()) and not (target / "config.json").is_file())):
        raise CraftError(f"{target} exists and is no checkpoint: it will not be replaced; name another folder")
    target.parent.mkdir(parents=True, exist_ok=True)
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    old = target.with_name(f".{target.name}.{os.getpid()}.old")
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir()
    try:
        yield temporary
        for file in temporary.rglob("*.safetensors"):  # what transformers wrote, see :func:`save_tensors`
            file.chmod(temporary.stat().st_mode & 0o666)
        if target.exists():
            target.rename(old)
        temporary.rename(target)
        shutil.rmtree(old, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object. Raises CraftError: no such file, or not a JSON object; the message names it."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise CraftError(f"no file {path}") from error
    except ValueError as error:
        raise CraftError(f"{path}: not JSON ({error})") from error
    if not isinstance(value, dict):
        raise CraftError(f"{path}: holds no JSON object")
    return value


def save_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str] | None = None) -> None:
    """A safetensors file under a temporary name, then renamed; every tensor is stored on its own. Who may read it is
    the umask's to say, as of every other file."""
    with fresh_file(path) as temporary:
        temporary.touch()
        mode = temporary.stat().st_mode
        save_file(
            {name: tensor.detach().cpu().contiguous().clone() for name, tensor in tensors.items()},
            temporary,
            metadata={"format": "pt", **(metadata or {})},
        )
        # safetensors 0.8.0 puts a file in the place of the one it is given that its owner alone may read (mode 0600).
        temporary.chmod(mode)


@contextmanager
def quiet() -> Iterator[None]:
    """Silence transformers' progress bars and warnings: what they would say is an error here."""
    level, bars = hf_logging.get_verbosity(), hf_logging.is_progress_bar_enabled()
    hf_logging.set_verbosity_error()
    hf_logging.disable_progress_bar()
    try:
        yield
    finally:
        hf_logging.set_verbosity(level)
        if bars:
            hf_logging.enable_progress_bar()


@contextmanager
def building() -> Iterator[None]:
    """For modules whose weights are about to be read: no initialisation, no message, and seeds stay untouched."""
    with torch.random.fork_rng(devices=[]), no_init_weights(), quiet():
        yield


@contextmanager
def read_as(place: Path, what: str) -> Iterator[None]:
    """For what libraries build from values or files that ``place`` holds: whatever is wrong with those is one line.
    Raises CraftError: ``what`` they should make cannot be built; with the first line of the reason."""
    try:
        yield
    except (CraftError, MemoryError, torch.OutOfMemoryError):
        raise
    except KeyError as error:
        raise CraftError(f"{place}: cannot be read as {what} (no {error})") from error
    except Exception as error:  # each library has errors of its own, tokenizers' is a bare Exception
        cause = error.__cause__ if isinstance(error, StrictDataclassError) else None
        reason = first_line(cause if isinstance(cause, Exception) else error)
        raise CraftError(f"{place}: cannot be read as {what} ({reason})") from error


class TensorFiles:
    """The tensors of a folder: one file or a sharded index, safetensors before torch files (``weights_only``).

    Only the tensors asked for are read. Raises CraftError: no weight file, a damaged one, or one that is not plain
    tensors; the message names it.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = self._find()
        self._readers: dict[str, Callable[[str], Tensor]] = {}
        for path in self.files:
            self._readers |= _open_safe(path) if path.suffix == ".safetensors" else _open_torch(path)

    def _find(self) -> list[Path]:
        for single, index in ((SAFE, SAFE_INDEX), (TORCH, TORCH_INDEX)):
            if (self.folder / single).is_file():
                return [self.folder / single]
            if (self.folder / index).is_file():
                places = read_json(self.folder / index).get("weight_map")
                if not isinstance(places, dict) or not all(isinstance(shard, str) for shard in places.values()):
                    raise CraftError(f"{self.folder / index}: weight_map names no file for each tensor")
                shards = sorted(set(places.values()))
                for shard in shards:
                    if Path(shard).name != shard or not (self.folder / shard).is_file():
                        raise CraftError(f"{self.folder / index} names {shard}, which is not in the folder")
                return [self.folder / shard for shard in shards]
        raise CraftError(f"no weights in {self.folder}: expected {SAFE} or {TORCH}, whole or with an index")

    def names(self) -> set[str]:
        """Every tensor's name."""
        return set(self._readers)

    def __getitem__(self, name: str) -> Tensor:
        return self._readers[name](name)

    def under(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose names start with ``prefix``, which is removed."""
        return {name.removeprefix(prefix): self[name] for name in self._readers if name.startswith(prefix)}


def _open_safe(path: Path) -> dict[str, Callable[[str], Tensor]]:
    """By each tensor's name, what reads it."""
    try:
        file = safe_open(path, "pt")
        return dict.fromkeys(file.keys(), file.get_tensor)
    except (SafetensorError, OSError) as error:
        raise CraftError(f"{path}: not a readable safetensors file ({error})") from error


def _open_torch(path: Path) -> dict[str, Callable[[str], Tensor]]:
    try:
        # Only files of the old format cannot be mapped.
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=zipfile.is_zipfile(path))
    except MemoryError:
        raise
    except Exception as error:  # the reader of a damaged file raises whatever its bytes lead it to
        raise CraftError(f"{path}: not a torch file of plain tensors; it will not be unpickled") from error
    if not isinstance(state, Mapping) or not all(isinstance(v, Tensor) for v in state.values()):
        raise CraftError(f"{path}: holds more than named tensors")
    return dict.fromkeys(state, state.__getitem__)


def load_strict(module: nn.Module, state: Mapping[str, Tensor], where: Path, prefix: str = "") -> None:
    """``load_state_dict`` that names every mismatch in one line. ``where`` (a file or folder) and ``prefix``, which the
    names carry in it, are for the message. Raises CraftError: missing or unexpected tensors, or other shapes."""
    if problems := mismatches(module.state_dict(), state, prefix):
        raise CraftError(f"{where}: {'; '.join(problems)}")
    module.load_state_dict(dict(state))


def mismatches(expected: Mapping[str, Tensor], state: Mapping[str, Tensor], prefix: str = "") -> list[str]:
    """What is wrong with the names and shapes of ``state``, in words; empty if nothing is."""
    shapes = [
        f"{prefix}{name} is {list(state[name].shape)}, expected {list(tensor.shape)}"
        for name, tensor in expected.items()
        if name in state and state[name].shape != tensor.shape
    ]
    wrong = {"missing": expected.keys() - state.keys(), "unexpected": state.keys() - expected.keys()}
    problems = [f"{word} {listed(prefix + name for name in names)}" for word, names in wrong.items() if names]
    return problems + ([listed(shapes)] if shapes else [])


def listed(names: Iterable[str]) -> str:
    """The first few names, and how many more there are."""
    ordered = sorted(names)
    more = len(ordered) - _LISTED
    return ", ".join(ordered[:_LISTED]) + (f" and {more} more" if more > 0 else "")
