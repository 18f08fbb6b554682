"""What the code runs from and on: the project's own files, its state, the libraries' versions and the processor.

The files are beside the packages in a checkout, in ``craft_lightning`` where it is installed. A config file is named as
in a checkout, ``experiments/smoke.yaml``, from any folder; a file of that name in the working folder goes first.
"""

from __future__ import annotations

import platform
import subprocess
from collections.abc import Iterable
from contextlib import suppress
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from craft_lightning.errors import CraftError, nearest

ROOT = Path(__file__).resolve().parent.parent
"""The folder of the three packages."""

PACKAGES = ("craft_lightning", "data_modules", "callbacks")
EXPERIMENTS = "experiments"

LIBRARIES = (
    *("torch", "torchvision", "lightning", "transformers", "tokenizers", "peft", "timm", "torchmetrics"),
    *("datasets", "numpy", "pillow"),
)
"""Libraries that numbers depend on."""


def versions() -> dict[str, str]:
    """Of Python and :data:`LIBRARIES`; what follows a ``+`` (the build of torch for a device) is part of it."""
    return {"python": platform.python_version(), **{name: version(name) for name in LIBRARIES}}


def processor() -> str:
    """Name of the processor, with its family and model where the name is that of many."""
    name = platform.processor() or platform.machine()
    with suppress(OSError):
        lines = [line.split(":", 1) for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()]
        told = {line[0].strip(): line[1].strip() for line in reversed(lines) if len(line) == 2}
        name = told.get("model name", name)
        if {"cpu family", "model"} <= told.keys():
            name += f" (family {told['cpu family']}, model {told['model']})"
    return name


def in_checkout() -> bool:
    """Whether this code runs from a checkout: it has a Makefile, a history and documentation then."""
    return (ROOT / "pyproject.toml").is_file()


def git_state() -> dict[str, Any]:
    """Commit of the running code and whether the tree differs from it; empty outside a checkout.

    An installed copy has none, though it may lie in somebody's repository.
    """
    if not in_checkout():
        return {}

    def git(*arguments: str) -> str:
        command = ["git", "-C", str(ROOT), *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True, timeout=10).stdout.strip()

    try:
        return {"commit": git("rev-parse", "HEAD"), "changed": bool(git("status", "--porcelain", "-uno"))}
    except (OSError, subprocess.SubprocessError):
        return {}


def install_command() -> str:
    """What brings the packages that are missing."""
    if in_checkout():
        return f"`make -C {ROOT} install`, then `source {ROOT}/.venv/bin/activate`"
    return "`python -m craft_lightning doctor` lists what is missing, and the command that brings it"


def no_shadows() -> None:
    """Make sure that our packages are the ones that Python finds; it looks in the working folder first. Raises
    CraftError: another module has the name of one; with both places."""
    for name in PACKAGES:
        spec = find_spec(name)
        place = None if spec is None or spec.origin is None else Path(spec.origin).resolve()
        ours = ROOT / name
        if place is None:
            raise CraftError(f"{ours} is not found: {install_command()}")
        if place.parent != ours:
            other = place if place.name != "__init__.py" else place.parent
            raise CraftError(f"{other} hides {ours}: rename it, or work in another folder")


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
