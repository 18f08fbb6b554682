"""The time left is played through with what is known so far, and is right early."""

from __future__ import annotations

import heapq
import random
from collections import Counter
from dataclasses import replace
from pathlib import Path

import pytest
import table_kit

from craft_lightning.benchmark import estimate as module
from craft_lightning.benchmark.estimate import Running, TableProgress
from craft_lightning.benchmark.plan import Job, Plan, make_plan
from craft_lightning.benchmark.spec import load_spec

ROOT = Path(__file__).resolve().parents[2]
TRAIN = {"zero_shot": 0.0, "craft": 36.0}
"""Seconds of a training at pocket scale; a method that is not named takes 24."""


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [0.0]
    monkeypatch.setattr(module.time, "monotonic", lambda: now[0])
    return now


def toy_plan(root: Path, columns: int = 2) -> Plan:
    return make_plan(load_spec(table_kit.write_house(root, columns)), root / "runs")


def true_seconds(job: Job, chance: random.Random) -> float:
    """As measured: trainings ten times as long as tests, larger models slower, datasets and load vary."""
    size = 1.0 + 0.25 * (sum(map(ord, str(job.facts["backbone"]))) % 4)
    base = TRAIN.get(str(job.facts["method"]), 24.0) if job.kind == "train" else 3.0
    return base * size * chance.uniform(0.8, 1.25)


def play(plan: Plan, workers: int, clock: list[float], chance: random.Random) -> list[tuple[float, int, float | None]]:
    """Run the plan with made-up durations: (time, tests done, estimate) at every event and half-way between two."""
    progress = TableProgress(total=len(plan.jobs), workers=workers, waiting=list(plan.jobs))
    seconds = {job.name: true_seconds(job, chance) for job in plan.jobs}
    running: dict[str, Running] = {}
    ends: list[tuple[float, str]] = []
    seen, tests = [], 0

    def look() -> None:
        for name, one in running.items():
            one.steps, one.step = 100, int(100 * one.spent() / seconds[name])
        progress.running = list(running.values())
        seen.append((clock[0], tests, progress.seconds_left()))

    while progress.waiting or running:
        for job in list(progress.waiting):
            if len(running) < workers and (job.parent is None or job.parent.name in progress.done):
                progress.waiting.remove(job)
                running[job.name] = Running(job, None, clock[0])  # type: ignore[arg-type]
                heapq.heappush(ends, (clock[0] + seconds[job.name], job.name))
        look()
        end, name = heapq.heappop(ends)
        clock[0] = (clock[0] + end) / 2
        look()
        clock[0] = end
        done = running.pop(name).job
        tests += done.kind == "eval"
        progress.note(done, seconds[name])
    return seen


@pytest.mark.parametrize("workers", [1, 2, 8])
@pytest.mark.parametrize("luck", range(4))
def test_right_within_a_factor_of_one_and_a_half_after_five_cells(workers: int, luck: int, clock: list[float]) -> None:
    plan = make_plan(load_spec(ROOT / "experiments/tables/table1.yaml"), Path("/nowhere"), seeds=[0, 1])
    seen = play(plan, workers, clock, random.Random(luck))
    total = clock[0]
    late = [(now, left) for now, tests, left in seen if tests >= 5 and total - now > 30]
    assert len(late) > 50
    for now, left in late:
        assert left is not None
        assert (total - now) / 1.5 <= left <= (total - now) * 1.5, f"at {now:.0f} of {total:.0f} s: {left:.0f} s"


def test_nothing_is_told_before_each_kind_is_known(tmp_path: Path, clock: list[float]) -> None:
    plan = toy_plan(tmp_path)
    progress = TableProgress(total=len(plan.jobs), workers=2, waiting=list(plan.jobs[1:]))
    assert progress.seconds_left() is None
    progress.note(plan.jobs[0], 2.0)
    assert progress.seconds_left() is None, "no training has finished or is well under way"
    training = next(n for n in plan.jobs if n.kind == "train")
    progress.waiting.remove(training)
    progress.running = [Running(training, None, 0.0, step=5, steps=100)]  # type: ignore[arg-type]
    clock[0] = 5.0
    assert progress.seconds_left() is None, "five steps of a hundred are too few"
    progress.running[0].step = 50
    left = progress.seconds_left()
    assert left is not None
    kinds = Counter(n.kind for n in progress.waiting)
    assert left >= 5 + kinds["train"] * 10 / 2


def test_a_resumed_training_is_foretold_by_what_it_does_now(tmp_path: Path, clock: list[float]) -> None:
    job = next(n for n in toy_plan(tmp_path).jobs if n.kind == "train")
    running = Running(job, None, 0.0, step=75, steps=100, before=50)  # type: ignore[arg-type]
    clock[0] = 25.0
    assert running.foretold() == pytest.approx(50.0), "a second a step, as far again"


def test_a_lone_training_and_its_test_are_not_shared_between_jobs(tmp_path: Path, clock: list[float]) -> None:
    plan = toy_plan(tmp_path)
    test = next(n for n in plan.jobs if n.parent is not None)
    assert test.parent is not None
    progress = TableProgress(total=2, workers=8, waiting=[test.parent, test])
    progress.note(test.parent, 10.0)
    progress.note(test, 2.0)
    assert progress.seconds_left() == pytest.approx(12.0)
    progress.workers = 1
    assert progress.seconds_left() == pytest.approx(12.0)


def test_a_node_is_expected_to_take_as_long_as_those_most_like_it(tmp_path: Path) -> None:
    plan = toy_plan(tmp_path)
    trainings = {str(n.facts["backbone"]): n for n in plan.jobs if n.kind == "train"}
    progress = TableProgress(total=len(plan.jobs), workers=1)
    progress.note(trainings["small"], 10.0)
    assert progress.expected(trainings["big"]) == 10.0, "nothing of its backbone is known"
    progress.note(trainings["big"], 30.0)
    assert progress.expected(trainings["big"]) == 30.0
    assert progress.expected(trainings["small"]) == 10.0
    other = replace(trainings["big"], facts={**trainings["big"].facts, "method": "another"})
    assert progress.expected(other) == 30.0, "a method that is new, on a backbone that is known"
