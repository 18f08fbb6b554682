"""CRAFT without one of its losses, or with a part of its codebook (Tables 5 and 6), and a scalar over the steps."""

from __future__ import annotations

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import table_kit

from craft_lightning.benchmark.plan import Plan, make_plan
from craft_lightning.benchmark.results import gather, paper_scores
from craft_lightning.benchmark.spec import find_table, load_collection, load_spec
from craft_lightning.benchmark.table_files import read, to_csv, to_json
from craft_lightning.report.figure import draw
from craft_lightning.report.render import save
from craft_lightning.report.sections import build_report

NAME = "train/codebook_distance"
SCALES = ("pocket", "paper")


def plans(scale: str, *names: str) -> list[Plan]:
    return [make_plan(load_spec(find_table(name, scale), scale), seeds=(0, 1, 2)) for name in names]


@pytest.mark.parametrize("scale", SCALES)
def test_the_full_rows_of_table_5_are_those_of_table_1(scale: str) -> None:
    one, five = plans(scale, "table1", "table5")
    known = {job.name: job.key for job in one.jobs}
    shared = [job for job in five.jobs if job.name in known]
    assert all(known[job.name] == job.key for job in shared)
    own = [job for job in five.jobs if job.name not in known]
    assert len(shared) == 4 * (1 + 3 + 3), "zero-shot, trainings and tests on four sets"
    assert len(own) == 3 * 4 * (3 + 3)


@pytest.mark.parametrize("scale", SCALES)
def test_a_row_of_table_5_drops_one_weight_and_nothing_else(scale: str) -> None:
    (five,) = plans(scale, "table5")
    trained = {job.name: job.arguments for job in five.jobs if job.kind == "train"}
    full = set(trained[next(name for name in trained if name.endswith("/craft/seed0"))])
    for term in ("contrastive", "commitment", "sal"):
        name = next(n for n in trained if n.endswith(f"/craft-lambda_{term}0/seed0") and n.startswith("vqa_rad/"))
        own = set(trained[name]) - full
        assert {flag for flag in own if "default_root_dir" not in flag} == {f"--model.init_args.lambda_{term}=0"}


@pytest.mark.parametrize("scale", SCALES)
def test_the_paper_s_table_5_stands_beside_ours(scale: str) -> None:
    (five,) = plans(scale, "table5")
    means = {line.row.paper: scores[-1] for line in five.lines if any(scores := paper_scores(five, line))}
    assert {name: f"{score.mean:.2f}" for name, score in means.items() if score} == {
        "Zero-shot": "43.02",
        "all losses": "64.05",
        "without contrastive": "52.41",
        "without commitment": "14.04",
        "without SAL": "53.01",
    }
    sides = {claim.id: (claim.gain.row, claim.above and claim.above.row) for claim in five.spec.claims}
    assert {a.split("-")[0] for a, _ in sides.values()} == {"full", "no_contrastive", "no_sal"}
    assert sides["3e"] == ("no_sal-keep0.8", "no_commitment-keep0.8")
    interaction = {claim.id: claim.columns for claim in five.spec.claims if claim.columns}
    assert interaction == {"3f": ("vqa_rad", "iconqa"), "3g": ("stanford_dogs", "plantvillage")}
    assert sides["3f"] == sides["3g"][::-1] == ("no_contrastive-keep0.8", "no_sal-keep0.8")


@pytest.mark.parametrize("scale", SCALES)
def test_table_6_trains_and_tests_each_share_with_itself(scale: str) -> None:
    one, six = plans(scale, "table1", "table6")
    known = {job.name: job.key for job in one.jobs}
    shared = [job for job in six.jobs if job.name in known]
    assert all(known[job.name] == job.key for job in shared)
    assert len(shared) == 5 * (1 + 3 + 3), "those of the whole codebook"
    assert len(six.jobs) == 4 * len(shared)
    setting = "--model.init_args.backbone.codebook_share="
    found = dict[str, set[str]]()
    for job in six.jobs:
        flags = [flag.removeprefix(setting) for flag in job.arguments if flag.startswith(setting)]
        found.setdefault(str(job.facts["backbone"]), set()).add(*(flags or ["1"]))
        assert job.facts["surrogate"] in (None, job.facts["backbone"])
    (model,) = (name for name, flags in found.items() if flags == {"1"})
    assert found == {f"{model}-10": {"0.1"}, f"{model}-25": {"0.25"}, f"{model}-50": {"0.5"}, model: {"1"}}


@pytest.mark.parametrize("scale", SCALES)
def test_the_paper_s_table_6_stands_beside_ours(scale: str) -> None:
    (six,) = plans(scale, "table6")
    found = {(line.row.paper, line.backbone.paper): paper_scores(six, line)[-1] for line in six.lines}
    assert {who: f"{score.mean:.2f}" for who, score in found.items() if score} == {
        ("Zero-shot", "VILA-U-7B"): "56.94",
        ("CRAFT", "VILA-U-7B, 10 %"): "32.28",
        ("CRAFT", "VILA-U-7B, 25 %"): "38.48",
        ("CRAFT", "VILA-U-7B, 50 %"): "58.08",
        ("CRAFT", "VILA-U-7B"): "76.71",
    }
    pairs = [(claim.gain.surrogate, claim.above and claim.above.surrogate) for claim in six.spec.claims]
    ids = [backbone.id for backbone in six.spec.backbones]
    assert pairs == [(more, less) for less, more in itertools.pairwise(ids)]
    assert not any(claim.over_own for claim in six.spec.claims), "accuracies, not gains"


@pytest.mark.parametrize("name", ["table5", "table6", "table7"])
def test_what_a_table_claims_is_a_part_of_a_claim_of_the_paper(name: str) -> None:
    whole = load_collection(find_table("all"))
    assert name in whole.tables
    for claim in load_spec(find_table(name)).claims:
        assert [one.id for one in whole.claims if one.has_part(claim.id)] == [claim.id[0]]


def traced(root: Path) -> Plan:
    """Two sets, two seeds, two ways to test one training, and another training: distances grow by a step a step."""
    rows: list[dict[str, Any]] = table_kit.spec_value()["rows"]
    alone = {"train_on": ["big"], "eval_on": []}
    rows = [rows[0], rows[1] | alone | {"keep": [0.8, 1.0]}]
    rows.append(rows[1] | alone | {"id": "less", "label": "Less", "keep": [], "overrides": {"model.x": 0}})
    path = table_kit.write_house(root, rows=rows, trace=NAME)
    plan = make_plan(load_spec(path), root / "runs", (0, 1))
    for job in plan.jobs:
        names = ("test/exact_match", "test/keep0.8/exact_match", "test/keep1.0/exact_match")
        table_kit.write_result(job, dict.fromkeys(names, 0.5))
        if job.kind == "train":
            start = (
                1.0 + 2 * job.facts["seed"] + (10.0 if "-x0" in job.name else 0.0) + 4 * (job.facts["dataset"] == "d1")
            )
            lines = [{"step": s, "train/loss": 1.0, NAME: start + s} for s in range(1, 11)]
            text = "".join(json.dumps(line) + "\n" for line in [*lines, {"step": 10, "val/accuracy": 0.5}])
            (job.folder / "curves.jsonl").write_text(text)
    return plan


def test_a_trace_is_the_mean_over_seeds_and_shown_once_a_training(tmp_path: Path) -> None:
    plan = traced(tmp_path)
    results = gather(plan)
    assert results.cells[1, 0].trace == results.cells[2, 0].trace == {s: 2.0 + s for s in range(1, 11)}
    assert results.cells[3, 1].trace == {s: 16.0 + s for s in range(1, 11)}
    assert results.cells[0, 0].trace == {}, "nothing was trained"
    (section,) = [s for s in build_report(plan, results).sections if s.title.startswith(NAME)]
    assert section.header == ("Backbone", "Method", "Step 1", "Step 3", "Step 5", "Step 7", "Step 10")
    assert section.rows == (
        ("big", "CRAFT", "5", "7", "9", "11", "14"),
        ("big", "Less", "15", "17", "19", "21", "24"),
    )


def test_a_training_without_curves_has_no_trace(tmp_path: Path) -> None:
    plan = traced(tmp_path)
    for job in plan.jobs:
        if job.facts["dataset"] == "d1" and "-x0" in job.name:
            (job.folder / "curves.jsonl").unlink(missing_ok=True)
    (section,) = [s for s in build_report(plan, gather(plan)).sections if s.title.startswith(NAME)]
    assert section.rows[1] == ("big", "Less", *"-----")


def test_a_trace_is_stored_and_drawn_alike_from_there(tmp_path: Path) -> None:
    plan = traced(tmp_path)
    results = gather(plan)
    (tmp_path / "toy.csv").write_text(to_csv(plan, results))
    (tmp_path / "toy.json").write_text(to_json(results))
    again = read(plan, tmp_path / "toy.csv")
    assert {place: cell.trace for place, cell in again.cells.items()} == {
        place: cell.trace for place, cell in results.cells.items()
    }
    for found in (results, again):
        figure = draw(plan, found)
        assert figure is not None
        assert [axes.get_title(loc="left") for axes in figure.axes] == ["d0", "d1"]
        craft, less = figure.axes[1].lines
        assert list(craft.get_ydata()) == [6.0 + s for s in range(1, 11)]
        assert list(less.get_ydata()) == [16.0 + s for s in range(1, 11)]
        assert [text.get_text() for text in figure.legends[0].get_texts()] == ["CRAFT", "Less"]
    assert "toy.png" in [path.name for path in save(plan, results)]
