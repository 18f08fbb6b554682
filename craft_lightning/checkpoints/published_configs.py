"""Config files of the paper's models, as data: for shapes that checkpoints do not hold, and models that are not here.

Shapes only, in ``published_configs.json``. Where a checkpoint itself is on this machine, its own files are read.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from craft_lightning.errors import CraftError
from craft_lightning.io import write_json
from craft_lightning.models.vlm_spec import VlmSpec, resolve

_FACTS = json.loads(Path(__file__).with_suffix(".json").read_text(encoding="utf-8"))

KNOWN_SIGLIP: dict[str, dict[str, int]] = _FACTS["siglip"]
"""SigLIP's shapes by hub id: VILA-U's checkpoints name one of these and do not hold its config."""

KNOWN_CLIP: dict[str, dict[str, int]] = _FACTS["clip"]
"""CLIP's shapes by hub id, which a checkpoint in a single folder does not hold."""

BLUEPRINTS: dict[str, dict[str, dict[str, Any]]] = _FACTS["checkpoints"]
"""Content of the config files by their path in the checkpoint, by the names of ``list backbones``."""


def write_blueprint(folder: str | Path, name: str) -> Path:
    """The config files of a known model, no weights; returns ``folder``."""
    for path, content in BLUEPRINTS[name].items():
        file = Path(folder) / path
        file.parent.mkdir(parents=True, exist_ok=True)
        write_json(file, content)
    return Path(folder)


@contextmanager
def config_folder(spec: VlmSpec) -> Iterator[Path]:
    """The checkpoint folder of a spec, or for a known model that is not on this machine a temporary one of its configs.
    Raises CraftError: neither is there."""
    try:
        found: Path | None = resolve(spec)
    except CraftError:
        if spec.name not in BLUEPRINTS:
            raise
        found = None
    if found is not None:
        yield found
        return
    with TemporaryDirectory() as made:
        yield write_blueprint(made, spec.name)
