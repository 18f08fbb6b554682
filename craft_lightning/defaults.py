"""What a run does where its config is silent, beside the defaults of its parts: results depend on it."""

from __future__ import annotations

from typing import Any

SEED = 0
"""Of a run that names none."""

CHECKPOINT: dict[str, Any] = {
    # The weights of the last step, never the best of many (methods.md 1.5, DESIGN 4.7).
    "save_last": True,
    "save_top_k": 0,
    "save_on_train_epoch_end": True,
    # Beside the end of each epoch, so that an interrupted training loses little of a long one.
    "every_n_train_steps": 50,
}
"""Settings of the one checkpoint callback."""

SEEDED = ("data.seed", "prune.rule.seed")
"""Settings that are the run's seed and cannot be set by hand."""
