"""Adapt once, use elsewhere: what receivers gain, forget and pay, and models that learn to read another's adapter."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import table_kit
import torch
import yaml

from craft_lightning.benchmark import store
from craft_lightning.benchmark.cache_key import weights_version
from craft_lightning.benchmark.claims import HOLDS, judge
from craft_lightning.benchmark.plan import Job, Plan, make_plan
from craft_lightning.benchmark.results import There, gather
from craft_lightning.benchmark.scheduler import message
from craft_lightning.benchmark.spec import load_spec
from craft_lightning.benchmark.table_files import read, stored_table
from craft_lightning.checkpoints.load import load_vlm
from craft_lightning.cli.table import main
from craft_lightning.errors import CraftError
from craft_lightning.models.vlm_spec import VlmSpec
from craft_lightning.report.figure import draw
from craft_lightning.report.render import FORMATS, save
from craft_lightning.report.sections import build_report
from tiny import write_tiny, write_tiny_tower

ROOT = Path(__file__).resolve().parents[2]
TABLE = ROOT / "experiments/tables/portability.yaml"
ADAPTER = "model.init_args.backbone.adapter"
SETS = ["../datasets/d0.yaml", "../datasets/d1.yaml"]
COLUMNS = [
    *({"id": f"d{n}", "dataset": name} for n, name in enumerate(SETS)),
    {"id": "others", "datasets": SETS, "test_on": "others"},
]
CLAIMS = [
    {"id": "again", "text": "It helps", "gain": {"row": "again"}, "above": {"row": "direct", "backbone": "small"}}
]


def house(root: Path, again: Any = None, **changes: Any) -> Path:
    """A table in which ``small`` is to use what was adapted with ``big``."""
    zero, craft = table_kit.spec_value()["rows"]
    direct = craft | {"id": "direct", "train_on": ["big"], "eval_on": ["small", "big"], "tested_from": "adapter"}
    again_row = direct | {"id": "again", "label": "Again", "eval_on": ["small"], "stage2": "../family.yaml"}
    bare = zero | {"id": "bare", "eval_on": ["small"], "stage2": "../family.yaml", "overrides": {ADAPTER: "elsewhere"}}
    there = craft | {"id": "there", "label": "There", "train_on": ["small"], "eval_on": []}
    value = {
        "rows": [zero, direct, again_row, bare, there],
        "columns": COLUMNS,
        "receivers": ["small"],
        "claims": CLAIMS,
    }
    path = table_kit.write_house(root, **(value | changes))
    (path.parents[1] / "family.yaml").write_text(yaml.safe_dump({"again": again or {"steps": 5}, "other": 1}))
    return path


def toy_plan(root: Path, **changes: Any) -> Plan:
    return make_plan(load_spec(house(root, **changes)), root / "runs", (0, 1, 2))


def test_a_receiver_goes_through_stage_2_with_what_was_adapted_elsewhere(tmp_path: Path) -> None:
    plan = toy_plan(tmp_path)
    jobs = {job.name: job for job in plan.jobs}
    name = "d0/big/craft/seed1"
    again, test = jobs[f"{name}/stage2/small"], jobs[f"{name}/stage2/small/eval/small"]
    assert [job.name for job in test.lineage] == [name, again.name, test.name]
    assert test.training is again.training is jobs[name]
    place = tmp_path / "runs/pocket" / name
    assert again.arguments[0] == "surrogate"
    assert again.arguments[3:] == ("--again=small", f"--adapter={place}/adapter", f"--output={place}/stage2/small")
    assert message(again, resuming=True)["arguments"] == list(again.arguments), "it goes on by itself"
    assert f"--model.init_args.backbone.name={place}/stage2/small" in test.arguments
    assert not any(flag.startswith("--adapter") for flag in test.arguments), "the model holds it"
    assert f"--adapter={place}/adapter" in jobs[f"{name}/eval/small"].arguments
    assert (test.facts["surrogate"], test.facts["backbone"]) == ("big", "small")
    assert f"{name}/stage2/small/eval/small+d1" in jobs


def test_an_adapter_by_name_is_learnt_once_for_all_sets(tmp_path: Path) -> None:
    plan = toy_plan(tmp_path)
    bare = next(n for n, line in enumerate(plan.lines) if line.row.id == "bare")
    tests = [job for c in range(3) for job in plan.cells[bare, c]]
    again = tests[0].parent
    assert again is not None
    assert all(job.parent is again for job in tests)
    assert "--adapter=elsewhere" in again.arguments
    assert [job.name.removeprefix(f"{again.name}/eval/") for job in tests] == [f"small+d{n}" for n in (0, 1, 1, 0)]
    assert not any("elsewhere" in flag for flag in tests[0].arguments if flag.startswith(f"--{ADAPTER}"))


def test_what_stage_2_depends_on(tmp_path: Path) -> None:
    def key(root: str, **changes: Any) -> str:
        name = "d0/big/craft/seed0/stage2/small"
        return next(job.key for job in toy_plan(tmp_path / root, **changes).jobs if job.name == name)

    assert key("a") == key("b")
    assert key("a") != key("c", again={"steps": 6})


@pytest.mark.parametrize(
    ("row", "said"),
    [
        ({"tested_from": "encoder"}, r"rows\[again\]: stage2 needs an adapter: tested_from: adapter, or"),
        ({"train_on": []}, r"rows\[again\]: stage2 needs an adapter"),
        ({"stage2": "../famly.yaml"}, r"rows\[again\].stage2: '../famly.yaml' does not exist"),
    ],
)
def test_a_row_that_has_no_adapter_to_learn_is_named(row: Any, said: str, tmp_path: Path) -> None:
    path = house(tmp_path)
    spec = yaml.safe_load(path.read_text())
    spec["rows"][2] |= row
    path.write_text(yaml.safe_dump(spec))
    with pytest.raises(CraftError, match=said):
        load_spec(path)


def accuracy(job: Job) -> int:
    """Right replies of 100: 40 of what is untouched, or of other sets than that adapted to."""
    method = "again" if "/stage2/" in job.name else job.name.split("/")[1]
    gained = {"none": 0, "big": 10, "again": 20, "small": 30}[method] + int(job.facts["seed"])
    training = job.training
    if training is None or training.facts["dataset"] != job.facts["dataset"]:
        return 40 if training is None else 35
    return 40 + gained


@pytest.fixture
def filled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Plan:
    """Every job done, with a cost."""
    monkeypatch.chdir(tmp_path)
    house(tmp_path)
    plan = make_plan(load_spec(Path("experiments/tables/toy.yaml")), seeds=(0, 1, 2))
    for job in plan.jobs:
        if job.kind == "eval":
            table_kit.write_predictions(job, [n < accuracy(job) for n in range(100)])
        else:
            steps, factor = (100, 1.0) if job.kind == "train" else (600, 10.0)
            cost = {"parameters": 50, "seconds": 30.0 * factor, "memory": 1e9}
            table_kit.write_result(job, {}, steps=steps, cost=cost)
    return plan


def test_what_receivers_gain_and_pay(filled: Plan) -> None:
    results = gather(filled)
    report = build_report(filled, results)
    (receiving,) = (section for section in report.sections if section.title.startswith("On the receiving side"))
    assert receiving.header[2:4] == ("Mean gain", "others")
    rows = {row[1].split(",")[0]: row[2:] for row in receiving.rows}
    assert rows["CRAFT"] == ("+11.00 ± 1.00", "-5.00 ± 0.00", "0", "0", "0"), "plugged in"
    assert rows["Again"] == ("+21.00 ± 1.00", "-5.00 ± 0.00", "600", "300", "50")
    assert rows["There"] == ("+31.00 ± 1.00", "-5.00 ± 0.00", "100", "30", "50")
    assert {row[0] for row in receiving.rows} == {"small"}
    line = next(n for n, line in enumerate(filled.lines) if line.row.id == "again")
    cell = results.cells[line, 0]
    assert cell.there == There(600, 300.0, 50)
    assert cell.cost is not None
    assert cell.cost.seconds == 30.0, "of the training that adapted it"


def test_means_and_claims_are_over_the_columns_that_test_the_set_adapted_to(filled: Plan) -> None:
    assert filled.counted == [0, 1]
    report = build_report(filled, gather(filled))
    assert report.scores[0].header[2:] == ("d0", "d1", "others", "Mean")
    again = next(row for row in report.scores[0].rows if row[1].startswith("Again"))
    assert again[2:] == ("61.00 ± 1.00", "61.00 ± 1.00", "35.00 ± 0.00", "61.00 ± 1.00")
    (verdict,) = judge(filled)
    assert (verdict.word, verdict.estimate) == (HOLDS, 10.0)
    assert "of 2 sets" in verdict.detail


def test_its_page_has_a_figure_and_comes_from_the_stored_table_alike(filled: Plan) -> None:
    results = gather(filled)
    figure = draw(filled, results)
    assert figure is not None
    means, others = figure.axes
    assert [bar.get_width() for bar in means.patches] == [31.0, 0.0, 21.0, 11.0]
    assert [bar.get_alpha() for bar in means.patches] == [0.4, 0.4, 0.4, 1.0], "pale where something was trained"
    assert [bar.get_width() for bar in others.patches] == [-5.0, 0.0, -5.0, -5.0]
    assert others.get_title(loc="left") == "others"
    written = {path.suffix: path for path in save(filled, results)}
    assert written[".png"].read_bytes().startswith(b"\x89PNG")
    assert "![Toy](toy.png)" in written[".md"].read_text()
    assert "On the receiving side" in written[".md"].read_text()
    path = stored_table(filled)
    path.parent.mkdir()
    shutil.copy(written[".csv"], path)
    path.with_suffix(".json").write_text("{}")
    stored = read(filled, path)
    assert stored.cells == results.cells
    assert FORMATS["csv"](filled, stored) == written[".csv"].read_text()


def test_a_killed_stage_2_goes_on_and_another_one_begins_anew(tmp_path: Path) -> None:
    job = next(job for job in toy_plan(tmp_path).jobs if job.kind == "stage2")
    assert not store.prepare(job)
    checkpoint = job.folder / "checkpoints/last.ckpt"
    checkpoint.parent.mkdir()
    checkpoint.touch()
    assert store.prepare(job)
    assert not store.prepare(replace(job, key="another"))
    assert not checkpoint.exists()


def test_the_table_shares_the_trainings_of_table_1(tmp_path: Path) -> None:
    plan = make_plan(load_spec(TABLE), tmp_path)
    table1 = make_plan(load_spec(ROOT / "experiments/tables/table1.yaml"), tmp_path, (0, 1, 2))
    known = {job.name: job.key for job in table1.jobs}
    shared = [job for job in plan.jobs if job.kind == "train" and job.name in known]
    assert len(shared) == 3 * 3 * 10, "CRAFT with two models, Vision FT with one"
    assert all(known[job.name] == job.key for job in shared)
    assert sum(job.kind == "stage2" for job in plan.jobs) == 3 * 10 + 1
    assert {column.id for column in plan.columns} == {*(c.id for c in table1.columns), "others"}
    assert all(
        len(plan.cells[n, c]) == (3 if line.surrogate else 1) for n, line in enumerate(plan.lines) for c in range(10)
    )


def test_what_is_not_there_yet_is_told_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    house(tmp_path)
    shutil.rmtree(tmp_path / "weights/big")
    weights_version.cache_clear()
    assert main(["plan", "toy"]) == 0
    said = capsys.readouterr().out
    assert said.count("the weights of backbone 'big' are not there") == 1
    assert said.splitlines()[1] == "29 jobs: 4 train, 3 stage2, 22 eval; results below runs/pocket"


def test_a_rehearsal_with_real_adapters(tmp_path: Path) -> None:
    """A tiny model adapts its adapter, and another one learns to read that; the rest of the table aside."""
    shutil.copytree(ROOT / "experiments", tmp_path / "experiments")
    write_tiny_tower(tmp_path / "tower")
    write_tiny(tmp_path / "home", tower="../tower", continuous=True, words=50)
    write_tiny(tmp_path / "receiver", llm="qwen2", width=32, tower="../tower", continuous=True, words=50, seed=3)
    for name in ("home", "receiver"):  # longer than a conversation
        config = tmp_path / name / "llm/config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"max_position_embeddings": 4096}))
    table = tmp_path / "experiments/tables/portability.yaml"
    spec = yaml.safe_load(table.read_text())
    places = {"pocket-qwen2-langbridge": "receiver", "pocket-vila-langbridge": "home"}
    spec["backbones"] = [{"id": name, "name": str(tmp_path / place)} for name, place in places.items()]
    spec["rows"] = [row for row in spec["rows"] if row["id"] in ("zero_shot", "langbridge_stage2")]
    spec["rows"][0]["eval_on"] = list(places)
    spec |= {"claims": [], "receivers": ["pocket-qwen2-langbridge"]}
    table.write_text(yaml.safe_dump(spec))
    command = [
        sys.executable,
        "-m",
        "craft_lightning",
        "table",
        "run",
        "portability",
        "--limit=1",
        "--seeds=0",
        "--jobs=1",
    ]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "8 of 8 jobs done" in done.stdout
    run = tmp_path / "runs/pocket-limit1/iconqa/pocket-vila-langbridge/projector_ft/seed0"
    result = json.loads((run / "stage2/pocket-qwen2-langbridge/job.json").read_text())
    before = load_vlm(VlmSpec(str(tmp_path / "receiver"), adapter=str(run / "adapter")))
    after = load_vlm(VlmSpec(str(run / "stage2/pocket-qwen2-langbridge")))
    parts = (before.projector, before.language_model)
    assert result["cost"]["parameters"] == sum(p.numel() for part in parts for p in part.parameters())
    assert (result["steps"], result["job"]["kind"]) == (3, "stage2")
    assert result["cost"]["seconds"] > 0
    for one, other in ((before.projector, after.projector), (before.language_model, after.language_model)):
        moved = [not torch.equal(x, y) for x, y in zip(one.parameters(), other.parameters(), strict=True)]
        assert sum(moved) > len(moved) / 2
    assert before.tower.base_hash == after.tower.base_hash
    assert after.conversation == before.conversation
