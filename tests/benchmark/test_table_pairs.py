"""A gain is a pair of one seed: nothing else is subtracted, wherever the gain is shown."""

from __future__ import annotations

import csv
import io
from pathlib import Path
from typing import Any

import pytest
import table_kit

from craft_lightning.benchmark import store
from craft_lightning.benchmark.claims import NO_ANSWER, UNDECIDED, judge
from craft_lightning.benchmark.plan import Plan, make_plan
from craft_lightning.benchmark.results import Score, difference, gains, gather, mean_of
from craft_lightning.benchmark.spec import load_spec
from craft_lightning.benchmark.table_files import to_csv
from craft_lightning.report.figure import draw
from craft_lightning.report.page import page_data, to_html
from craft_lightning.report.sections import build_report

SEEDS = (0, 1, 2)
ITEMS = 100
ROWS = [
    {"id": "old", "label": "Old", "method": "../methods/zero_shot.yaml", "train_on": ["big"], "eval_on": ["big"]},
    {"id": "new", "label": "New", "method": "../methods/craft.yaml", "train_on": ["big"], "eval_on": ["big"]},
]
CLAIMS = [{"id": 1, "text": "New gains", "gain": {"row": "new"}}]


def trained_baseline(root: Path, gone: tuple[int, ...] = (1, 2), columns: int = 1) -> Plan:
    """The baseline is trained, too: 40, 50 and 60 per cent; the other row is 5 points above it in every seed."""
    changes: dict[str, Any] = {"rows": ROWS, "baseline": "old", "claims": CLAIMS, "paper": {"source": "-"}}
    columns_ = [{"id": f"d{n}", "dataset": f"../datasets/d{n}.yaml"} for n in range(columns)]
    backbones = [{**b, "paper": ""} for b in table_kit.spec_value()["backbones"]]
    path = table_kit.write_house(root, **changes, columns=columns_, backbones=backbones)
    plan = make_plan(load_spec(path), root / "runs", SEEDS)
    for job in plan.jobs:
        old, seed = job.facts["method"] == "zero_shot", int(job.facts["seed"])
        if not (old and seed in gone and job.facts["dataset"] == "d0"):
            right = 40 + 10 * seed + (0 if old else 5)
            table_kit.write_predictions(job, [n < right for n in range(ITEMS)])
    return plan


@pytest.mark.parametrize("gone", [(), (1, 2), (0, 2)])
def test_a_missing_baseline_leaves_its_seed_out(tmp_path: Path, gone: tuple[int, ...]) -> None:
    plan = trained_baseline(tmp_path, gone)
    results = gather(plan)
    kept = [seed for seed in SEEDS if seed not in gone]
    (gain,) = gains(plan, results.cells, 1)
    assert gain is not None
    assert gain.by_seed == pytest.approx(dict.fromkeys(kept, 5.0))
    report = build_report(plan, results)
    shown = "+5.00 ± 0.00" if len(kept) > 1 else "+5.00"
    assert report.gains[0].rows[0][2] == shown
    told = [line for line in report.problems if line.startswith("No gain at ")]
    names = "seeds " + ", ".join(map(str, gone))
    assert told == ([f"No gain at {names}: New on big, d0: Old is not finished there."] if gone else [])
    (row,) = [row for row in csv.DictReader(io.StringIO(to_csv(plan, results))) if row["row"] == "new"]
    assert (row["gain"], row["mean"]) == ("5", "55")
    panel = page_data(plan, results)["cells"]["1,0"]
    assert panel["rows"][0][-1] == shown
    html = to_html(plan, results, report)
    assert f"gain {shown.split()[0]}" in html
    assert "+15" not in html
    verdict = judge(plan)[0]
    assert verdict.estimate == 5.0
    if gone:
        assert verdict.word == UNDECIDED
        assert verdict.detail.endswith("; 1 of 3 seeds, the others are not finished in all of its cells")


def test_seeds_that_never_meet_are_no_gain(tmp_path: Path) -> None:
    plan = trained_baseline(tmp_path, gone=(1, 2))
    for job in plan.jobs:
        if job.facts["method"] == "craft" and job.facts["seed"] == 0:
            (job.folder / store.RESULT).unlink()
    results = gather(plan)
    assert gains(plan, results.cells, 1) == [None]
    assert build_report(plan, results).gains[0].rows[0][2] == "-"
    assert (results.verdicts[0].word, results.verdicts[0].detail) == (
        NO_ANSWER,
        "No seed is finished in all of its cells",
    )


def test_a_mean_is_over_the_same_seeds_in_every_column(tmp_path: Path) -> None:
    """The columns have different seeds behind them, and seeds differ by more than methods."""
    plan = trained_baseline(tmp_path, gone=(1, 2), columns=2)
    rows = build_report(plan, gather(plan)).gains[0].rows
    assert rows[0][2:] == ("+5.00", "+5.00 ± 0.00", "+5.00")
    assert mean_of([Score({0: 1.0, 1: 3.0}), Score({1: 5.0, 2: 9.0})]) == Score({1: 4.0})
    assert mean_of([Score({0: 1.0}), Score({1: 5.0})]) is None


def test_an_untrained_baseline_stands_for_every_seed_of_a_line(tmp_path: Path) -> None:
    """By the plan: zero-shot has one job, whatever the number of seeds."""
    plan = make_plan(load_spec(table_kit.write_house(tmp_path, 1)), tmp_path / "runs", SEEDS)
    for job in plan.jobs:
        trained = job.facts["surrogate"] is not None
        table_kit.write_result(job, {"test/exact_match": 0.5 + 0.01 * int(job.facts["seed"]) if trained else 0.4})
    results = gather(plan)
    numbers = [n for n, line in enumerate(plan.lines) if line.surrogate]
    assert len(numbers) == 4
    for number in numbers:
        (gain,) = gains(plan, results.cells, number)
        assert gain is not None
        assert gain.by_seed == pytest.approx({0: 10.0, 1: 11.0, 2: 12.0})
    assert not any(line.startswith("No gain") for line in build_report(plan, results).problems)


def test_a_curve_compares_each_seed_with_itself(tmp_path: Path) -> None:
    """Keeping all tokens is measured for seed 2 alone: the change of the others is not counted from it."""
    rows = table_kit.spec_value()["rows"]
    rows[1] |= {"train_on": ["big"], "eval_on": ["big"], "keep": [1.0, 0.6, 0.2]}
    spec = load_spec(table_kit.write_house(tmp_path, 1, rows=rows, baseline="zero_shot"))
    plan = make_plan(spec, tmp_path / "runs", SEEDS)
    for job in plan.jobs:
        if job.parent is not None:
            seed = int(job.facts["seed"])
            metrics = {f"test/keep{keep}/exact_match": 0.4 + 0.1 * seed - 0.1 * (1 - keep) for keep in (1.0, 0.6, 0.2)}
            if seed != 2:
                del metrics["test/keep1.0/exact_match"]
            table_kit.write_result(job, metrics)
    figure = draw(plan, gather(plan))
    assert figure is not None
    assert list(figure.axes[1].containers[0].lines[0].get_ydata()) == pytest.approx([-8.0, -4.0, 0.0])


def test_differences_are_of_equal_seeds() -> None:
    assert difference(Score({0: 5.0, 1: 6.0}), Score({1: 1.0})) == Score({1: 5.0})
    assert difference(Score({0: 5.0}), Score({1: 1.0})) is None
    assert difference(Score({0: 5.0}), None) is None


def test_the_panel_of_a_mean_over_sets_shows_the_ratio_of_its_row(tmp_path: Path) -> None:
    rows = table_kit.spec_value()["rows"]
    rows[1] |= {"train_on": ["big"], "eval_on": ["big"], "keep": [1.0, 0.6]}
    columns = [{"id": "both", "datasets": ["../datasets/d0.yaml", "../datasets/d1.yaml"]}]
    spec = load_spec(table_kit.write_house(tmp_path, rows=rows, columns=columns))
    plan = make_plan(spec, tmp_path / "runs")
    for job in plan.jobs:
        table_kit.write_result(job, {"test/keep1.0/exact_match": 0.5, "test/keep0.6/exact_match": 0.3})
    numbers = {line.row.keep_ratio: n for n, line in enumerate(plan.lines) if line.row.keep_ratio}
    cells = page_data(plan, gather(plan))["cells"]
    assert cells[f"{numbers[1.0]},0"]["parts"] == [["d0", "50.00"], ["d1", "50.00"]]
    assert cells[f"{numbers[0.6]},0"]["parts"] == [["d0", "30.00"], ["d1", "30.00"]]
