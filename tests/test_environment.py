"""Shipped files are found from any folder, and what hides our packages or is missing is one line."""

from __future__ import annotations

import importlib
import importlib.util
import sys
from pathlib import Path
from typing import Any

import pytest

from craft_lightning import __main__ as entry
from craft_lightning import environment
from craft_lightning.benchmark.spec import find_table, load_spec
from craft_lightning.cli.config_layers import read_layers
from craft_lightning.cli.list import entries
from craft_lightning.cli.run import build_cli
from craft_lightning.environment import ROOT, experiments, find, placed
from craft_lightning.errors import CraftError
from craft_lightning.io import read_settings
from craft_lightning.pretraining.plans import read_plan


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty working folder."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


def own(folder: Path, name: str, text: str = "# mine\n") -> Path:
    path = folder / "experiments" / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return Path("experiments") / name


def test_what_is_shipped_is_found_from_any_folder_and_one_s_own_goes_first(elsewhere: Path) -> None:
    smoke = "experiments/smoke.yaml"
    assert find(smoke) == ROOT / smoke
    assert placed(["fit", "--config", smoke, f"--data={smoke}", "smoke.yaml"]) == [
        *("fit", "--config", str(ROOT / smoke), f"--data={ROOT / smoke}", "smoke.yaml")
    ]
    assert (
        find_table("table1") == find_table("experiments/tables/table1.yaml") == ROOT / "experiments/tables/table1.yaml"
    )
    assert {"craft", "zero_shot"} <= set(entries("methods"))
    assert read_settings(find("experiments/surrogates/qwen2-0.5b.yaml"))["language_model"]

    assert find(own(elsewhere, "smoke.yaml")) == Path(smoke)
    assert placed(["--config", smoke]) == ["--config", smoke]
    own(elsewhere, "methods/craft.yaml")
    own(elsewhere, "methods/mine.yaml", "# my own\n")
    listed = entries("methods")
    assert (listed["craft"], listed["mine"]) == ("mine", "my own")
    assert "zero_shot" in listed, "the shipped ones stay"
    assert list(listed) == sorted(listed)
    own(elsewhere, "tables/table1.yaml")
    assert find_table("table1") == Path("experiments/tables/table1.yaml")


def test_the_example_configs_parse_from_any_folder(elsewhere: Path) -> None:
    config = build_cli(["fit", "--config", "experiments/examples/craft.yaml"], run=False).config["fit"]
    assert config.model.class_path.endswith("Craft")
    assert list(elsewhere.iterdir()) == []


def test_a_misspelt_name_has_the_nearest_of_both_places(elsewhere: Path) -> None:
    own(elsewhere, "examples/mine.yaml")
    for given, meant in (("examples/crft.yaml", "craft.yaml"), ("examples/mne.yaml", "mine.yaml")):
        with pytest.raises(CraftError, match=f"no config file .*; did you mean experiments/examples/{meant}"):
            read_layers(["fit", "--config", f"experiments/{given}"])
    with pytest.raises(CraftError, match=r"no table 'tabel1'.*did you mean 'table1'\? Known: .*table1-paper"):
        find_table("tabel1")
    with pytest.raises(CraftError, match=r"no config .*; there is experiments/surrogates/paper\.yaml, "):
        read_plan(Path("experiments/surrogates/nope.yaml"))


def test_a_table_names_its_backbones_and_not_where_they_lie() -> None:
    """Relative folders would lead elsewhere in an installed package."""
    for path in sorted((experiments() / "tables").glob("*.yaml")):
        assert "weights:" not in path.read_text(encoding="utf-8"), path.name
    spec = load_spec(find_table("table1"))
    assert [b.weights for b in spec.backbones] == [(ROOT / "craft_lightning/pocket" / b.id,) for b in spec.backbones]


def test_the_package_holds_the_same_files() -> None:
    """The wheel takes them through this link."""
    assert (ROOT / "craft_lightning" / "experiments").resolve() == ROOT / "experiments"


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch) -> None:
    """Python looks for our packages anew, as in a fresh process."""
    for name in list(sys.modules):
        if name.partition(".")[0] in ("callbacks", "data_modules"):
            monkeypatch.delitem(sys.modules, name)
    importlib.invalidate_caches()


@pytest.mark.usefixtures("fresh")
@pytest.mark.parametrize("verb", [verb for verb in entry.VERBS if verb != "doctor"])
@pytest.mark.parametrize("foreign", ["callbacks.py", "data_modules/__init__.py"])
def test_a_module_that_hides_ours_is_one_line_with_both_places(
    verb: str, foreign: str, elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(elsewhere)
    path = elsewhere / foreign
    path.parent.mkdir(exist_ok=True)
    path.write_text("raise SystemExit('run')")
    hiding = elsewhere / foreign.removesuffix("/__init__.py")
    assert entry.main([verb]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line == (f"craft_lightning: {hiding} hides {ROOT / hiding.stem}: rename it, or work in another folder")


@pytest.mark.usefixtures("fresh")
def test_a_folder_that_is_no_package_hides_nothing(elsewhere: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(elsewhere)
    for name in ("callbacks", "data_modules", "craft_lightning"):
        (elsewhere / name).mkdir()
    environment.no_shadows()


def test_a_missing_package_is_one_line_with_the_command(
    elsewhere: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def missing(name: str) -> Any:
        raise ModuleNotFoundError("No module named 'jsonargparse'", name="jsonargparse")

    monkeypatch.setattr(entry, "import_module", missing)
    assert entry.main(["fit"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"craft_lightning: {sys.executable} has no package jsonargparse: `make -C {ROOT} install`")
    monkeypatch.setattr(environment, "in_checkout", lambda: False)
    assert entry.main(["fit"]) == 2
    assert "`python -m craft_lightning doctor` lists what is missing" in capsys.readouterr().err
