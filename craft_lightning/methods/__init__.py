"""The methods by name. Naming them imports neither torch nor their modules (rank 4)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from craft_lightning.plugins import Registry

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
    },
    group="craft_lightning.methods",
)
