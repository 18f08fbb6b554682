"""Rows of a table's file that stand for several: one for each value of a sweep, one for each keep ratio of a test."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from craft_lightning.benchmark.yaml_values import Reader

if TYPE_CHECKING:
    from craft_lightning.benchmark.spec import Row


def swept(item: Reader, row: Row) -> list[Row]:
    """The row, or one row for each combination of the values that its ``sweep`` lists."""
    settings = item.take("sweep", dict, {})
    for setting, values in settings.items():
        if not isinstance(values, list) or not values:
            item.fail(f"must be a list of values, got {values!r}", f"sweep.{setting}")
            return []
    if not settings:
        return [row]
    found = []
    for values in itertools.product(*settings.values()):
        chosen = dict(zip(settings, values, strict=True))
        words = " ".join(f"{setting.rsplit('.', 1)[-1]} {value}" for setting, value in chosen.items())
        overrides = {**row.overrides, **chosen}
        name = f"{row.id}-{words.replace(' ', '')}"
        found.append(replace(row, id=name, label=f"{row.label}, {words}", overrides=overrides, swept=row.id))
    return found


def at_keeps(item: Reader, row: Row, keeps: list[Any]) -> list[Row]:
    """The row, or one row for each keep ratio, all measured by one test; the first stands beside the paper's number."""
    for keep in keeps:
        if not isinstance(keep, float) or not 0.0 < keep <= 1.0 or keeps.count(keep) > 1:
            item.fail(f"must be different ratios in (0, 1], written like 0.8 or 1.0, got {keep!r}", "keep")
            return [row]
    settings = {**row.eval, "prune.enabled": True, "prune.also": keeps}
    return [
        replace(
            row,
            id=f"{row.id}-keep{keep}",
            label=f"{row.label}, keep {keep}",
            eval=settings,
            paper=row.paper if keep == keeps[0] else "",
            keep=keep,
            curve=row.id,
        )
        for keep in keeps
    ] or [row]
