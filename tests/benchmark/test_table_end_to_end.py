"""End to end with random tiny checkpoints: the real worker, the real methods, the real data, the real table file.

The slowest tests of this folder (imports of a worker process, some training steps); everything else about the runner is
tested with a worker that computes nothing.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.pytorch import Callback, Trainer
from safetensors.torch import load_file

from callbacks.report_files import LearningCurves
from craft_lightning import worker
from craft_lightning.benchmark import store
from craft_lightning.benchmark.plan import Job, Plan, make_plan, metrics_read
from craft_lightning.benchmark.scheduler import message
from craft_lightning.benchmark.spec import load_spec
from craft_lightning.cli import run as cli
from craft_lightning.methods import load_method
from craft_lightning.methods.zero_shot import ZeroShot
from data_modules.datamodule import VqaDataModule
from tiny import write_tiny

ROOT = Path(__file__).resolve().parents[2]

FACTS = {"method", "settings", "encoder", "seed", "metrics", "rows", "steps", "trained", "codebook_hash", "strategy"}
FACTS |= {"device", "seconds", "peak_memory", "data", "config_hash", "versions", "git"}
"""What ``result.json`` says beside what ``job.json`` says of a job."""

TERMS = ("sal", "commitment", "contrastive")


@pytest.fixture(scope="module")
def house(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository's ``experiments/``, with tiny models in place of the shipped ones: two of one codebook, a twin."""
    root = tmp_path_factory.mktemp("tiny")
    experiments = root / "experiments"
    shutil.copytree(ROOT / "experiments", experiments)
    write_tiny(root / "vila")
    (root / "qwen").mkdir()
    write_tiny(root / "qwen", llm="qwen2", width=32, tower="../vila/vision_tower")
    (root / "twin").mkdir()
    write_tiny(root / "twin", tower="../vila/vision_tower", continuous=True)
    tiny = {"pocket-vila-u": "vila", "pocket-vila": "twin", "pocket-qwen2-xs": "qwen"}
    table = experiments / "tables/table1.yaml"
    spec = yaml.safe_load(table.read_text())
    spec["backbones"] = [{**b, "name": str(root / tiny[b["id"]])} for b in spec["backbones"] if b["id"] in tiny]
    for row in spec["rows"]:
        row |= {key: [name for name in row[key] if name in tiny] for key in ("train_on", "eval_on") if key in row}
    table.write_text(yaml.safe_dump(spec))
    return root


def run_table(house: Path, *flags: str) -> str:
    command = [sys.executable, "-m", "craft_lightning", "table", "run", "table1", "--limit", "1", "--jobs", "1", *flags]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=house, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_the_limited_table_runs_and_a_second_call_is_instant(house: Path) -> None:
    text = run_table(house)
    assert "0 of 6 jobs were already done" in text
    assert "6 of 6 jobs done" in text
    assert "missing" not in text
    assert "Test items: IconQA 8, OCR-VQA 8." in text
    root = house / "runs/pocket-limit1"
    assert (root / "tables/table1.md").read_text().count("CRAFT, keep 0.8, trained with pocket-qwen2-xs") == 3
    evaluations = sorted(root.glob("*/*/*/seed0/eval/*"))
    assert len(evaluations) == 4
    for folder in evaluations:
        lines = [json.loads(line) for line in (folder / "predictions.jsonl").read_text().splitlines()]
        assert len(lines) == len({line["key"] for line in lines}) == 8
        found = json.loads((folder / "job.json").read_text())
        assert found["metrics"]["test/exact_match"] == sum(line["correct"] for line in lines) / 8
    trainings = sorted(root.glob("*/*/craft/seed0"))
    assert len(trainings) == 2
    for folder in (*evaluations, *trainings):
        whole, job = (json.loads((folder / name).read_text()) for name in ("result.json", "job.json"))
        assert set(whole) >= FACTS
        assert whole["verb"] == ("fit" if folder in trainings else "test")
        assert [len(h) for h in (whole["config_hash"], whole["codebook_hash"], whole["data"]["world_hash"])] == [64] * 3
        assert whole["data"]["splits"]["train" if folder in trainings else "test"]
        assert bool(whole["trained"]["parts"]) == (folder in trainings or "craft" in folder.parts)
        assert 0 < whole["seconds"] <= job["seconds"]
        assert whole["peak_memory"] > 0
        assert job["metrics"].items() <= whole["metrics"].items()
        made = {"date", "machine", "arithmetic"} | ({"commit", "changed"} if whole["git"] else set())
        assert set(job["made"]) == made
        assert job["made"]["arithmetic"] == whole["arithmetic"]
        assert set(whole["arithmetic"]) == {"processor", "threads", "torch", "onednn", "mkl"}
        assert whole["arithmetic"]["threads"] == 1
        spent = job["spent"]
        assert spent["evaluation"] > 0 < spent["processor"]
        assert (spent["training"] > 0) == (folder in trainings)
        assert spent["training"] + spent["evaluation"] < job["seconds"]
    for folder in trainings:
        cost = json.loads((folder / "job.json").read_text())["cost"]
        assert cost["parameters"] == json.loads((folder / "result.json").read_text())["trained"]["count"]
        assert 0 < cost["seconds"] < json.loads((folder / "job.json").read_text())["seconds"]
        assert cost["memory"] > 1e8
        lines = [json.loads(line) for line in (folder / "curves.jsonl").read_text().splitlines()]
        assert [line["step"] for line in lines] == [1, 2, 3, 3]
        assert "val/accuracy" in lines.pop(), "the last step is validated"
        assert all(
            line["train/loss"] == pytest.approx(sum(line[f"train/{t}"] for t in TERMS), abs=1e-4) for line in lines
        )
    for folder in evaluations:
        pictures = sorted(p.name for p in (folder / "examples").glob("*"))
        assert pictures == ([] if "craft" in folder.parts else [f"{n:05}.png" for n in range(8)])
    assert root.joinpath("tables/table1.html").read_text().count("data:image/png;base64,") == 2 * 8
    marks = {path: path.stat().st_mtime_ns for path in root.rglob("job.json")}
    assert "6 of 6 jobs were already done" in run_table(house)
    assert {path: path.stat().st_mtime_ns for path in root.rglob("job.json")} == marks


class _Stop(Callback):
    """Ends a training as abruptly as Python can, in its fourth step."""

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == 3:
            raise KeyboardInterrupt


def _short_plan(house: Path, runs: str, train_size: int = 24, table: str = "table1") -> Plan:
    base = house / "experiments/base.yaml"
    settings = yaml.safe_load((ROOT / "experiments/base.yaml").read_text())
    settings["trainer"] |= {"max_steps": 5, "val_check_interval": 1}
    settings["data"] |= {"train_size": train_size, "val_size": 8, "test_size": 8}
    settings["checkpoint"] = {"every_n_train_steps": 2}
    base.write_text(yaml.safe_dump(settings))
    return make_plan(load_spec(house / f"experiments/tables/{table}.yaml"), house / runs)


def _train_node(plan: Plan) -> Job:
    return next(n for n in plan.jobs if n.name == "eurosat/pocket-qwen2-xs/craft/seed0")


@pytest.mark.parametrize(("train_size", "kept"), [(24, 3), (96, 2)], ids=["epochs", "in the middle of one"])
def test_an_interrupted_training_goes_on_and_ends_with_the_same_numbers(
    train_size: int, kept: int, house: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It loses the steps since its last checkpoint, at the end of an epoch or every so many steps, and no more."""
    plans = [_short_plan(house, f"{name}{train_size}", train_size) for name in ("whole", "cut")]
    whole, cut = map(_train_node, plans)
    assert whole.key == cut.key
    monkeypatch.setattr(sys, "argv", ["craft_lightning"])
    events: list[Any] = []
    assert not store.prepare(whole)
    worker.attempt(message(whole), events.append)
    assert events[-1]["event"] == "done", events

    assert not store.prepare(cut)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        cli.build_cli(cut.arguments, callbacks=[LearningCurves(), _Stop()])
    assert store.state(cut) == "missing"
    assert store.prepare(cut), "a checkpoint is there"
    assert torch.load(cut.folder / store.CHECKPOINT, weights_only=True, map_location="cpu")["global_step"] == kept
    worker.attempt(message(cut, resuming=True), events.append)
    assert events[-1]["event"] == "done", events

    one, other = store.result(whole), store.result(cut)
    assert one is not None
    assert other is not None
    assert other["steps"] == one["steps"] == 5
    assert other["metrics"] == pytest.approx(one["metrics"], abs=0)
    curves = [[json.loads(x) for x in (n.folder / "curves.jsonl").read_text().splitlines()] for n in (whole, cut)]
    assert curves[0] == curves[1], "every step once, as if nothing had happened"
    first, second = (load_file(n.folder / "encoder/encoder.safetensors") for n in (whole, cut))
    assert all((first[name] == second[name]).all() for name in first)


@pytest.mark.parametrize("gap", ["before the last validation", "before result.json", "before job.json"])
def test_a_training_without_steps_left_is_validated(gap: str, house: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Killed between its last checkpoint and its result: the second worker ends with what the first would have."""
    monkeypatch.setattr(sys, "argv", ["craft_lightning"])
    job = _train_node(_short_plan(house, f"gap {gap[7:12]}", 96))
    events: list[Any] = []
    store.prepare(job)
    worker.attempt(message(job, metrics=["val/accuracy"]), events.append)
    whole, curves = store.result(job), (job.folder / "curves.jsonl").read_text()
    assert whole is not None, events
    replies = (job.folder / "predictions.jsonl").read_text()
    for name in ("job.json", "result.json")[: 1 if gap == "before job.json" else 2]:
        (job.folder / name).unlink()
    if gap == "before the last validation":
        (job.folder / "predictions.jsonl").unlink()
        (job.folder / "curves.jsonl").write_text("".join(curves.splitlines(keepends=True)[:-1]))
    assert store.prepare(job), "a checkpoint is there"
    worker.attempt(message(job, resuming=True, metrics=["val/accuracy"]), events.append)
    again = store.result(job)
    assert again is not None, events[-1]
    assert again["steps"] == 5
    validated = {k: v for k, v in whole["metrics"].items() if k.startswith("val/")}
    assert len(validated) > 5
    assert {k: v for k, v in again["metrics"].items() if k.startswith("val/")} == validated
    assert again["items"] == whole["items"]
    assert json.loads((job.folder / "result.json").read_text())["rows"] == 8
    assert (job.folder / "predictions.jsonl").read_text() == replies
    assert (job.folder / "curves.jsonl").read_text() == curves
    assert again["cost"]["seconds"] == pytest.approx(whole["cost"]["seconds"], abs=0.002), "of the steps, once taken"
    assert again["cost"]["memory"] >= 0.9 * whole["cost"]["memory"]


def test_a_result_without_the_table_s_metric_is_a_failure(house: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["craft_lightning"])
    plan = _short_plan(house, "lacking")
    job = next(n for n in plan.jobs if n.name == "eurosat/none/zero_shot/seed0/eval/pocket-vila-u")
    assert metrics_read(plan)[job.name] == ("test/exact_match",)
    monkeypatch.setattr(ZeroShot, "_log_metrics", lambda *args: None)
    events: list[Any] = []
    store.prepare(job)
    worker.attempt(message(job, metrics=metrics_read(plan)[job.name]), events.append)
    assert events[-1]["event"] == "failed"
    assert (
        events[-1]["error"] == f"{job.name} found no test/exact_match, which the table reads (found: test/prune/keep)"
    )
    assert store.result(job) is None


@pytest.mark.parametrize("method", ["projector_ft", "llm_lora", "vision_ft-lambda_contrastivenull"])
def test_what_a_baseline_trained_is_what_is_tested(
    house: Path, tmp_path: Path, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "argv", ["craft_lightning"])
    table = "table1" if method == "projector_ft" else "more_baselines"
    plan = _short_plan(house, "baselines", table=table)
    name = f"kvasir/pocket-vila/{method}/seed0"
    train, test = (next(n for n in plan.jobs if n.name == name + end) for end in ("", "/eval/pocket-vila"))
    events: list[Any] = []
    for job in (train, test):
        store.prepare(job)
        worker.attempt(message(job), events.append)
        assert events[-1]["event"] == "done", events
    trained = load_method(train.folder / "checkpoints/last.ckpt")
    data = VqaDataModule(trained.backbone, "kvasir", train_size=24, val_size=8, test_size=8)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_checkpointing": False}
    trainer = Trainer(accelerator="cpu", default_root_dir=tmp_path, **quiet)
    expected = [p.text for p in trainer.predict(trained, data)[0]]
    lines = [json.loads(line) for line in (test.folder / "predictions.jsonl").read_text().splitlines()]
    assert [line["prediction"] for line in lines] == expected
    assert expected != [p.text for p in trainer.predict(ZeroShot(backbone=trained.backbone), data)[0]]
