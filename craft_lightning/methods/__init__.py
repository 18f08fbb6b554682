"""The methods by name, as data: naming them imports neither torch nor their modules (rank 3)."""

from __future__ import annotations

from dataclasses import dataclass
from importlib import import_module
from typing import Any

from craft_lightning.errors import unknown


@dataclass(frozen=True)
class MethodEntry:
    """Where a method lives: ``name`` in configs, results and checkpoints, the module's name, the class in it."""

    name: str
    class_name: str

    def load(self) -> Any:
        """The class."""
        return getattr(import_module(f"craft_lightning.methods.{self.name}"), self.class_name)


METHODS: dict[str, MethodEntry] = {
    entry.name: entry
    for entry in (
        MethodEntry("zero_shot", "ZeroShot"),
        MethodEntry("vision_ft", "VisionFineTuning"),
        MethodEntry("projector_ft", "ProjectorFineTuning"),
        MethodEntry("ldifs", "Ldifs"),
        MethodEntry("llm_lora", "LlmLora"),
        MethodEntry("craft", "Craft"),
    )
}


def method_class(name: str) -> Any:
    """The class of a method.

    Raises:
        CraftError: no method of that name.
    """
    if name not in METHODS:
        raise unknown("method", name, METHODS, "python -m craft_lightning list methods")
    return METHODS[name].load()


def import_methods() -> None:
    """Import every method, so that configs can name the classes without their modules."""
    for entry in METHODS.values():
        entry.load()
