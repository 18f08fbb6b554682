"""``list methods|datasets|backbones|tables``: the names there are, with a line on each.

Datasets and backbones are registries; methods and tables are config files, with the first comment of each, so that a
new one lists itself. Methods and datasets of installed packages come last. No YAML is parsed and no library imported:
the answer is there at once.
"""

from __future__ import annotations

from collections.abc import Sequence

from craft_lightning.cli.arguments import verb_parser
from craft_lightning.environment import EXPERIMENTS, places
from craft_lightning.errors import unknown
from craft_lightning.methods import METHODS
from craft_lightning.models.vlm_spec import BACKBONES
from craft_lightning.plugins import package
from data_modules.datasets import ABOUT, DATASETS

KINDS = ("methods", "datasets", "backbones", "tables")


def entries(kind: str) -> dict[str, str]:
    """Names and descriptions of one of :data:`KINDS`."""
    if kind == "backbones":
        return {backbone.name: f"{backbone.about}; {backbone.origin}" for backbone in BACKBONES.values()}
    found = dict(ABOUT) if kind == "datasets" else {}
    files = [path for folder in places(f"{EXPERIMENTS}/{kind}") for path in folder.glob("*.yaml")]
    for path in sorted(files, key=lambda path: path.stem):
        with path.open(encoding="utf-8") as file:
            first = file.readline().strip()
        found.setdefault(path.stem, first.lstrip("# ") if first.startswith("#") else "")
    added = METHODS.added if kind == "methods" else DATASETS.added if kind == "datasets" else {}
    for name, entry in added.items():
        found.setdefault(name, f"{entry.module}.{entry.attr} of the package {package(entry)}")
    return found


def main(argv: Sequence[str]) -> int:
    """The verb; returns the exit code."""
    parser = verb_parser("list", "List what there is, a line each.")
    parser.add_argument("kind", metavar="|".join(KINDS))
    kind = parser.parse_args(argv).kind
    if kind not in KINDS:
        raise unknown("list of", kind, KINDS)
    listed = entries(kind)
    width = max(map(len, listed), default=0)
    for name, line in listed.items():
        print(f"{name:<{width}}  {line}".rstrip())
    return 0
