"""Every file below experiments/ is read by something, and says what it is in its first line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from craft_lightning.cli import build_cli
from craft_lightning.methods import METHODS, method_class
from craft_lightning.models.spec import BACKBONES
from craft_lightning.tables.spec import load_spec
from data_modules.registry import DATASETS

ROOT = Path(__file__).resolve().parent.parent / "experiments"
FRAGMENTS = {kind: sorted((ROOT / kind).glob("*.yaml")) for kind in ("methods", "backbones", "datasets")}
CALLBACKS = sorted((ROOT / "callbacks").glob("*.yaml"))
HARDWARE = sorted((ROOT / "hardware").glob("*.yaml"))
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
COMPLETE = [ROOT / "smoke.yaml", *EXAMPLES]
ON_TWIN = ("projector_ft", "llm_lora")
"""Methods that the paper, and so their example, applies to the continuous model, though they would run on either."""
TABLES = sorted((ROOT / "tables").glob("*.yaml"))


def parse(*files: Path) -> dict[str, object]:
    verb = "test" if any(f.stem == "zero_shot" for f in files) else "fit"
    argv = [verb, *(part for file in files for part in ("--config", str(file)))]
    config = build_cli(argv, run=False).config[verb].as_dict()
    return {k: v for k, v in config.items() if k != "config"}


def test_nothing_is_left_out() -> None:
    assert all(FRAGMENTS.values())
    assert len(FRAGMENTS["datasets"]) == 10
    assert len(HARDWARE) == 8  # each is a machine of tests/callbacks/test_strategy.py
    covered = {ROOT / "base.yaml", *COMPLETE, *TABLES, *CALLBACKS, *HARDWARE}
    covered |= {f for files in FRAGMENTS.values() for f in files}
    others = [p for p in ROOT.rglob("*.yaml") if p not in covered and "surrogates" not in p.parts]
    assert others == []


def test_names_are_the_known_ones() -> None:
    assert {f.stem for f in FRAGMENTS["methods"]} == set(METHODS)
    assert {f.stem for f in FRAGMENTS["datasets"]} == set(DATASETS)
    assert {f.stem for f in FRAGMENTS["backbones"]} <= set(BACKBONES)


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.yaml")), ids=lambda p: str(p.relative_to(ROOT)))
def test_the_first_line_says_what_it_is(path: Path) -> None:
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith("# ")
    assert len(first) > 10


@pytest.mark.parametrize("method", FRAGMENTS["methods"], ids=lambda p: p.stem)
def test_every_method_parses(method: Path) -> None:
    model = parse(ROOT / "base.yaml", method, FRAGMENTS["backbones"][0])["model"]
    assert model["class_path"].endswith(f".{METHODS[method.stem].class_name}")  # type: ignore[index]


@pytest.mark.parametrize("fragment", [*FRAGMENTS["backbones"], *FRAGMENTS["datasets"]], ids=lambda p: p.stem)
def test_every_backbone_and_dataset_parses(fragment: Path) -> None:
    """With one method: what it names is linked to the data, or is the data's alone, whatever the method."""
    parsed: Any = parse(ROOT / "base.yaml", ROOT / "methods" / "craft.yaml", fragment)
    named = parsed["data"]["dataset"], parsed["model"]["init_args"]["backbone"]["name"]
    assert fragment.stem in named


@pytest.mark.parametrize("path", CALLBACKS, ids=lambda p: p.stem)
def test_a_callback_s_fragment_switches_it_on(path: Path) -> None:
    off, on = parse(ROOT / "smoke.yaml"), parse(ROOT / "smoke.yaml", path)
    assert not off[path.stem]["enabled"]  # type: ignore[index]
    assert on[path.stem]["enabled"]  # type: ignore[index]


@pytest.mark.parametrize("path", COMPLETE, ids=lambda p: p.stem)
def test_every_complete_file_parses_alone(path: Path) -> None:
    assert parse(path)["model"]["class_path"].startswith("craft_lightning.methods.")  # type: ignore[index]


@pytest.mark.parametrize("name", [f.stem for f in EXAMPLES])
def test_fragments_and_complete_file_resolve_alike(name: str) -> None:
    backbone = "pocket-vila" if method_class(name).continuous or name in ON_TWIN else "pocket-vila-u"
    parts = [ROOT / "base.yaml", ROOT / "methods" / f"{name}.yaml", ROOT / "backbones" / f"{backbone}.yaml"]
    assert parse(*parts, ROOT / "datasets" / "eurosat.yaml") == parse(ROOT / "examples" / f"{name}.yaml")


def test_every_method_of_the_tables_has_a_complete_file() -> None:
    specs = [load_spec(ROOT / "tables" / f"{name}.yaml") for name in ("table1", "baselines")]
    assert {row.method.stem for spec in specs for row in spec.rows} == {f.stem for f in EXAMPLES}


@pytest.mark.parametrize("path", TABLES, ids=lambda p: p.stem)
def test_every_table_is_valid(path: Path) -> None:
    spec = load_spec(path)
    assert spec.name == path.stem
    assert all(backbone.weights for backbone in spec.backbones)


def test_table1_has_ten_columns_and_the_paper_s_metric() -> None:
    spec = load_spec(ROOT / "tables" / "table1.yaml")
    assert len(spec.columns) == 10
    assert spec.metric.name == "test/exact_match"
