"""Where the project's own files are: beside the packages in a checkout, in ``craft_lightning`` where it is installed.

A config file is named as in a checkout, ``experiments/smoke.yaml``, from any folder; a file of that name in the working
folder goes first.
"""

from __future__ import annotations

from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path

from craft_lightning.errors import CraftError, nearest

ROOT = Path(__file__).resolve().parent.parent
"""The folder of the three packages."""

PACKAGES = ("craft_lightning", "data_modules", "callbacks")
EXPERIMENTS = "experiments"


def in_checkout() -> bool:
    """Whether this code runs from a checkout: it has a Makefile, a history and documentation then."""
    return (ROOT / "pyproject.toml").is_file()


def install_command() -> str:
    """What brings the packages that are missing."""
    if in_checkout():
        return f"`make -C {ROOT} install`, then `source {ROOT}/.venv/bin/activate`"
    return "`python -m craft_lightning doctor` lists what is missing, and the command that brings it"


def experiments() -> Path:
    """The shipped folder ``experiments/``."""
    return (ROOT if in_checkout() else ROOT / "craft_lightning") / EXPERIMENTS


def places(path: str | Path) -> tuple[Path, ...]:
    """Where a file or folder may be: at the path itself, and if that begins with ``experiments/``, among the shipped.

    The working folder's own comes first; in a checkout's folder both are one.
    """
    path = Path(path)
    if path.parts[:1] != (EXPERIMENTS,):
        return (path,)
    shipped = experiments().joinpath(*path.parts[1:])
    return (path,) if path.absolute() == shipped else (path, shipped)


def find(path: str | Path) -> Path:
    """The first of :func:`places` that there is, or the path itself."""
    return next((place for place in places(path) if place.exists()), Path(path))


def placed(arguments: Iterable[str]) -> list[str]:
    """Command-line arguments with the place of every config file that is only among the shipped ones."""
    found = []
    for argument in arguments:
        flag, equals, value = argument.partition("=") if argument.startswith("-") else ("", "", argument)
        config = value.startswith(f"{EXPERIMENTS}/") and value.endswith((".yaml", ".yml"))
        found.append(f"{flag}{equals}{find(value)}" if config else argument)
    return found


def nearest_file(path: str | Path) -> Path | None:
    """The file that somebody may have meant, in the folder that was named."""
    path = Path(path)
    near = nearest(path.name, {file.name for place in places(path.parent) for file in place.glob("*")})
    return path.with_name(near) if near else None


def no_shadows() -> None:
    """Make sure that our packages are the ones that Python finds; it looks in the working folder first.

    Raises:
        CraftError: another module has the name of one; with both places.
    """
    for name in PACKAGES:
        spec = find_spec(name)
        place = None if spec is None or spec.origin is None else Path(spec.origin).resolve()
        ours = ROOT / name
        if place is not None and place.parent != ours:
            other = place if place.name != "__init__.py" else place.parent
            raise CraftError(f"{other} hides {ours}: rename it, or work in another folder")
        if place is None:
            raise CraftError(f"{ours} is not found: {install_command()}")
