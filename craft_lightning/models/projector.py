"""From the tower's width to the language model's."""

from __future__ import annotations

from torch import Tensor, nn

from craft_lightning.errors import CraftError


class Projector(nn.Module):
    """Tower width to language-model width, with the host's parameter names (``layers.0``, ``layers.2``).

    Args:
        kind: ``mlpNx_gelu`` (N linear layers, exact GELU between), ``linear`` or ``identity``.

    Raises:
        CraftError: another kind, or ``identity`` between different widths.
    """

    def __init__(self, kind: str, width: int, llm_width: int) -> None:
        super().__init__()
        self.kind = kind
        depth = kind.removeprefix("mlp").removesuffix("x_gelu")
        if kind == "linear":
            self.layers: nn.Module = nn.Linear(width, llm_width)
        elif kind == "identity" and width == llm_width:
            self.layers = nn.Identity()
        elif kind == f"mlp{depth}x_gelu" and depth.isdecimal() and int(depth) > 0:
            layers: list[nn.Module] = [nn.Linear(width, llm_width)]
            for _ in range(int(depth) - 1):
                layers += [nn.GELU(), nn.Linear(llm_width, llm_width)]
            self.layers = nn.Sequential(*layers)
        else:
            raise CraftError(
                f"no projector {kind!r} from width {width} to {llm_width}; known: mlpNx_gelu, linear, identity"
            )

    def forward(self, tokens: Tensor) -> Tensor:
        """``[..., width]`` to ``[..., llm_width]``."""
        return self.layers(tokens)
