"""The methods by name, and the one of a checkpoint. Naming them imports neither torch nor their modules."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import TYPE_CHECKING, Any

from craft_lightning.errors import CraftError
from craft_lightning.plugins import Registry, subclasses

if TYPE_CHECKING:
    from craft_lightning.methods.base import BaseMethod

METHODS: Registry[type[BaseMethod]] = Registry(
    "method",
    "craft_lightning.methods.base:BaseMethod",
    {
        "zero_shot": "craft_lightning.methods.zero_shot:ZeroShot",
        "vision_ft": "craft_lightning.methods.vision_ft:VisionFineTuning",
        "projector_ft": "craft_lightning.methods.projector_ft:ProjectorFineTuning",
        "ldifs": "craft_lightning.methods.ldifs:Ldifs",
        "llm_lora": "craft_lightning.methods.llm_lora:LlmLora",
        "craft": "craft_lightning.methods.craft:Craft",
        "lorsu": "craft_lightning.methods.lorsu:Lorsu",
        "craft_lorsu": "craft_lightning.methods.craft_lorsu:CraftLorsu",
    },
    group="craft_lightning.methods",
)


def load_method(path: str | Path, **overrides: Any) -> BaseMethod:
    """The method of a checkpoint of ``fit``, weights included, of the class whose name the file holds; ``overrides``
    are constructor arguments in place of the stored ones.

    A file imports nothing: a class that is neither ours nor an installed package's is found once it was imported.
    Raises CraftError: no such file, not one of our checkpoints, or an unknown method.
    """
    from craft_lightning.methods._support.checkpointed import check_method, read_checkpoint
    from craft_lightning.methods.base import BaseMethod

    facts = check_method(read_checkpoint(path), None)
    name, place = facts["method"], facts.get("class", "")
    imported = [cls for cls in subclasses(BaseMethod) if f"{cls.__module__}.{cls.__qualname__}" == place]
    if not imported and name not in METHODS:
        raise CraftError(f"the checkpoint is of method {name!r}: import {place.rpartition('.')[0]} first")
    method: type[BaseMethod] = imported[0] if imported else METHODS[name]
    with warnings.catch_warnings():
        # Only trained tensors are stored: on_load_checkpoint has compared their names.
        warnings.filterwarnings(
            "ignore", message="Found keys that are in the model state dict but not in the checkpoint"
        )
        return method.load_from_checkpoint(path, map_location="cpu", weights_only=True, **overrides)
