"""What code a key hashes: whatever a worker's imports reach, unless it is named, with a reason, as changing nothing."""

from __future__ import annotations

import ast
import json
import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from craft_lightning.benchmark import code_version as code
from craft_lightning.benchmark.plan import make_plan
from craft_lightning.benchmark.spec import load_spec
from data_modules.datasets import DATASETS
from data_modules.twins import TWINS

ROOT = Path(__file__).resolve().parents[2]
FRAGMENTS = sorted(path.stem for path in (ROOT / "experiments/methods").glob("*.yaml"))

OTHER_VERBS = (
    *(
        f"craft_lightning.cli.{verb}"
        for verb in ("board", "draw", "dry_run", "export", "list", "predict", "table", "verbs")
    ),
    *(f"craft_lightning.cli.{verb}" for verb in ("doctor", "surrogate", "tokenize", "tokens", "vocabulary")),
    *("craft_lightning.cli.adapt", "craft_lightning.cli.compare", "data_modules.survey"),
    *("craft_lightning.__main__", "craft_lightning.comparison", "craft_lightning.inference"),
    *("craft_lightning.cli.judge", "craft_lightning.evaluation.api_judge"),
    *("craft_lightning.cli.grow", "craft_lightning.models.new_entries"),
    *("craft_lightning.encoder_gain", "craft_lightning.item_images", "craft_lightning.evaluation.lmms_eval"),
    *("craft_lightning.pretraining", "craft_lightning.strategies.flops"),
    *("craft_lightning.checkpoints.vila_u_writer",),
    *("data_modules.twins.contact_sheet", "data_modules.sources.llava_conversations", "data_modules.twins.studio"),
)
"""What no job of a table runs: other verbs, what they alone import, and what makes models."""


def settings(**overrides: Any) -> dict[str, Any]:
    return {"config": {}, "overrides": {name.replace("__", "."): value for name, value in overrides.items()}}


def reached(method: str = "craft", dataset: str = "eurosat", **overrides: Any) -> set[str]:
    return set(code.reached(code.starts(settings(**overrides), method, dataset)))


def everything() -> set[str]:
    """What counts behind any job."""
    found = reached(prune__prior="generic", data__directive="justify")
    return found.union(*(reached(name) for name in FRAGMENTS), *(reached(dataset=name) for name in DATASETS))


def test_every_module_counts_or_is_named_with_a_reason() -> None:
    """A new file that a worker can reach counts at once; one that it cannot has to be said to be of another verb."""
    counted = everything()
    others = {name for name in code.house().sources if any(f"{name}.".startswith(f"{other}.") for other in OTHER_VERBS)}
    assert not counted & others
    left = set(code.house().sources) - counted - others
    assert {name for name in left if not code.apart(name)} == set()
    assert all(name in code.house().sources for name in code.APART), "a name of something that is no more"
    assert not [name for name in code.APART if name in counted]


def test_a_stage_2_hangs_on_what_trains_it_and_no_other_job_does() -> None:
    family = "craft_lightning.pretraining.family"
    behind = set(code.reached((code.WORKER, code.SURROGATE)))
    assert {family, "craft_lightning.pretraining.training_loop", "data_modules.twins.studio"} <= behind
    assert family not in everything()


def test_what_was_forgotten_counts() -> None:
    """Files that change numbers, or decide what does, and stood in no list while the list was kept by hand."""
    names = {f"craft_lightning.{name}" for name in ("cli.run", "cli.config_layers", "worker", "run_folder", "settings")}
    names |= {f"craft_lightning.strategies.{name}" for name in ("choose", "memory", "fsdp2")}
    names |= {f"craft_lightning.evaluation.{name}" for name in ("prior", "predictions")}
    names |= {"craft_lightning.losses", "callbacks.ste_check"}
    assert names <= reached()
    twins = {f"data_modules.twins.drawings.draw_{name}" for name in TWINS}
    assert reached() & twins == {"data_modules.twins.drawings.draw_eurosat"}
    assert twins <= reached(prune__prior="generic")


def test_imports_by_name_are_those_that_are_followed() -> None:
    """What is imported by a name that is put together escapes the search, so each such place is known."""
    found = {
        name
        for name, source in code.house().sources.items()
        if re.search(r"\b(import_module|__import__|run_module)\(", source.decode())
    }
    followed = {"craft_lightning.plugins"}  # a job's method and its dataset
    followed |= {"craft_lightning.worker"}  # what a stage 2 runs, of which its own key knows
    followed |= {"craft_lightning.methods.base"}  # the judge of justified answers
    followed |= {"craft_lightning.evaluation.api_judge"}  # the library of an API
    assert found == followed | {"craft_lightning.__main__", "craft_lightning.cli.table"}
    assert not any(re.search(r"^\s*from \.", source.decode(), re.M) for source in code.house().sources.values())


def test_only_tests_that_ask_for_justifications_hang_on_their_judge() -> None:
    assert reached(data__directive="justify") - reached(prune__prior="generic") == {
        "callbacks.offline_judging",
        *(f"craft_lightning.evaluation.{name}" for name in ("judgement", "offline_judge")),
    }


def test_only_tests_of_the_generic_prior_hang_on_all_twins(tmp_path: Path) -> None:
    made = make_plan(load_spec(ROOT / "experiments/tables/pruning_parts.yaml"), tmp_path)
    versions: dict[bool, set[str]] = {True: set(), False: set()}
    for job in made.jobs:
        versions["--prune.prior=generic" in job.arguments].add(job.facts["code"])
    assert versions[True]
    assert not versions[True] & versions[False]


def test_a_class_of_the_settings_is_followed() -> None:
    """The method by its class, not by the name of its fragment; a callback by its path."""
    own = {"config": {"model": {"class_path": "Ldifs"}}, "overrides": {}}
    assert {name for name in code.starts(own, "mine", "eurosat") if ".methods." in name} == {
        "craft_lightning.methods.ldifs"
    }
    callback = [{"class_path": "craft_lightning.strategies.flops.Cost"}]
    more = {"config": {"trainer": {"callbacks": callback}}, "overrides": {"data.dataset": "kvasir"}}
    assert {"craft_lightning.strategies.flops", "data_modules.datasets.kvasir"} <= set(
        code.starts(more, "craft", "mine")
    )


@pytest.fixture
def house(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the three packages' code."""
    for package in code.PACKAGES:
        for file in [*(ROOT / package).rglob("*.py"), ROOT / "data_modules/datasets/labels.json"]:
            target = tmp_path / file.relative_to(ROOT)
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, target)
    monkeypatch.setattr(code, "ROOT", tmp_path)
    monkeypatch.setattr(code, "DIGESTS", tmp_path / "statements.json")
    forget()
    return tmp_path


@pytest.fixture(autouse=True)
def remembered_no_longer() -> Any:
    yield
    forget()


def forget() -> None:
    for known in (code.house, code._version, code._foreign, code._spec):
        known.cache_clear()


def version(method: str = "craft", dataset: str = "eurosat", **overrides: Any) -> str:
    forget()
    return code.code_version(settings(**overrides), method, dataset)


COUNTED = ["craft_lightning/losses.py", "craft_lightning/models/vlm.py", "craft_lightning/methods/base.py"]
COUNTED += [
    "craft_lightning/methods/craft.py",
    "data_modules/twins/drawings/draw_eurosat.py",
    "data_modules/datasets/eurosat.py",
]
COUNTED += [f"callbacks/{name}.py" for name in ("encoder_export", "last_step", "ste_check")]
COUNTED += ["callbacks/codebook_usage.py", "craft_lightning/settings.py", "craft_lightning/cli/run.py"]
COUNTED += [f"craft_lightning/{name}.py" for name in ("worker", "strategies/choose", "strategies/fsdp2")]
COUNTED += ["craft_lightning/evaluation/predictions.py"]
FOREIGN = [
    "craft_lightning/methods/ldifs.py",
    "data_modules/twins/drawings/draw_kvasir.py",
    "data_modules/datasets/kvasir.py",
]
FOREIGN += ["craft_lightning/methods/__init__.py", "craft_lightning/benchmark/scheduler.py"]
FOREIGN += ["data_modules/datasets/__init__.py"]
FOREIGN += ["callbacks/run_banner.py", "callbacks/hparams_tab.py", "craft_lightning/__init__.py"]


@pytest.mark.parametrize(("names", "counts"), [(COUNTED, True), (FOREIGN, False)], ids=["counted", "foreign"])
def test_the_version_changes_with_what_counts(names: list[str], counts: bool, house: Path) -> None:
    first = version()
    for name in names:
        source = (house / name).read_text()
        (house / name).write_text(source + "\nx = 2\n")
        assert (version() != first) == counts, name
        (house / name).write_text(source + '\n"""What it is."""\n\n# Why it is so.\n')
        assert version() == first, f"{name}: an explanation changes no number"
        (house / name).write_text(source)


def test_a_table_that_a_module_reads_counts(house: Path) -> None:
    first, labels = version(), house / "data_modules/datasets/labels.json"
    labels.write_text(labels.read_text().replace("AnnualCrop", "Annual crop"))
    assert version() != first


def test_a_new_file_counts_from_the_import_on(house: Path) -> None:
    first = version()
    (house / "craft_lightning/models/fresh.py").write_text("X = 1\n")
    assert version() == first
    optim = house / "craft_lightning/optim.py"
    optim.write_text(optim.read_text() + "\ndef f():\n    from craft_lightning.models.fresh import X\n    return X\n")
    second = version()
    (house / "craft_lightning/models/fresh.py").write_text("X = 2\n")
    assert len({first, second, version()}) == 3


def test_a_user_s_modules_count_where_they_are_named(
    house: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the named module imports of the user's, by relative imports, too, and the table beside it; no library."""
    files = {
        "own_pkg/__init__.py": "",
        "own_pkg/norm.py": "import numpy\nfrom . import parts\nfrom .sub.deep import x\n\nclass Norm: ...\n",
        "own_pkg/norm.json": "{}",
        "own_pkg/parts.py": "x = 1\n",
        "own_pkg/sub/deep.py": "from ..other import y\nimport own_helpers\nx = y\n",
        "own_pkg/other.py": "y = 1\n",
        "own_helpers.py": "z = 1\n",
        "own_pkg/unused.py": "x = 1\n",
    }
    for name, text in files.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    monkeypatch.syspath_prepend(tmp_path)
    named = {"model": {"class_path": "own_pkg.norm.Norm"}}

    def now() -> str:
        forget()
        return code.code_version({"config": named, "overrides": {}}, "mine", "eurosat")

    first = now()
    found = {name for name in code.reached(("own_pkg.norm",)) if not name.startswith(code.PACKAGES)}
    assert found == {"own_pkg", "own_pkg.norm", "own_pkg.parts", "own_pkg.sub.deep", "own_pkg.other", "own_helpers"}
    assert first != version("mine")
    for name, text in files.items():
        (tmp_path / name).write_text(text + ("\nx = 2\n" if name.endswith(".py") else " "))
        assert (now() == first) == (name == "own_pkg/unused.py"), name
        (tmp_path / name).write_text(text)
    assert now() == first
    dataset = {"config": {"data": {"dataset": "own_pkg.other.y"}}, "overrides": {}}
    assert "own_pkg.other" in code.starts(dataset, "craft", "eurosat")


def test_a_method_made_of_another_hangs_on_it(house: Path) -> None:
    ldifs, craft = (house / f"craft_lightning/methods/{name}.py" for name in ("ldifs", "craft"))
    ldifs.write_text(ldifs.read_text() + "\nfrom craft_lightning.methods.craft import Craft as Other\n")
    first = version("ldifs")
    craft.write_text(craft.read_text() + "\nx = 2\n")
    assert version("ldifs") != first


@pytest.mark.parametrize(
    "stored", [None, "null", "[1]", '{"k": "no digest"}', '{"k": null}', '{"k": ["ab", [], []]}', '{"k": [1]}', "{"]
)
def test_what_is_kept_is_of_what_exists_or_ignored(
    stored: str | None, house: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if stored is not None:
        code.DIGESTS.write_text(stored)
    first = version()
    kept = json.loads(code.DIGESTS.read_text())
    losses = house / "craft_lightning/losses.py"
    losses.write_text(losses.read_text() + "\nx = 2\n")
    second = version()
    now = json.loads(code.DIGESTS.read_text())
    assert second != first
    assert len(kept) == len(now), "what is no more is not kept"
    assert len(kept.keys() - now.keys()) == 1
    monkeypatch.setattr(code, "_read", lambda source: pytest.fail("parsed again"))
    assert version() == second


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import craft_lightning.run_facts\nimport torch\n", {"craft_lightning.run_facts"}),
        ("from data_modules import datamodule", {"data_modules", "data_modules.datamodule"}),
        ("def f():\n    try:\n        import callbacks\n    except E:\n        import data_modules", None),
        ("match x:\n    case 1:\n        import callbacks\n    case _:\n        import data_modules", None),
        ("if TYPE_CHECKING:\n    import torch, craft_lightning\nelse:\n    import callbacks, data_modules", None),
    ],
)
def test_imports_at_any_place(source: str, expected: set[str] | None) -> None:
    assert code.imports(ast.parse(source)) == (expected or {"callbacks", "data_modules"})


def test_statements_are_what_runs() -> None:
    source = '''"""A module."""

# A comment.
PROMPT = """one
# two

three"""
"""What an attribute is."""


class A:
    """A class,

    told at length.
    """

    def f(self) -> str:
        """A method."""
        # Why.
        return "x"  # beside
'''
    expected = [
        *('PROMPT = """one', "# two", "", 'three"""'),
        *("class A:", "    def f(self) -> str:", '        return "x"  # beside'),
    ]
    assert code.statements(source, ast.parse(source)).splitlines() == expected
    for path in (ROOT / "craft_lightning").rglob("*.py"):
        text = path.read_text(encoding="utf-8")
        assert code.statements(text, ast.parse(text)).count("\ndef ") == text.count("\ndef "), path
