"""A sweep: one row of the file becomes one for each setting, measured on the trainings' own validation items."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import table_kit
import yaml

from craft_lightning.benchmark import store
from craft_lightning.benchmark.plan import Plan, make_plan
from craft_lightning.benchmark.results import gather, mean_of
from craft_lightning.benchmark.spec import load_spec
from craft_lightning.benchmark.table_files import read, to_csv
from craft_lightning.benchmark.table_rows import Row
from craft_lightning.errors import CraftError
from craft_lightning.report.sections import build_report

LR = "model.init_args.optim.lr"
RATES = [1e-4, 1e-3, 1e-2]
ROOT = Path(__file__).resolve().parents[2]


def swept(root: Path, **sweep: Any) -> Path:
    rows = table_kit.spec_value()["rows"]
    rows[1] = {k: v for k, v in rows[1].items() if k != "eval_on"} | {"train_on": ["big"], "sweep": sweep}
    rows[0]["eval_on"] = ["big"]
    return table_kit.write_house(root, rows=rows, seeds=[7], metric={"name": "val/accuracy_seen", "digits": 1})


def toy_plan(root: Path) -> Plan:
    return make_plan(load_spec(swept(root, **{LR: RATES})), root / "runs")


def fill(plan: Plan, values: dict[str, float]) -> None:
    for job in plan.jobs:
        value = next(v for part, v in values.items() if part in job.name)
        metrics = {"val/accuracy": 0.99, "val/accuracy_seen": value}
        items = {"all": 10, "seen": 8, "unseen": 2}
        store.write_json(job.folder / store.RESULT, {"key": job.key, "metrics": metrics, "items": items})


def test_a_swept_row_is_one_row_a_setting(tmp_path: Path) -> None:
    spec = load_spec(swept(tmp_path, **{LR: [1e-4, 1e-3], "model.init_args.lambda_commit": [0.1, 1.0]}))
    rows = [row for row in spec.rows if row.swept == "craft"]
    assert [row.id for row in rows] == [
        "craft-lambda_commit0.1lr0.0001",
        "craft-lambda_commit0.1lr0.001",
        "craft-lambda_commit1.0lr0.0001",
        "craft-lambda_commit1.0lr0.001",
    ]
    assert rows[3].overrides == {LR: 1e-3, "model.init_args.lambda_commit": 1.0}
    assert rows[3].label == "CRAFT, lambda_commit 1.0 lr 0.001"
    assert spec.rows[0].swept == ""


@pytest.mark.parametrize("values", [0.1, []])
def test_a_sweep_without_values_is_refused(values: Any, tmp_path: Path) -> None:
    with pytest.raises(
        CraftError, match=r"rows\[craft\]\.sweep\.model\.init_args\.optim\.lr: (must be a valid list|is empty)"
    ):
        load_spec(swept(tmp_path, **{LR: values}))


def test_validation_shows_the_trainings_and_tests_nothing(tmp_path: Path) -> None:
    plan = toy_plan(tmp_path)
    trained = [n for n in plan.jobs if n.kind == "train"]
    others = [n for n in plan.jobs if n.kind == "eval"]
    assert len(trained) == 2 * len(RATES)
    assert {n.facts["seed"] for n in trained} == {7}
    assert {n.arguments[0] for n in others} == {"validate"}
    assert {n.facts["method"] for n in others} == {"zero_shot"}, "only what trains nothing is evaluated"
    assert all("/validate/" in n.name for n in others), "no test of another table shares the folder"


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((0.5, 0.7, 0.6), "Best: CRAFT, lr 0.001: 70.0."),
        ((0.5, 0.6, 0.7), "Best: CRAFT, lr 0.01: 70.0 (at the edge of the grid)."),
        ((0.7, 0.7, 0.6), "Best: CRAFT, lr 0.0001 and CRAFT, lr 0.001: 70.0 (at the edge of the grid)."),
    ],
)
def test_the_best_setting_is_named(values: tuple[float, ...], expected: str, tmp_path: Path) -> None:
    plan = toy_plan(tmp_path)
    fill(plan, {"zero_shot": 0.4} | {f"lr{rate}/": value for rate, value in zip(RATES, values, strict=True)})
    remarks = build_report(plan, gather(plan)).remarks
    assert expected in remarks
    assert "Validation items: d0 10, d1 10." in remarks
    assert "craft-lr0.001,big,big,d0," in to_csv(plan, gather(plan))


def test_an_unfinished_setting_is_never_the_best(tmp_path: Path) -> None:
    plan = toy_plan(tmp_path)
    fill(plan, {"zero_shot": 0.4, "lr0.0001/": 0.5, "lr0.001/": 0.6, "lr0.01/": 0.9})
    gone = next(n for n in plan.jobs if "lr0.01/" in n.name)
    (gone.folder / store.RESULT).unlink()
    assert any(remark.startswith("Best: CRAFT, lr 0.001:") for remark in build_report(plan, gather(plan)).remarks)


def test_every_method_is_frozen_at_its_best_setting() -> None:
    plan = make_plan(load_spec(ROOT / "experiments/tables/sweep.yaml"))
    cells = read(plan, ROOT / "experiments/tables/results/sweep.csv").cells
    tried: dict[str, list[tuple[float, Row]]] = {}
    for number, line in enumerate(plan.lines):
        mean = mean_of([cells[number, column].score for column in range(len(plan.columns))])
        assert mean is not None
        if line.row.swept:
            tried.setdefault(line.row.swept, []).append((mean.mean, line.row))
    assert len(tried) == 7
    for swept, found in tried.items():
        setting = next(name for name in found[0][1].overrides if len({row.overrides[name] for _, row in found}) > 1)
        best = max(mean for mean, _ in found)
        frozen: Any = yaml.safe_load(found[0][1].method.read_text(encoding="utf-8"))
        for name in setting.split("."):
            frozen = frozen[name]
        assert frozen in [row.overrides[setting] for mean, row in found if mean > best - 1e-3], swept


def test_the_sweep_is_that_of_the_protocol() -> None:
    spec = load_spec(ROOT / "experiments/tables/sweep.yaml")
    tables = [load_spec(ROOT / f"experiments/tables/{name}.yaml") for name in ("table1", "more_baselines")]
    rates: dict[str, list[float]] = {}
    for row in spec.rows:
        if row.swept and LR in row.overrides:
            rates.setdefault(row.swept, []).append(row.overrides[LR])
    assert set(rates) == {row.curve or row.id for table in tables for row in table.rows if row.train_on}, (
        "every trained method, and no other"
    )
    assert all(tried == [3e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2] for tried in rates.values())
    others = [row for row in spec.rows if row.swept and LR not in row.overrides]
    assert {row.method.stem for row in others} == {"ldifs"}, "one method has a weight that is its own to choose"
    weight = "model.init_args.lambda_ldifs"
    assert [row.overrides[weight] for row in others] == [0.1, 1.0, 10.0, 100.0]
    assert {row.overrides[weight] for row in spec.rows if row.swept == "ldifs"} == {10.0}, "the rate is chosen first"
    assert not {*range(3), *tables[0].seeds} & set(spec.seeds)
    assert spec.metric.name == "val/accuracy_seen"
    assert len(spec.columns) == 2
