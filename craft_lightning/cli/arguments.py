"""The parser of a verb that is no run, and the flags that several verbs share, each defined once."""

from __future__ import annotations

import argparse
import re
import shlex
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NoReturn

from craft_lightning.errors import CraftError, nearest


def at_least_one(text: str) -> int:
    """A count on the command line."""
    return _at_least(1, text)


def at_least_zero(text: str) -> int:
    """A count on the command line that may be none."""
    return _at_least(0, text)


def there(text: str) -> Path:
    """A file or folder on the command line that exists."""
    if not Path(text).exists():
        raise argparse.ArgumentTypeError(f"no image or folder {text}")
    return Path(text)


def _at_least(least: int, text: str) -> int:
    value = int(text)
    if value < least:
        raise argparse.ArgumentTypeError(f"must be at least {least}, not {value}")
    return value


SHARED: dict[str, dict[str, Any]] = {
    "--backbone": {"metavar": "NAME", "help": "a name of `list backbones`, or the folder of a checkpoint"},
    "--images": {"nargs": "+", "type": there, "metavar": "PATH", "help": "image files, or folders of them"},
    "--encoder": {"metavar": "FOLDER", "help": "adapted encoder to plug in: a folder, or OWNER/NAME of the hub"},
    "--output": {"type": Path, "metavar": "PATH", "required": True, "help": "what to write"},
    "--keep": {"type": float, "metavar": "SHARE", "help": "share of tokens that pruning keeps, in (0, 1]"},
    "--runs": {"type": Path, "metavar": "FOLDER", "default": Path("runs"), "help": "folder of all results (runs)"},
    "--budget": {"default": "short", "help": "how long trainings are: short, long (experiments/budgets)"},
    "--seeds": {"type": int, "nargs": "+", "metavar": "K", "help": "in place of the table's seeds"},
    "--scale": {"choices": ["pocket", "paper"], "default": "pocket", "help": "size of the models (%(default)s)"},
    "--workers": {
        "type": at_least_zero,
        "metavar": "N",
        "help": "processes that read images; 0: none but this one (default: one a core, at most 8; of few images 0)",
    },
}

RENAMED = {"--checkpoint": "--backbone", "--input": "--images", "--image": "--images"}
"""Flags that had another name in some verbs, which is still understood."""


def command(*arguments: str) -> str:
    """What a shell is told to call a verb."""
    return f"python -m craft_lightning {shlex.join(arguments)}"


def spelled(argument: str) -> str:
    """An argument with its flag, if it is one, as the verbs spell it: a run's settings have underscores, for they are
    names of parameters and keys of configs, and so have all flags; hyphens are understood.

    >>> spelled("--batch-size=8"), spelled("--trainer.max-steps"), spelled("my-folder")
    ('--batch_size=8', '--trainer.max_steps', 'my-folder')
    """
    flag, equals, value = argument.partition("=")
    return f"--{flag[2:].replace('-', '_')}{equals}{value}" if flag.startswith("--") else argument


class VerbParser(argparse.ArgumentParser):
    """The parser of one verb: no abbreviations, mistakes are one line with the nearest flag."""

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(allow_abbrev=False, **kwargs)

    def shared(self, flag: str, **changes: Any) -> None:
        """Add a flag of :data:`SHARED`. changes: what this verb says otherwise of it."""
        self.add_argument(flag, **SHARED[flag] | changes)

    def parse_known_args(self, args: Sequence[str] | None = None, namespace: Any = None) -> Any:  # type: ignore[override]
        """Parse, with the present names and spelling of flags."""
        split = (spelled(argument).partition("=") for argument in (sys.argv[1:] if args is None else args))
        return super().parse_known_args(
            ["".join((RENAMED.get(flag, flag), *value)) for flag, *value in split], namespace
        )

    def parse_with_settings(self, args: Sequence[str]) -> tuple[argparse.Namespace, list[str]]:
        """The verb's own flags, and all others as settings of a run, ``--NAME=VALUE``: each of those takes one value,
        so that ``--trainer.max_steps 60 FOLDER`` is one and a positional argument, not the other way round."""
        settings: list[str] = []

        class Setting(argparse.Action):
            def __call__(self, parser: Any, namespace: Any, values: Any, option_string: str | None = None) -> None:
                settings.append(f"{option_string}={values}")

        for argument in args:
            name = spelled(argument).partition("=")[0]
            if re.match(r"--\w|-c$", name) and name not in (*self._option_string_actions, *RENAMED):
                self.add_argument(name, action=Setting, metavar="VALUE", help=argparse.SUPPRESS)
        return self.parse_args(args), settings

    def error(self, message: str) -> NoReturn:
        """Turn argparse's message into a :class:`CraftError`."""
        verb = self.prog.rpartition("craft_lightning ")[2]
        wrong = re.match(r"unrecognized arguments: (--[\w-]+)", message)
        near = nearest(wrong[1], re.findall(r"--[\w-]+", self.format_usage())) if wrong else None
        raise CraftError(f"{verb}: {message}" + (f"; did you mean {near}?" if near else f" ({verb} --help)"))


def verb_parser(verb: str, description: str | None, epilog: str | None = None, **kwargs: Any) -> VerbParser:
    """The parser of ``python -m craft_lightning VERB``."""
    return VerbParser(prog=f"python -m craft_lightning {verb}", description=description, epilog=epilog, **kwargs)
