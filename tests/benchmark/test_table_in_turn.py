"""Sets that are adapted to one after the other: each training begins with the encoder that the last one has left."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import table_kit
import yaml
from safetensors.torch import load_file
from torch import equal

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


@pytest.mark.parametrize(
    ("column", "row", "said"),
    [
        ({"in_turn": False}, {}, "columns[x]: test_on: before needs in_turn: true"),
        (
            {},
            {"tested_from": "checkpoint", "eval_on": []},
            "rows craft leave no encoder, which trainings in turn go on",
        ),
    ],
)
def test_a_turn_that_cannot_be_taken_is_named(column: Any, row: Any, said: str, tmp_path: Path) -> None:
    with pytest.raises(CraftError) as caught:
        toy_plan(tmp_path, [{"id": "x", **TURN, "test_on": "before", **column}], **row)
    assert said in str(caught.value)


def test_the_table_lorsu_shows_few_examples_of_five_sets(tmp_path: Path) -> None:
    plan = make_plan(load_spec(ROOT / "experiments/tables/lorsu.yaml"), tmp_path)
    trainings = [job for job in plan.jobs if job.kind == "train"]
    assert len(trainings) == 5 * 6 * 3
    assert {len(job.lineage) for job in trainings} == {1, 2, 3, 4, 5}
    counts = {column.id: len(plan.cells[len(plan.lines) - 1, c]) // 3 for c, column in enumerate(plan.columns)}
    assert counts == {"learnt": 5, "then": 4, "before": 4, "others": 5}
    sets = plan.columns[0].datasets
    sizes = {dataset.name: read_mapping(dataset.config)["data"]["train_size"] for dataset in sets if dataset.config}
    assert sizes == {"eurosat": 400, "vqa_rad": 250, "flowers102": 1050, "kvasir": 300, "stanford_dogs": 1200}
    assert not {dataset.name for dataset in sets} & {dataset.name for dataset in plan.columns[3].others}


def test_a_rehearsal_of_the_table_lorsu(tmp_path: Path) -> None:
    """Real trainings, of a tiny model: LoRSU on one set, then from that encoder on the next."""
    shutil.copytree(ROOT / "experiments", tmp_path / "experiments")
    write_tiny(tmp_path / "twin", continuous=True)
    table = tmp_path / "experiments/tables/lorsu.yaml"
    spec = yaml.safe_load(table.read_text())
    spec["backbones"] = [{"id": backbone["id"], "name": str(tmp_path / "twin")} for backbone in spec["backbones"]]
    table.write_text(yaml.safe_dump(spec))
    command = [sys.executable, "-m", "craft_lightning", "table", "run", "lorsu", "--limit=1", "--seeds=0", "--jobs=1"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "6 of 6 jobs done" in done.stdout
    first, second = sorted((tmp_path / "runs/pocket-limit1").glob("*/pocket-vila/lorsu*/seed0"))
    assert second.parent.name.startswith("lorsu-after-eurosat")
    assert json.loads((second / "result.json").read_text())["encoder"] is not None
    states = [load_file(folder / "encoder/encoder.safetensors") for folder in (first, second)]
    assert states[0].keys() == states[1].keys()
    same = {name for name, value in states[0].items() if equal(value, states[1][name])}
    assert not any("fc1" in name for name in same)
    assert {name for name in states[0] if "out_proj" in name} <= same
