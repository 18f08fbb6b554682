"""Errors that format themselves: what was given, what exists, the nearest name, the command that mends it."""

from __future__ import annotations

from collections.abc import Iterable
from difflib import get_close_matches


class CraftError(Exception):
    """A user's mistake or a broken input. The command line prints its message as one line, without a traceback."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name most like ``name`` (case-insensitively), or None."""
    by_lower = {k.lower(): k for k in known}
    close = get_close_matches(name.lower(), list(by_lower), n=1, cutoff=0.6)
    return by_lower[close[0]] if close else None


def unknown(kind: str, name: str, known: Iterable[str], command: str | None = None) -> CraftError:
    """The error for a name that does not exist.

    >>> str(unknown("dataset", "eurosta", ["eurosat", "kvasir"], "python -m craft_lightning list datasets"))
    "no dataset 'eurosta'; did you mean 'eurosat'? Known: eurosat, kvasir (python -m craft_lightning list datasets)"
    """
    known = list(known)
    close = nearest(name, known)
    hint = f"; did you mean {close!r}?" if close else "."
    more = f" ({command})" if command else ""
    return CraftError(f"no {kind} {name!r}{hint} Known: {', '.join(known)}{more}")
