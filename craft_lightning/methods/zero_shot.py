"""Zero-shot: the model as it is, the row that every gain is counted from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from torch import Tensor, nn

from craft_lightning.methods.base import BaseMethod
from craft_lightning.types import MethodOutput, VqaBatch


class ZeroShot(BaseMethod):
    """Trains nothing: ``fit`` is refused; ``validate``, ``test`` and ``predict`` evaluate the backbone."""

    name: ClassVar[str] = "zero_shot"

    def trainable(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Nothing."""
        yield from ()

    def losses(self, batch: VqaBatch, out: MethodOutput) -> dict[str, Tensor]:
        """The answer loss, for whoever wants to look at it."""
        return {"sal": out.answer_loss}
