"""Names for TensorBoard's filter box: table, column, row, seed, whatever the nodes' own folders are."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import table_kit

from craft_lightning.tables import board
from craft_lightning.tables.board import link_others, link_table
from craft_lightning.tables.plan import Plan, make_plan
from craft_lightning.tables.spec import load_spec
from craft_lightning.tables.verbs import main


def links(folder: Path) -> dict[str, Path]:
    """Names of the links below a folder, and where they lead."""
    found = [Path(root) / name for root, folders, files in os.walk(folder) for name in folders + files]
    return {path.relative_to(folder).as_posix(): path.resolve() for path in found if path.is_symlink()}


@pytest.fixture
def toy(tmp_path: Path) -> Plan:
    return make_plan(load_spec(table_kit.write_house(tmp_path)), tmp_path / "runs", seeds=[0, 1])


def test_a_run_is_named_by_table_column_row_and_seed(toy: Plan, tmp_path: Path) -> None:
    folder = link_table(toy)
    assert folder == tmp_path / "runs/tensorboard/toy"
    found = links(folder)
    runs = tmp_path / "runs/pocket"
    assert found == {
        f"d{d}/craft-{surrogate}/seed{seed}": runs / f"d{d}/{surrogate}/craft/seed{seed}"
        for d in range(2)
        for surrogate in ("small", "big")
        for seed in range(2)
    } | {
        f"d{d}/zero_shot/seed0/eval/{backbone}": runs / f"d{d}/none/zero_shot/seed0/eval/{backbone}"
        for d in range(2)
        for backbone in ("small", "big")
    }
    # A test lies below its training, and is reached under the training's new name.
    node = next(n for n in toy.nodes if n.name == "d1/small/craft/seed1/eval/big")
    node.folder.mkdir(parents=True)
    assert (folder / "d1/craft-small/seed1/eval/big").resolve() == node.folder
    assert all(not Path(os.readlink(p)).is_absolute() for p in folder.rglob("seed*") if p.is_symlink())


def test_links_follow_the_table(toy: Plan, tmp_path: Path) -> None:
    folder = link_table(toy)
    os.symlink("nowhere", folder / "d0/old")
    (folder / "d0/craft-big/seed0").unlink()
    (folder / "d0/craft-big/seed0").symlink_to("elsewhere")
    found = links(link_table(toy))
    assert "d0/old" not in found
    assert found["d0/craft-big/seed0"] == tmp_path / "runs/pocket/d0/big/craft/seed0"


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
    assert found["d0/craft-lr0.1/seed0"] == tmp_path / "runs/pocket-limit1/d0/small/craft-lr0.1/seed0"


def test_other_runs_keep_their_names(toy: Plan, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = tmp_path / "runs"
    link_table(toy)
    (runs / "pocket/.locks").mkdir(parents=True)
    for name in ("mine", "eurosat/pocket-vila-u"):
        (runs / name).mkdir(parents=True)
    assert board.main(["--runs", str(runs)]) == 0
    assert capsys.readouterr().out == f"tensorboard --logdir {runs / 'tensorboard'}\n"
    top = {p.name: p.is_symlink() for p in (runs / "tensorboard").iterdir()}
    assert top == {"toy": False, "mine": True, "eurosat": True}
    assert (runs / "tensorboard/mine").resolve() == runs / "mine"
    (runs / "mine").rename(runs / "ours")
    link_others(runs)
    assert {p.name for p in (runs / "tensorboard").iterdir()} == {"toy", "ours", "eurosat"}
    assert len(links(runs / "tensorboard/toy")) == 12


def test_rendering_a_table_names_its_runs_and_planning_does_not(tmp_path: Path) -> None:
    path, runs = table_kit.write_house(tmp_path), tmp_path / "runs"
    main(["plan", str(path), "--runs", str(runs)])
    main(["run", str(path), "--runs", str(runs), "--dry-run"])
    assert not runs.exists()
    main(["render", str(path), "--runs", str(runs)])
    assert len(links(runs / "tensorboard/toy")) == 8
