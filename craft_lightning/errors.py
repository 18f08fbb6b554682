"""Errors that format themselves: what was given, what exists, the nearest name, the command that mends it."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class CraftError(Exception):
    """A user's mistake or a broken input. The command line prints its message as one line, without a traceback."""

    def __str__(self) -> str:
        told = super().__str__()
        if told.startswith("Caught "):  # PyTorch's, around the traceback of a process that loads data
            told = told.splitlines()[-1].partition(": ")[2]
        return told


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name most like ``name`` (case-insensitively), or None."""
    by_lower = {k.lower(): k for k in known}
    close = get_close_matches(name.lower(), list(by_lower), n=1, cutoff=0.6)
    return by_lower[close[0]] if close else None


def did_you_mean(name: str, known: Iterable[str], otherwise: str = "") -> str:
    """What follows a name that does not exist: ``"; did you mean 'eurosat'?"``, or ``otherwise`` if none is near."""
    close = nearest(name, known)
    return f"; did you mean {close!r}?" if close else otherwise


def unknown(kind: str, name: str, known: Iterable[str], command: str | None = None) -> CraftError:
    """The error for a name that does not exist.

    >>> str(unknown("dataset", "eurosta", ["eurosat", "kvasir"], "python -m craft_lightning list datasets"))
    "no dataset 'eurosta'; did you mean 'eurosat'? Known: eurosat, kvasir (python -m craft_lightning list datasets)"
    """
    known = list(known)
    more = f" ({command})" if command else ""
    return CraftError(f"no {kind} {name!r}{did_you_mean(name, known, '.')} Known: {', '.join(known)}{more}")
