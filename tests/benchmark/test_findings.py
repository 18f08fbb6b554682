"""``docs/findings.md`` repeats numbers of stored tables: these."""

from __future__ import annotations

import csv
import re
from pathlib import Path
from statistics import fmean

import pytest

ROOT = Path(__file__).resolve().parents[2]
BASELINES = {
    "Vision FT": "vision_ft",
    "LDIFS": "ldifs",
    "Vision FT + contrastive": "vision_ft_contrastive",
    "LLM-LoRA": "llm_lora",
    "Projector FT": "projector_ft",
}


def stored() -> dict[tuple[str, str, str], list[dict[str, str]]]:
    """Cells of Table 1, Table 3 and the other baselines by row, surrogate and backbone."""
    cells: dict[tuple[str, str, str], list[dict[str, str]]] = {}
    for table in ("table1", "table3", "more_baselines"):
        with (ROOT / f"experiments/tables/results/{table}.csv").open(encoding="utf-8", newline="") as file:
            for cell in csv.DictReader(file):
                cells.setdefault((cell["row"], cell["surrogate"], cell["backbone"]), []).append(cell)
    return cells


def mean(cells: list[dict[str, str]], name: str) -> str:
    """Over the sets that have the number, as the page writes it."""
    return f"{fmean(float(cell[name]) for cell in cells if cell[name]):+.2f}"


def place(label: str) -> tuple[str, str, str]:
    """Row, surrogate and backbone of a line of the page; of CRAFT without its keep ratio."""
    method, models = label.split(", ", 1)
    names = re.findall(r"`([^`]+)`", models)
    return BASELINES.get(method, "craft"), names[0], names[-1]


LINES = [
    [cell.strip() for cell in line.strip("|").split("|")]
    for line in (ROOT / "docs/findings.md")
    .read_text(encoding="utf-8")
    .partition("| | gain, keep 1.0 |")[2]
    .splitlines()[2:]
    if line.startswith(("| CRAFT, ", *(f"| {name}, " for name in BASELINES)))
]


@pytest.mark.parametrize("line", LINES, ids=lambda line: line[0])
def test_the_gains_are_those_of_the_stored_tables(line: list[str]) -> None:
    label, whole, pruned, unseen = line
    (row, surrogate, backbone), cells = place(label), stored()
    if row == "craft":
        kept = cells["craft-keep0.8", surrogate, backbone]
        assert (mean(cells["craft-keep1.0", surrogate, backbone], "gain"), mean(kept, "gain")) == (whole, pruned)
        assert mean(kept, "unseen_gain") == unseen
    else:
        own = cells[row, surrogate, backbone]
        assert (mean(own, "gain"), mean(own, "unseen_gain"), pruned) == (whole, unseen, "")


def test_every_line_of_the_tables_is_on_the_page() -> None:
    trained = {(row.removesuffix("-keep0.8"), s, b) for row, s, b in stored() if s != "none" and "keep1.0" not in row}
    assert {place(line[0]) for line in LINES} == trained
