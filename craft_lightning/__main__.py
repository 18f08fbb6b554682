"""``python -m craft_lightning VERB ...``: finds the module behind a verb and imports nothing else.

A user's mistake ends in one line on standard error and exit code 2, an interruption in one line and exit code 130.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence
from importlib import import_module

from craft_lightning import __version__
from craft_lightning.environment import PACKAGES, install_command, no_shadows
from craft_lightning.errors import CraftError, unknown

VERBS = {
    "adapt": "from your own images to an answer: test, train, test again, compare",
    "fit": "train a method",
    "validate": "evaluate on the validation items",
    "test": "evaluate on the stored test items",
    "predict": "answer the questions of a split, or one about images; write its logits",
    "compare": "what a test found, or how tests of the same items differ",
    "judge": "how well justified answers are justified, by rules or by a language model",
    "list": "methods, datasets, backbones or tables, one line each",
    "table": "plan, run and render a table of the paper",
    "board": "name all runs for TensorBoard",
    "tokenize": "images to discrete visual tokens",
    "tokens": "draw the visual tokens of images: codes, changed, kept",
    "draw": "contact sheet of the synthetic datasets",
    "grow": "new entries for a codebook, the old ones kept",
    "export": "hand an adapted encoder on: its gain on its card, the hub, a whole checkpoint",
    "doctor": "what this machine has and what is missing",
    "vocabulary": "words that tokenizers share, for an adapter langbridge",
    "surrogate": "build a surrogate model, or the pocket family from nothing",
}
"""What each verb does; its module is ``craft_lightning.cli.VERB``."""

RUNS = ("fit", "validate", "test")
"""Verbs that ``craft_lightning.cli.run`` answers for, each told by its name."""


def usage() -> str:
    """The text of ``--help``."""
    verbs = "\n".join(f"  {verb:<10} {line}" for verb, line in VERBS.items())
    return (
        f"usage: python -m craft_lightning VERB ...\n\n{verbs}\n\n"
        "VERB --help says more; a run is described by config files, for example\n"
        "  python -m craft_lightning fit --config experiments/smoke.yaml"
    )


def dispatch(argv: Sequence[str]) -> int:
    """Run a verb. Raises CraftError: no such verb, a missing package, a module that hides one of ours, or the verb's
    own mistake."""
    if not argv or argv[0] in ("-h", "--help"):
        print(usage())
        return 0
    if argv[0] == "--version":
        print(__version__)
        return 0
    if argv[0].startswith("-"):
        raise CraftError(f"{argv[0]} comes after the verb: python -m craft_lightning VERB {argv[0]} ...")
    if argv[0] not in VERBS:
        raise unknown("verb", argv[0], VERBS)
    module, arguments = ("run", argv) if argv[0] in RUNS else (argv[0], argv[1:])
    whole = argv[0] != "doctor"  # which says itself what hides or is missing, and needs no package
    if whole:
        no_shadows()
    try:
        if whole and import_module("craft_lightning.cli.early").tell(argv[0], argv[1:]):
            return 0
        return import_module(f"craft_lightning.cli.{module}").main(list(arguments))
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] in PACKAGES:
            raise
        raise CraftError(f"{sys.executable} has no package {error.name}: {install_command()}") from error
    except RuntimeError as error:
        if not str(error).startswith("DataLoader worker"):
            raise
        hint = "if memory is short, fewer of them: --workers N"
        raise CraftError(f"a process that reads images was lost ({' '.join(str(error).split())}); {hint}") from error


def main(argv: Sequence[str] | None = None) -> int:
    """Entry point; returns the exit code."""
    try:
        return dispatch(sys.argv[1:] if argv is None else argv)
    except CraftError as error:
        print(f"craft_lightning: {error}", file=sys.stderr)
        return 2
    except BrokenPipeError:
        # The reader of our output has gone (``list | head``): nobody is left to tell.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (KeyboardInterrupt, SystemExit) as stop:
        if isinstance(stop, KeyboardInterrupt) or isinstance(stop.__context__, KeyboardInterrupt):
            print("craft_lightning: interrupted", file=sys.stderr)
            return 130
        raise


if __name__ == "__main__":
    sys.exit(main())
