"""The whole paper: several tables computed by one command, their claims on one page."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import table_kit
import yaml

from craft_lightning.benchmark.claims import FAILS, HOLDS, UNDECIDED, Verdict
from craft_lightning.benchmark.plan import Plan, make_plan
from craft_lightning.benchmark.spec import load_collection, load_spec
from craft_lightning.benchmark.table_parts import PaperClaim
from craft_lightning.cli.table import main
from craft_lightning.errors import CraftError
from craft_lightning.report.paper_page import NOTHING, Decision
from craft_lightning.report.render import publish

CLAIMS = [
    {"id": "1a", "text": "CRAFT gains", "gain": {"row": "craft", "backbone": "big"}},
    {"id": "1b", "text": "on the small one, too", "gain": {"row": "craft", "backbone": "small"}},
    {"id": 2, "text": "Nothing gains", "gain": {"row": "craft"}, "above": {"row": "craft"}},
]
SEEDS = (0, 1, 2)


def write(root: Path, **changes: Any) -> Path:
    """A collection of one table and a measured page beside it."""
    table_kit.write_house(root, claims=CLAIMS)
    value = {
        "name": "paper",
        "title": "All of it",
        "note": "A note.",
        "scale": "pocket",
        "tables": ["toy"],
        "measured": {"costs": "costs.py"},
        "pictures": {"x.png": "Figure 9: A cat"},
        "claims": [{"id": n, "text": f"Claim {n} | of the paper", "paper": f"Table {n}"} for n in (1, 2, 3, 4)],
    }
    path = root / "experiments/tables/all.yaml"
    path.write_text(yaml.safe_dump(value | changes))
    return path


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    write(tmp_path)
    return tmp_path


def compute(budget: str, right: dict[str, int]) -> Plan:
    """Every job of the toy table done; CRAFT replies to so many of 100 items on a backbone rightly, zero-shot to 50."""
    plan = make_plan(load_spec(Path("experiments/tables/toy.yaml"), budget=budget), seeds=SEEDS)
    for job in plan.jobs:
        if job.kind == "train":
            table_kit.write_result(job, {}, cost={"parameters": 5, "seconds": 1.0, "memory": 1e9})
        else:
            count = 50 if job.parent is None else right[job.facts["backbone"]]
            table_kit.write_predictions(job, [n < count for n in range(100)])
    return plan


def lines(path: Path) -> dict[str, list[str]]:
    """Cells of the table of claims, by their number."""
    text = path.read_text().replace("\\|", "/")
    rows = [
        [cell.strip(" *") for cell in line.strip("|").split("|")] for line in text.splitlines() if line[:3] != "| -"
    ]
    return {row[0]: row[1:] for row in rows if row[0] in list("1234")}


def verdict(claim: str, word: str) -> Verdict:
    return Verdict(claim, "text", word, 1.0, 0.5, 1.5, "detail")


def test_a_claim_is_as_good_as_the_worst_of_its_parts() -> None:
    claim = PaperClaim(id="3", text="", paper="")
    assert [part for part in ("3", "3a", "3-sal", "30", "13", "31a") if claim.has_part(part)] == ["3", "3a", "3-sal"]

    def word(*words: str) -> str:
        return Decision(claim, tuple(("toy", verdict("3", each)) for each in words)).word

    assert word() == NOTHING
    assert word(HOLDS, HOLDS) == HOLDS
    assert word(HOLDS, UNDECIDED) == UNDECIDED
    assert word(UNDECIDED, HOLDS, FAILS) == FAILS
    for words, said in (([], NOTHING), ([HOLDS], NOTHING), ([UNDECIDED], NOTHING), ([FAILS], FAILS)):
        parts = tuple(("costs", verdict("3b", each)) for each in words)
        found = Decision(claim, parts, missing=(("3a", "toy"),))
        assert found.word == said, "what was measured beside it decides no claim"
        assert found.short == (f"{said}: {words.count(HOLDS)} of 2 parts hold" if words else said)
    several = (("toy", verdict("3a", HOLDS)), ("toy", verdict("3b", FAILS)), ("toy", verdict("3c", HOLDS)))
    assert Decision(claim, several).short == f"{FAILS}: 2 of 3 parts hold"
    assert Decision(claim, several[:1], missing=(("3b, 3c", "toy"),)).short == f"{NOTHING}: 1 of 3 parts hold"
    assert Decision(claim, several[::2]).short == f"{HOLDS}, +1.0 points"


def test_claims_stand_beside_each_other_at_all_budgets_that_have_results(
    house: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    compute("long", {"big": 70, "small": 60})
    assert main(["render", "all", "--budget", "long", "--seeds", "0", "1", "2"]) == 0
    page = house / "runs/pocket/tables/paper.md"
    assert f"written: {page.relative_to(house)}" in capsys.readouterr().out
    assert "| Long |\n" in page.read_text()
    assert "Short" not in page.read_text(), "nothing is computed there"
    compute("short", {"big": 70, "small": 40})
    assert main(["render", "all", "--budget", "long", "--seeds", "0", "1", "2"]) == 0
    assert "| Long | Short |\n" in page.read_text()
    assert lines(page) == {
        "1": ["Claim 1 / of the paper", "Table 1", HOLDS, FAILS],
        "2": ["Claim 2 / of the paper", "Table 2", UNDECIDED, UNDECIDED],
        "3": ["Claim 3 / of the paper", "Table 3", NOTHING, NOTHING],
        "4": ["Claim 4 / of the paper", "Table 4", NOTHING, NOTHING],
    }
    assert "- **Claim 3: not computed.**\n" in page.read_text(), "no table decides it"
    assert "**Claim 1b: does not hold** ([toy](toy.md)). on the small one, too. -10.00 points" in page.read_text()
    assert "\n## Toy, long budget\n" in page.read_text(), "a table is shown at the budget that was asked for"
    assert "\n## Toy\n" not in page.read_text()
    html = page.with_suffix(".html").read_text()
    assert "not computed</span>" not in html.partition("<ul")[2], "no table decides claims 3 and 4"
    assert html.count('<span class="word fails">') == 2
    assert 'href="toy-long.html"' in html
    assert (page.parent / "toy-long.html").is_file()


def test_what_a_program_measured_counts_at_every_budget(house: Path) -> None:
    plan = compute("short", {"big": 70, "small": 60})
    section = {"title": "Seconds", "header": ["", "", "s"], "rows": [["a", "b", "1"]], "paper": [False]}
    told = {"title": "Costs", "note": "", "made": "Today", "sections": [section], "claims": [vars(verdict("4", HOLDS))]}
    stored = house / "experiments/tables/results/costs.json"
    stored.parent.mkdir()
    stored.write_text(json.dumps(told))
    publish(plan)
    shutil.rmtree("runs")
    readme = house / "README.md"
    readme.write_text("# Toy\n\n<!-- paper:begin -->\nbefore\n<!-- paper:end -->\n")
    assert main(["render", "all", "--publish"]) == 0, "what is published needs no runs"
    assert lines(readme) == {
        "1": ["Claim 1 / of the paper", "Table 1", f"{HOLDS}, +20.0 points"],
        "2": ["Claim 2 / of the paper", "Table 2", f"{UNDECIDED}, +0.0 points"],
        "3": ["Claim 3 / of the paper", "Table 3", NOTHING],
        "4": ["Claim 4 / of the paper", "Table 4", f"{HOLDS}, +1.0 points"],
    }
    assert "before" not in readme.read_text()
    page = house / "docs/paper.md"
    assert lines(page)["1"][-1] == lines(page)["4"][-1] == HOLDS
    assert "\n## Costs\n" in page.read_text()
    assert "| a | b | 1 |" in page.read_text()
    assert page.read_text().endswith("\n## Figure 9\n\n![Figure 9: A cat](x.png)\n\nA cat.\n")


def test_a_claim_of_which_a_part_was_measured_says_what_decides_the_other(house: Path) -> None:
    section = {"title": "Seconds", "header": ["", "", "s"], "rows": [["a", "b", "1"]], "paper": [False]}
    told = {
        "title": "Costs",
        "note": "",
        "made": "Today",
        "sections": [section],
        "claims": [vars(verdict("2b", HOLDS))],
    }
    stored = house / "experiments/tables/results/costs.json"
    stored.parent.mkdir()
    stored.write_text(json.dumps(told))
    assert main(["render", "all"]) == 0
    page = house / "runs/pocket/tables/paper.md"
    assert lines(page)["2"][-1] == NOTHING
    assert "- **Claim 2b: holds** (costs). text" in page.read_text(), "its page is in docs/ alone"
    assert "- **Claim 2: not computed.** `table run toy` decides it." in page.read_text()
    html = page.with_suffix(".html").read_text()
    assert "Claim 2: not computed</span><code>table run toy</code>" in html
    for text, pattern in ((page.read_text(), r"\]\(([^)#]+)\)"), (html, r'href="([^#"]+)"')):
        dead = [link for link in re.findall(pattern, text) if ":" not in link and not (page.parent / link).exists()]
        assert dead == []


def test_what_is_partly_computed_leaves_the_published_table(house: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = compute("short", {"big": 70, "small": 60})
    stored = publish(plan)[0]
    text = stored.read_text()
    (job,) = [job for job in plan.jobs if job.name == "d0/big/craft/seed1/eval/small"]
    (job.folder / "job.json").unlink()
    assert main(["render", "all", "--publish", "--seeds", "0", "1", "2"]) == 1
    assert "what is published stays: toy.csv holds 1 cells that are not computed here" in capsys.readouterr().err
    assert stored.read_text() == text
    assert lines(house / "docs/paper.md")["1"][-1] == HOLDS


def test_all_tables_are_planned_and_counted(house: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["run", "all", "--dry_run", "--seeds", "0"]) == 0
    told = capsys.readouterr().out
    assert "toy, 1 of 1\n16 jobs: 4 train, 12 eval" in told
    collection = house / "experiments/tables/all.yaml"
    collection.write_text(collection.read_text().replace("[toy]", "[toy, toy]"))
    assert main(["run", "all", "--dry_run", "--seeds", "0"]) == 0
    assert "in all 16 jobs" in capsys.readouterr().out
    assert not (house / "runs").exists()
    with pytest.raises(CraftError, match="--only is for one table: toy"):
        main(["run", "all", "--only", "d0"])
    with pytest.raises(CraftError, match="--from is for one table"):
        main(["render", "all", "--from", "x.csv"])


def test_mistakes_in_the_file_are_told_together(tmp_path: Path) -> None:
    path = write(tmp_path, tables=["toi"], titel="x")
    with pytest.raises(CraftError) as caught:
        load_collection(path)
    assert "2 mistakes in" in str(caught.value)
    assert "tables: unknown name 'toi'; did you mean 'toy'?" in str(caught.value)
    assert "  unknown key 'titel'; did you mean 'title'?" in str(caught.value)
    assert load_collection(path.with_name("toy.yaml")) is None
