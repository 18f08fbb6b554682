"""Zero-shot: the model as it is, the row that every gain is counted from."""

from __future__ import annotations

from collections.abc import Iterator
from typing import ClassVar

from torch import nn

from craft_lightning.methods.base import BaseMethod


class ZeroShot(BaseMethod):
    """Trains nothing: ``fit`` is refused; ``validate``, ``test`` and ``predict`` evaluate the backbone."""

    name: ClassVar[str] = "zero_shot"

    def trainable(self) -> Iterator[tuple[str, nn.Parameter]]:
        """Nothing."""
        yield from ()
