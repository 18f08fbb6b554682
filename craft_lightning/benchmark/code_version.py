"""The code behind a result: what a worker's imports reach, hashed without what explains it.

The modules are found by following the import statements, from the worker and from what a job's settings name, so that
a new file counts from its first day. :data:`APART` says what does not count, and why.
"""

from __future__ import annotations

import ast
import hashlib
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import suppress
from functools import cache
from importlib.machinery import ModuleSpec
from importlib.util import cache_from_source
from pathlib import Path
from typing import Any, NamedTuple

from craft_lightning.environment import PACKAGES, ROOT
from craft_lightning.io import write_json
from craft_lightning.methods import METHODS
from craft_lightning.settings import JUDGE
from data_modules.datasets import DATASETS
from data_modules.twins import TWINS

WORKER = "craft_lightning.worker"
SURROGATE = "craft_lightning.cli.surrogate"

APART = {
    "craft_lightning.benchmark": "plans jobs; a run knows nothing of it",
    "craft_lightning.report": "shows results; a run knows nothing of it",
    "craft_lightning.workers": "start workers; a run knows nothing of them",
    "craft_lightning.errors": "texts of mistakes",
    "craft_lightning.visualization": "pictures for eyes",
    "craft_lightning.environment": "where files are; what it says of the machine, each result tells",
    "craft_lightning.io": "whole files or none",
    "craft_lightning.plugins": "finds what is named",
    "craft_lightning.methods": "a list of names; a job's own method is followed",
    "data_modules.datasets": "a list of names; a job's own dataset is followed",
    "data_modules.twins": "a list of names; the twins that a job draws are followed",
    "craft_lightning.cli.arguments": "how flags are spelled",
    "craft_lightning.cli.early": "help and texts of mistakes",
    "craft_lightning.run_facts": "what a run says of itself",
    "callbacks.hparams_tab": "for TensorBoard",
    "callbacks.report_files": "for the report",
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
    """Digest of a module's statements, and the names that it imports."""

    digest: str
    imports: tuple[str, ...]


def code_version(settings: Mapping[str, Any], method: str, dataset: str) -> str:
    """SHA-256 over the statements (see :func:`statements`) of all modules behind a job, by its settings as
    :func:`.cache_key.resolve` returns them; where they name no method or dataset, its fragments do.

    Files of another method or dataset do not count unless they are imported: adding one leaves the finished cells
    finished.
    """
    return _version(tuple(starts(settings, method, dataset)))


def of_stage2() -> str:
    """The same of a stage 2 of a family's model, which speaks of the images of every twin."""
    twins = (place.partition(":")[0] for place in TWINS.places.values())
    return _version((WORKER, SURROGATE, *twins))


def starts(settings: Mapping[str, Any], method: str, dataset: str) -> Iterator[str]:
    """The modules that a job begins with: the worker, and those that its settings name."""
    yield WORKER
    named = (path.rpartition(".")[0] for path in _class_paths(settings))
    yield from (module for module in named if module and not of_library(module))
    model, chosen = _setting(settings, "model"), str(_setting(settings, "data.dataset") or dataset)
    own = model if isinstance(model, str) else _setting(settings, "model.class_path")
    places = [METHODS.place(str(own or method)), DATASETS.place(chosen), TWINS.place(chosen)]
    justified = _setting(settings, "data.directive") == "justify"
    places += [JUDGE] if justified else []
    # One is counted on the studio images of every twin, the other knows what is said of them.
    if justified or _setting(settings, "prune.prior") == "generic":
        places += TWINS.places.values()
    yield from (place.partition(":")[0] for place in places if place)


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
    for name, module in reached(names).items():
        total.update(f"{name}\0{module.digest}\0".encode() + house().tables.get(name, b""))
    house().keep()
    return total.hexdigest()


def reached(names: Iterable[str]) -> dict[str, Module]:
    """The modules that count behind some, in alphabetical order: these, and what they import at any place of theirs.

    A user's own modules count as ours do; of libraries, whose versions stand in each result, only what is in the
    packages of ``names``.
    """
    found, left = dict[str, Module](), list(names)
    packages = {name.partition(".")[0] for name in left}
    while left:
        name = left.pop()
        if not name or name in found or apart(name) or (of_library(name) and name.partition(".")[0] not in packages):
            continue
        if (module := house().get(name) or _foreign(name)) is not None:
            found[name] = module
            # A package's own module runs before what is in it.
            left += [*module.imports, name.rpartition(".")[0]]
    return dict(sorted(found.items()))


@cache
def _foreign(name: str) -> Module | None:
    """A module that is not ours, with the JSON file beside it; None if there is no such file of source."""
    top, *below = name.split(".")
    spec = None if not top or top in PACKAGES else _spec(top)
    if spec is None:
        return None
    places = [Path(place, *below) for place in spec.submodule_search_locations or ()]
    files = [file for place in places for file in (place / "__init__.py", place.with_suffix(".py"))]
    file = next((f for f in (files if below else [Path(str(spec.origin))]) if f.suffix == ".py" and f.is_file()), None)
    if file is None:
        return None
    module = _read(file.read_bytes(), name if file.stem == "__init__" else name.rpartition(".")[0])
    table = file.with_suffix(".json")
    beside = hashlib.sha256(table.read_bytes()).hexdigest() if table.is_file() else ""
    return module._replace(digest=module.digest + beside)


def of_library(name: str) -> bool:
    """Whether a module is Python's own or an installed package's, and none of ours."""
    top = name.partition(".")[0]
    spec = None if top in PACKAGES else _spec(top)
    places = [] if spec is None else [*(spec.submodule_search_locations or ()), str(spec.origin)]
    return top in sys.stdlib_module_names or any({"site-packages", "dist-packages"} & {*Path(p).parts} for p in places)


@cache
def _spec(top: str) -> ModuleSpec | None:
    """Where Python finds a package or module, without running it."""
    found = (finder.find_spec(top, None) for finder in sys.meta_path)
    return next((spec for spec in found if spec is not None), None)


def apart(name: str) -> bool:
    """Whether a module changes no number (:data:`APART`)."""
    return name in APART or any(name.startswith(f"{other}.") for other in APART if other not in LISTS)


class House:
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

    def get(self, name: str) -> Module | None:
        """A module; None if it is none of the project's."""
        if (key := self.hashes.get(name)) is None:
            return None
        if key not in self.known:
            self.known = {**self.known, key: _read(self.sources[name])}
        return self.known[key]

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
        modules = {key: Module(digest, tuple(names)) for key, (digest, names) in known.items()}
        return modules if all(len(bytes.fromhex(m.digest)) == 32 for m in modules.values()) else {}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def _read(source: bytes, package: str | None = None) -> Module:
    text = source.decode("utf-8")
    tree = ast.parse(text)
    names = tuple(sorted(imports(tree, package)))
    return Module(hashlib.sha256(statements(text, tree).encode()).hexdigest(), names)


def imports(tree: ast.Module, package: str | None = None) -> set[str]:
    """Names of the modules in the import statements of a module, inside functions, too; not those for types only. Of
    ``from a.b import c`` both ``a.b`` and ``a.b.c``, since either may be a module. ``package`` is the one that a user's
    module is in; None: the module is ours, and only what it imports of ours is named."""
    found, left = set[str](), list[ast.AST](tree.body)
    while left:
        node = left.pop()
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = (package or "").rsplit(".", node.level - 1)[0] if node.level else None
            module = ".".join(filter(None, (above, node.module)))
            found.update([module, *(f"{module}.{alias.name}" for alias in node.names)])
        elif isinstance(node, ast.If) and isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING":
            left += node.orelse
        elif isinstance(node, ast.stmt | ast.ExceptHandler | ast.match_case):  # no expression holds an import
            left += ast.iter_child_nodes(node)
    return {name for name in found if package is not None or name.partition(".")[0] in PACKAGES}


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
