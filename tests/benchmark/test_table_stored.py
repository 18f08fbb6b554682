"""A table that is stored is rendered again as it was, and the project's pages show exactly that."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
import table_kit
from test_table_claims import CLAIMS

from craft_lightning.benchmark import store
from craft_lightning.benchmark.plan import Plan, make_plan
from craft_lightning.benchmark.results import gather
from craft_lightning.benchmark.spec import load_spec
from craft_lightning.benchmark.table_files import read, stored_seeds, to_csv
from craft_lightning.cli.table import main
from craft_lightning.errors import CraftError
from craft_lightning.report.render import FORMATS, publish, replace_block, to_readme

ROOT = Path(__file__).resolve().parents[2]
MADE = {"date": "2026-03-07", "machine": "a loom, 2 shafts", "commit": "0123456789abcdef", "changed": False}
STORED = sorted((ROOT / "experiments/tables/results").glob("*.csv"))


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A toy project with a README, whose runs have three seeds, a hole and a failure."""
    monkeypatch.chdir(tmp_path)
    table_kit.write_house(tmp_path, claims=CLAIMS)
    (tmp_path / "README.md").write_text("# Toy\n\n<!-- toy:begin -->\nold\n<!-- toy:end -->\n\nmore\n")
    return tmp_path


def toy_plan() -> Plan:
    return make_plan(load_spec(Path("experiments/tables/toy.yaml")), seeds=(0, 1, 2))


def fill(plan: Plan, hole: str = "d1/small/craft/seed1") -> None:
    for number, job in enumerate(plan.jobs):
        if hole in job.name:
            store.write_failure(job, "ValueError: planted, with a | bar")
        elif job.kind == "train":
            cost = {"parameters": 1_024_385, "seconds": 31.25 + number, "memory": 1.2345e9}
            table_kit.write_result(job, {}, cost=cost, made={**MADE, "changed": job.name.startswith("d1/")})
        else:
            metrics = {f"test/exact_match{part}": (number * 7 % 41) / 61 for part in ("", "_seen", "_unseen")}
            items = {"all": 61, "seen": 50, "unseen": 11, "majority": 17}
            table_kit.write_predictions(job, [True] * 61)
            table_kit.write_result(job, metrics, items, made=MADE)


def test_every_format_is_the_same_from_the_runs_and_from_the_stored_table(house: Path) -> None:
    plan = toy_plan()
    fill(plan)
    path = publish(plan)[0]
    assert path == Path("experiments/tables/results/toy.csv")
    results, stored = gather(plan), read(plan, path)
    assert stored_seeds(path) == (0, 1, 2)
    for name, form in FORMATS.items():
        assert form(plan, stored) == form(plan, results), name
    assert stored.cells == results.cells
    assert stored.made == results.made


def test_publishing_writes_the_pages_from_the_stored_table_and_the_verb_prints_them(
    house: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plan = toy_plan()
    fill(plan)
    assert main(["render", "toy", "--seeds", "0", "1", "2", "--publish"]) == 0
    written = [Path(line.removeprefix("written: ")) for line in capsys.readouterr().out.splitlines()]
    names = [*(f"experiments/tables/results/toy.{kind}" for kind in ("csv", "json")), "docs/toy.md", "docs/toy.png"]
    assert [p.as_posix() for p in written] == [*names, "README.md"]
    for job in plan.jobs:
        (job.folder / store.RESULT).unlink(missing_ok=True)
    for form, page in (("readme", "README.md"), ("markdown", "docs/toy.md")):
        assert main(["render", "toy", "--from", names[0], "--format", form]) == 0
        printed = capsys.readouterr().out
        text = (house / page).read_text()
        expected = (
            f"# Toy\n\n<!-- toy:begin -->\n{printed}<!-- toy:end -->\n\nmore\n" if page == "README.md" else printed
        )
        assert text == expected
    assert not (house / "runs/pocket/tables").exists(), "a stored table leaves the runs alone"
    readme = (house / "README.md").read_text()
    assert "mean ± standard deviation over seeds. Seeds 0, 1, 2; 7 March 2026; " in readme
    assert "| Method | Pairs | All pairs | Same model | Different models | Sets below 0 |" in readme
    assert "a loom, 2 shafts; " in readme
    assert "commit `0123456789`, `0123456789+`" in readme
    assert "ValueError: planted" in readme
    assert "[docs/toy.md](docs/toy.md)" in readme
    (house / "docs/toy.md").unlink()
    assert main(["render", "toy", "--from", names[0], "--publish"]) == 0
    assert (house / "docs/toy.md").is_file()
    capsys.readouterr()
    assert main(["render", "toy", "--from", names[0]]) == 0
    assert "Claim 4: " in capsys.readouterr().out


def test_the_runner_never_takes_a_stored_table_for_results(house: Path) -> None:
    plan = toy_plan()
    fill(plan)
    publish(plan)
    assert all(store.state(job) == "missing" for job in make_plan(plan.spec, house / "elsewhere").jobs)


@pytest.mark.parametrize(
    ("spoil", "expected"),
    [
        (lambda csv: csv.unlink(), "no stored table"),
        (lambda csv: csv.with_suffix(".json").unlink(), "no stored table"),
        (lambda csv: csv.write_text(csv.read_text().replace("craft,small", "kraft,small", 1)), "no cell of table toy"),
        (lambda csv: csv.write_text(csv.read_text().replace("0 1 2", "0 1", 1)), "no cell of table toy"),
    ],
)
def test_a_spoilt_table_is_one_line(spoil: Callable[[Path], object], expected: str, house: Path) -> None:
    plan = toy_plan()
    fill(plan)
    path = publish(plan)[0]
    spoil(path)
    with pytest.raises(CraftError, match=expected):
        main(["render", "toy", "--from", str(path)])


def test_what_cannot_be_published_is_refused(house: Path) -> None:
    with pytest.raises(CraftError, match=r"nothing to publish: no cell of toy is computed \(table run toy\)"):
        main(["render", "toy", "--publish"])
    with pytest.raises(CraftError, match="no --format or --limit with it"):
        main(["render", "toy", "--publish", "--limit", "1"])


def test_no_seed_is_lost_by_publishing_fewer(house: Path) -> None:
    plan = toy_plan()
    fill(plan)
    path = publish(plan)[0]
    stored = path.read_text()
    with pytest.raises(CraftError, match=r"toy.csv holds seeds 0 1 2, .*--seeds 0 1 2"):
        main(["render", "toy", "--seeds", "0", "--publish"])
    assert path.read_text() == stored
    assert main(["render", "toy", "--seeds", "0", "1", "2", "--publish"]) == 0
    for job in plan.jobs:
        if job.facts["seed"] == 2:
            (job.folder / store.RESULT).unlink()
    with pytest.raises(CraftError, match=r"toy.csv holds seeds 0 1 2, "):
        main(["render", "toy", "--seeds", "0", "1", "2", "--publish"])
    assert path.read_text() == stored


def test_no_cell_is_lost_by_publishing_a_part(house: Path) -> None:
    plan = toy_plan()
    fill(plan)
    path = publish(plan)[0]
    stored = path.read_text()
    (gone, *_) = [job for job in plan.jobs if job.kind == "eval" and store.result(job) is not None]
    (gone.folder / store.RESULT).unlink()
    with pytest.raises(CraftError, match=r"toy.csv holds 1 cells that are not computed here, or of fewer seeds"):
        publish(plan)
    assert path.read_text() == stored


def test_a_readme_without_marks_is_left_alone() -> None:
    assert replace_block("# x\n", "toy", "new\n") is None
    assert replace_block("a<!-- toy:begin -->\n<!-- toy:end -->b", "toy", "x\n") == (
        "a<!-- toy:begin -->\nx\n<!-- toy:end -->b"
    )


@pytest.mark.parametrize("path", STORED, ids=lambda p: p.stem)
def test_the_pages_of_this_project_are_the_stored_tables(path: Path) -> None:
    plan = make_plan(load_spec(ROOT / f"experiments/tables/{path.stem}.yaml"), ROOT / "runs", stored_seeds(path))
    results = read(plan, path)
    assert to_csv(plan, results) == path.read_text(encoding="utf-8")
    assert (ROOT / f"docs/{path.stem}.md").read_text(encoding="utf-8") == FORMATS["markdown"](plan, results)
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    assert replace_block(readme, path.stem, to_readme(plan, results)) in (None, readme)


def test_the_readme_carries_a_stored_table() -> None:
    assert "table1" in {path.stem for path in STORED}
    assert "<!-- table1:begin -->" in (ROOT / "README.md").read_text(encoding="utf-8")
