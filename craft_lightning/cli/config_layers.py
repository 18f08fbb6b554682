"""What stands on the command line of a run and in its config files, before any of it is interpreted."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from craft_lightning.cli.arguments import spelled
from craft_lightning.environment import nearest_file, placed
from craft_lightning.errors import CraftError, unknown
from craft_lightning.methods import METHODS
from craft_lightning.settings import flat

Layer = tuple[str, Mapping[str, Any]]
"""A config file or a flag, and every setting that it names, as ``model.backbone.dtype``."""

ALIASES = {
    "--backbone": ("--model.backbone.name",),
    "--encoder": ("--model.backbone.encoder",),
    "--adapter": ("--model.backbone.adapter",),
    "--keep": ("--prune.enabled=true", "--prune.keep"),
    "--output": ("--trainer.default_root_dir",),
    "--workers": ("--data.num_workers",),
    "--help_all": ("--help",),
}
"""Flags that runs have by these names, too, and the settings that they stand for; the last takes the value."""


def read_layers(argv: Sequence[str]) -> list[Layer]:
    """The config files and flags of a command line, in order: the last one to name a setting wins. Raises CraftError:
    see :func:`read_config`."""
    layers: list[Layer] = []
    for flag, value in _flags(argv):
        if flag in ("-c", "--config") and value:
            layers.append((value, _settings(read_config(value))))
        elif flag.startswith("--"):
            layers.append((flag, _settings({flag.removeprefix("--"): _value(value)})))
    return layers


def expanded(argv: Sequence[str]) -> list[str]:
    """A command line with the settings that its flags stand for, and the places of its config files and classes."""
    return with_classes(placed(argument for given in argv for argument in _alias(given)))


def _alias(argument: str) -> list[str]:
    flag, equals, value = spelled(argument).partition("=")
    *before, setting = ALIASES.get(flag, (flag,))
    return [*before, setting + equals + value]


def with_classes(argv: Sequence[str]) -> list[str]:
    """A command line that names the method by its class's import path, where it does by the method's name."""
    found: list[str] = []
    for before, argument in pairwise(["", *argv]):
        flag, equals, value = argument.partition("=") if argument.startswith("-") else (before, "", argument)
        named = flag in ("--model", "--model.class_path", "--model.help") and value in METHODS
        path = METHODS.place(value).replace(":", ".") if named else value
        found.append(f"{flag}={path}" if equals else path if named else argument)
    return found


def _flags(argv: Sequence[str]) -> Iterator[tuple[str, str]]:
    for argument, following in pairwise([*argv, ""]):
        flag, equals, value = argument.partition("=")
        if flag.startswith("-"):
            yield flag, value if equals else following


def _value(text: str) -> Any:
    """A flag's value as YAML; where it names a config file, what that file says."""
    if text.endswith((".yaml", ".yml")) and Path(text).is_file():
        return read_config(text)
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, ValueError):  # ValueError: a date that there is not
        return text


def read_config(file: str) -> Any:
    """What a config file says. Raises CraftError: no such file (with the nearest name), or no YAML."""
    path = Path(file)
    if not path.is_file():
        near = nearest_file(path)
        raise CraftError(f"no config file {file}" + (f"; did you mean {near}?" if near else ""))
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, ValueError) as error:
        raise CraftError(f"{file}: {' '.join(str(error).split())}") from error


def _settings(content: Any) -> dict[str, Any]:
    if not isinstance(content, dict):
        return {}
    return {key.replace(".init_args.", "."): value for key, value in flat(content).items()}


def named_settings(layers: Sequence[Layer]) -> frozenset[str]:
    """Every setting that a flag or a config file names, as ``model.backbone.dtype``; all others have their defaults."""
    return frozenset(name for _, settings in layers for name in settings)


def one_class(layers: Sequence[Layer]) -> None:
    """Import the method's class, and refuse a second one: it would take over those settings of the first that it has.
    Raises CraftError: no such class, or two, with where they are named."""
    named = [(where, s.get("model.class_path", s.get("model"))) for where, s in layers]
    named = [(where, name) for where, name in named if isinstance(name, str)]
    for where, name in named:
        first, cls = named[0]
        if METHODS.place(name).rpartition(":")[2] != name.rpartition(".")[2]:
            raise unknown("class", name, [place.rpartition(":")[2] for place in METHODS.places.values()])
        if METHODS[cls] is not METHODS[name]:
            raise CraftError(
                f"{where} names model {name}, but {first} names {cls}, whose settings it would inherit: "
                "give one of the two"
            )


def links_hold(layers: Sequence[Layer], links: Mapping[str, str], parsed: Mapping[str, Any]) -> None:
    """Refuse a value that is overwritten because its setting follows another one: ``links`` holds settings by those
    that follow them, ``parsed`` every setting as it will be used. Raises CraftError: the two values differ; with both,
    and the setting to change."""
    told = {name: (where, value) for where, settings in layers for name, value in settings.items()}
    for target, source in links.items():
        where, value = told.get(target, ("", parsed[target]))
        if value not in (parsed[target], f"${{{source}}}"):
            raise CraftError(
                f"{where} says {target} {value!r}, but that follows {source}, which is {parsed[target]!r}: "
                f"set {source} instead"
            )


def check_numbers(parsed: Mapping[str, Any]) -> None:
    """Refuse NaN and infinity among all settings: comparisons with a bound let them pass, and a run would end in them.
    Raises CraftError: the first of them."""
    for name, value in parsed.items():
        for number in value if isinstance(value, list | tuple) else [value]:
            if isinstance(number, float) and not math.isfinite(number):
                raise CraftError(f"--{name.replace('.init_args.', '.')} {number}: a number is wanted")
