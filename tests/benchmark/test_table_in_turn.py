"""Sets that are adapted to one after the other: each training begins with the encoder that the last one has left."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import table_kit
import torch
import yaml
from safetensors.torch import load_file

from craft_lightning.benchmark.estimate import TableProgress
from craft_lightning.benchmark.plan import Plan, make_plan, select
from craft_lightning.benchmark.scheduler import run_plan
from craft_lightning.benchmark.spec import load_spec
from craft_lightning.errors import CraftError
from craft_lightning.io import read_mapping
from tiny import write_tiny

ROOT = Path(__file__).resolve().parents[2]
SETS = [f"../datasets/d{n}.yaml" for n in range(4)]
TURN = {"datasets": SETS[:3], "in_turn": True}
COLUMNS = [
    {"id": "learnt", **TURN},
    {"id": "then", **TURN, "datasets": SETS[:2]},
    {"id": "before", **TURN, "test_on": "before"},
    {"id": "others", **TURN, "test_on": "others", "others": SETS[3:]},
]
CHAIN = ["d0/big/craft/seed0", "d1/big/craft-after-d0/seed0", "d2/big/craft-after-d0-d1/seed0"]


def toy_plan(root: Path, columns: Any = COLUMNS, **row: Any) -> Plan:
    rows = [{**row, "eval_on": ["big"]} for row in table_kit.spec_value()["rows"]]
    rows[1] |= {"train_on": ["big"], **row}
    return make_plan(load_spec(table_kit.write_house(root, 4, columns=columns, rows=rows)), root / "runs", (0,))


def test_each_training_begins_with_the_last_one_s_encoder(tmp_path: Path) -> None:
    plan = toy_plan(tmp_path)
    jobs = {job.name: job for job in plan.jobs}
    assert [name for name, job in jobs.items() if job.kind == "train"] == CHAIN
    for number, name in enumerate(CHAIN):
        encoders = [flag for flag in jobs[name].arguments if flag.startswith("--encoder")]
        assert encoders == [f"--encoder={tmp_path / 'runs/pocket' / before}/encoder" for before in CHAIN[:number][-1:]]
        assert [job.name for job in jobs[name].lineage] == CHAIN[: number + 1]
        assert jobs[name].facts["surrogate"] is None
    alone = toy_plan(tmp_path / "alone", [{"id": "d1", "dataset": SETS[1]}])
    assert next(job.key for job in alone.jobs if job.kind == "train") != jobs[CHAIN[1]].key
    chosen = [job.name for job in select(plan, f"{CHAIN[2]}/eval/big").jobs if job.kind == "train"]
    assert chosen == CHAIN, "what is needed comes along"


def test_where_the_encoder_stays_as_it_was_each_training_begins_with_the_last_one_s_weights(tmp_path: Path) -> None:
    plan = toy_plan(tmp_path, tested_from="checkpoint", eval_on=[])
    jobs = {job.name: job for job in plan.jobs}
    for name, before in zip(CHAIN[1:], CHAIN, strict=False):
        checkpoint = f"{tmp_path / 'runs/pocket' / before}/checkpoints/last.ckpt"
        assert jobs[name].arguments[-1] == f"--model.init_args.start_from={checkpoint}"
        assert jobs[f"{before}/eval/big"].arguments[-1] == f"--ckpt_path={checkpoint}"
    assert not any(".start_from=" in flag or flag.startswith("--encoder") for flag in jobs[CHAIN[0]].arguments)


def test_what_is_tested_when(tmp_path: Path) -> None:
    plan = toy_plan(tmp_path)
    tested = {plan.columns[c].id: [job.name for job in jobs] for (n, c), jobs in plan.cells.items() if n == 1}
    assert tested == {
        "learnt": [f"{name}/eval/big" for name in CHAIN],
        "then": [f"{name}/eval/big" for name in CHAIN[:2]],
        "before": [f"{CHAIN[2]}/eval/big+d0", f"{CHAIN[2]}/eval/big+d1"],
        "others": [f"{CHAIN[2]}/eval/big+d3"],
    }
    untouched = [[job.facts["dataset"] for job in plan.cells[0, c]] for c in range(4)]
    assert untouched == [["d0", "d1", "d2"], ["d0", "d1"], ["d0", "d1"], ["d3"]], "a gain is of the same sets"


def test_a_training_that_fails_takes_along_all_that_would_follow(tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("TOY_ROOT", str(tmp_path))
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    (tmp_path / "fail").write_text("d0/big/craft/seed0")
    plan = toy_plan(tmp_path)

    def run() -> TableProgress:
        return run_plan(plan, 2, worker=(sys.executable, table_kit.__file__, "worker", "0"))

    progress = run()
    after = [job.name for job in plan.jobs if job.parent is not None]
    assert progress.failed == {CHAIN[0]: "ValueError: planted"} | dict.fromkeys(after, "its training failed")
    (tmp_path / "fail").unlink()
    assert not run().failed


def test_what_comes_before_needs_a_turn(tmp_path: Path) -> None:
    with pytest.raises(CraftError, match=r"columns\[x\]: test_on: before needs in_turn: true"):
        toy_plan(tmp_path, [{"id": "x", **TURN, "in_turn": False, "test_on": "before"}])


def test_the_table_lorsu_shows_few_examples_of_five_sets(tmp_path: Path) -> None:
    plan = make_plan(load_spec(ROOT / "experiments/tables/lorsu.yaml"), tmp_path)
    trainings = [job for job in plan.jobs if job.kind == "train"]
    assert len(trainings) == 5 * 7 * 3
    assert {len(job.lineage) for job in trainings} == {1, 2, 3, 4, 5}
    counts = {column.id: len(plan.cells[len(plan.lines) - 1, c]) // 3 for c, column in enumerate(plan.columns)}
    assert counts == {"learnt": 5, "then": 4, "before": 4, "others": 5}
    sets = plan.columns[0].datasets
    sizes = {dataset.name: read_mapping(dataset.config)["data"]["train_size"] for dataset in sets if dataset.config}
    assert sizes == {"eurosat": 400, "vqa_rad": 250, "flowers102": 1050, "kvasir": 300, "stanford_dogs": 1200}
    assert not {dataset.name for dataset in sets} & {dataset.name for dataset in plan.columns[3].others}


def rehearsed(tmp_path: Path, name: str, rows: Callable[[Any], Any], twin: bool, **changes: Any) -> Path:
    """Where the real trainings of a tiny model are: a trial of a table of which some ``rows`` are left."""
    shutil.copytree(ROOT / "experiments", tmp_path / "experiments")
    write_tiny(tmp_path / "model", continuous=twin)
    table = tmp_path / f"experiments/tables/{name}.yaml"
    spec = yaml.safe_load(table.read_text()) | changes
    spec["backbones"] = [{"id": backbone["id"], "name": str(tmp_path / "model")} for backbone in spec["backbones"]]
    spec["rows"] = rows({row["id"]: row for row in spec["rows"]})
    table.write_text(yaml.safe_dump(spec))
    command = [sys.executable, "-m", "craft_lightning", "table", "run", name, "--limit=1", "--seeds=0", "--jobs=1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return tmp_path / "runs/pocket-limit1"


def in_turn(tmp_path: Path, method: str) -> tuple[Path, Path]:
    """Folders of two trainings: a method of the table lorsu on one set, and then on the next."""
    runs = rehearsed(tmp_path, "lorsu", lambda rows: [rows["zero_shot"], rows[method]], twin=True)
    first, second = sorted(runs.glob(f"*/pocket-vila/{method}*/seed0"))
    assert second.parent.name.startswith(f"{method}-after-eurosat")
    return first, second


def test_a_projector_learns_again_behind_an_adapted_encoder(tmp_path: Path) -> None:
    def rows(known: Any) -> Any:
        craft = {key: value for key, value in known["old"].items() if key != "keep"} | {"eval_on": ["pocket-vila-u"]}
        return [craft, known["projector_old"] | {"behind": {"row": "old"}, "train_on": ["pocket-vila-u"]}]

    runs = rehearsed(tmp_path, "codebook_growth", rows, twin=False, baseline="", claims=[])
    craft, again = (
        runs / "vqa_rad/pocket-vila-u" / name / "seed0" for name in ("craft", "projector_ft-behind-pocket-vila-u-craft")
    )
    results = [json.loads(f.read_text()) for f in (again / "result.json", again / "eval/pocket-vila-u/result.json")]
    adapted = json.loads((craft / "encoder/config.json").read_text())
    assert [result["encoder"] for result in results] == [adapted, adapted]
    trained = torch.load(again / "checkpoints/last.ckpt", weights_only=True)["state_dict"]
    assert trained
    assert all(".projector." in name for name in trained)


def test_lorsu_goes_on_from_its_encoder(tmp_path: Path) -> None:
    first, second = in_turn(tmp_path, "lorsu")
    assert json.loads((second / "result.json").read_text())["encoder"] is not None
    states = [load_file(folder / "encoder/encoder.safetensors") for folder in (first, second)]
    assert states[0].keys() == states[1].keys()
    same = {name for name, value in states[0].items() if torch.equal(value, states[1][name])}
    assert not any("fc1" in name for name in same)
    assert {name for name in states[0] if "out_proj" in name} <= same


def test_llm_lora_goes_on_from_its_updates(tmp_path: Path) -> None:
    """What is tested at the end on an earlier set is the language model that all trainings have moved."""
    first, second = in_turn(tmp_path, "llm_lora")
    states = [torch.load(f / "checkpoints/last.ckpt", weights_only=True)["state_dict"] for f in (first, second)]
    factors = [{n: v for n, v in state.items() if ".lora_A." in n} for state in states]
    assert factors[0].keys() == factors[1].keys()
    for name, value in factors[0].items():
        # In three steps it goes a little way from where it began; a fresh one, drawn at random, would be far away.
        assert 0 < (factors[1][name] - value).abs().max() < 0.1 * value.abs().max()
    result = json.loads((second / "result.json").read_text())
    assert result["settings"]["start_from"] == str(first.relative_to(tmp_path) / "checkpoints/last.ckpt")
    assert result["encoder"] is None
