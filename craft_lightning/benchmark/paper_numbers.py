"""The paper's own numbers, transcribed as CSV files, and which of our rows and columns stand beside them."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping
from pathlib import Path

from craft_lightning.benchmark.yaml_values import Reader, check_known

PaperKey = tuple[str, str, str, str]
"""(method, surrogate or "none", backbone, column), in the paper's own words."""

NAMES = ("method", "train_surrogate", "inference_backbone")
NO_NUMBERS = {*NAMES, "vision_token"}


def read_paper(top: Reader, named: Mapping[str, Iterable[tuple[str, str]]]) -> tuple[str, dict[PaperKey, float]]:
    """The source and the values of a spec's ``paper``; nothing without one.

    Args:
        top: the whole spec; mistakes are noted there.
        named: for ``rows``, ``columns`` and ``backbones`` the pairs (our id, the paper's name or an empty text).
    """
    if "paper" not in top.value:
        top.known.append("paper")
        return "", {}
    item = Reader(top.take("paper", dict, {}), "paper", top.folder, top.errors)
    source = str(item.take("source", str) or "")
    values: dict[PaperKey, float] = {}
    headers: list[str] = []
    for path in item.files("values"):
        if path.is_file():
            headers += _read_file(item, path, values)
    item.done()
    known = {"columns": headers, "rows": [k[0] for k in values], "backbones": [k[2] for k in values]}
    for kind, names in known.items():
        for ours, theirs in named[kind]:
            if theirs:
                check_known(item, f"{kind}[{ours}]", theirs, dict.fromkeys(names))
    return source, values


def _read_file(item: Reader, path: Path, values: dict[PaperKey, float]) -> list[str]:
    """Add one transcribed table to ``values``; the names of its number columns are returned."""
    with path.open(encoding="utf-8", newline="") as file:
        reader = csv.DictReader(file)
        headers = list(reader.fieldnames or [])
        if not set(NAMES) <= set(headers):
            item.fail(f"{path.name} needs the columns {', '.join(NAMES)}", "values")
            return []
        columns = [c for c in headers if c not in NO_NUMBERS]
        for line in reader:
            method, surrogate, backbone = (line[name] for name in NAMES)
            for column in columns:
                try:
                    values[method, surrogate, backbone, column] = float(line[column])
                except (TypeError, ValueError):
                    item.fail(f"{path.name}, line {reader.line_num}: {column} is no number: {line[column]!r}", "values")
    return columns
