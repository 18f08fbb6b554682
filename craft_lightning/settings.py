"""Settings of a run: what holds where its config is silent (results depend on it), and nested ones by dotted name."""

from __future__ import annotations

from typing import Any

SEED = 0
"""Of a run that names none."""

CHECKPOINT: dict[str, Any] = {
    # The weights of the last step, never the best of many: all methods train equally long.
    "save_last": True,
    "save_top_k": 0,
    "save_on_train_epoch_end": True,
    # Beside the end of each epoch, so that an interrupted training loses little of a long one.
    "every_n_train_steps": 50,
}
"""Settings of the one checkpoint callback."""

SEEDED = ("data.seed", "prune.rule.seed")
"""Settings that are the run's seed and cannot be set by hand."""


JUDGE = "callbacks.offline_judging"
"""The module that judges justifications while they are tested; by name, for trainings do not depend on its rules."""


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings, namespaces and dataclasses as one mapping with dotted keys."""
    if hasattr(value, "as_dict"):
        value = value.as_dict()
    if hasattr(value, "__dataclass_fields__"):
        value = vars(value)
    if not isinstance(value, dict):
        return {prefix: value}
    found = ((f"{prefix}.{key}" if prefix else str(key), inner) for key, inner in value.items())
    return {name: setting for key, inner in found for name, setting in flat(inner, key).items()}
