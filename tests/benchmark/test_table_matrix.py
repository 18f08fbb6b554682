"""Every surrogate behind every backbone: the matrix, its means, what is below 0, and claims about pairs of models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import table_kit

from craft_lightning.benchmark.claims import FAILS, HOLDS, UNDECIDED, judge
from craft_lightning.benchmark.plan import Plan, make_plan
from craft_lightning.benchmark.results import gather, mean_of
from craft_lightning.benchmark.spec import find_table, load_spec
from craft_lightning.errors import CraftError
from craft_lightning.report.figure import draw
from craft_lightning.report.matrix import matrices
from craft_lightning.report.render import save, to_readme
from craft_lightning.report.sections import build_report

ROOT = Path(__file__).resolve().parents[2]
GAINS = {("small", "big"): 0.1, ("big", "big"): 0.2, ("small", "small"): 0.3, ("big", "small"): -0.04}
"""By surrogate and backbone, at d0; at d1 all gains are 0.08 less."""
CLAIMS = [
    {"id": "2a", "text": "Elsewhere", "gain": {"row": "craft", "pairs": "different"}},
    {
        "id": "2b",
        "text": "More at home",
        "gain": {"row": "craft", "pairs": "same"},
        "above": {"row": "craft", "pairs": "different"},
    },
    {
        "id": "less",
        "text": "Less at home",
        "gain": {"row": "craft", "pairs": "different"},
        "above": {"row": "craft", "pairs": "same"},
    },
]


def toy(root: Path, skip: str = "nothing", **changes: Any) -> Plan:
    plan = make_plan(load_spec(table_kit.write_house(root, claims=CLAIMS, **changes)), root / "runs", (0, 1, 2))
    for job in plan.jobs:
        facts = job.facts
        gain = 0.0 if facts["surrogate"] is None else GAINS[facts["surrogate"], facts["backbone"]]
        gain -= 0.08 * (facts["dataset"] == "d1") * (facts["surrogate"] is not None)
        right = round(100 * (0.4 + gain))
        if skip not in job.name:
            table_kit.write_predictions(job, [n < right for n in range(100)])
    return plan


def test_means_of_all_pairs_of_one_model_and_of_two_and_what_is_below_0(tmp_path: Path) -> None:
    plan = toy(tmp_path)
    report = build_report(plan, gather(plan))
    titles = [section.title for section in report.sections]
    assert titles[1] == "CRAFT: mean gain over Zero-shot by surrogate, points"
    matrix = report.sections[1]
    assert matrix.header == ("Backbone", "Method", "small", "big")
    assert [row[0] for row in matrix.rows] == ["small", "SMALL", "big", "BIG"]
    assert [[text.split(" ")[0] for text in row[2:]] for row in matrix.rows] == [
        ["+26.00", "-8.00"],
        ["+12.50", "+12.50"],
        ["+6.00", "+16.00"],
        ["+12.50", "+12.50"],
    ]
    assert matrix.paper == (False, True, False, True)
    pairs = report.pairs
    assert pairs.header[2:] == ("All pairs", "Same model", "Different models", "Sets below 0")
    assert [text.split(" ±")[0] for text in pairs.rows[0]] == ["CRAFT", "2 x 2", "+10.00", "+21.00", "-1.00", "2 of 8"]
    assert pairs.rows[1] == ("paper: CRAFT", "2 x 2", "+12.50", "+12.50", "+12.50", "0 of 8")
    readme = to_readme(plan, gather(plan))
    assert readme.startswith("Surrogates and backbones: mean gain over Zero-shot, points, mean ± ")
    assert "| CRAFT | 2 x 2 | +10.00 ± 0.00 | +21.00 ± 0.00 | -1.00 ± 0.00 | 2 of 8 |" in readme


def test_a_hole_is_no_number_of_any_mean_that_needs_it(tmp_path: Path) -> None:
    plan = toy(tmp_path, skip="d1/big/craft/seed0/eval/small")
    for job in plan.jobs:
        if "d1/big/craft/seed" in job.name and job.name.endswith("eval/small"):
            (job.folder / "job.json").unlink(missing_ok=True)
    report = build_report(plan, gather(plan))
    assert [text.split(" ±")[0] for text in report.pairs.rows[0][2:]] == ["-", "+21.00", "-", "1 of 7"]
    assert report.sections[1].rows[0][3] == "-"


def test_claims_about_pairs_are_decided_item_by_item(tmp_path: Path) -> None:
    elsewhere, home, less = judge(toy(tmp_path))
    assert (elsewhere.word, elsewhere.estimate) == (UNDECIDED, -1.0)
    assert (home.word, home.estimate) == (HOLDS, 22.0)
    assert (less.word, less.estimate) == (FAILS, -22.0)
    assert home.detail.startswith(
        "CRAFT behind its own surrogate gains over its own Zero-shot row beyond chance on 2 of 2 sets, and loses on 0; "
    )
    assert "CRAFT behind other models gains over its own Zero-shot row beyond chance on" in home.detail
    assert home.detail.endswith("of 2 sets, and loses on 1; 3 seeds")


def test_a_claim_about_other_pairs_is_a_mistake(tmp_path: Path) -> None:
    claims = [{"id": 1, "text": "x", "gain": {"row": "craft", "pairs": "diferent"}}]
    with pytest.raises(CraftError, match="unknown name 'diferent'; did you mean 'different'"):
        load_spec(table_kit.write_house(tmp_path, claims=claims))


def test_a_row_that_is_no_matrix_has_none(tmp_path: Path) -> None:
    """Two surrogates each tested on itself, one backbone alone, or no baseline to gain from."""
    rows = table_kit.spec_value()["rows"]
    for change in ({"eval_on": []}, {"eval_on": ["big"]}, {"train_on": ["big"]}):
        plan = make_plan(load_spec(table_kit.write_house(tmp_path, rows=[rows[0], rows[1] | change])), tmp_path)
        assert matrices(plan, gather(plan)) == []
        assert draw(plan, gather(plan)) is None
    plan = make_plan(load_spec(table_kit.write_house(tmp_path, baseline="")), tmp_path)
    assert matrices(plan, gather(plan)) == []


def test_the_map_shows_ours_beside_the_paper_s_in_one_scale(tmp_path: Path) -> None:
    plan = toy(tmp_path)
    figure = draw(plan, gather(plan))
    assert figure is not None
    ours, paper = figure.axes
    assert [text.get_text() for text in ours.texts] == ["+26.0", "-8.0", "+6.0", "+16.0"], "the diagonal falls"
    assert {text.get_text() for text in paper.texts} == {"+12.5"}
    assert [label.get_text() for label in ours.get_xticklabels()] == ["small", "big"]
    assert [label.get_text() for label in paper.get_yticklabels()] == ["SMALL", "BIG"]
    assert {axes.images[0].get_clim() for axes in figure.axes} == {(-26.0, 26.0)}
    written = {path.suffix: path for path in save(plan, gather(plan))}
    assert "![Toy](toy.png)" in written[".md"].read_text()
    assert '-figure"><h2>Figure: ' in written[".html"].read_text()


def test_the_paper_s_own_matrix() -> None:
    """Its means, which it does not print, and the 13 of 250 numbers that are below the zero-shot row."""
    plan = make_plan(load_spec(find_table("table7", "paper"), "paper"))
    (_, paper), whole = matrices(plan, gather(plan))
    assert len(whole) == 1, "the paper has no number of all tokens kept"
    means = [paper.mean(pairs) for pairs in (paper.gains, paper.pairs(True), paper.pairs(False))]
    assert [round(mean.mean, 2) for mean in means if mean] == [13.63, 16.48, 12.92]
    assert paper.below == (13, 250)
    assert paper.surrogates == paper.backbones
    assert len(paper.surrogates) == 5
    best = {b: max(paper.surrogates, key=lambda s: paper.mean([(s, b)]).mean) for b in paper.backbones}  # type: ignore[union-attr]
    assert all(surrogate == backbone for backbone, surrogate in best.items())
    assert mean_of([]) is None


@pytest.mark.parametrize(("scale", "seeds"), [("pocket", (0, 1)), ("paper", (0, 1, 2))])
def test_the_trainings_of_table_7_are_those_of_table_1(scale: str, seeds: tuple[int, ...]) -> None:
    one, seven, three = (
        make_plan(load_spec(find_table(name, scale), scale), seeds=seeds) for name in ("table1", "table7", "table3")
    )
    trainings = [{job.name: job.key for job in plan.jobs if job.kind == "train"} for plan in (one, seven, three)]
    assert len(trainings[1]) == 5 * 10 * len(seeds), "one a surrogate, set and seed"
    assert trainings[1].items() <= trainings[0].items()
    assert trainings[2].items() <= trainings[1].items()
    tests = [{job.name: job.key for job in plan.jobs if job.kind == "eval"} for plan in (one, seven, three)]
    assert len(tests[1]) == 5 * 10 + 5 * 5 * 10 * len(seeds)
    assert tests[2].items() <= tests[1].items(), "Table 3 is a cut of it"


def test_a_sixth_backbone_stands_apart() -> None:
    """Where its weights are missing, no other table has a hole."""
    spec = load_spec(ROOT / "experiments/tables/smollm2.yaml")
    plan = make_plan(spec, seeds=[0])
    assert {job.facts["backbone"] for job in plan.jobs if job.kind == "eval"} == {"pocket-smollm2"}
    seven = {job.name for job in make_plan(load_spec(ROOT / "experiments/tables/table7.yaml"), seeds=[0]).jobs}
    assert {job.name for job in plan.jobs if job.kind == "train"} <= seven
    assert not any("smollm2" in name for name in seven)
