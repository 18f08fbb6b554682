"""Methods and datasets by name: the project's own, those of installed packages, and any other by its import path."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from types import ModuleType
from typing import Any, TypeVar

from craft_lightning.errors import CraftError, unknown

T = TypeVar("T")


@dataclass(eq=False)
class Registry(Mapping[str, T]):
    """The parts of one kind by name, each imported when it is asked for: ``METHODS["craft"]``.

    A part is also found by its import path, ``METHODS["my_pkg.NormFineTuning"]``, and by the last part of that where
    it is the only one. Iterating gives the names: ours, then those that installed packages add as entry points.

    Args:
        kind: what messages call a part.
        base: ``module:attribute`` of the class that parts are subclasses of, or instances where ``classes`` is False.
        ours: name to ``module:attribute``.
        group: of the entry points; empty where packages add none.
        others: names that stand for no part and may be given in its place.
    """

    kind: str
    base: str
    ours: Mapping[str, str]
    group: str = ""
    classes: bool = True
    others: tuple[str, ...] = ()

    @cached_property
    def added(self) -> dict[str, EntryPoint]:
        """The entry points of installed packages, by name. Raises CraftError: two parts of one name."""
        found: dict[str, EntryPoint] = {}
        for entry in entry_points(group=self.group) if self.group else ():
            other = self.ours.get(entry.name) or (found[entry.name].value if entry.name in found else entry.value)
            if other != entry.value:
                raise CraftError(
                    f"two {self.kind}s are named {entry.name!r}: {other} and {entry.value} of the package "
                    f"{package(entry)}; rename one, or pip uninstall {package(entry)}"
                )
            found[entry.name] = entry
        return found

    @property
    def places(self) -> dict[str, str]:
        """Name to ``module:attribute`` of every part that has a name."""
        return {**self.ours, **{name: f"{entry.module}:{entry.attr}" for name, entry in self.added.items()}}

    def __iter__(self) -> Iterator[str]:
        return iter(self.places)

    def __len__(self) -> int:
        return len(self.places)

    def __contains__(self, name: object) -> bool:
        return name in self.ours or name in self.places

    def place(self, asked: str) -> str:
        """``module:attribute`` of a part, found without importing it; empty if there is no such name."""
        if "." in asked:
            return ":".join(asked.rsplit(".", 1))
        return _among(self.ours, asked) or _among(self.places, asked)

    def __getitem__(self, asked: str) -> T:
        """The part of a name or an import path. Raises CraftError: there is none, it is of another kind or unfinished,
        or its name is another part's."""
        place = self.place(asked)
        if not place:
            raise unknown(self.kind, asked, [*self, *self.others], f"python -m craft_lightning list {self.kind}s")
        found: T = self._import(place)
        if place in self.ours.values():
            return found
        if not self._fits(found):
            wanted = "subclass" if self.classes else "instance"
            raise CraftError(f"{asked} is no {self.kind}: it is no {wanted} of {self.base.replace(':', '.')}")
        if missing := sorted(getattr(found, "__abstractmethods__", ())):
            raise CraftError(f"{asked} is no whole {self.kind}: it lacks {', '.join(missing)}")
        name = getattr(found, "name", None)
        if not isinstance(name, str):
            raise CraftError(f"{asked} has no name: set `name`, its key in configs, results and checkpoints")
        if asked in self and asked != name:
            raise CraftError(f"the {self.kind} {asked!r} ({place}) has the name {name!r}: make the two one")
        taken = self.places.get(name, place)
        if taken != place and self._import(taken) is not found:
            raise CraftError(f"{asked} has the name {name!r}, which is that of {taken.replace(':', '.')}: change it")
        return found

    def _fits(self, found: Any) -> bool:
        base = self._import(self.base)
        return (isinstance(found, type) and issubclass(found, base)) if self.classes else isinstance(found, base)

    def _import(self, place: str) -> Any:
        name, _, attribute = place.partition(":")
        asked = f"{name}.{attribute}"
        try:
            module = import_module(name)
            if not hasattr(module, attribute) and hasattr(module, "__path__") and find_spec(asked):
                import_module(asked)  # to tell what is in it
        except ModuleNotFoundError as error:
            if not f"{name}.".startswith(f"{error.name}."):
                raise CraftError(f"{name} needs {error.name!r}, which is not installed") from error
            raise CraftError(
                f"no module {error.name!r} for the {self.kind} {name}.{attribute}: install it, or call "
                "`python -m craft_lightning` in the folder it is in"
            ) from error
        found = getattr(module, attribute, None)
        if isinstance(found, ModuleType):
            known = self._defined(found)
            first = f": name it as {asked}.{known[0]}" if known else ""
            raise CraftError(f"{asked} is a module; it has {', '.join(known) or f'no {self.kind}'}{first}")
        if found is None:
            raise unknown(self.kind, asked, [f"{name}.{other}" for other in self._defined(module)])
        return found

    def _defined(self, module: ModuleType) -> list[str]:
        """Names of the whole parts in a module; a class counts where it is defined, or in a package above."""
        return [
            name
            for name, value in vars(module).items()
            if self._fits(value)
            and not getattr(value, "__abstractmethods__", ())
            and (not self.classes or f"{value.__module__}.".startswith(f"{module.__name__}."))
        ]


def _among(places: Mapping[str, str], asked: str) -> str:
    same = [place for place in places.values() if place.endswith(f":{asked}")]
    return places.get(asked) or (same[0] if len(same) == 1 else "")


def subclasses(cls: type[Any]) -> list[type[Any]]:
    """Every class below one, as far as their modules were imported."""
    found: list[type[Any]] = cls.__subclasses__()
    return [*found, *(below for other in found for below in subclasses(other))]


def package(entry: EntryPoint) -> str:
    """Name of the installed package that an entry point comes from."""
    return entry.dist.name if entry.dist else "?"
