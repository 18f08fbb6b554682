"""A test may name its own dataset and look, apart from those that were adapted to; a column may be a mean over such."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import table_kit

from craft_lightning.benchmark import store
from craft_lightning.benchmark.plan import Plan, make_plan
from craft_lightning.benchmark.results import collect, gather
from craft_lightning.benchmark.spec import load_collection, load_spec
from craft_lightning.errors import CraftError
from craft_lightning.report.sections import build_report

ROOT = Path(__file__).resolve().parents[2]
SETS = [f"../datasets/d{n}.yaml" for n in range(3)]
COLUMNS = [
    {"id": "same", "datasets": SETS},
    {"id": "studio", "datasets": SETS, "eval": {"data.look": "studio"}},
    {"id": "others", "datasets": SETS, "test_on": "others", "eval": {"data.test_size": 100}},
]


def toy_plan(root: Path, columns: Any = COLUMNS, seeds: tuple[int, ...] = (0,)) -> Plan:
    rows = [{**row, "eval_on": ["big"]} for row in table_kit.spec_value()["rows"]]
    rows[1]["train_on"] = ["big"]
    spec = load_spec(table_kit.write_house(root, 3, columns=columns, rows=rows))
    return make_plan(spec, root / "runs", seeds)


def flags(plan: Plan, name: str) -> list[str]:
    job = next(n for n in plan.jobs if n.name == name)
    return [a.rsplit("/", 1)[-1] for a in job.arguments if "datasets/" in a or a.startswith(("--data", "--encoder"))]


def test_a_training_serves_all_its_tests(tmp_path: Path) -> None:
    plan = toy_plan(tmp_path, seeds=(0, 1))
    kinds = Counter((n.kind, n.facts["method"]) for n in plan.jobs)
    assert kinds == {("train", "craft"): 6, ("eval", "zero_shot"): 9, ("eval", "craft"): 6 + 6 + 12}
    assert flags(plan, "d0/big/craft/seed0") == ["d0.yaml"], "settings of a test are not those of the training"
    where = "d0/big/craft/seed0/eval/big"
    assert flags(plan, where) == ["d0.yaml", "encoder"]
    assert flags(plan, f"{where}-lookstudio") == ["d0.yaml", "--data.look=studio", "encoder"]
    assert flags(plan, f"{where}+d2-test_size100") == ["d2.yaml", "--data.test_size=100", "encoder"]
    other = next(n for n in plan.jobs if n.name == f"{where}+d2-test_size100")
    assert other.parent is not None
    assert (other.facts["dataset"], other.parent.facts["dataset"]) == ("d2", "d0")
    assert len(plan.cells[1, 2]) == 2 * 3 * 2
    assert [n.name for n in plan.cells[0, 2]] == [f"d{n}/none/zero_shot/seed0/eval/big-test_size100" for n in (1, 2, 0)]


def test_a_column_is_the_mean_over_its_datasets_and_nothing_while_one_is_missing(tmp_path: Path) -> None:
    plan = toy_plan(tmp_path, seeds=(0, 1))
    for number, job in enumerate(plan.jobs):
        table_kit.write_result(job, {"test/exact_match": number / 100, "test/exact_match_unseen": 0.9})
    values = {n.name: number for number, n in enumerate(plan.jobs)}
    cells = collect(plan)
    for place, cell in cells.items():
        assert cell.score is not None
        for seed, value in cell.score.by_seed.items():
            mine = [values[n.name] for n in plan.cells[place] if n.facts["seed"] == seed]
            assert value == pytest.approx(sum(mine) / len(mine))
    assert cells[1, 2].items == 6 * 8
    assert cells[1, 2].unseen is None, "labels of another set are neither seen nor unseen"
    report = build_report(plan, gather(plan))
    assert report.scores[0].header == ("Backbone", "Method", "same", "studio", "others"), "a mean of these is no number"
    assert [s.title for s in report.sections] == [
        "Exact match, per cent",
        "Gain over Zero-shot on the same backbone, points",
    ]
    gone = next(n for n in plan.cells[1, 2] if n.facts["seed"] == 1)
    (gone.folder / store.RESULT).unlink()
    left = collect(plan)[1, 2]
    assert left.score is not None
    assert (left.score.by_seed.keys(), left.seeds, left.wanted) == ({0}, 1, 2)


def test_limit_cuts_the_sets_too(tmp_path: Path) -> None:
    plan = make_plan(toy_plan(tmp_path).spec, tmp_path / "runs", limit=1)
    assert {str(n.facts["dataset"]) for n in plan.jobs} == {"d0", "d1"}


def test_a_mistaken_way_of_testing_is_named(tmp_path: Path) -> None:
    columns = [{"id": "x", "datasets": [*SETS, "../datasets/d9.yaml"], "test_on": "other"}]
    with pytest.raises(CraftError) as caught:
        toy_plan(tmp_path, columns)
    assert "columns[x].test_on: unknown name 'other'; did you mean 'others'?" in str(caught.value)
    assert "columns[x].datasets: '../datasets/d9.yaml' does not exist" in str(caught.value)


def test_no_two_tables_want_different_results_in_one_folder(tmp_path: Path) -> None:
    known: dict[tuple[str, str], str] = {}
    tables = [path for path in sorted((ROOT / "experiments/tables").glob("*.yaml")) if not load_collection(path)]
    assert len(tables) >= 8
    for path in tables:
        plan = make_plan(load_spec(path), tmp_path)
        for job in plan.jobs:
            assert known.setdefault((plan.spec.scale, job.name), job.key) == job.key, f"{path.name}: {job.name}"


def test_forgetting_asks_every_trained_method_and_trains_none(tmp_path: Path) -> None:
    *tables, forgetting = (
        make_plan(load_spec(ROOT / f"experiments/tables/{name}.yaml"), tmp_path)
        for name in ("table1", "more_baselines", "forgetting")
    )
    known = {n.name: n.key for table in tables for n in table.jobs}
    trainings = {n.name: n.key for n in forgetting.jobs if n.kind == "train"}
    assert trainings
    assert trainings.items() <= known.items()
    assert all(n.name in known for place, jobs in forgetting.cells.items() if place[1] == 0 for n in jobs)
    trained = [n for n, line in enumerate(forgetting.lines) if line.surrogate]
    assert {len(forgetting.cells[n, c]) for n in trained for c in (0, 1)} == {10}
    assert {len(forgetting.cells[n, 2]) for n in trained} == {90}
    methods = {n.facts["method"] for n in forgetting.jobs if n.kind == "train"}
    assert methods == {row.method.stem for table in tables for row in table.spec.rows if row.train_on}
