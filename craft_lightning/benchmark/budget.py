"""How long a table trains: the same rows at another number of steps are another table."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from craft_lightning.environment import EXPERIMENTS, places
from craft_lightning.errors import unknown
from craft_lightning.io import read_mapping

BUDGETS = Path(EXPERIMENTS) / "budgets"
SHORT = "short"
"""The budget that needs no file: steps and rates as the methods' fragments have them."""


@dataclass(frozen=True)
class Budget:
    """Settings by method (``all``: of every one) that are laid over those of its fragment."""

    name: str = SHORT
    settings: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def of(self, method: str) -> dict[str, Any]:
        """The settings of a method's trainings."""
        return {**self.settings.get("all", {}), **self.settings.get(method, {})}


def budgets() -> dict[str, Path | None]:
    """Names of the budgets with their files, ``short`` first; one's own hides a shipped one."""
    files = (file for place in reversed(places(BUDGETS)) for file in sorted(place.glob("*.yaml")))
    return {SHORT: None} | {file.stem: file for file in files}


def read_budget(name: str) -> Budget:
    """A budget by its name, that of a file of ``experiments/budgets``. Raises ValueError: there is none (names the
    nearest), or it says something else than settings by method."""
    known = budgets()
    if str(name) not in known:
        raise ValueError(str(unknown("budget", str(name), known)))
    if (file := known[name]) is None:
        return Budget()
    settings = read_mapping(file)
    if wrong := [key for key, value in settings.items() if not isinstance(value, dict)]:
        raise ValueError(f"{file}: {wrong[0]} must hold settings, got {settings[wrong[0]]!r}")
    return Budget(name, settings)
