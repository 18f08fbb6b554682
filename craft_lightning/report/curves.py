"""Learning curves of a training, as it stored them or as TensorBoard's event files hold them."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

from craft_lightning.io import read_lines
from craft_lightning.run_folder import EVENTS

POINTS = 50
"""Points kept of a learning curve: means over equal stretches of steps."""
TRAINING, ACCURACY = "train/", "val/accuracy"
"""How the names of the curves begin that are kept."""


def curves(folder: Path) -> dict[str, list[list[float]]]:
    """Scalars of a training by name, as at most :data:`POINTS` pairs of step and value."""
    found: dict[str, list[tuple[int, float]]] = {}
    for row in read_lines(folder / "curves.jsonl") or _events(folder):
        for name, value in row.items():
            if name.startswith(TRAINING) or name == ACCURACY:
                found.setdefault(name, []).append((int(row["step"]), float(value)))
    return {name: _thinned(points) for name, points in found.items()}


def _events(folder: Path) -> list[dict[str, Any]]:
    """Steps and scalars of a run's own event files, or of those that a Trainer's usual logger wrote."""
    places = [folder / EVENTS, *sorted(folder.glob("lightning_logs/version_*"), reverse=True)]
    place = next((place for place in places if any(place.glob("events.out.*"))), None)
    if place is None:
        return []
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    events = EventAccumulator(str(place), size_guidance={"scalars": 0, "images": 1})
    events.Reload()
    return [{"step": e.step, name: e.value} for name in events.Tags()["scalars"] for e in events.Scalars(name)]


def _thinned(points: Sequence[tuple[int, float]]) -> list[list[float]]:
    size = -(-len(points) // POINTS)
    parts = [points[i : i + size] for i in range(0, len(points), size)]
    return [[part[-1][0], round(fmean(value for _, value in part), 4)] for part in parts]
