"""The code behind a result: what a worker's imports reach, hashed without what explains it.

The modules are found by following the import statements, from the worker and from what a node's settings name, so that
a new file counts from its first day. :data:`APART` says what does not count, and why.
"""

from __future__ import annotations

import ast
import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from importlib.util import cache_from_source
from pathlib import Path
from typing import Any, NamedTuple

from craft_lightning.environment import PACKAGES, ROOT
from craft_lightning.io import write_json

WORKER = "craft_lightning.worker"
METHODS = "craft_lightning.methods"
TWINS = "data_modules.twins.registry"

APART = {
    "craft_lightning.benchmark": "plans nodes; a run knows nothing of it",
    "craft_lightning.report": "shows results; a run knows nothing of it",
    "craft_lightning.workers": "start workers; a run knows nothing of them",
    "craft_lightning.errors": "texts of mistakes",
    "craft_lightning.visualization": "pictures for eyes",
    "craft_lightning.environment": "where files are; what it says of the machine, each result tells",
    "craft_lightning.io": "whole files or none",
    METHODS: "a list of names; a node's own method is followed",
    "data_modules.datasets.registry": "a list of names; a node's own dataset is followed",
    TWINS: "a list of names; the twins that a node draws are followed",
    "callbacks.example_pictures": "pictures for eyes",
    "craft_lightning.run_facts": "what a run says of itself",
    "callbacks.hparams_tab": "for TensorBoard",
    "callbacks.learning_curves": "for the report",
    "craft_lightning.strategies.lost_process": "texts of mistakes",
    "callbacks.progress": "shows the progress",
    "callbacks.result_writer": "what a run says of itself",
    "callbacks.run_banner": "what a run says of itself",
    "callbacks.save_config": "what a run says of itself",
    "callbacks.token_map": "pictures for eyes",
}
"""What a worker imports and what changes no number, stored reply or stored weight, with the reason. Neither these
modules count nor what only they import. A package stands for all that is in it, unless it is a list of names."""

LISTS = tuple(name for name, reason in APART.items() if reason.startswith("a list of names"))

DIGESTS = Path(cache_from_source(__file__)).with_name("statements.json")
"""What is known of files by the hash of their bytes, beside the compiled modules: parsing takes longer than a plan."""

OWN_CODE = Path(__file__).read_bytes()
"""The source of this module as it runs: where it cuts otherwise, nothing is known any more."""


class Module(NamedTuple):
    """Digest of a module's statements, the names that it imports from the three packages, and those of its classes."""

    digest: str
    imports: tuple[str, ...]
    classes: tuple[str, ...]


def code_version(settings: Mapping[str, Any], method: str, dataset: str) -> str:
    """SHA-256 over the statements (see :func:`statements`) of all modules behind a node.

    Files of another method or dataset do not count unless they are imported: adding one leaves the finished cells
    finished.

    Args:
        settings: of the node, as :func:`.cache_key.resolve` returns them.
        method, dataset: names of its fragments, where the settings name none of ours.
    """
    return _version(tuple(starts(settings, method, dataset)))


def starts(settings: Mapping[str, Any], method: str, dataset: str) -> Iterator[str]:
    """The modules that a node begins with: the worker, and those that its settings name."""
    named = [_classes().get(path, path.rpartition(".")[0]) for path in _class_paths(settings)]
    chosen = str(_setting(settings, "data.dataset") or dataset)
    yield from (WORKER, *named, f"data_modules.datasets.{chosen}", f"data_modules.twins.drawings.draw_{chosen}")
    if not any(name.startswith(f"{METHODS}.") for name in named):
        yield f"{METHODS}.{method}"
    if _setting(settings, "prune.prior") == "generic":  # counted on the studio pictures of every twin
        yield from house()[TWINS].imports


@cache
def _classes() -> dict[str, str]:
    """Module of each class of a method."""
    return {c: name for name in house() if name.startswith(f"{METHODS}.") for c in house()[name].classes}


def _class_paths(value: Any) -> Iterator[str]:
    """Every ``class_path`` of some settings."""
    if isinstance(value, Mapping):
        for key, inner in value.items():
            if str(key).rsplit(".", 1)[-1] == "class_path":
                yield str(inner)
            yield from _class_paths(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _class_paths(inner)


def _setting(settings: Mapping[str, Any], name: str) -> Any:
    """The value of a dotted name: an override's, or else the config's."""
    if name in settings["overrides"]:
        return settings["overrides"][name]
    value: Any = settings["config"]
    for part in name.split("."):
        value = value.get(part) if isinstance(value, Mapping) else None
    return value


@cache
def _version(names: tuple[str, ...]) -> str:
    total = hashlib.sha256()
    for name in reached(names):
        total.update(f"{name}\0{house()[name].digest}\0".encode() + house().tables.get(name, b""))
    house().keep()
    return total.hexdigest()


def reached(names: Iterable[str]) -> list[str]:
    """The modules that count behind some, in alphabetical order: these, and what they import at any place of theirs."""
    found, left = set[str](), list(names)
    while left:
        name = left.pop()
        if name in house() and name not in found and not apart(name):
            found.add(name)
            # A package's own module runs before what is in it.
            left += [*house()[name].imports, name.rpartition(".")[0]]
    return sorted(found)


def apart(name: str) -> bool:
    """Whether a module changes no number (:data:`APART`)."""
    return name in APART or any(name.startswith(f"{other}.") for other in APART if other not in LISTS)


class House(Mapping[str, Module]):
    """The modules of the three packages by name, each parsed when it is asked for. The packages themselves are left
    out: they hold the version. ``tables``: the JSON file beside a module, of the same name, which it reads."""

    def __init__(self, root: Path) -> None:
        self.sources: dict[str, bytes] = {}
        self.tables: dict[str, bytes] = {}
        for file in [file for package in PACKAGES for file in (root / package).rglob("*.py")]:
            parts = file.relative_to(root).with_suffix("").parts
            name = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            self.sources[name] = file.read_bytes()
            if (table := file.with_suffix(".json")).is_file():
                self.tables[name] = table.read_bytes()
        self.sources = {name: source for name, source in self.sources.items() if name not in PACKAGES}
        self.hashes = {name: hashlib.sha256(OWN_CODE + source).hexdigest() for name, source in self.sources.items()}
        self.known = self.before = _stored()

    def __getitem__(self, name: str) -> Module:
        key = self.hashes[name]
        if key not in self.known:
            self.known = {**self.known, key: _read(self.sources[name])}
        return self.known[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.sources)

    def __len__(self) -> int:
        return len(self.sources)

    def keep(self) -> None:
        """Leave what was parsed to the next process; what is no more is not kept."""
        if self.known is not self.before:
            now = set(self.hashes.values())
            self.known = self.before = {key: module for key, module in self.known.items() if key in now}
            with suppress(OSError):  # a folder that may not be written to: the next plan takes as long as this one
                write_json(DIGESTS, self.known)


@cache
def house() -> House:
    """That of this project."""
    return House(ROOT)


def _stored() -> dict[str, Module]:
    """Of :data:`DIGESTS`; none if there is no such file or something else in it."""
    try:
        known = json.loads(DIGESTS.read_text(encoding="utf-8"))
        modules = {key: Module(digest, *map(tuple, names)) for key, (digest, *names) in known.items()}
        return modules if all(len(bytes.fromhex(m.digest)) == 32 for m in modules.values()) else {}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _read(source: bytes) -> Module:
    text = source.decode("utf-8")
    tree = ast.parse(text)
    classes = tuple(node.name for node in tree.body if isinstance(node, ast.ClassDef))
    return Module(hashlib.sha256(statements(text, tree).encode()).hexdigest(), tuple(sorted(imports(tree))), classes)


def imports(tree: ast.Module) -> set[str]:
    """Names of our own modules in the import statements of a module, inside functions, too; not those for types only.

    Of ``from a.b import c`` both ``a.b`` and ``a.b.c``, since either may be a module.
    """
    found, left = set[str](), list[ast.AST](tree.body)
    while left:
        node = left.pop()
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.update([node.module, *(f"{node.module}.{alias.name}" for alias in node.names)])
        elif isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            left += node.orelse
        elif isinstance(node, ast.stmt | ast.ExceptHandler | ast.match_case):  # no expression holds an import
            left += ast.iter_child_nodes(node)
    return {name for name in found if name.partition(".")[0] in PACKAGES}


def statements(source: str, tree: ast.Module) -> str:
    """The lines of a module, given its source and what was parsed of it, without docstrings, blank lines and lines of
    comments."""
    lines, told, texts = source.splitlines(), set[int](), set[int]()
    for node in ast.walk(tree):
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
