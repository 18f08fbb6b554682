"""What is found by name or import path, and what is said of what is not."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from craft_lightning.cli.config_layers import one_class
from craft_lightning.errors import CraftError
from craft_lightning.methods import METHODS, load_method
from craft_lightning.methods._support.checkpointed import FORMAT
from craft_lightning.methods.craft import Craft
from craft_lightning.plugins import Registry
from data_modules.datasets import DATASETS

SOURCE = """
from craft_lightning.methods.craft import Craft
from craft_lightning.methods.zero_shot import ZeroShot
from craft_lightning.methods.base import BaseMethod
from data_modules.datasets.facts import DatasetFacts

class Mine(ZeroShot):
    name = "mine"

class Again(Craft):
    pass

class Half(BaseMethod):
    name = "half"

class Nameless(BaseMethod):
    trainable = losses = None

BIRDS = DatasetFacts("birds", "Birds", "classification", "CC0")
LAND = DatasetFacts("eurosat", "Land", "classification", "CC0")
"""


@pytest.fixture
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A module of a user, and one that lacks what it imports."""
    (tmp_path / "their_module.py").write_text(SOURCE)
    (tmp_path / "unready.py").write_text("import no_such_package\n")
    (tmp_path / "their_package").mkdir()
    for name, source in {"__init__": "", "part": SOURCE, "nothing": ""}.items():
        (tmp_path / "their_package" / f"{name}.py").write_text(source)
        monkeypatch.delitem(sys.modules, f"their_package.{name}".removesuffix(".__init__"), raising=False)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "their_module", raising=False)
    return tmp_path


def fresh(registry: Registry[Any]) -> Registry[Any]:
    """As another process would see it."""
    return Registry(registry.kind, registry.base, registry.ours, registry.group, registry.classes, registry.others)


def installed(folder: Path, package: str, **entries: str) -> None:
    """What the installation of a package with such methods leaves."""
    info = folder / f"{package}-1.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {package}\nVersion: 1\n")
    lines = [f"{name} = {place}" for name, place in entries.items()]
    (info / "entry_points.txt").write_text("\n".join(["[craft_lightning.methods]", *lines]))


def test_a_name_a_class_and_a_path_find_the_same() -> None:
    assert METHODS["craft"] is METHODS["Craft"] is METHODS["craft_lightning.methods.craft.Craft"] is Craft
    assert DATASETS["eurosat"].title == "EuroSAT"
    assert METHODS.place("Kraft") == DATASETS.place("FACTS") == ""


def test_a_user_s_module_is_found(mine: Path) -> None:
    assert METHODS["their_module.Mine"].name == "mine"
    assert DATASETS["their_module.BIRDS"].name == "birds"


@pytest.mark.parametrize(
    ("registry", "asked", "told"),
    [
        (
            METHODS,
            "kraft",
            "no method 'kraft'; did you mean 'craft'? Known: zero_shot, vision_ft, ",
        ),
        (METHODS, "nowhere.Mine", "no module 'nowhere' for the method nowhere.Mine: install it"),
        (METHODS, "unready.Mine", "unready needs 'no_such_package', which is not installed"),
        (METHODS, "their_module.Mein", "no method 'their_module.Mein'; did you mean 'their_module.Mine'? Known: "),
        (
            METHODS,
            "their_package.part",
            "their_package.part is a module; it has Mine, Again, Nameless: name it as their_package.part.Mine",
        ),
        (DATASETS, "their_package.part", "it has BIRDS, LAND: name it as their_package.part.BIRDS"),
        (DATASETS, "their_package.nothing", "their_package.nothing is a module; it has no dataset"),
        (METHODS, "their_module.BIRDS", "is no method: it is no subclass of craft_lightning.methods.base.BaseMethod"),
        (METHODS, "their_module.Half", "their_module.Half is no whole method: it lacks trainable"),
        (METHODS, "their_module.Nameless", "their_module.Nameless has no name: set `name`"),
        (METHODS, "their_module.Again", "has the name 'craft', which is that of craft_lightning.methods.craft.Craft"),
        (DATASETS, "eurosta", "did you mean 'eurosat'? Known: iconqa, "),
        (DATASETS, "their_module.Mine", "no dataset: it is no instance of data_modules.datasets.facts.DatasetFacts"),
        (DATASETS, "their_module.LAND", "the name 'eurosat', which is that of data_modules.datasets.eurosat.FACTS"),
    ],
)
def test_what_is_wrong_is_one_line(registry: Registry[Any], asked: str, told: str, mine: Path) -> None:
    with pytest.raises(CraftError) as error:
        registry[asked]
    assert told in str(error.value)
    assert "\n" not in str(error.value)


def test_entry_points_are_read_and_not_imported(mine: Path) -> None:
    installed(mine, "theirs", mine="their_module:Mine", other="their_module:Half")
    methods = fresh(METHODS)
    assert list(methods) == [*METHODS.ours, "mine", "other"]
    assert methods.place("Mine") == "their_module:Mine"
    assert "their_module" not in sys.modules
    assert methods["mine"] is methods["Mine"] is methods["their_module.Mine"]
    with pytest.raises(CraftError, match="other is no whole method: it lacks trainable"):
        methods["other"]


def test_an_entry_point_has_the_name_of_its_class(mine: Path) -> None:
    installed(mine, "theirs", yours="their_module:Mine")
    with pytest.raises(CraftError, match=r"the method 'yours' \(their_module:Mine\) has the name 'mine'"):
        fresh(METHODS)["yours"]


@pytest.mark.parametrize("name", ["mine", "craft"])
def test_two_of_one_name_are_refused_with_both(name: str, mine: Path) -> None:
    """Ours are found all the same: another's mistake stops no run of them."""
    installed(mine, "theirs", **{name: "their_module:Mine"})
    installed(mine, "others", **{name: "their_module:Again"})
    methods = fresh(METHODS)
    assert methods["craft"] is methods["Craft"] is Craft
    with pytest.raises(CraftError, match=f"two methods are named '{name}': .+ and their_module.+ of the package "):
        list(methods)


def test_two_classes_of_one_name_are_two(mine: Path) -> None:
    (mine / "their_module.py").write_text(f"{SOURCE}\nZeroShot = Mine\n")
    with pytest.raises(CraftError, match=r"--model names model their_module.ZeroShot, but a.yaml names ZeroShot"):
        one_class([("a.yaml", {"model.class_path": "ZeroShot"}), ("--model", {"model": "their_module.ZeroShot"})])
    one_class([("a.yaml", {"model": "ZeroShot"}), ("b", {"model": "craft_lightning.methods.zero_shot.ZeroShot"})])


def test_a_checkpoint_imports_nothing(mine: Path) -> None:
    held = {"craft_lightning": {"format": FORMAT, "method": "mine", "class": "unready.Mine"}}
    torch.save(held, mine / "m.ckpt")
    with pytest.raises(CraftError, match="the checkpoint is of method 'mine': import unready first"):
        load_method(mine / "m.ckpt")
