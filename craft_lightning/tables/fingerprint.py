"""What a result depends on, as hashes: settings, the code that computes it, the weights it starts from."""

from __future__ import annotations

import ast
import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from functools import cache
from importlib.util import cache_from_source
from pathlib import Path
from typing import Any

from craft_lightning.checkout import EXPERIMENTS, ROOT, experiments
from craft_lightning.writing import write_json

PARTS = (
    "craft_lightning/defaults.py",
    "craft_lightning/types.py",
    "craft_lightning/mcq.py",
    "craft_lightning/prompts.py",
    "craft_lightning/scoring.py",
    "craft_lightning/losses.py",
    "craft_lightning/metrics.py",
    "craft_lightning/optim.py",
    "craft_lightning/replies.py",
    "craft_lightning/models",
    "craft_lightning/methods",
    "data_modules",
    "callbacks/codebook_usage.py",
    "callbacks/encoder_export.py",
    "callbacks/last_checkpoint.py",
    "callbacks/last_validation.py",
    "callbacks/prune_at_validation.py",
    "callbacks/replies.py",
    "callbacks/token_prior.py",
)
"""The code whose change can change a number, a stored reply or a stored weight.

Neither what only shows them (banner, event files, reports), nor what a machine chooses for itself (strategy, precision,
memory), which results say like the machine itself.
"""

LARGE, END = 2**28, 2**20
"""Bytes of a file of weights from which only its ends are read, and of an end."""

DIGESTS = Path(cache_from_source(__file__)).with_name("statements.json")
"""Digests of files by the hash of their bytes, beside the compiled modules: parsing them takes longer than a plan."""

OWN_CODE = Path(__file__).read_bytes()
"""The source of this module as it runs: where it cuts otherwise, nothing is known any more."""

LISTS = ("craft_lightning/methods/__init__.py", "data_modules/registry.py", "data_modules/twins/registry.py")
"""Lists of names among it, which change no number."""


def digest(value: Any) -> str:
    """SHA-256 of a plain value (mappings in any order), hexadecimal."""
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()


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
def code_version(method: str, dataset: str, root: Path = ROOT) -> str:
    """SHA-256 over the source of :data:`PARTS`, without what explains it (see :func:`statements`).

    Files that belong to another method or another dataset (their name is that of another fragment under
    ``experiments/``) do not count, nor do the lists of them: adding a method leaves the finished cells finished.
    """
    shipped = experiments() if root == ROOT else root / EXPERIMENTS
    methods, datasets = (_fragments(shipped / kind) for kind in ("methods", "datasets"))
    foreign = {"data_modules": datasets - {dataset}, "craft_lightning/methods": methods - {method}}
    total = hashlib.sha256()
    for part, stem, name, code in _sources(root):
        if stem not in foreign.get(part, ()):
            total.update(f"{name}\0".encode())
            total.update(code)
    return total.hexdigest()


@cache
def _fragments(folder: Path) -> set[str]:
    return {path.stem for path in folder.glob("*.yaml")}


@cache
def _sources(root: Path) -> tuple[tuple[str, str, str, bytes], ...]:
    """Part, stem, name and digest of every file of :data:`PARTS`."""
    found, known, current = [], _stored_digests(), dict[str, str]()
    for part in PARTS:
        path = root / part
        for file in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            name = file.relative_to(root).as_posix()
            if name not in LISTS and file.is_file():
                source = file.read_bytes()
                key = hashlib.sha256(OWN_CODE + source).hexdigest()
                current[key] = known.get(key) or _code_digest(source)
                found.append((part, file.stem, name, bytes.fromhex(current[key])))
    if root == ROOT and current != known:
        with suppress(OSError):  # a folder that may not be written to: the next plan takes as long as this one
            write_json(DIGESTS, current)
    return tuple(found)


def _stored_digests() -> dict[str, str]:
    """Of :data:`DIGESTS`; none if there is no such file or something else in it."""
    try:
        known = dict(json.loads(DIGESTS.read_text(encoding="utf-8")))
        return known if all(len(bytes.fromhex(value)) == 32 for value in known.values()) else {}
    except (OSError, ValueError, TypeError):
        return {}


def _code_digest(source: bytes) -> str:
    """SHA-256 of the statements of a module."""
    return hashlib.sha256(statements(source.decode("utf-8")).encode()).hexdigest()


def statements(source: str) -> str:
    """The lines of a module without docstrings, blank lines and lines of comments."""
    lines, told, texts = source.splitlines(), set[int](), set[int]()
    for node in ast.walk(ast.parse(source)):
        value = node.value if isinstance(node, ast.Expr) else node
        if isinstance(value, ast.Constant) and isinstance(value.value, str):
            alone = value is not node and not lines[value.lineno - 1][: value.col_offset].strip()
            (told if alone else texts).update(range(value.lineno, (value.end_lineno or value.lineno) + 1))
    texts -= told
    return "\n".join(
        line
        for number, line in enumerate(lines, start=1)
        if number in texts or (number not in told and line.strip() and not line.lstrip().startswith("#"))
    )


@cache
def weights_version(folders: tuple[Path, ...]) -> str:
    """SHA-256 over names and bytes of the files in checkpoint folders; ``"missing"`` if a folder is not there.

    A tower that a checkpoint's config names as a folder of its own counts, too. Of a file beyond :data:`LARGE` its size
    and its ends count, so that a plan need not read a 7B model: trained anew, no tensor stays as it was.
    """
    total = hashlib.sha256()
    for folder in (*folders, *filter(None, map(_tower, folders))):
        if not folder.is_dir():
            return "missing"
        for file in sorted(p for p in folder.rglob("*") if p.is_file()):
            total.update(f"{file.relative_to(folder).as_posix()}\0".encode())
            total.update(_file_digest(file))
    return total.hexdigest()


def _file_digest(file: Path) -> bytes:
    size = file.stat().st_size
    with file.open("rb") as stream:
        if size <= LARGE:
            return hashlib.file_digest(stream, "sha256").digest()
        total = hashlib.sha256(f"{size}\0".encode() + stream.read(END))
        stream.seek(-END, os.SEEK_END)
        total.update(stream.read())
        return total.digest()


def _tower(checkpoint: Path) -> Path | None:
    """The shared tower's folder, if the checkpoint does not hold its own."""
    config = checkpoint / "config.json"
    tower = json.loads(config.read_text(encoding="utf-8")).get("vision_tower_cfg") if config.is_file() else None
    return checkpoint / tower if isinstance(tower, str) and tower != "vision_tower" else None
