"""Rows at several keep ratios (the paper's figure 5): one test measures them all, and a picture shows them."""

from __future__ import annotations

import json
import re
import shutil
import sys
from pathlib import Path
from typing import Any

import pytest
import table_kit
import yaml
from table_kit import spec_value, write_house

from craft_lightning import worker
from craft_lightning.benchmark import store
from craft_lightning.benchmark.claims import FAILS, judge
from craft_lightning.benchmark.plan import Plan, make_plan
from craft_lightning.benchmark.results import gather
from craft_lightning.benchmark.scheduler import message
from craft_lightning.benchmark.spec import load_spec
from craft_lightning.errors import CraftError
from craft_lightning.report.figure import curves, draw, to_section, write_png
from craft_lightning.report.render import save
from tiny import write_tiny

ROOT = Path(__file__).resolve().parents[2]
KEEPS = [1.0, 0.2, 0.6]


def house(root: Path, **row: Any) -> Path:
    rows = spec_value()["rows"]
    rows[1] |= {"train_on": ["big"], "eval_on": ["big"], "keep": KEEPS, **row}
    return write_house(root, rows=rows, baseline="craft-keep1.0")


def value(dataset: int, keep: float, seed: int) -> float:
    return 0.5 + 0.1 * dataset - 0.2 * (1.0 - keep) + 0.01 * seed


def filled(root: Path, runs: Path) -> Plan:
    """A plan whose tests of CRAFT have results."""
    plan = make_plan(load_spec(house(root)), runs, seeds=[0, 2])
    for job in plan.jobs:
        metrics = {"test/exact_match": 0.25}
        if job.parent is not None:
            dataset = int(str(job.facts["dataset"])[1:])
            metrics = {f"test/keep{k}/exact_match": value(dataset, k, int(job.facts["seed"])) for k in KEEPS}
        items = {"all": 8, "seen": 8, "unseen": 0}
        result = {"key": job.key, "job": dict(job.facts), "metrics": metrics, "seconds": 1.0, "items": items}
        store.write_json(job.folder / store.RESULT, result)
    return plan


def test_one_test_measures_all_ratios(tmp_path: Path) -> None:
    plan = make_plan(load_spec(house(tmp_path)), tmp_path / "runs")
    lines = {line.row.id: number for number, line in enumerate(plan.lines) if line.backbone.id == "big"}
    assert list(lines) == ["zero_shot", "craft-keep1.0", "craft-keep0.2", "craft-keep0.6"]
    first, *others = (plan.cells[lines[name], 0] for name in lines if name != "zero_shot")
    assert all(jobs == first for jobs in others)
    (job,) = first
    assert job.name == "d0/big/craft/seed0/eval/big-prune-also1.0-0.2-0.6"
    assert "--prune.enabled=True" not in job.arguments
    assert {"--prune.enabled=true", "--prune.also=[1.0, 0.2, 0.6]"} <= set(job.arguments)
    # The first ratio listed is the one beside the paper's number.
    assert [line.row.paper for line in plan.lines if line.row.curve] == ["CRAFT", "", ""]
    training = next(n for n in plan.jobs if n.kind == "train")
    assert not any("prune" in argument for argument in training.arguments)


def test_each_line_shows_its_ratio(tmp_path: Path) -> None:
    plan = filled(tmp_path, tmp_path / "runs")
    cells = gather(plan).cells
    for number, line in enumerate(plan.lines):
        for column in range(2):
            score = cells[number, column].score
            assert score is not None
            if line.row.keep_ratio is None:
                assert score.mean == pytest.approx(25.0)
            else:
                expected = {seed: 100 * value(column, line.row.keep_ratio, seed) for seed in (0, 2)}
                assert score.by_seed == pytest.approx(expected)


def test_the_picture_shows_the_numbers(tmp_path: Path) -> None:
    plan = filled(tmp_path, tmp_path / "runs")
    results = gather(plan)
    (numbers,) = curves(plan)
    assert [plan.lines[n].row.keep_ratio for n in numbers] == [0.2, 0.6, 1.0]
    figure = draw(plan, results)
    assert figure is not None
    left, right = figure.axes
    for column, drawn in enumerate(left.containers):
        line = drawn.lines[0]
        assert list(line.get_xdata()) == [0.2, 0.6, 1.0]
        assert list(line.get_ydata()) == pytest.approx([100 * value(column, k, 1) for k in (0.2, 0.6, 1.0)])
    changes = [list(drawn.lines[0].get_ydata()) for drawn in right.containers]
    assert changes == [pytest.approx([-16.0, -8.0, 0.0])] * 3  # two sets and their mean
    assert left.get_title(loc="left") == "CRAFT, trained with big, read by big"
    # Named in the order in which the curves end.
    assert [text.get_text() for text in right.get_legend().get_texts()] == ["d1", "d0", "mean"]
    first, second = write_png(tmp_path / "1.png", figure), write_png(tmp_path / "2.png", draw(plan, results) or figure)
    assert first.read_bytes() == second.read_bytes()
    section = to_section(plan, figure)
    assert re.match(r'<section id="toy-figure"><h2>Figure: Toy</h2>.*<svg role="img" aria-label="Toy" ', section)
    ids = re.findall(r'\bid="([^"]+)"', section)
    assert all(name.startswith("toy-") for name in ids)
    assert len(ids) == len(set(ids))
    assert set(re.findall(r'(?:href="#|url\(#)([^")]+)', section)) <= set(ids)
    assert "<?xml" not in section


def test_rendering_writes_the_picture(tmp_path: Path) -> None:
    plan = filled(tmp_path, tmp_path / "runs")
    written = save(plan, gather(plan))
    assert [path.suffix for path in written] == [".md", ".csv", ".tex", ".html", ".png"]
    assert written[-1].read_bytes().startswith(b"\x89PNG")
    assert "![Toy](toy.png)" in written[0].read_text()
    assert '<section id="toy-figure">' in written[3].read_text()


def test_no_curve_no_picture(tmp_path: Path) -> None:
    plan = make_plan(load_spec(write_house(tmp_path)), tmp_path / "runs")
    assert draw(plan, gather(plan)) is None
    assert to_section(plan, None) == ""
    empty = make_plan(load_spec(house(tmp_path / "other")), tmp_path / "runs")
    assert draw(empty, gather(empty)) is None


def test_a_gap_is_left_out_of_its_curve(tmp_path: Path) -> None:
    plan = filled(tmp_path, tmp_path / "runs")
    for job in plan.jobs:
        if job.kind == "eval" and job.facts["dataset"] == "d1":
            (job.folder / store.RESULT).unlink()
    figure = draw(plan, gather(plan))
    assert figure is not None
    assert [len(drawn.lines[0].get_xdata()) for drawn in figure.axes[0].containers] == [3, 0]
    assert [len(drawn.lines[0].get_xdata()) for drawn in figure.axes[1].containers] == [3, 0, 0]


@pytest.mark.parametrize("keeps", [[0.0], [1.5], ["most"], [0.5, 0.5], [1]])
def test_ratios_are_checked(tmp_path: Path, keeps: list[Any]) -> None:
    with pytest.raises(CraftError, match=r"rows\[craft\].keep: must be different ratios in \(0, 1\]"):
        load_spec(house(tmp_path, keep=keeps))


def test_a_claim_reads_the_replies_at_its_rows_ratio(tmp_path: Path) -> None:
    """And pairs each seed of a trained baseline with its own."""
    path = house(tmp_path)
    claims = [{"id": 6, "text": "Pruning costs", "gain": {"row": "craft-keep0.2"}}]
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"claims": claims}))
    plan = make_plan(load_spec(path), tmp_path / "runs", seeds=[0, 1, 2])
    for job in plan.jobs:
        table_kit.write_predictions(job, [False] * 100)
        # Whole seeds differ by more than pruning does, so a seed paired with another's baseline would show.
        right = 20 + 30 * int(job.facts["seed"])
        for keep, lost in ((1.0, 0), (0.2, 10)):
            lines = [
                {"key": str(n), "item": str(n), "prediction": "A", "correct": n < right - lost} for n in range(100)
            ]
            text = "".join(json.dumps(line) + "\n" for line in lines)
            (job.folder / f"predictions.keep{keep}.jsonl").write_text(text)
    (verdict,) = judge(plan)
    assert verdict.word == FAILS
    assert verdict.estimate == -10.0
    assert verdict.high is not None
    assert verdict.high < -5


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The repository's ``experiments/``, with a tiny model in place of pocket-vila-u."""
    root = tmp_path_factory.mktemp("tiny")
    shutil.copytree(ROOT / "experiments", root / "experiments")
    write_tiny(root / "vila-u")
    for table in ("figure5", "pruning_parts"):
        file = root / f"experiments/tables/{table}.yaml"
        spec = yaml.safe_load(file.read_text())
        spec["backbones"][0] |= {"name": str(root / "vila-u")}
        file.write_text(yaml.safe_dump(spec))
    return root


def computed(root: Path, name: str, monkeypatch: Any) -> Plan:
    """A rehearsal of a table of the repository, its jobs computed in this process."""
    monkeypatch.chdir(root)
    monkeypatch.setattr(sys, "argv", ["craft_lightning"])
    plan = make_plan(load_spec(Path(f"experiments/tables/{name}.yaml")), seeds=[0], limit=1)
    events: list[Any] = []
    for job in plan.jobs:
        store.prepare(job)
        worker.attempt(message(job), events.append)
        assert events[-1]["event"] == "done", events
    return plan


def test_figure5_runs_and_draws(tiny: Path, monkeypatch: Any) -> None:
    plan = computed(tiny, "figure5", monkeypatch)
    assert [n.kind for n in plan.jobs] == ["train", "eval"] * 2
    results = gather(plan)
    written = {path.suffix: path for path in save(plan, results)}
    assert written[".png"].read_bytes().startswith(b"\x89PNG")
    assert "<svg" in written[".html"].read_text()
    job = plan.jobs[1]
    metrics = (store.result(job) or {})["metrics"]
    for keep in (0.2, 0.4, 0.6, 0.8, 1.0):
        lines = [json.loads(x) for x in (job.folder / f"predictions.keep{keep}.jsonl").read_text().splitlines()]
        assert len(lines) == 8
        assert metrics[f"test/keep{keep}/exact_match"] == sum(line["correct"] for line in lines) / 8
    assert metrics["test/exact_match"] == metrics["test/keep0.8/exact_match"]


def test_the_parts_of_pruning_run(tiny: Path, monkeypatch: Any) -> None:
    plan = computed(tiny, "pruning_parts", monkeypatch)
    assert [line.row.id for line in plan.lines] == ["none", "random"]
    whole, random = (store.result(plan.cells[line, 0][0]) or {} for line in (0, 1))
    assert "test/prune/tokens" not in whole["metrics"]
    assert random["metrics"]["test/prune/tokens"] == pytest.approx(13 / 16)
    assert random["metrics"]["test/keep1.0/exact_match"] == whole["metrics"]["test/exact_match"]
    assert all(cell.score is not None for cell in gather(plan).cells.values())


def test_the_parts_stand_beside_the_paper_s_averages() -> None:
    plan = make_plan(load_spec(ROOT / "experiments/tables/pruning_parts.yaml"))
    names = {row.paper for row in plan.spec.rows} - {""}
    printed = {name: plan.spec.paper.values[name, "VILA-U-7B", "VILA-U-7B", "avg_printed"] for name in names}
    assert printed == {
        "random": 62.10,
        "quota": 63.55,
        "quota+residual": 63.86,
        "full": 64.05,
        "full, generic prior": 64.01,
    }
    assert len(plan.spec.seeds) == 3
    trainings = [n for n in plan.jobs if n.kind == "train"]
    assert len(trainings) == 12
    assert len(plan.jobs) == 12 + 6 * 12
    # Trainings are those of Table 1, so that both tables share them.
    table1 = make_plan(load_spec(ROOT / "experiments/tables/table1.yaml"), seeds=[0, 1, 2])
    shared = {n.name: n.key for n in table1.jobs}
    assert all(shared[n.name] == n.key for n in trainings)
