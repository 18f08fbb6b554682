"""The parser of a run's flags and config files: whatever is wrong with them is one line with the nearest name."""

from __future__ import annotations

import inspect
import re
from functools import reduce
from operator import or_
from types import UnionType
from typing import Any, NoReturn, Union, get_args, get_origin

from lightning.pytorch import Callback
from lightning.pytorch.cli import LightningArgumentParser
from lightning.pytorch.loggers import Logger
from lightning.pytorch.profilers import Profiler

from craft_lightning.cli import early
from craft_lightning.errors import CraftError, unknown
from craft_lightning.methods.base import BaseMethod
from craft_lightning.plugins import subclasses


class CraftParser(LightningArgumentParser):
    """Errors are one line with the nearest name that exists."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Turn whatever was wrong on the command line or in a config file into a :class:`CraftError`."""
        text = " ".join(str(message).split())
        if told := wrong_value(text) or wrong_part(text):
            raise CraftError(told)
        # jsonargparse lists what was wrong with each type that a part may have; the first one is ours.
        found = re.search(r"Errors: - (.+?) - Expected a <class 'NoneType'>", text)
        text = found.group(1) if found else text
        if found := re.search(r"Option '([\w.]+)' is not accepted", text):
            self._unknown(f"model.{found.group(1)}")
        if found := re.search(r"(?:[Uu]nrecognized arguments?: --|does not accept option ')([\w.+-]+)", text):
            self._unknown(found.group(1))
        if "not accepted before subcommand" in text:
            raise CraftError("-c and --config come after the verb: python -m craft_lightning fit --config FILE")
        if text.startswith("Not a valid subclass of BaseMethod"):
            raise CraftError("the config that names the method (model.class_path) comes before those that fill it in")
        if re.search(r"required: \w+\.model$", text):
            raise CraftError("no method is named; for example --config experiments/methods/craft.yaml")
        raise CraftError(text)

    def parse_args(self, args: Any = None, *others: Any, **kwargs: Any) -> Any:
        """Parse; the parser of a part is handed ``--model.optim.clip null`` as ``--optim.clip=None``."""
        if args is not None:
            args = [f"{a.removesuffix('=None')}=null" if a.endswith("=None") else a for a in args]
        return super().parse_args(args, *others, **kwargs)

    def format_help(self, formatter: Any = None) -> str:
        """One line of usage, then what a run is about; the many settings of Lightning's trainer come last."""
        verb = self.prog.rsplit(" ", 1)[-1]
        if "--trainer" in self.format_usage():
            self.usage = f"python -m craft_lightning {verb} --config FILE ... [--SETTING VALUE ...]"
            groups = self._action_groups
            self._action_groups = sorted(groups, key=lambda group: "every aspect of training" in str(group.title))
        return str(super().format_help(formatter))

    def _unknown(self, name: str) -> NoReturn:
        raise early.unknown_setting(name, settings())


def whole_numbers_first(parser: LightningArgumentParser) -> None:
    """Have ``1`` read as one batch where Lightning takes a count or a share, whatever was imported before.

    ``typing`` takes ``Union[int, float]`` and ``Union[float, int]`` for one and gives out the one that it built first
    (seen with Python 3.11, Lightning 2.6.6, jsonargparse 4.53); the parser tries the parts in that order, and 1.0 is
    all batches. ``int | float`` is never exchanged.
    """
    swap = {int: float, float: int}
    for action in parser._actions:
        kind = getattr(action, "_typehint", None)
        parts = list(get_args(kind)) if get_origin(kind) in (Union, UnionType) else []
        if {int, float} <= set(parts) and parts.index(float) < parts.index(int):
            vars(action)["_typehint"] = reduce(or_, (swap.get(part, part) for part in parts))


def settings() -> list[str]:
    """What can be set, as ``model.optim.lr``; by methods of others, too, once they are imported."""
    known = early.settings()
    others = [inspect.signature(cls).parameters for cls in subclasses(BaseMethod)]
    known["model"] += [name for taken in others for name in taken if name != "kwargs"]
    names = [f"{part}.{name}" for part, taken in known.items() for name in taken]
    return list(dict.fromkeys(["seed_everything", "ckpt_path", "overwrite", "encoder", "adapter", *names]))


PARTS = {"trainer.logger": Logger, "trainer.callbacks": Callback, "trainer.profiler": Profiler}
"""Classes that a setting of the trainer takes; a bare name is looked for among them."""


def class_names(setting: str) -> list[str]:
    """Names of the classes that a setting takes."""
    found = subclasses(PARTS[setting]) if setting in PARTS else []
    return sorted({cls.__name__ for cls in found if not cls.__name__.startswith("_")})


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
"""What jsonargparse's names of types are called to a user."""


def wrong_value(message: str) -> str | None:
    """What a parser's message, on one line, says of a value of the wrong type, with the setting's whole name and
    without jargon; None if it is about anything else."""
    found = COMPLAINT.fullmatch(message)
    if found is None:
        return None
    key, reasons, given = found.groups()
    expected = []
    for reason in (reasons.partition("Errors: - ")[2] or reasons).split(" - "):
        kind = re.fullmatch(r"Expected a (?:<class '(\w+)'>|typing\.Literal\[(.+)\])", reason)
        if kind is None or kind[1] not in (None, *TYPES):
            return None
        expected.append(f"one of {kind[2]}" if kind[2] else TYPES[kind[1]])
    # A part of a part is reported by the end of its name.
    name = next((s for s in settings() if s == key or s.endswith(f".{key}")), key)
    if name == "seed_everything":  # Lightning draws one for a bool, and a run may not
        expected = [TYPES["int"]]
    return f"{name}: expected {' or '.join(expected)}, got {'null' if given == 'None' else repr(given)}"


EXPECTED = re.compile(r"Expected a|Not a valid subclass|Import path .+ does not correspond|Does not validate")


def wrong_part(message: str) -> str | None:
    """What a parser's message, on one line, says of a class that a setting of the trainer names, or of that class's own
    settings; None if it is about anything else."""
    found = re.match(r'Parser key "(trainer\.\w+)": |Does not validate against any of the Union subtypes', message)
    if found is None:
        return None
    setting = found[1]
    listed = re.split(r"Errors: - ", message)[-1].partition(" Given value")[0].split(" - ")
    if missing := re.search(r"Expected a dot import path string: (\w+)", message):
        return str(unknown(f"{setting} class", missing[1], class_names(setting)))
    reason = next((r for r in listed if not EXPECTED.match(r)), listed[0])
    if missing := re.match(r"the following arguments are required: (\w+)", reason):
        return f"{setting} needs {missing[1]}: --{setting}.{missing[1]} VALUE"
    if missing := re.match(r"no setting 'model\.(\w+)'", reason):
        return f"{setting}: no setting {missing[1]!r} of its class"
    return f"{setting}: {reason}" if setting else reason
