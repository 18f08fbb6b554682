"""Another processor is another seed: results beside the published ones, and what makes workers compute alike."""

from __future__ import annotations

import json
import platform
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import table_kit
from table_kit import write_house

from craft_lightning import workers as pool
from craft_lightning.benchmark import results, store
from craft_lightning.benchmark.plan import Plan, make_plan
from craft_lightning.benchmark.results import Cell, PublishedMatch, Score, reach
from craft_lightning.benchmark.spec import load_spec
from craft_lightning.benchmark.table_files import read, stored_table
from craft_lightning.cli.table import main
from craft_lightning.report.render import publish
from craft_lightning.report.report import made_text

ROOT = Path(__file__).resolve().parents[2]
ARITHMETIC = {"processor": "a loom", "threads": 1, "torch": "AVX2", "onednn": "AVX2", "mkl": "as it likes"}
MADE = {"date": "2026-03-07", "machine": "a loom, 2 shafts"}
ARITHMETIC_TEXT = "a loom, threads 1, torch AVX2, onednn AVX2, mkl as it likes"


def value(job: Any, luck: float = 0.0) -> float:
    """Untrained 40 per cent; trained 50, 51 and 52, and a shift of the processor."""
    return 0.4 if job.facts["surrogate"] is None else 0.5 + 0.01 * int(job.facts["seed"]) + luck


def fill(plan: Plan, luck: float = 0.0, **made: Any) -> None:
    for job in plan.jobs:
        metrics = {"test/exact_match": value(job, luck)} if job.kind == "eval" else {}
        table_kit.write_result(job, metrics, made={**MADE, **made})


@pytest.fixture
def plan(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """A plan of one column whose results are published."""
    monkeypatch.chdir(tmp_path)
    made = make_plan(load_spec(write_house(tmp_path, 1)), Path("runs"), (0, 1, 2))
    fill(made)
    publish(made)
    return made


def matched(plan: Plan, seeds: tuple[int, ...] = (0, 1, 2)) -> PublishedMatch:
    from craft_lightning.benchmark.results import collect

    plan = make_plan(plan.spec, Path("runs"), seeds)
    return results.beside(plan, collect(plan), read(plan, stored_table(plan)).cells)


@pytest.mark.parametrize(
    ("luck", "expected"),
    # Three published seeds with a standard deviation of 1 point: other seeds lie within 4.97 points of their mean.
    [(0.0, (14, 0, 0)), (0.0025, (2, 12, 0)), (0.039, (2, 12, 0)), (0.045, (2, 8, 4)), (-0.065, (2, 0, 12))],
)
def test_each_value_is_equal_near_or_outside(luck: float, expected: tuple[int, int, int], plan: Plan) -> None:
    fill(plan, luck)
    found = matched(plan)
    assert (found.equal, found.near, len(found.outside)) == expected


def test_a_seed_that_was_not_published_is_as_good_as_a_near_one(plan: Plan) -> None:
    more = make_plan(plan.spec, Path("runs"), (7,))
    fill(more, luck=-0.07)
    found = matched(plan, (7,))
    assert (found.equal, found.near, found.outside) == (2, 4, ())


def test_what_trains_nothing_is_equal_or_outside(plan: Plan) -> None:
    """One value has no spread, and nothing in it is drawn."""
    job = next(n for n in plan.jobs if n.facts["surrogate"] is None)
    table_kit.write_result(job, {"test/exact_match": 0.4025})
    assert matched(plan).outside == ("Zero-shot on big, d0, seed 0: 40.25, published 40.00 (seed 0)",)


def test_the_reach_holds_what_it_promises() -> None:
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(2000):
        *known, other = rng.normal(50, 2, 4)
        score = Score(dict(enumerate(known)))
        held += abs(other - score.mean) <= reach(score)
    assert held / 2000 == pytest.approx(0.95, abs=0.015)
    assert reach(Score({0: 5.0})) == 0.0
    assert reach(Score(dict(enumerate(rng.normal(50, 2, 200))))) == pytest.approx(1.97 * 2, rel=0.1)


def test_holes_are_not_compared(plan: Plan) -> None:
    nothing: dict[Any, Cell] = dict.fromkeys(plan.cells, Cell())
    assert results.beside(plan, nothing, read(plan, stored_table(plan)).cells) == PublishedMatch(0, 0, ())


def test_status_says_how_results_compare(plan: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    spec = str(plan.spec.path)
    fill(plan, 0.045, arithmetic=ARITHMETIC)
    assert main(["status", spec, "--seeds", "0", "1", "2"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert (
        f"beside {stored_table(plan)}: of 14 values 2 equal to the digit, 8 within the spread of the seeds, 4 outside"
        in told
    )
    published = "published 50.00 (seed 0), 51.00 (seed 1), 52.00 (seed 2)"
    assert f"outside CRAFT, trained with big on big, d0, seed 2: 56.50, {published}" in told
    assert told[-2:] == [
        "computed with a loom, threads 1, torch AVX2, onednn AVX2, mkl as it likes",
        "published with a loom, 2 shafts",
    ]
    publish(plan)
    assert main(["status", spec, "--seeds", "0", "1", "2"]) == 0
    told = capsys.readouterr().out.splitlines()
    assert "of 14 values 14 equal to the digit, 0 within" in told[-3]
    assert told[-1] == told[-2].replace("computed", "published")
    made = read(plan, stored_table(plan)).made
    assert made is not None
    told_of = ARITHMETIC_TEXT.partition(", ")[2]
    assert told_of not in made_text(replace(made, arithmetic=()))
    assert f"; {told_of}" in made_text(made)
    assert made_text(made).count("a loom") == 1, "one machine is named once"
    several = made_text(replace(made, machines=("a loom, 2 shafts", "a mill, 1 shaft")))
    assert f"; {ARITHMETIC_TEXT}" in several, "which of them it is of has to be told"


def test_status_is_silent_without_published_results(plan: Plan, capsys: pytest.CaptureFixture[str]) -> None:
    spec = str(plan.spec.path)
    assert main(["status", spec, "--limit", "1"]) == 0
    assert "beside" not in capsys.readouterr().out, "a rehearsal asks other questions"
    assert main(["status", spec, "--runs", "elsewhere"]) == 0
    assert "beside" not in capsys.readouterr().out, "nothing is computed"
    stored_table(plan).unlink()
    assert main(["status", spec]) == 0
    assert "beside" not in capsys.readouterr().out


@pytest.mark.parametrize("name", ["ATEN_CPU_CAPABILITY", "ONEDNN_MAX_CPU_ISA"])
def test_workers_use_the_same_kernels_unless_told_otherwise(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(platform, "machine", lambda: "x86_64")
    monkeypatch.delenv(name, raising=False)
    assert pool.surroundings()[name].lower() == "avx2"
    monkeypatch.setenv(name, "default")
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert pool.surroundings()[name] == "default"
    assert pool.surroundings()["OMP_NUM_THREADS"] == "1"
    monkeypatch.delenv(name)
    monkeypatch.setattr(platform, "machine", lambda: "arm64")
    assert name not in pool.surroundings()


@pytest.mark.skipif(platform.machine() != "x86_64", reason="other processors have one kind of kernel")
def test_a_process_in_these_surroundings_says_so() -> None:
    code = "import json, craft_lightning.run_facts as facts; print(json.dumps(facts.arithmetic()))"
    with pytest.MonkeyPatch.context() as patch:
        for known in (*pool.SAME_KERNELS, "MKL_CBWR"):
            patch.delenv(known, raising=False)
        environment = {**pool.surroundings(), "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    found = json.loads(done.stdout)
    assert found.pop("processor")
    assert found == {"threads": 1, "torch": "AVX2", "onednn": "AVX2", "mkl": "as it likes"}


def test_results_of_several_processors_are_all_told(plan: Plan) -> None:
    fill(plan, arithmetic=ARITHMETIC)
    table_kit.write_result(plan.jobs[0], {}, made={**MADE, "arithmetic": {**ARITHMETIC, "threads": 2}})
    table_kit.write_result(plan.jobs[1], {}, made=MADE)
    assert store.arithmetic(plan.jobs) == tuple(
        f"a loom, threads {count}, torch AVX2, onednn AVX2, mkl as it likes" for count in (1, 2)
    )
