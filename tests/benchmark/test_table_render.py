"""What is printed is what was computed: means, gains, the paper's values, and holes where there is nothing."""

from __future__ import annotations

import csv
import io
from dataclasses import replace
from pathlib import Path

import pytest
import table_kit
from rich.console import Console

from craft_lightning.benchmark import store
from craft_lightning.benchmark.plan import Plan, make_plan
from craft_lightning.benchmark.results import gather
from craft_lightning.benchmark.spec import load_spec
from craft_lightning.benchmark.table_files import to_csv
from craft_lightning.report.render import print_report, printed_width, save, show_report, to_latex, to_markdown
from craft_lightning.report.report import Report, Section
from craft_lightning.report.sections import build_report
from craft_lightning.report.templates import markdown

ZERO_SHOT = {"big": 0.40, "small": 0.30}
GAIN = {"big": 0.25, "small": 0.10}


def toy_plan(root: Path, seeds: tuple[int, ...] = (0,)) -> Plan:
    rows = table_kit.spec_value()["rows"]
    value = {"rows": rows, "note": "Toys are not comparable.", "metric": {"name": "test/exact_match", "digits": 1}}
    return make_plan(load_spec(table_kit.write_house(root, **value)), root / "runs", seeds)


def fill(plan: Plan, skip: str = "nothing") -> None:
    """A result for every job: a test gains by its surrogate, 10 points a column and 2 a seed."""
    for job in plan.jobs:
        if skip in job.name:
            continue
        facts = job.facts
        value = ZERO_SHOT[facts["backbone"]] + 0.1 * (facts["dataset"] == "d1") + 0.02 * facts["seed"]
        value += GAIN[facts["surrogate"]] if facts["surrogate"] else 0.0
        metrics = {"test/exact_match": value}
        items = {"all": 8, "seen": 8, "unseen": 0}
        if facts["dataset"] == "d1":
            metrics |= {"test/exact_match_seen": value + 0.1, "test/exact_match_unseen": value - 0.1}
            items = {"all": 10, "seen": 8, "unseen": 2}
        cost = {"parameters": 1_000_000, "seconds": 30.0 + facts["seed"], "memory": 1.5e9}
        more = {"cost": cost} if job.kind == "train" else {}
        table_kit.write_result(job, metrics if job.kind == "eval" else {}, items, **more)


def report_of(plan: Plan) -> Report:
    return build_report(plan, gather(plan))


# ruff: noqa: E501
GOLDEN = """# Toy

Toys are not comparable.

![Toy](toy.png)

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

## CRAFT: mean gain over Zero-shot by surrogate, points

| Backbone | Method | small | big |
| --- | --- | ---: | ---: |
| small | CRAFT | - | +25.0 |
| *SMALL* | *paper: CRAFT* | *+12.5* | *+12.5* |
| big | CRAFT | +10.0 | +25.0 |
| *BIG* | *paper: CRAFT* | *+12.5* | *+12.5* |

## Surrogates and backbones: mean gain over Zero-shot, points

| Method | Pairs | All pairs | Same model | Different models | Sets below 0 |
| --- | --- | ---: | ---: | ---: | ---: |
| CRAFT | 2 x 2 | - | - | +17.5 | 0 of 7 |
| *paper: CRAFT* | *2 x 2* | *+12.5* | *+12.5* | *+12.5* | *0 of 8* |

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

## Seen / unseen labels: gain over Zero-shot on the same labels, points

| Backbone | Method | d1 (n 8 / 2) | Mean |
| --- | --- | ---: | ---: |
| big | CRAFT, trained with small | +10.0 / +10.0 | +10.0 / +10.0 |
| big | CRAFT, trained with big | +25.0 / +25.0 | +25.0 / +25.0 |
| small | CRAFT, trained with big | +25.0 / +25.0 | +25.0 / +25.0 |

## Mean gain over Zero-shot, points, and cost of a training

| Backbone | Method | Mean gain | Sets with a gain | Paper's gain | Seen labels (n 8) | Unseen labels (n 2) | Trained parameters | Seconds | Peak MB |
| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
| big | CRAFT, trained with small | +10.0 | 2 of 2 | +12.5 | +10.0 | +10.0 | 1,000,000 | 30 | 1,500 |
| big | CRAFT, trained with big | +25.0 | 2 of 2 | +12.5 | +25.0 | +25.0 | 1,000,000 | 30 | 1,500 |
| small | CRAFT, trained with small | - | 1 of 2 | +12.5 | - | - | 1,000,000 | 30 | 1,500 |
| small | CRAFT, trained with big | +25.0 | 2 of 2 | +12.5 | +25.0 | +25.0 | 1,000,000 | 30 | 1,500 |

- Test items: d0 8, d1 10 (2 unseen).
- Seeds: 1.
- Seconds and parameters are means over sets and seeds. Seconds: training steps without validation, while other runs shared the machine. Peak MB: memory of the whole process, the highest of any set.
- Paper: a paper.
- Failed: CRAFT, trained with small on small, d1: ValueError: planted
- 1 of 12 cells are missing (-).
"""


def test_the_table_as_markdown(tmp_path: Path) -> None:
    plan = toy_plan(tmp_path)
    hole = "d1/small/craft/seed0/eval/small"
    fill(plan, skip=hole)
    store.write_failure(next(n for n in plan.jobs if n.name == hole), "ValueError: planted")
    assert to_markdown(report_of(plan)) == GOLDEN


def test_csv_has_a_row_a_cell_and_leaves_holes_empty(tmp_path: Path) -> None:
    plan = toy_plan(tmp_path)
    fill(plan, skip="d1/small/craft/seed0/eval/small")
    rows = list(csv.DictReader(io.StringIO(to_csv(plan, gather(plan)))))
    assert len(rows) == 12
    by_place = {(r["row"], r["surrogate"], r["backbone"], r["column"]): r for r in rows}
    cell = by_place["craft", "big", "small", "d1"]
    assert (cell["mean"], cell["gain"], cell["paper"], cell["paper_gain"]) == ("65", "25", "52.5", "12.5")
    assert (cell["seen"], cell["unseen"], cell["items"], cell["items_unseen"]) == ("75", "55", "10", "2")
    assert (cell["seen_gain"], cell["unseen_gain"], cell["values"], cell["seeds"]) == ("25", "25", "65", "0")
    assert (cell["parameters"], cell["seconds"], cell["memory_mb"]) == ("1000000", "30", "1500")
    hole = by_place["craft", "small", "small", "d1"]
    assert (hole["mean"], hole["gain"], hole["seeds"], hole["values"]) == ("", "", "", "")


def test_spread_over_seeds_and_partial_cells(tmp_path: Path) -> None:
    plan = toy_plan(tmp_path, seeds=(0, 1, 2))
    fill(plan, skip="d1/big/craft/seed2")
    text = to_markdown(report_of(plan))
    assert "| big | CRAFT, trained with big | 67.0 ± 2.0 | 76.0 ± 1.4 | 71.0 ± 1.4 |" in text, "of the shared seeds"
    assert "| big | CRAFT, trained with small | 52.0 ± 2.0 | 62.0 ± 2.0 | 57.0 ± 2.0 |" in text
    assert "| big | CRAFT, trained with small | +12.0 ± 2.0 | +12.0 ± 2.0 | +12.0 ± 2.0 |" in text
    assert "Partial: CRAFT, trained with big on big, d1: 2 of 3 seeds." in text
    assert "Seeds: 3. ± is the standard deviation over them." in text
    assert "exactly 0" not in text
    for job in plan.jobs:
        if job.name.startswith("d0/big/craft"):
            table_kit.write_result(job, {"test/exact_match": 0.5})
    assert "Standard deviation of exactly 0: CRAFT, trained with big on big, d0" in to_markdown(report_of(plan))


def test_stale_results_are_holes(tmp_path: Path) -> None:
    plan = toy_plan(tmp_path)
    fill(plan)
    for job in plan.jobs:
        store.write_json(job.folder / store.RESULT, {"key": "old", "metrics": {"test/exact_match": 1.0}})
    text = to_markdown(report_of(plan))
    assert "100.0" not in text
    assert "12 of 12 cells are missing" in text


def test_terminal_and_files(tmp_path: Path) -> None:
    plan = toy_plan(tmp_path)
    fill(plan)
    report = report_of(plan)
    out = io.StringIO()
    print_report(report, Console(file=out, width=printed_width(report)))
    printed = out.getvalue()
    assert "…" not in printed
    for section in report.sections:
        for row in section.rows:
            assert " ".join(row) in " ".join(printed.split()), "every row is whole, on one line"
    narrow = io.StringIO()
    width = printed_width(report) - 5
    print_report(report, Console(file=narrow, width=width))
    lines = [line for line in narrow.getvalue().splitlines() if line.lower().startswith(("big ", "small "))]
    assert max(map(len, lines)) <= width, "what does not fit goes on below"
    for section in report.sections:
        for row in section.rows:
            assert all(text in narrow.getvalue() for text in row)
    assert len(lines) > sum(len(section.rows) for section in report.sections)
    tiny = io.StringIO()
    print_report(report, Console(file=tiny, width=20))
    assert "…" not in tiny.getvalue(), "names and a number, even where they do not fit"
    written = save(plan, gather(plan))
    assert [p.name for p in written] == ["toy.md", "toy.csv", "toy.tex", "toy.html", "toy.png"]
    assert written[0] == tmp_path / "runs/pocket/tables/toy.md"
    assert written[0].read_text() == to_markdown(report)
    assert written[1].read_text() == to_csv(plan, gather(plan))


def test_latex_escapes_and_has_a_tabular_a_section(tmp_path: Path) -> None:
    plan = toy_plan(tmp_path, seeds=(0, 1))
    fill(plan)
    report = report_of(plan)
    text = to_latex(report)
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == len(report.sections) == 6
    assert r"big & CRAFT, trained with big & 66.0 $\pm$ 1.4 & 76.0 $\pm$ 1.4 & 71.0 $\pm$ 1.4 \\" in text
    assert r"\textit{BIG} & \textit{paper: Zero-shot} & \textit{40.0}" in text
    row = report.scores[0].rows[0]
    odd = replace(
        report, sections=(replace(report.scores[0], rows=(("a_b^c", "50 % & more #1", *row[2:]),), paper=(False,)),)
    )
    assert r"a\_b\^{}c & 50 \% \& more \#1 &" in to_latex(odd)


def test_rows_of_one_training_tested_in_two_ways_stand_together(tmp_path: Path) -> None:
    rows = table_kit.spec_value()["rows"]
    rows[1]["label"] = "CRAFT, keep 1.0"
    rows.append({**rows[1], "id": "craft-thin", "label": "CRAFT, keep 0.8", "eval": {"prune.keep": 0.8}})
    plan = make_plan(load_spec(table_kit.write_house(tmp_path, rows=rows)), tmp_path / "runs")
    labels = [(line.row.label, line.surrogate.id if line.surrogate else "") for line in plan.lines[:5]]
    assert labels == [
        ("Zero-shot", ""),
        ("CRAFT, keep 1.0", "small"),
        ("CRAFT, keep 0.8", "small"),
        ("CRAFT, keep 1.0", "big"),
        ("CRAFT, keep 0.8", "big"),
    ]
    one, other = plan.cells[1, 0][0], plan.cells[2, 0][0]
    assert one.parent is other.parent, "one training"
    assert other.name == f"{one.name}-keep0.8"
    assert "--prune.keep=0.8" in other.arguments


@pytest.mark.parametrize(("seconds", "text"), [(None, "?"), (59.4, "59 s"), (185, "3 min 05 s"), (7800, "2 h 10 min")])
def test_durations(seconds: float | None, text: str) -> None:
    from craft_lightning.benchmark.estimate import duration

    assert duration(seconds) == text


def test_what_people_and_models_write_is_shown_as_it_is(capsys: pytest.CaptureFixture[str]) -> None:
    """Square brackets are rich's markup, and the end of a line is that of a row of Markdown."""
    cells = ("[/INST] dog", "[bold]wolf", "a\nb")
    section = Section("[red]Replies", ("Key", "Item", "[b]reply"), (cells,), (False,))
    show_report(Report("[i]Title", "", "", (section,)))
    told = capsys.readouterr().out
    assert all(text in told for text in ("[red]Replies", "[b]reply", "[/INST] dog", "[bold]wolf"))
    assert markdown("It is\na <b>dog</b> | cat\n") == r"It is a &lt;b>dog&lt;/b> \| cat"
