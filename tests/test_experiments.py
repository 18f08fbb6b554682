"""Every file below experiments/ is read by something, and says what it is in its first line."""

from __future__ import annotations

import csv
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from craft_lightning.benchmark.plan import make_plan
from craft_lightning.benchmark.spec import find_table, load_collection, load_spec
from craft_lightning.benchmark.table_parts import table_lines
from craft_lightning.cli.run import build_cli
from craft_lightning.methods import METHODS
from data_modules.datasets import DATASETS
from data_modules.twins import TWINS

ROOT = Path(__file__).resolve().parent.parent / "experiments"
METHOD_FILES = sorted((ROOT / "methods").glob("*.yaml"))
PAPER = ROOT / "paper"
AT_PAPER_SCALE = sorted((PAPER / "methods").glob("*.yaml"))
CALLBACKS = sorted((ROOT / "callbacks").glob("*.yaml"))
HARDWARE = sorted((ROOT / "hardware").glob("*.yaml"))
EXAMPLES = sorted((ROOT / "examples").glob("*.yaml"))
COMPLETE = [ROOT / "smoke.yaml", *EXAMPLES]
ON_TWIN = ("projector_ft", "llm_lora")
"""Methods that the paper, and so their example, applies to the continuous model, though they would run on either."""
COLLECTIONS = [ROOT / "tables/all.yaml", ROOT / "tables/all-paper.yaml"]
TABLES = [path for path in sorted((ROOT / "tables").glob("*.yaml")) if path not in COLLECTIONS]
FEW = sorted((ROOT / "few_shot").glob("*.yaml"))
"""Datasets of the table ``lorsu``."""


def parse(*files: Path, flags: Sequence[str] = ()) -> dict[str, object]:
    verb = "test" if any(f.stem == "zero_shot" for f in files) else "fit"
    argv = [verb, *(part for file in files for part in ("--config", str(file))), *flags]
    config = build_cli(argv, run=False).config[verb].as_dict()
    return {k: v for k, v in config.items() if k != "config"}


def test_nothing_is_left_out() -> None:
    assert len(HARDWARE) == 1  # a machine of tests/strategies/test_choose.py
    covered = {ROOT / "base.yaml", PAPER / "base.yaml", *COMPLETE, *TABLES, *COLLECTIONS, *CALLBACKS, *HARDWARE}
    covered |= {*METHOD_FILES, *AT_PAPER_SCALE, *FEW}
    others = [p for p in ROOT.rglob("*.yaml") if p not in covered and not {"surrogates", "budgets"} & {*p.parts}]
    assert others == []


def test_small_surrogates_are_tested_as_a_whole() -> None:
    jobs = make_plan(load_spec(ROOT / "tables/small_surrogates.yaml"), seeds=[0]).jobs
    small = {(j.kind, j.facts["backbone"]) for j in jobs if any("language_dtype" in a for a in j.arguments)}
    assert small == {("train", f"pocket-vila-u-{kind}") for kind in ("int8", "nf4")}
    assert {j.facts["backbone"] for j in jobs if j.kind != "train"} == {"pocket-vila-u"}


@pytest.mark.parametrize("path", COLLECTIONS, ids=lambda path: path.stem)
def test_a_collection_names_every_claim_and_tables_of_its_scale(path: Path) -> None:
    found = load_collection(path)
    assert found is not None
    assert find_table("all", found.scale).name == path.name
    assert [claim.id for claim in found.claims] == list("12345678")
    specs = [load_spec(path.with_name(f"{name}.yaml"), found.scale) for name in found.tables]
    parts = [claim.id for spec in specs for claim in spec.claims]
    assert all(any(claim.has_part(part) for claim in found.claims) for part in parts)
    assert all((ROOT.parent / program).is_file() for program in found.measured.values())


@pytest.mark.parametrize(("table", "trainings"), [("figure5-paper", 30), ("pruning_parts-paper", 12)])
def test_pruning_at_paper_scale_is_tested_on_the_encoders_of_table_1(table: str, trainings: int) -> None:
    mine, theirs = (
        {job.name: job.key for job in make_plan(load_spec(ROOT / f"tables/{name}.yaml")).jobs if job.kind == "train"}
        for name in (table, "table1-paper")
    )
    assert len(mine) == trainings
    assert mine.items() <= theirs.items()


def test_names_are_the_known_ones() -> None:
    assert {f.stem for f in METHOD_FILES} == set(METHODS)
    assert {f.stem for f in AT_PAPER_SCALE} < set(METHODS), "those of the paper with a setting that differs"


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.yaml")), ids=lambda p: str(p.relative_to(ROOT)))
def test_the_first_line_says_what_it_is(path: Path) -> None:
    first = path.read_text(encoding="utf-8").splitlines()[0]
    assert first.startswith("# ")
    assert len(first) > 10


@pytest.mark.parametrize("path", sorted(ROOT.rglob("*.yaml")), ids=lambda p: str(p.relative_to(ROOT)))
def test_no_interpolation_stands_in_braces(path: Path) -> None:
    """It would break the YAML."""
    lines = [line.split("#")[0] for line in path.read_text(encoding="utf-8").splitlines()]
    assert [line for line in lines if re.search(r"(?<!\$)\{.*\$\{", line)] == []


@pytest.mark.parametrize("method", METHOD_FILES, ids=lambda p: p.stem)
def test_every_method_parses(method: Path) -> None:
    model = parse(ROOT / "base.yaml", method)["model"]
    assert METHODS[model["class_path"]] is METHODS[method.stem]  # type: ignore[index]


@pytest.mark.parametrize("path", CALLBACKS, ids=lambda p: p.stem)
def test_a_callback_s_fragment_switches_it_on(path: Path) -> None:
    off, on = parse(ROOT / "smoke.yaml"), parse(ROOT / "smoke.yaml", path)
    assert not off[path.stem]["enabled"]  # type: ignore[index]
    assert on[path.stem]["enabled"]  # type: ignore[index]


@pytest.mark.parametrize("path", COMPLETE, ids=lambda p: p.stem)
def test_every_complete_file_parses_alone(path: Path) -> None:
    assert parse(path)["model"]["class_path"].startswith("craft_lightning.")  # type: ignore[index]


@pytest.mark.parametrize("name", [f.stem for f in EXAMPLES])
def test_fragments_and_complete_file_resolve_alike(name: str) -> None:
    backbone = "pocket-vila" if METHODS[name].continuous or name in ON_TWIN else "pocket-vila-u"
    parts = (ROOT / "base.yaml", ROOT / "methods" / f"{name}.yaml")
    assert parse(*parts, flags=[f"--model.backbone.name={backbone}"]) == parse(ROOT / "examples" / f"{name}.yaml")


def test_every_method_of_the_tables_has_a_complete_file() -> None:
    rows = [row for name in ("table1", "more_baselines") for row in load_spec(ROOT / f"tables/{name}.yaml").rows]
    assert {row.method.stem for row in rows} == {f.stem for f in EXAMPLES}


@pytest.mark.parametrize("path", TABLES, ids=lambda p: p.stem)
def test_every_table_is_valid(path: Path) -> None:
    spec = load_spec(path)
    assert path.stem == spec.name
    assert all(backbone.weights for backbone in spec.backbones)


@pytest.mark.parametrize("method", AT_PAPER_SCALE, ids=lambda p: p.stem)
def test_a_method_at_paper_scale_is_the_same_with_another_rate(method: Path) -> None:
    ours: Any = parse(ROOT / "methods" / method.name)["model"]
    theirs: Any = parse(PAPER / "base.yaml", method)["model"]
    changed = {"optim", *{"llm_lora": ("r", "alpha"), "ldifs": ("lambda_ldifs",)}.get(method.stem, ())}
    assert theirs["class_path"] == ours["class_path"]
    for name, value in ours["init_args"].items():
        assert name in changed or theirs["init_args"][name] == value, name
    rates = (ours["init_args"]["optim"]["lr"], theirs["init_args"]["optim"]["lr"])
    assert rates[1] <= rates[0] / 5


@pytest.mark.parametrize("name", ["table1", "table3", "table7"])
def test_the_datasets_at_paper_scale_are_the_published_ones(name: str) -> None:
    spec = load_spec(find_table(name, "paper"))
    assert [column.id for column in spec.columns] == list(TWINS)
    few = spec.model_copy(update={"entries": spec.entries[:1], "backbones": spec.backbones[-1:]})
    for job in make_plan(few).jobs:
        parsed: Any = build_cli(job.arguments, run=False).config["test"]
        data, facts = parsed.data, DATASETS[str(job.facts["dataset"])]
        usable = [table for table in facts.hub if not table.unusable]
        trains = usable and "no training split" not in usable[0].note
        assert (data.dataset, data.source) == (job.facts["dataset"], "hub" if trains else "folder")
        assert data.source == "hub" or data.root.endswith(".zip")
        # The hub's source knows the paper's number of test items; a folder's does not.
        assert data.source == "hub" or data.test_size == facts.paper.get("test")
        assert (data.batch_size, parsed.trainer.max_epochs, parsed.trainer.max_steps) == (24, 1, -1)
        assert parsed.trainer.precision == "bf16-mixed"


def test_table1_at_paper_scale_is_the_paper_s() -> None:
    """Every line of the transcribed table is a line of ours, and ours has no other line with a number of the paper."""
    spec = load_spec(find_table("table1", "paper"), "paper")
    with (ROOT / "tables" / "paper" / "table1.csv").open(encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    names = ("method", "train_surrogate", "inference_backbone")
    averages = {tuple(row[name] for name in names): float(row["avg_recomputed"]) for row in rows}
    lines = [line for line in table_lines(spec) if line.row.paper]
    found = [(x.row.paper, x.surrogate.paper if x.surrogate else "none", x.backbone.paper) for x in lines]
    assert len(found) == len(averages) == 10
    assert set(found) == set(averages)
    for method, surrogate, backbone in found:
        values = [spec.paper.values[method, surrogate, backbone, column.paper] for column in spec.columns]
        printed = averages[method, surrogate, backbone]
        assert sum(values) / len(values) == pytest.approx(printed, abs=0.001)
    without = {line.row.label for line in table_lines(spec) if not line.row.paper and line.row.keep_ratio != 1.0}
    assert without == {"LLM-LoRA (not in the paper's table)"}
    assert {claim.id for claim in spec.claims} == {"1", "2", "4"}


def test_tables_at_pocket_scale_hold_the_paper_s_rows_and_ours_stand_apart() -> None:
    specs = {name: load_spec(ROOT / "tables" / f"{name}.yaml") for name in ("table1", "table3", "more_baselines")}
    lines = {name: table_lines(spec) for name, spec in specs.items()}
    assert {line.row.label for line in lines["table1"] if not line.row.paper} == {"CRAFT, keep 1.0"}
    assert Counter(line.backbone.id for line in lines["table1"]) == {"pocket-vila-u": 11, "pocket-vila": 4}
    assert {line.backbone.id for line in lines["table3"]} == {"pocket-qwen2-xs"}
    assert {line.row.label for line in lines["more_baselines"] if not line.row.paper} == {
        "LLM-LoRA",
        "Vision FT + contrastive",
    }
    assert all(spec.columns == specs["table1"].columns for spec in specs.values())


def test_table1_has_ten_columns_and_the_paper_s_metric() -> None:
    spec = load_spec(ROOT / "tables" / "table1.yaml")
    assert len(spec.columns) == 10
    assert spec.metric.name == "test/exact_match"
