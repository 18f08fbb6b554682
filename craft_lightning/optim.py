"""AdamW with linear warm-up and a cosine to zero, the same for every method: they differ in their losses alone."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch.optim import AdamW
from torch.optim.lr_scheduler import LambdaLR

from craft_lightning.errors import CraftError


@dataclass(frozen=True)
class OptimSpec:
    """How a method is optimised. The number of steps is the trainer's (``max_steps`` or ``max_epochs``).

    Attributes:
        lr: peak learning rate. betas, eps: of AdamW.
        weight_decay: of matrices; the paper has none. Vectors and scalars are never decayed.
        warmup: share of the steps that the learning rate rises linearly, rounded up.
        clip: largest norm of the gradient over all trained parameters; null does not clip.

    Raises:
        CraftError: a value that the optimiser would refuse, or follow in another way than it is meant.
    """

    lr: float = 3e-4
    weight_decay: float = 0.0
    betas: tuple[float, float] = (0.9, 0.999)
    eps: float = 1e-8
    warmup: float = 0.03
    clip: float | None = 1.0

    def __post_init__(self) -> None:
        for name in ("lr", "weight_decay", "eps"):
            if not 0 <= getattr(self, name) < math.inf:
                raise CraftError(f"--model.optim.{name} {getattr(self, name)}: a number, at least 0")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise CraftError(f"--model.optim.betas {list(self.betas)}: in [0, 1)")
        if not 0 <= self.warmup <= 1:
            raise CraftError(f"--model.optim.warmup {self.warmup}: a share of the steps, in [0, 1]")
        if self.clip is not None and not 0 < self.clip < math.inf:
            raise CraftError(f"--model.optim.clip {self.clip}: above 0; null does not clip")


def lr_factor(step: int, total_steps: int, warmup: float) -> float:
    """Share of the peak learning rate at a step (0-based): up over ``ceil(warmup * total)`` steps, then a cosine.

    >>> [round(lr_factor(s, 100, 0.03), 3) for s in (0, 2, 3, 100)]
    [0.333, 1.0, 1.0, 0.0]
    """
    rising = math.ceil(warmup * total_steps)
    if step < rising:
        return (step + 1) / rising
    done = (step - rising) / max(1, total_steps - rising)
    return 0.5 * (1.0 + math.cos(math.pi * min(1.0, done)))


def build_optimizer(param_groups: Sequence[dict[str, Any]], spec: OptimSpec, total_steps: int) -> dict[str, Any]:
    """What ``configure_optimizers`` returns: AdamW and its schedule over ``total_steps``, stepped after every optimiser
    step; a group's own ``lr`` or ``weight_decay`` wins over the spec's."""
    optimizer = AdamW(list(param_groups), lr=spec.lr, betas=spec.betas, eps=spec.eps, weight_decay=spec.weight_decay)
    schedule = LambdaLR(optimizer, lambda step: lr_factor(step, total_steps, spec.warmup))
    return {"optimizer": optimizer, "lr_scheduler": {"scheduler": schedule, "interval": "step"}}


def rows_per_pass(batch_size: int, processes: int, parts: int = 1) -> int:
    """Rows that one process takes in one pass when ``parts`` passes make an optimiser step of ``batch_size`` rows.
    Raises CraftError: the batch cannot be shared equally; it is never rounded, since that would be another
    experiment."""
    if batch_size % (processes * parts):
        what = f"{processes} devices" + (f" x {parts} accumulated batches" if parts > 1 else "")
        shares = ", ".join(str(n) for n in range(1, batch_size + 1) if batch_size % n == 0)
        raise CraftError(
            f"a batch of {batch_size} rows cannot be shared equally by {what}; it divides by {shares} "
            "(--trainer.devices, --trainer.num_nodes, --trainer.accumulate_grad_batches, or --data.batch_size)"
        )
    return batch_size // (processes * parts)
