"""Names for TensorBoard's filter box: table, dataset, row, seed, whatever the jobs' own folders are."""

from __future__ import annotations

import os
import re
import shutil
from pathlib import Path

import pytest
import table_kit

from craft_lightning.benchmark.plan import Plan, make_plan
from craft_lightning.benchmark.scheduler import TableProgress
from craft_lightning.benchmark.spec import find_table, load_spec
from craft_lightning.cli import board as verb
from craft_lightning.cli.table import main
from craft_lightning.report.tensorboard import link_others, link_table

ROOT = Path(__file__).resolve().parents[2]


def links(folder: Path) -> dict[str, Path]:
    """Names of the links below a folder, and where they lead."""
    found = [Path(root) / name for root, folders, files in os.walk(folder) for name in folders + files]
    return {path.relative_to(folder).as_posix(): path.resolve() for path in found if path.is_symlink()}


@pytest.fixture
def toy(tmp_path: Path) -> Plan:
    return make_plan(load_spec(table_kit.write_house(tmp_path)), tmp_path / "runs", seeds=[0, 1])


def test_a_run_is_named_by_table_dataset_row_and_seed(toy: Plan, tmp_path: Path) -> None:
    folder = link_table(toy)
    assert folder == tmp_path / "runs/tensorboard/toy"
    runs = tmp_path / "runs/pocket"
    expected = {}
    for d in ("d0", "d1"):
        for one in ("small", "big"):
            expected[f"{d}/zero_shot/seed0-eval-{one}"] = runs / f"{d}/none/zero_shot/seed0/eval/{one}/events"
            for seed in ("seed0", "seed1"):
                run = runs / f"{d}/{one}/craft/{seed}"
                expected[f"{d}/craft-{one}/{seed}"] = run / "events"
                for other in ("small", "big"):
                    expected[f"{d}/craft-{one}/{seed}-eval-{other}"] = run / f"eval/{other}/events"
    assert links(folder) == expected
    assert all(not Path(os.readlink(p)).is_absolute() for p in folder.rglob("seed*"))


def test_a_row_s_tests_are_its_own(tmp_path: Path) -> None:
    """Two rows test one training in two ways: each has the training's curves, and its own test alone."""
    row = {"method": "../methods/craft.yaml", "train_on": ["small"]}
    rows = [{"id": "whole", **row}, {"id": "pruned", **row, "eval": {"prune.keep": 0.8}}]
    house = table_kit.write_house(tmp_path, number=1, rows=rows, baseline="")
    found = links(link_table(make_plan(load_spec(house), tmp_path / "runs")))
    assert sorted(found) == [
        "d0/pruned/seed0",
        "d0/pruned/seed0-eval-small-keep0.8",
        "d0/whole/seed0",
        "d0/whole/seed0-eval-small",
    ]
    assert found["d0/pruned/seed0"] == found["d0/whole/seed0"]
    assert [p for p in found.values() if any(q in p.parents for q in found.values())] == []


def test_the_page_names_runs_as_they_are_named(tmp_path: Path) -> None:
    for table in ("table1", "table3"):
        link_table(make_plan(load_spec(find_table(table)), tmp_path))
    there = {path.relative_to(tmp_path / "tensorboard").as_posix() for path in tmp_path.rglob("*") if path.is_symlink()}
    told = re.findall(r"^\| `(table\S+)`", (ROOT / "docs/tensorboard.md").read_text(), re.MULTILINE)
    assert len(told) == 3
    assert set(told) <= there


def test_another_runner_that_makes_the_same_links_ends_nothing(toy: Plan, monkeypatch: pytest.MonkeyPatch) -> None:
    real, before = Path.unlink, links(link_table(toy))
    shutil.rmtree(toy.root.parent / "tensorboard")

    def unlink(path: Path, missing_ok: bool = False) -> None:
        """The other one is a step ahead."""
        real(path, missing_ok)
        if not path.name.startswith(".") and not os.path.lexists(path):
            path.symlink_to("elsewhere")

    monkeypatch.setattr(Path, "unlink", unlink)
    assert links(link_table(toy)) == before


def test_links_follow_the_table(toy: Plan) -> None:
    folder = link_table(toy)
    before = links(folder)
    (folder / "d0/old").symlink_to("nowhere")
    (folder / "d0/craft-big/seed0").unlink()
    (folder / "d0/craft-big/seed0").symlink_to("elsewhere")
    (folder / "d0/craft-big/seed1").unlink()
    assert links(link_table(toy)) == before
    # One seed anew does not hide what there is of the others.
    run = before["d1/craft-small/seed1"]
    run.mkdir(parents=True)
    again = links(link_table(make_plan(toy.spec, toy.root.parent, seeds=[0])))
    assert {name for name in before if "seed1" in name and name in again} == {"d1/craft-small/seed1"}
    assert again["d1/craft-small/seed1"] == run


def test_one_surrogate_needs_no_name_and_a_sweep_s_settings_are_rows(tmp_path: Path) -> None:
    rows = [
        {"id": "craft", "method": "../methods/craft.yaml", "train_on": ["small"]}
        | {"sweep": {"model.init_args.optim.lr": [0.1, 0.01]}}
    ]
    house = table_kit.write_house(tmp_path, number=1, rows=rows, baseline="", metric={"name": "val/accuracy"})
    spec = load_spec(house)
    found = links(link_table(make_plan(spec, tmp_path / "runs", limit=1)))
    assert sorted(found) == ["d0/craft-lr0.01/seed0", "d0/craft-lr0.1/seed0"]
    assert (tmp_path / "runs/tensorboard/toy-limit1").is_dir()
    assert found["d0/craft-lr0.1/seed0"] == tmp_path / "runs/pocket-limit1/d0/small/craft-lr0.1/seed0/events"


def test_other_runs_keep_their_names(toy: Plan, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = tmp_path / "runs"
    link_table(toy)
    (runs / "pocket/.locks").mkdir(parents=True)
    for name in ("mine", "eurosat/pocket-vila-u"):
        (runs / name).mkdir(parents=True)
    assert verb.main(["--runs", str(runs)]) == 0
    assert capsys.readouterr().out == f"tensorboard --logdir {runs / 'tensorboard'}\n"
    top = {p.name: p.is_symlink() for p in (runs / "tensorboard").iterdir()}
    assert top == {"toy": False, "mine": True, "eurosat": True}
    assert (runs / "tensorboard/mine").resolve() == runs / "mine"
    (runs / "mine").rename(runs / "ours")
    link_others(runs)
    assert {p.name for p in (runs / "tensorboard").iterdir()} == {"toy", "ours", "eurosat"}
    assert len(links(runs / "tensorboard/toy")) == 28


def test_running_a_table_names_its_runs_before_the_first_of_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, runs = table_kit.write_house(tmp_path), tmp_path / "runs"
    seen: list[int] = []

    def watch(plan: Plan, *args: object, **kwargs: object) -> TableProgress:
        seen.append(len(links(runs / "tensorboard/toy")))
        return TableProgress(total=len(plan.jobs), workers=1)

    monkeypatch.setattr("craft_lightning.benchmark.scheduler.run_plan", watch)
    for words in (["plan"], ["run", "--dry_run"]):
        main([words[0], str(path), "--runs", str(runs), *words[1:]])
        assert not runs.exists()
    main(["run", str(path), "--runs", str(runs), "--only", "d0/small"])
    assert seen == [16]
