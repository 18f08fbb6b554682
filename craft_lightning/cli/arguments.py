"""What stands on the command line and in its config files, before any of it is interpreted."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import yaml

from craft_lightning.checkout import nearest_file
from craft_lightning.errors import CraftError, unknown
from craft_lightning.settings import flat

Layer = tuple[str, Mapping[str, Any]]
"""A config file or a flag, and every setting that it names, as ``model.backbone.dtype``."""


def read_layers(argv: Sequence[str]) -> list[Layer]:
    """The config files and flags of a command line, in order: the last one to name a setting wins.

    Raises:
        CraftError: no such file (with the nearest name), or no YAML.
    """
    layers: list[Layer] = []
    for flag, value in _flags(argv):
        if flag in ("-c", "--config") and value:
            layers.append((value, _settings(read_config(value))))
        elif flag.startswith("--"):
            layers.append((flag, _settings({flag.removeprefix("--"): _value(value)})))
    return layers


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
    """What a config file says.

    Raises:
        CraftError: no such file (with the nearest name), or no YAML.
    """
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


def one_class(layers: Sequence[Layer]) -> None:
    """Refuse a second class for the method: it would take over those settings of the first that it has, too (P10).

    Raises:
        CraftError: with both classes, and where they are named.
    """
    first: tuple[str, str] | None = None
    for where, settings in layers:
        name = settings.get("model.class_path", settings.get("model"))
        if not isinstance(name, str):
            continue
        first = first or (name, where)
        if first[0].rsplit(".", 1)[-1] != name.rsplit(".", 1)[-1]:
            raise CraftError(
                f"{where} names model {name}, but {first[1]} names {first[0]}, whose settings it would inherit: "
                "give one of the two"
            )


def links_hold(layers: Sequence[Layer], links: Mapping[str, str], parsed: Mapping[str, Any]) -> None:
    """Refuse a value that is overwritten because its setting follows another one (P9).

    Args:
        links: settings by those that follow them. parsed: every setting as it will be used.

    Raises:
        CraftError: the two values differ; with both, and the setting to change.
    """
    told = {name: (where, value) for where, settings in layers for name, value in settings.items()}
    for target, source in links.items():
        where, value = told.get(target, ("", parsed[target]))
        if value not in (parsed[target], f"${{{source}}}"):
            raise CraftError(
                f"{where} says {target} {value!r}, but that follows {source}, which is {parsed[target]!r}: "
                f"set {source} instead"
            )


def check_numbers(parsed: Mapping[str, Any]) -> None:
    """Refuse NaN and infinity: what is compared with a bound lets them pass, and a run would end in them.

    Args:
        parsed: every setting.

    Raises:
        CraftError: the first of them.
    """
    for name, value in parsed.items():
        for number in value if isinstance(value, list | tuple) else [value]:
            if isinstance(number, float) and not math.isfinite(number):
                raise CraftError(f"--{name.replace('.init_args.', '.')} {number}: a number is wanted")


def named_settings(layers: Sequence[Layer]) -> frozenset[str]:
    """Every setting that a flag or a config file names, as ``model.backbone.dtype``; all others have their defaults."""
    return frozenset(name for _, settings in layers for name in settings)


COMPLAINT = re.compile(r'Parser key "([\w.]+)": (.+?)(?:\. Got value:| Given value type: .+ Given value:) (.*)')
TYPES = {
    "float": "a number",
    "int": "a whole number",
    "str": "text",
    "bool": "true or false",
    "NoneType": "null",
    "list": "a list",
    "tuple": "a list",
    "dict": "a mapping",
}


def wrong_value(message: str, settings: Callable[[], Iterable[str]]) -> str | None:
    """A parser's message about a value of the wrong type, with the setting's whole name and without its own jargon.

    Args:
        message: on one line. settings: every name; a part of a part is reported by the end of its name.

    Returns:
        None if the message is about anything else.
    """
    found = COMPLAINT.fullmatch(message)
    if found is None:
        return None
    key, reasons, given = found.groups()
    reasons = reasons.partition("Errors: - ")[2] or reasons
    expected = []
    for reason in reasons.split(" - "):
        kind = re.fullmatch(r"Expected a (?:<class '(\w+)'>|typing\.Literal\[(.+)\])", reason)
        if kind is None or kind[1] not in (None, *TYPES):
            return None
        expected.append(f"one of {kind[2]}" if kind[2] else TYPES[kind[1]])
    name = next((s for s in settings() if s == key or s.endswith(f".{key}")), key)
    if name == "seed_everything":  # Lightning draws one for a bool, and a run may not
        expected = [TYPES["int"]]
    return f"{name}: expected {' or '.join(expected)}, got {'null' if given == 'None' else repr(given)}"


EXPECTED = re.compile(r"Expected a|Not a valid subclass|Import path .+ does not correspond|Does not validate")


def wrong_part(message: str, names: Callable[[str], Iterable[str]]) -> str | None:
    """A parser's message about a class that a setting of the trainer names, or about one of that class's own settings.

    Args:
        message: on one line. names: of the classes that a setting takes.

    Returns:
        None if the message is about anything else.
    """
    found = re.match(r'Parser key "(trainer\.\w+)": |Does not validate against any of the Union subtypes', message)
    if found is None:
        return None
    setting = found[1]
    listed = re.split(r"Errors: - ", message)[-1].partition(" Given value")[0].split(" - ")
    if missing := re.search(r"Expected a dot import path string: (\w+)", message):
        return str(unknown(f"{setting} class", missing[1], names(setting)))
    reason = next((r for r in listed if not EXPECTED.match(r)), listed[0])
    if missing := re.match(r"the following arguments are required: (\w+)", reason):
        return f"{setting} needs {missing[1]}: --{setting}.{missing[1]} VALUE"
    if missing := re.match(r"no setting 'model\.(\w+)'", reason):
        return f"{setting}: no setting {missing[1]!r} of its class"
    return f"{setting}: {reason}" if setting else reason
