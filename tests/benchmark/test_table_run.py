"""The pool: nothing finished is computed again, nothing half-written is read, failures stay where they are."""

from __future__ import annotations

import os
import queue
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import pytest
import table_kit
import yaml

from craft_lightning import run_facts
from craft_lightning.benchmark import cache_key as fingerprint
from craft_lightning.benchmark import scheduler as run_module
from craft_lightning.benchmark import store
from craft_lightning.benchmark.estimate import TableProgress
from craft_lightning.benchmark.plan import Plan, make_plan
from craft_lightning.benchmark.results import collect
from craft_lightning.benchmark.scheduler import run_plan, worker_count
from craft_lightning.benchmark.spec import load_spec
from craft_lightning.cli.table import main
from craft_lightning.errors import CraftError
from craft_lightning.workers import Event, LocalWorker

ROOT = Path(__file__).resolve().parents[2]
JOBS = 16  # 2 columns x (2 zero-shot + 2 trainings + 4 tests)


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TOY_ROOT", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    return tmp_path


def toy_plan(house: Path) -> Plan:
    return make_plan(load_spec(table_kit.write_house(house)), house / "runs")


def run(plan: Plan, workers: int = 2, seconds: float = 0.0, keep_going: bool = False) -> TableProgress:
    worker = (sys.executable, table_kit.__file__, "worker", str(seconds))
    return run_plan(plan, workers, keep_going=keep_going, worker=worker)


def journal(house: Path) -> Counter[str]:
    path = house / "journal.txt"
    return Counter(path.read_text().splitlines() if path.is_file() else [])


def children(pid: int) -> list[int]:
    listed = subprocess.run(["ps", "--ppid", str(pid), "-o", "pid="], capture_output=True, text=True, check=True)
    return [int(word) for word in listed.stdout.split()]


def wait_until_gone(pids: list[int]) -> None:
    deadline = time.monotonic() + 30
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline, "a worker outlived its runner"
        time.sleep(0.02)


def test_all_nodes_once_and_a_second_run_starts_nothing(house: Path) -> None:
    plan = toy_plan(house)
    progress = run(plan)
    assert (progress.already, len(progress.done), progress.failed) == (0, JOBS, {})
    assert journal(house) == Counter(f"{word} {n.name}" for n in plan.jobs for word in ("start", "end"))
    again = run_plan(plan, 2, worker=("/no/such/program",))
    assert again.already == JOBS


def test_kill_9_recomputes_no_finished_node(house: Path) -> None:
    plan = toy_plan(house)
    command = [sys.executable, table_kit.__file__, "run", str(plan.spec.path), str(house / "runs"), "2", "0.1"]
    started_when_kept: dict[str, int] = {}
    for finished in (1, 5, 9):
        process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        while sum(v for k, v in journal(house).items() if k.startswith("end")) < finished + 1:
            time.sleep(0.02)
            assert process.poll() is None
        workers = children(process.pid)
        assert len(workers) == 2
        process.send_signal(signal.SIGKILL)
        process.communicate()
        wait_until_gone(workers)
        kept = {n.name for n in plan.jobs if store.state(n) == "done"}
        before = journal(house)
        assert len(kept) >= finished
        started_when_kept |= {name: before[f"start {name}"] for name in kept}
    output = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    after = journal(house)
    assert {name: after[f"start {name}"] for name in started_when_kept} == started_when_kept
    assert f"{len(kept)} of {JOBS} jobs were already done" in output
    untouched = make_plan(plan.spec, house / "fresh")
    run(untouched)
    for one, other in zip(plan.jobs, untouched.jobs, strict=True):
        assert (store.result(one) or {})["metrics"] == (store.result(other) or {})["metrics"]


def test_half_written_results_are_never_read(house: Path) -> None:
    job = toy_plan(house).jobs[0]
    job.folder.mkdir(parents=True)
    (job.folder / "job.json").write_text(f'{{"key": "{job.key}", "metrics": {{')
    assert store.state(job) == "missing"
    stop = threading.Event()
    seen = []

    def read() -> None:
        while not stop.is_set():
            seen.append(store.result(job))

    store.write_json(job.folder / store.RESULT, {"key": job.key, "metrics": {}})
    reader = threading.Thread(target=read)
    reader.start()
    for n in range(50):
        store.write_json(job.folder / store.RESULT, {"key": job.key, "metrics": {str(k): n for k in range(2000)}})
    stop.set()
    reader.join()
    assert seen
    assert None not in seen
    assert not list(job.folder.glob(".*tmp"))


def test_a_failing_node_stops_only_its_own_tests(house: Path) -> None:
    (house / "fail").write_text("d0/small/craft/seed0")
    plan = toy_plan(house)
    progress = run(plan)
    assert len(progress.done) == JOBS - 3
    assert progress.failed == {
        "d0/small/craft/seed0": "ValueError: planted",
        "d0/small/craft/seed0/eval/big": "its training failed",
        "d0/small/craft/seed0/eval/small": "its training failed",
    }
    by_name = {n.name: n for n in plan.jobs}
    assert store.failure(by_name["d0/small/craft/seed0"]) == "ValueError: planted"
    (house / "fail").unlink()
    assert run(plan).already == JOBS - 3
    assert store.state(by_name["d0/small/craft/seed0"]) == "done"
    assert store.failure(by_name["d0/small/craft/seed0"]) is None


def test_a_dead_worker_fails_its_node_with_the_last_line_and_is_replaced(house: Path) -> None:
    (house / "die").write_text("d0/none/zero_shot/seed0/eval/small")
    progress = run(toy_plan(house), workers=1)
    assert list(progress.failed.values()) == ["worker exit code 7; last line: the last words"]
    assert len(progress.done) == JOBS - 1


def with_devices(house: Path, devices: int | None) -> Plan:
    """A plan whose trainings and tests take so many devices."""
    spec = table_kit.write_house(house)
    trainer = {"max_steps": 10} | ({} if devices is None else {"devices": devices})
    (spec.parents[1] / "base.yaml").write_text(yaml.safe_dump({"trainer": trainer}))
    return make_plan(load_spec(spec), house / "runs")


@pytest.mark.parametrize("devices", [1, 2, None])
def test_workers_divide_the_gpus_where_a_job_takes_one(
    house: Path, monkeypatch: pytest.MonkeyPatch, devices: int | None
) -> None:
    """And who replaces a dead one takes over its GPU."""
    monkeypatch.setattr(run_facts, "gpus", lambda: ["3", "5"])
    monkeypatch.setattr(run_module, "DRIVERS", ("/no/such", os.devnull))
    (house / "die").write_text("d0/none/zero_shot/seed0/eval/small")
    plan, started = with_devices(house, devices), list[str | None]()

    def launcher(command: Sequence[str], events: queue.Queue[Event], gpu: str | None) -> LocalWorker:
        started.append(gpu)
        return LocalWorker(command, events, gpu)

    worker = (sys.executable, table_kit.__file__, "worker", "0.0")
    assert len(run_plan(plan, 4, worker=worker, launcher=launcher).done) == JOBS - 1
    assert Counter(started[:4]) == ({"3": 2, "5": 2} if devices == 1 else {None: 4})
    started.clear()
    run_plan(make_plan(plan.spec, house / "again"), 1, worker=worker, launcher=launcher)
    assert started == (["3", "3"] if devices == 1 else [None, None])
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(7)), raising=False)
    assert [worker_count(plan.jobs, wanted) for wanted in (None, 3)] == [2 if devices == 1 else 7, 3]


def test_a_worker_sees_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert run_facts.gpus() == ["0", "1"]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    assert run_facts.gpus() == ["3", "5"]
    told = "import json, os; print(json.dumps({'event': os.environ['CUDA_VISIBLE_DEVICES']}))"
    for gpu, seen in (("5", "5"), (None, "3,5")):
        events: queue.Queue[Event] = queue.Queue()
        LocalWorker((sys.executable, "-c", told), events, gpu)
        assert events.get(timeout=30)[1] == {"event": seen}


def test_three_failures_in_a_row_end_the_run_unless_told_otherwise(house: Path) -> None:
    (house / "fail").write_text("seed0")
    plan = toy_plan(house)
    progress = run(plan, workers=1)
    assert sum(error == "ValueError: planted" for error in progress.failed.values()) == 3
    assert not progress.done
    assert sum(line.startswith("start") for line in journal(house).elements()) == 3
    assert not run(plan, keep_going=True).done
    assert sum(line.startswith("start") for line in journal(house).elements()) == 3 + 8


def test_a_worker_that_cannot_start_is_one_clear_error(house: Path) -> None:
    with pytest.raises(CraftError, match=r"cannot start \(exit code 1\): ZeroDivisionError"):
        run_plan(toy_plan(house), 2, worker=(sys.executable, "-c", "1/0"))


def test_a_backbone_without_weights_fails_alone(
    house: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Its jobs fail, with one line for all, and are no failures in a row; what needs them, too; the rest is done."""
    toy_plan(house)
    shutil.move(house / "weights/big", house / "elsewhere")
    command = (sys.executable, table_kit.__file__, "worker", "0.0")
    monkeypatch.setattr(run_module, "run_plan", partial(run_plan, worker=command))
    spec = str(house / "experiments/tables/toy.yaml")
    fingerprint.weights_version.cache_clear()
    arguments = [spec, "--runs", str(house / "runs")]
    assert main(["run", *arguments, "--jobs", "1"]) == 1
    said = capsys.readouterr().out
    line = "the weights of backbone 'big' are not there; make pocket-family trains them"
    assert said.count(f"FAILED: {line}") == said.count(f"FAILED: {line} (8 jobs wait for them)") == 1
    plan = make_plan(load_spec(Path(spec)), house / "runs")
    needs = {n.name for n in plan.jobs if "big" in n.name}
    assert {n.name for n in plan.jobs if store.state(n) == "done"} == {n.name for n in plan.jobs} - needs
    assert len(needs) == 10
    without = [n for n in plan.jobs if n.facts["backbone"] == "big" and n.kind == "eval" and n.parent]
    tested = [n for n in without if n.parent is not None and n.parent.facts["backbone"] == "small"]
    assert [store.failure(n) for n in tested] == [line] * 2, "though their training was done after they had failed"
    errors = Counter(cell.error for cell in collect(plan).values())
    assert errors == {line: 2 * 4, None: 2 * 2}, "every cell that lacks a number says why"
    assert main(["status", *arguments]) == 0
    assert f"{line} (8 jobs wait for them)" in capsys.readouterr().out
    shutil.move(house / "elsewhere", house / "weights/big")
    fingerprint.weights_version.cache_clear()
    assert main(["run", *arguments, "--jobs", "2"]) == 0
    said = capsys.readouterr().out
    assert f"{JOBS - 10} of {JOBS} jobs were already done" in said
    assert f"{JOBS} of {JOBS} jobs done" in said
    assert "FAILED" not in said


def test_a_lock_is_free_when_its_holder_dies(house: Path) -> None:
    """On any system: no module of one system alone is imported for it."""
    plan = toy_plan(house)
    job = plan.jobs[0]
    lock = store.try_lock(plan.root, job)
    assert lock is not None
    assert store.try_lock(plan.root, job) is None
    assert store.try_lock(plan.root, plan.jobs[1]) is not None
    lock.release()
    holder = """if True:
        import sys
        from pathlib import Path
        from craft_lightning.benchmark import plan
        from craft_lightning.benchmark import spec
        from craft_lightning.benchmark import store
        made = plan.make_plan(spec.load_spec(Path(sys.argv[1])), Path(sys.argv[2]))
        held = store.try_lock(made.root, made.jobs[0])
        print("held", flush=True)
        sys.stdin.read()
    """
    command = [sys.executable, "-c", holder, str(plan.spec.path), str(house / "runs")]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    assert store.try_lock(plan.root, job) is None
    process.kill()
    process.communicate()
    assert store.try_lock(plan.root, job) is not None


def test_stale_results_are_named_and_computed_anew(house: Path) -> None:
    run(toy_plan(house))
    (house / "weights" / "small" / "model.bin").write_bytes(b"other")
    fingerprint.weights_version.cache_clear()
    plan = toy_plan(house)
    states = Counter((n.kind, store.state(n)) for n in plan.jobs)
    assert states == {("train", "stale"): 2, ("train", "done"): 2, ("eval", "stale"): 8, ("eval", "done"): 4}
    reasons = {store.why_stale(n) for n in plan.jobs if store.state(n) == "stale"}
    assert reasons == {"weights", "the encoder under test"}
    assert run(plan).already == 6
    assert {store.state(n) for n in plan.jobs} == {"done"}


def test_what_was_edited_while_it_ran_is_no_result(house: Path) -> None:
    plan, base = toy_plan(house), house / "experiments/base.yaml"
    before = base.read_text()
    base.write_text(before + "# another\n")
    found = run(plan, keep_going=True)
    assert len(found.failed) == JOBS
    why = [error for error in found.failed.values() if error != "its training failed"]
    assert why
    assert all("base.yaml was edited after the jobs were planned" in error for error in why)
    base.write_text(before)
    assert not any(map(store.result, toy_plan(house).jobs)), "nothing is stored under what was planned"
    assert not run(toy_plan(house)).failed


def test_two_runners_share_the_work(house: Path) -> None:
    plan = toy_plan(house)
    command = [sys.executable, table_kit.__file__, "run", str(plan.spec.path), str(house / "runs"), "1", "0.05"]
    runners = [subprocess.Popen(command, stdout=subprocess.DEVNULL) for _ in range(2)]
    assert [r.wait(timeout=30) for r in runners] == [0, 0]
    assert journal(house) == Counter(f"{word} {n.name}" for n in plan.jobs for word in ("start", "end"))


def test_ctrl_c_stops_at_once(house: Path) -> None:
    plan = toy_plan(house)
    command = [sys.executable, table_kit.__file__, "run", str(plan.spec.path), str(house / "runs"), "2", "60"]
    # A shell starts background workers with Ctrl-C ignored, and children inherit that: a person's terminal does not.
    process = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    while sum(journal(house).values()) < 2:
        time.sleep(0.02)
    began = time.monotonic()
    workers = children(process.pid)
    process.send_signal(signal.SIGINT)
    process.wait(timeout=30)
    assert time.monotonic() - began < 30, "the jobs take a minute"
    wait_until_gone(workers)
