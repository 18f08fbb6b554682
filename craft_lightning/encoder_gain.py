"""What an adapted encoder gains, in its facts and on its card: taken from two tests of the same items, never typed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from craft_lightning.benchmark.stored_run import StoredRun
from craft_lightning.checkpoints.encoder import AdaptedEncoder, encoder_folder
from craft_lightning.comparison import Comparison, Part, compare
from craft_lightning.errors import CraftError
from craft_lightning.io import write_json, write_text


def add_gain(encoder: str | Path, before: str | Path, after: str | Path) -> Comparison:
    """Put on an encoder's card what it gains: over all items with the 95 % interval, and where it is better and worse.

    One gain is kept of each model, data set and share of kept tokens; a later one takes its place. ``config.json`` has
    all of them under ``gains``.

    Args:
        encoder: folder of the adapted encoder, whose ``config.json`` and card are written anew.
        before, after: folders of two tests of the same items with the same model, the second with this encoder.

    Returns:
        The comparison of the two.

    Raises:
        CraftError: no such encoder or test, tests of different items or models, or ``after`` is that of another
            encoder.
    """
    folder = encoder_folder(Path(encoder))
    adapted = AdaptedEncoder.from_pretrained(folder)
    found = compare(before, after)
    _check(folder, adapted.config, found.runs)
    gain = _told(found)
    same = ("backbone", "dataset", "source", "look", "keep")
    others = [g for g in adapted.config.get("gains", []) if any(g[name] != gain[name] for name in same)]
    adapted.config["gains"] = [*others, gain]
    write_json(folder / "config.json", adapted.config)
    write_text(folder / "README.md", str(adapted.generate_model_card()))
    return found


def _check(folder: Path, facts: Mapping[str, Any], runs: Sequence[StoredRun]) -> None:
    before, after = runs
    for run in runs:
        if run.result.get("verb") != "test":
            raise CraftError(f"{run.file.parent} holds no result of a test: a gain is that of two tests")
    models = [{k: v for k, v in run.result["settings"]["backbone"].items() if k != "encoder"} for run in runs]
    if models[0] != models[1]:
        differs = ", ".join(f"{k} {v} / {models[1][k]}" for k, v in models[0].items() if models[1][k] != v)
        raise CraftError(f"{before.file.parent} and {after.file.parent} are tests of different models: {differs}")
    if before.result["method"] != "zero_shot":
        adapted = f"{before.file.parent} is a test of {before.result['method']}"
        raise CraftError(f"{adapted}: a gain is over the model as it is, tested without --encoder and --ckpt_path")
    plugged = after.result["encoder"] or {}
    if {**plugged, "gains": None} != {**facts, "gains": None}:
        which = "another encoder" if plugged else "no encoder (test with --encoder, not --ckpt_path)"
        raise CraftError(f"{after.file.parent} is a test of {which}, not of {folder} as it is now")


def _told(found: Comparison) -> dict[str, Any]:
    """The facts of a gain, as ``config.json`` keeps them."""
    result = found.runs[1].result
    data = result["data"]
    return {
        "backbone": result["settings"]["backbone"]["name"],
        **{name: data.get(name) for name in ("dataset", "title", "source", "look")},
        "keep": result["pruning"].get("keep", 1.0),
        **_numbers(found),
        "p_value": found.p_value,
        "verdict": found.verdict,
        "parts": {kind: [_numbers(part) for part in parts] for kind, parts in found.parts.items()},
    }


def _numbers(part: Part) -> dict[str, Any]:
    return {field.name: getattr(part, field.name) for field in fields(Part) if field.name != "flips"}
