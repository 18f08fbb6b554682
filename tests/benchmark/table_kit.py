"""A small table on disk, a worker that computes nothing, and a runner to kill."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml

from craft_lightning.benchmark import store
from craft_lightning.benchmark.plan import Job

METHODS = {
    "zero_shot": {"model": {"class_path": "ZeroShot"}},
    "craft": {"model": {"class_path": "Craft", "init_args": {"lambda_commit": 0.1}}},
}


def spec_value(number: int = 2) -> dict[str, Any]:
    """A table like table1: two backbones, zero-shot and CRAFT."""
    return {
        "name": "toy",
        "title": "Toy",
        "base": ["../base.yaml"],
        "baseline": "zero_shot",
        "backbones": [
            {"id": name, "weights": [f"../../weights/{name}"], "paper": paper}
            for name, paper in (("big", "BIG"), ("small", "SMALL"))
        ],
        "rows": [
            {"id": "zero_shot", "label": "Zero-shot", "method": "../methods/zero_shot.yaml"}
            | {"eval_on": ["big", "small"], "paper": "Zero-shot"},
            {"id": "craft", "label": "CRAFT", "method": "../methods/craft.yaml", "train_on": ["small", "big"]}
            | {"eval_on": ["big", "small"], "paper": "CRAFT"},
        ],
        "columns": [{"id": f"d{n}", "dataset": f"../datasets/d{n}.yaml", "paper": f"p{n}"} for n in range(number)],
        "paper": {"source": "a paper", "values": ["paper.csv"]},
    }


def write_house(root: Path, number: int = 2, **changes: Any) -> Path:
    """``experiments/`` and ``weights/`` below ``root``; returns the spec's path. ``changes`` replace top keys."""
    experiments = root / "experiments"
    fragments: dict[str, Any] = {"base": {"trainer": {"max_steps": 10}}}
    fragments |= {f"methods/{name}": value for name, value in METHODS.items()}
    for name in ("big", "small"):
        (root / "weights" / name).mkdir(parents=True, exist_ok=True)
        (root / "weights" / name / "config.json").write_text(json.dumps({"name": name}))
    fragments |= {f"datasets/d{n}": {"data": {"class_path": f"D{n}"}} for n in range(number)}
    fragments["tables/toy"] = spec_value(number) | changes
    for name, value in fragments.items():
        path = experiments / f"{name}.yaml"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(yaml.safe_dump(value))
    names = [f"p{n}" for n in range(number)]
    lines = [["method", "train_surrogate", "inference_backbone", *names, "avg_printed"]]
    lines += [["Zero-shot", "none", b, *["40.00"] * number, "40.00"] for b in ("BIG", "SMALL")]
    lines += [["CRAFT", s, b, *["52.50"] * number, "52.50"] for b in ("BIG", "SMALL") for s in ("SMALL", "BIG")]
    (experiments / "tables" / "paper.csv").write_text("\n".join(map(",".join, lines)) + "\n")
    return experiments / "tables" / "toy.yaml"


def write_result(job: Job, metrics: dict[str, float], items: dict[str, int] | None = None, **more: Any) -> None:
    """A finished job."""
    items = items or {"all": 8, "seen": 8, "unseen": 0}
    value = {"key": job.key, "metrics": metrics, "items": items, "seconds": 1.0, **more}
    store.write_json(job.folder / store.RESULT, value)


def write_predictions(job: Job, correct: Sequence[bool], item: str = "asked") -> None:
    """Replies, right or wrong, and the result that goes with them."""
    lines = [
        {"key": f"{job.facts['dataset']}/{n}", "item": f"{item}{n}", "prediction": "B", "correct": bool(right)}
        for n, right in enumerate(correct)
    ]
    job.folder.mkdir(parents=True, exist_ok=True)
    (job.folder / "predictions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    mean = sum(map(bool, correct)) / len(correct)
    write_result(job, {"test/exact_match": mean}, {"all": len(correct), "seen": len(correct), "unseen": 0})


def accuracy(message: dict[str, Any]) -> float:
    """A number that depends on the job's settings, so that a wrong result shows."""
    return int(message["key"][:6], 16) / 0xFFFFFF


def dummy_worker(seconds: float) -> None:
    """Speaks the protocol of ``craft_lightning.worker``; notes every start and every end in ``journal.txt``.

    A file ``fail`` beside the journal holds a part of a job's name that fails; ``die`` one at which the process ends.
    """
    import os
    import threading

    def watch() -> None:
        lines.extend(sys.stdin)
        os._exit(0)

    lines: list[str] = []
    threading.Thread(target=watch, daemon=True).start()
    say = lambda event: print(json.dumps(event), flush=True)  # noqa: E731
    say({"event": "ready"})
    while True:
        if not lines:
            time.sleep(0.001)
            continue
        message = json.loads(lines.pop(0))
        folder = Path(message["folder"])
        root = Path(os.environ["TOY_ROOT"])
        with (root / "journal.txt").open("a") as journal:
            journal.write(f"start {message['name']}\n")
        for step in range(4):
            say({"event": "step", "step": step, "steps": 4, "loss": 1.0})
            time.sleep(seconds / 4)
        (folder / "log.txt").write_text("some line\nthe last words\n\n")
        if (root / "die").is_file() and (root / "die").read_text() in message["name"]:
            os._exit(7)
        if (root / "fail").is_file() and (root / "fail").read_text() in message["name"]:
            say({"event": "failed", "error": "ValueError: planted"})
            continue
        metrics = {"test/exact_match": accuracy(message)} if message["kind"] == "eval" else {}
        result = {"key": message["key"], "job": message["job"], "metrics": metrics, "seconds": seconds}
        store.write_json(folder / store.RESULT, result | {"items": {"all": 8, "seen": 8, "unseen": 0}})
        with (root / "journal.txt").open("a") as journal:
            journal.write(f"end {message['name']}\n")
        say({"event": "done", "seconds": seconds})


def run_toy(spec: str, runs: str, workers: int, seconds: float) -> None:
    """What the kill test starts and kills."""
    from rich.console import Console

    from craft_lightning.benchmark.estimate import View
    from craft_lightning.benchmark.plan import make_plan
    from craft_lightning.benchmark.scheduler import run_plan
    from craft_lightning.benchmark.spec import load_spec

    command = (sys.executable, __file__, "worker", str(seconds))
    run_plan(make_plan(load_spec(Path(spec)), Path(runs)), workers, View(Console()), worker=command)


if __name__ == "__main__":
    if sys.argv[1] == "worker":
        dummy_worker(float(sys.argv[2]))
    else:
        run_toy(sys.argv[2], sys.argv[3], int(sys.argv[4]), float(sys.argv[5]))
