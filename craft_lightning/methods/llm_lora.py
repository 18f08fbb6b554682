"""LLM-LoRA: low-rank updates of the language model, which the paper's Table 2 compares with."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar

from peft import LoraConfig, inject_adapter_in_model
from torch import nn

from craft_lightning.methods.base import BaseMethod


class LlmLora(BaseMethod):
    """Trains ``W + (alpha / r) B A`` for every linear layer of the language model but its head; the rest is frozen.

    The defaults are for pocket models; for 7B the LLaVA recipe is r 128, alpha 256.

    Args:
        r: rank. alpha: scale of the update. dropout: on the update's input, in training.
    """

    name: ClassVar[str] = "llm_lora"

    def __init__(self, *, r: int = 16, alpha: int = 32, dropout: float = 0.05, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        self.lora = LoraConfig(r=r, lora_alpha=alpha, lora_dropout=dropout, target_modules="all-linear")

    def build(self) -> None:
        """Put A (Kaiming) and B (zero) beside every linear layer, in place: the model keeps its class and interface."""
        inject_adapter_in_model(self.lora, self.vlm.language_model)

    def trainable(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Every A and B."""
        for name, parameter in self.named_parameters():
            if ".lora_" in name:
                yield name, parameter
