"""What stands on the command line and in its config files, before any of it is interpreted."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from craft_lightning.errors import CraftError, nearest


def read_configs(argv: Sequence[str]) -> dict[str, Any]:
    """Contents of the config files that the arguments name, by file.

    Raises:
        CraftError: no such file (with the nearest name), or no YAML.
    """
    files = [value for flag, value in pairwise(argv) if flag in ("-c", "--config")]
    files += [a.split("=", 1)[1] for a in argv if a.startswith("--config=")]
    found = {}
    for file in files:
        if not Path(file).is_file():
            near = nearest(Path(file).name, (p.name for p in Path(file).parent.glob("*")))
            raise CraftError(f"no config file {file}" + (f"; did you mean {Path(file).parent / near}?" if near else ""))
        try:
            found[file] = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise CraftError(f"{file}: {' '.join(str(error).split())}") from error
    return found


def one_class_each(configs: Mapping[str, Any]) -> None:
    """Refuse config files that name different classes for one part: the second would inherit arguments of the first.

    Raises:
        CraftError: with both files.
    """
    named: dict[str, tuple[str, str]] = {}
    for file, content in configs.items():
        for part in ("model", "data"):
            section = content.get(part) if isinstance(content, dict) else None
            name = section.get("class_path") if isinstance(section, dict) else None
            if name is None:
                continue
            before = named.setdefault(part, (name, file))
            if before[0].rsplit(".", 1)[-1] != name.rsplit(".", 1)[-1]:
                raise CraftError(
                    f"{file} names {part} {name}, but {before[1]} names {before[0]}: give one of the two files"
                )


def named_settings(argv: Sequence[str], configs: Mapping[str, Any]) -> frozenset[str]:
    """Every setting that a flag or a config file names, as ``model.backbone.dtype``; all others have their defaults."""
    flags = {a.removeprefix("--").split("=", 1)[0] for a in argv if a.startswith("--")}
    keys = {key for content in configs.values() if isinstance(content, dict) for key in flat(content)}
    return frozenset(name.replace(".init_args.", ".") for name in flags | keys)


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings, namespaces and dataclasses as one mapping with dotted keys."""
    if hasattr(value, "as_dict"):
        value = value.as_dict()
    if hasattr(value, "__dataclass_fields__"):
        value = vars(value)
    if not isinstance(value, dict):
        return {prefix: value}
    return {k: v for key, inner in value.items() for k, v in flat(inner, f"{prefix}.{key}" if prefix else key).items()}
