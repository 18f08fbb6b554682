"""What is printed is what was computed: means, gains, the paper's values, and holes where there is nothing."""

from __future__ import annotations

import csv
import io
from pathlib import Path

import pytest
import table_kit
from rich.console import Console

from craft_lightning.tables import store
from craft_lightning.tables.plan import Plan, make_plan
from craft_lightning.tables.render import build_report, print_report, save, to_csv, to_markdown
from craft_lightning.tables.spec import load_spec

ZERO_SHOT = {"big": 0.40, "small": 0.30}
GAIN = {"big": 0.25, "small": 0.10}


def toy_plan(root: Path, seeds: tuple[int, ...] = (0,)) -> Plan:
    rows = table_kit.spec_value()["rows"]
    value = {"rows": rows, "note": "Toys are not comparable.", "metric": {"name": "test/exact_match", "digits": 1}}
    return make_plan(load_spec(table_kit.write_house(root, **value)), root / "runs", seeds)


def fill(plan: Plan, skip: str = "nothing") -> None:
    """A result for every node: a test gains by its surrogate, 10 points a column and 2 a seed."""
    for node in plan.nodes:
        if skip in node.name:
            continue
        facts = node.facts
        value = ZERO_SHOT[facts["backbone"]] + 0.1 * (facts["dataset"] == "d1") + 0.02 * facts["seed"]
        value += GAIN[facts["surrogate"]] if facts["surrogate"] else 0.0
        metrics = {"test/exact_match": value}
        items = {"all": 8, "seen": 8, "unseen": 0}
        if facts["dataset"] == "d1":
            metrics |= {"test/exact_match_seen": value + 0.1, "test/exact_match_unseen": value - 0.1}
            items = {"all": 10, "seen": 8, "unseen": 2}
        result = {"key": node.key, "metrics": metrics if node.kind == "eval" else {}, "items": items, "seconds": 1.0}
        store.write_json(node.folder / store.RESULT, result)


GOLDEN = """# Toy

Toys are not comparable.

## Exact match, per cent

| Backbone | Method | d0 | d1 | Mean |
| --- | --- | ---: | ---: | ---: |
| big | Zero-shot | 40.0 | 50.0 | 45.0 |
| *BIG* | *paper: Zero-shot* | *40.0* | *40.0* | *40.0* |
| big | CRAFT, trained with small | 50.0 | 60.0 | 55.0 |
| *BIG* | *paper: CRAFT, trained with SMALL* | *52.5* | *52.5* | *52.5* |
| big | CRAFT, trained with big | 65.0 | 75.0 | 70.0 |
| *BIG* | *paper: CRAFT, trained with BIG* | *52.5* | *52.5* | *52.5* |
| small | Zero-shot | 30.0 | 40.0 | 35.0 |
| *SMALL* | *paper: Zero-shot* | *40.0* | *40.0* | *40.0* |
| small | CRAFT, trained with small | 40.0 | - | - |
| *SMALL* | *paper: CRAFT, trained with SMALL* | *52.5* | *52.5* | *52.5* |
| small | CRAFT, trained with big | 55.0 | 65.0 | 60.0 |
| *SMALL* | *paper: CRAFT, trained with BIG* | *52.5* | *52.5* | *52.5* |

## Gain over Zero-shot on the same backbone, points

| Backbone | Method | d0 | d1 | Mean |
| --- | --- | ---: | ---: | ---: |
| big | CRAFT, trained with small | +10.0 | +10.0 | +10.0 |
| *BIG* | *paper: CRAFT, trained with SMALL* | *+12.5* | *+12.5* | *+12.5* |
| big | CRAFT, trained with big | +25.0 | +25.0 | +25.0 |
| *BIG* | *paper: CRAFT, trained with BIG* | *+12.5* | *+12.5* | *+12.5* |
| small | CRAFT, trained with small | +10.0 | - | - |
| *SMALL* | *paper: CRAFT, trained with SMALL* | *+12.5* | *+12.5* | *+12.5* |
| small | CRAFT, trained with big | +25.0 | +25.0 | +25.0 |
| *SMALL* | *paper: CRAFT, trained with BIG* | *+12.5* | *+12.5* | *+12.5* |

## Seen / unseen labels, exact match, per cent

| Backbone | Method | d0 | d1 |
| --- | --- | ---: | ---: |
| big | Zero-shot | - | 60.0 / 40.0 |
| big | CRAFT, trained with small | - | 70.0 / 50.0 |
| big | CRAFT, trained with big | - | 85.0 / 65.0 |
| small | Zero-shot | - | 50.0 / 30.0 |
| small | CRAFT, trained with big | - | 75.0 / 55.0 |

- Test items: d0 8, d1 10 (2 unseen).
- Seeds: 1.
- Paper: a paper.
- Failed: CRAFT, trained with small on small, d1: ValueError: planted
- 1 of 12 cells are missing (-).
"""


def test_the_table_as_markdown(tmp_path: Path) -> None:
    plan = toy_plan(tmp_path)
    hole = "d1/small/craft/seed0/eval/small"
    fill(plan, skip=hole)
    store.write_failure(next(n for n in plan.nodes if n.name == hole), "ValueError: planted")
    assert to_markdown(build_report(plan)) == GOLDEN


def test_csv_has_a_row_a_cell_and_leaves_holes_empty(tmp_path: Path) -> None:
    plan = toy_plan(tmp_path)
    fill(plan, skip="d1/small/craft/seed0/eval/small")
    rows = list(csv.DictReader(io.StringIO(to_csv(plan))))
    assert len(rows) == 12
    by_place = {(r["row"], r["surrogate"], r["backbone"], r["column"]): r for r in rows}
    cell = by_place["craft", "big", "small", "d1"]
    assert (cell["mean"], cell["gain"], cell["paper"], cell["paper_gain"]) == ("65.0", "25.0", "52.5", "12.5")
    assert (cell["seen"], cell["unseen"], cell["items"], cell["items_unseen"]) == ("75.0", "55.0", "10", "2")
    hole = by_place["craft", "small", "small", "d1"]
    assert (hole["mean"], hole["gain"], hole["seeds"]) == ("", "", "0")


def test_spread_over_seeds_and_partial_cells(tmp_path: Path) -> None:
    plan = toy_plan(tmp_path, seeds=(0, 1, 2))
    fill(plan, skip="d1/big/craft/seed2")
    text = to_markdown(build_report(plan))
    assert "| big | CRAFT, trained with big | 67.0 ± 2.0 | 76.0 ± 1.4 | 71.5 |" in text
    assert "Partial: CRAFT, trained with big on big, d1: 2 of 3 seeds." in text
    assert "Seeds: 3. ± is the standard deviation over them." in text
    assert "exactly 0" not in text
    for node in plan.nodes:
        if node.name.startswith("d0/big/craft"):
            same = {"key": node.key, "metrics": {"test/exact_match": 0.5}, "items": {"all": 8}}
            store.write_json(node.folder / store.RESULT, same)
    assert "Standard deviation of exactly 0: CRAFT, trained with big on big, d0" in to_markdown(build_report(plan))


def test_stale_results_are_holes(tmp_path: Path) -> None:
    plan = toy_plan(tmp_path)
    fill(plan)
    for node in plan.nodes:
        store.write_json(node.folder / store.RESULT, {"key": "old", "metrics": {"test/exact_match": 1.0}})
    text = to_markdown(build_report(plan))
    assert "100.0" not in text
    assert "12 of 12 cells are missing" in text


def test_terminal_and_files(tmp_path: Path) -> None:
    plan = toy_plan(tmp_path)
    fill(plan)
    out = io.StringIO()
    print_report(build_report(plan), Console(file=out, width=100))
    printed = out.getvalue()
    assert "CRAFT, trained with big" in printed
    assert "70.0" in printed
    markdown, table = save(plan)
    assert markdown == tmp_path / "runs/pocket/tables/toy.md"
    assert markdown.read_text() == to_markdown(build_report(plan))
    assert table.read_text() == to_csv(plan)


@pytest.mark.parametrize(("seconds", "text"), [(None, "?"), (59.4, "59 s"), (185, "3 min 05 s"), (7800, "2 h 10 min")])
def test_durations(seconds: float | None, text: str) -> None:
    from craft_lightning.tables.view import duration

    assert duration(seconds) == text
