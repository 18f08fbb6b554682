"""What a result depends on beside its code (:mod:`.code_version`), as hashes: settings, and weights it starts from."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
import time
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

from craft_lightning.errors import CraftError
from craft_lightning.io import read_json, write_json
from craft_lightning.models.vlm_spec import BACKBONES, LORA, VlmSpec, cache_root, growth_file, language_base
from craft_lightning.models.vlm_spec import resolve as resolve_model

LARGE = 2**26
"""Bytes from which the digest of a file is kept (:func:`known_digests`): smaller ones are read as fast."""
SETTLED = 2.0
"""Seconds that a file must have been left alone before its digest is kept: a clock may be too coarse to tell a change
that comes right after the reading."""
NO_WEIGHTS = "missing"
"""In place of a hash where a checkpoint folder is not there."""


def digest(value: Any) -> str:
    """SHA-256 of a plain value (mappings in any order), hexadecimal."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


FOLDERS = (".data.root", ".backbone.encoder", ".backbone.adapter")
"""Settings that may name a folder whose files count."""


_FROM_SHELL = re.compile(r"\$\{oc\.env:(\w+)(?:,([^}]*))?\}")
"""What OmegaConf reads from the environment, with what it takes where that has none."""


def named_files(value: Any, setting: str = "") -> dict[str, str]:
    """SHA-256 by name of the files that some settings name (a prior, an archive of images); ``setting`` is the dotted
    name of the value. A folder counts only as one of :data:`FOLDERS`, by what :func:`_named_folder` sees of it."""
    if isinstance(value, str):
        value = _FROM_SHELL.sub(lambda found: os.environ.get(found[1], found[2] or ""), value)
        found = _named_file(value) or (_named_folder(value) if setting.endswith(FOLDERS) else None)
        if setting.endswith(".backbone.adapter") and value in BACKBONES:
            found = _known_model(value)
        if setting.endswith(".backbone.codebook_growth"):
            found = _named_file(str(growth_file(value)))
        return {} if found is None else {value: found}
    inner = value.items() if isinstance(value, Mapping) else enumerate(value) if isinstance(value, list) else ()
    return {name: found for key, each in inner for name, found in named_files(each, f"{setting}.{key}").items()}


@cache
def _known_model(name: str) -> str:
    try:
        return weights_version((resolve_model(VlmSpec(name)),))
    except CraftError:
        return NO_WEIGHTS


@cache
def _named_file(text: str) -> str | None:
    file = Path(os.path.expanduser(text))
    return _file_digest(file).hex() if os.path.isfile(file) else None


@cache
def _named_folder(text: str) -> str | None:
    """SHA-256 over names, sizes and times of change (ns) of a folder's files; hidden ones do not count."""
    top = os.path.expanduser(text)
    if not os.path.isdir(top):
        return None
    found = []
    for folder, inner, files in os.walk(top):
        inner[:] = [name for name in inner if not name.startswith(".")]
        for path in (os.path.join(folder, name) for name in files if not name.startswith(".")):
            with suppress(OSError):  # a link that leads nowhere
                now = os.stat(path)
                found.append((os.path.relpath(path, top), now.st_size, now.st_mtime_ns))
    return digest(sorted(found))


def resolve(fragments: Iterable[Mapping[str, Any]], overrides: Mapping[str, Any]) -> dict[str, Any]:
    """Fragments merged as the command line merges them (later ones win, mappings by key, lists whole).

    The dotted overrides stay apart under ``"overrides"``: they are flags, and only the parser knows where they land. A
    value that an override names in full does not count: freezing a learning rate leaves its sweep as it is.
    """
    merged: dict[str, Any] = {}
    for fragment in fragments:
        merged = _merge(merged, fragment)
    for flag in overrides:
        merged = _without(merged, flag.split("."))
    return {"config": merged, "overrides": dict(overrides)}


def _merge(old: Mapping[str, Any], new: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(old)
    for key, value in new.items():
        before = merged.get(key)
        merged[key] = _merge(before, value) if isinstance(before, Mapping) and isinstance(value, Mapping) else value
    return merged


def _without(config: Mapping[str, Any], path: list[str]) -> dict[str, Any]:
    name, *rest = path
    inner = config.get(name)
    if rest and isinstance(inner, Mapping):
        return {**config, name: _without(inner, rest)}
    return {key: value for key, value in config.items() if rest or key != name}


@cache
def weights_version(folders: tuple[Path, ...]) -> str:
    """SHA-256 over names and bytes of the files in checkpoint folders; :data:`NO_WEIGHTS` if a folder is not there.

    A tower that a checkpoint's config names as a folder of its own counts, too, and so does the language model that a
    checkpoint holds low-rank updates of.
    """
    total = hashlib.sha256()
    towers = [(folder, read_json(folder / "config.json").get("vision_tower_cfg")) for folder in folders]
    shared = [folder / name for folder, name in towers if isinstance(name, str) and name != "vision_tower"]
    updates = [read_json(folder / "llm" / LORA) for folder in folders]
    try:
        bases = [language_base(str(facts["base_model_name_or_path"])) for facts in updates if facts]
    except (CraftError, KeyError):
        return NO_WEIGHTS
    for folder in (*folders, *shared, *bases):
        if not folder.exists():
            return NO_WEIGHTS
        for file in [folder] if folder.is_file() else sorted(p for p in folder.rglob("*") if p.is_file()):
            total.update(f"{file.relative_to(folder).as_posix()}\0".encode())
            total.update(_file_digest(file))
    return total.hexdigest()


def _file_digest(file: Path) -> bytes:
    """SHA-256 of all bytes of a file; that of a large one is kept as long as the file system says it is the same."""
    before = _marks(file)
    if before[0] < LARGE:
        return _read_whole(file)
    store, name = known_digests(), str(file.resolve())
    known = read_json(store).get(name)
    if isinstance(known, list) and known[:-1] == before:
        with suppress(ValueError, TypeError):
            return bytes.fromhex(known[-1])
    print(f"hashing {file} ({before[0] / 1e9:.1f} GB), once", file=sys.stderr)
    found = _read_whole(file)
    if before == _marks(file) and max(before[1:3]) < time.time_ns() - SETTLED * 1e9:
        with suppress(OSError):  # read-only: it is read again next time
            write_json(store, {**read_json(store), name: [*before, found.hex()]})
    return found


def known_digests() -> Path:
    """Where digests of large files are kept."""
    return cache_root() / "weights.json"


def _marks(file: Path) -> list[int]:
    """What the file system changes whenever the bytes change: size, times of change in ns, place on the disk."""
    now = file.stat()
    return [now.st_size, now.st_mtime_ns, now.st_ctime_ns, now.st_ino, now.st_dev]


def _read_whole(file: Path) -> bytes:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()
