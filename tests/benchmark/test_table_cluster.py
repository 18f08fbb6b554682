"""Jobs as jobs: the same events, results and failures as from a process here; the cluster is this machine."""

from __future__ import annotations

import queue
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import table_kit
from rich.console import Console
from test_table_run import children, journal, wait_until_gone

from craft_lightning.benchmark import store
from craft_lightning.benchmark.estimate import TableProgress, View
from craft_lightning.benchmark.plan import Plan, make_plan, select
from craft_lightning.benchmark.scheduler import run_plan
from craft_lightning.benchmark.spec import load_spec
from craft_lightning.cli import verbs
from craft_lightning.errors import CraftError
from craft_lightning.workers import Event, SubmittedWorker, cluster_launcher

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("TOY_ROOT", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", f"{ROOT}:{Path(table_kit.__file__).parent}")
    monkeypatch.setattr("craft_lightning.workers.POLL_SECONDS", 0.05)
    return tmp_path


def toy_plan(house: Path) -> Plan:
    """A training and its two tests."""
    return select(make_plan(load_spec(table_kit.write_house(house, 1)), house / "runs"), "d0/big/craft")


class Watcher(View):
    """Notes the steps that were told."""

    def __init__(self) -> None:
        super().__init__(Console(quiet=True))
        self.steps: set[tuple[str, int | None]] = set()

    def update(self, progress: TableProgress) -> None:
        self.steps |= {(r.job.name, r.steps) for r in progress.running if r.step}


def run(plan: Plan, house: Path, view: View | None = None) -> TableProgress:
    command = (sys.executable, table_kit.__file__, "worker", "0.1")
    return run_plan(plan, 2, view, worker=command, launcher=cluster_launcher(house / "jobs", "local"))


def test_jobs_compute_what_processes_compute(house: Path) -> None:
    plan, view = toy_plan(house), Watcher()
    progress = run(plan, house, view)
    assert (sorted(progress.done), progress.failed) == (sorted(n.name for n in plan.jobs), {})
    assert journal(house) == {f"{word} {n.name}": 1 for n in plan.jobs for word in ("start", "end")}
    assert (plan.jobs[0].name, 4) in view.steps, "the live view sees the steps of a job"
    assert run(plan, house).already == len(plan.jobs)


def test_a_failure_and_a_dead_worker_stay_where_they_are(house: Path) -> None:
    plan = toy_plan(house)
    (house / "fail").write_text("eval/big")
    (house / "die").write_text("eval/small")
    progress = run(plan, house)
    assert list(progress.done) == ["d0/big/craft/seed0"]
    assert progress.failed["d0/big/craft/seed0/eval/big"] == "ValueError: planted"
    died = progress.failed["d0/big/craft/seed0/eval/small"]
    assert died.startswith("worker job ")
    assert died.endswith("last line: the last words")
    assert store.failure(plan.jobs[2]) in progress.failed.values()


class FakeJob:
    """A job whose answers arrive in halves: (text, whether it has ended) at each look."""

    job_id, state = "7", "DONE"

    def __init__(self, path: Path, looks: list[tuple[str, bool]]) -> None:
        self.path, self.looks = path, looks

    def done(self) -> bool:
        text, ended = self.looks.pop(0)
        with self.path.open("a") as file:
            file.write(text)
        return ended


@pytest.mark.parametrize("last", ["done", "exit"])
def test_half_a_line_waits_for_its_other_half(last: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("craft_lightning.workers.POLL_SECONDS", 0.0)
    answers = tmp_path / "answers.jsonl"
    answers.touch()
    looks = [('{"event": "re', False), ('ady"}\n{"event": "step", ', False), ('"step": 3}\n', last == "exit")]
    looks += [('{"event": "done"}\n', True)] if last == "done" else []
    events: queue.Queue[Event] = queue.Queue()
    SubmittedWorker([], events, None, tmp_path)._follow(FakeJob(answers, looks), answers)
    assert [events.get_nowait()[1]["event"] for _ in range(events.qsize())] == ["ready", "step", last]


def test_ctrl_c_cancels_the_jobs(house: Path) -> None:
    plan = toy_plan(house)
    code = (
        "import sys, table_kit\nfrom pathlib import Path\n"
        "from craft_lightning.workers import cluster_launcher\n"
        "from craft_lightning.benchmark.plan import make_plan\n"
        "from craft_lightning.benchmark.scheduler import run_plan\n"
        "from craft_lightning.benchmark.spec import load_spec\n"
        "command = (sys.executable, table_kit.__file__, 'worker', '60')\n"
        f"plan = make_plan(load_spec(Path({str(plan.spec.path)!r})), Path({str(house / 'runs')!r}))\n"
        f"run_plan(plan, 1, worker=command, launcher=cluster_launcher(Path({str(house / 'jobs')!r}), 'local'))\n"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", code],
        stderr=subprocess.DEVNULL,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    while not journal(house):
        time.sleep(0.02)
        assert process.poll() is None
    jobs = children(process.pid)
    workers = [pid for job in jobs for task in children(job) for pid in children(task)]
    assert len(workers) == 1
    process.send_signal(signal.SIGINT)
    process.wait(timeout=30)
    wait_until_gone([*jobs, *workers])


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (["timeout_min"], "--slurm takes KEY=VALUE, got 'timeout_min'"),
        (["timeout_min=soon"], 'local: Parameter "timeout_min" expected type'),
        (["colour=red"], "local: Parameter .colour. need to be prefixed"),
    ],
)
def test_a_mistaken_setting_is_one_line(settings: list[str], expected: str, tmp_path: Path) -> None:
    with pytest.raises(CraftError, match=expected):
        cluster_launcher(tmp_path, "local", settings)


def test_the_verb_names_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = verbs.table().parse_args(["run", "table1", "--launcher", "slurm", "--slurm", "timeout_min=9", "nodes=1"])
    assert (given.launcher, given.slurm) == ("slurm", ["timeout_min=9", "nodes=1"])
    monkeypatch.setitem(sys.modules, "submitit", None)
    with pytest.raises(CraftError, match=r"needs submitit: pip install -e '\.\[slurm\]'"):
        cluster_launcher(tmp_path, "slurm")
