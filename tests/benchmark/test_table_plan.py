"""Jobs are shared, named by what they are and keyed by all they depend on."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
import table_kit
import yaml

from craft_lightning.benchmark import cache_key as fingerprint
from craft_lightning.benchmark import plan, store
from craft_lightning.benchmark.budget import Budget, read_budget
from craft_lightning.benchmark.plan import Job, Plan, make_plan, select
from craft_lightning.benchmark.spec import load_spec
from craft_lightning.cli import table as verbs
from craft_lightning.environment import versions
from craft_lightning.errors import CraftError

ROOT = Path(__file__).resolve().parents[2]


def kinds(made: Plan) -> Counter[tuple[str, str]]:
    return Counter((n.kind, n.facts["method"]) for n in made.jobs)


def keys(made: Plan) -> dict[str, str]:
    return {n.name: n.key for n in made.jobs}


def test_a_trained_encoder_serves_both_backbones(tmp_path: Path) -> None:
    made = make_plan(load_spec(table_kit.write_house(tmp_path, number=10)), tmp_path / "runs")
    assert kinds(made) == {("train", "craft"): 20, ("eval", "zero_shot"): 20, ("eval", "craft"): 40}
    assert len(made.lines) == 6
    assert len(made.cells) == 60
    assert Counter(n.parent.name for n in made.jobs if n.parent).most_common()[-1][1] == 2
    known = {n.name for n in made.jobs}
    assert "d3/small/craft/seed0" in known
    assert "d3/small/craft/seed0/eval/big" in known
    assert "d3/none/zero_shot/seed0/eval/small" in known
    before: set[str] = set()
    for job in made.jobs:
        assert job.parent is None or job.parent.name in before, "parents come first"
        before.add(job.name)


def test_seeds_multiply_only_what_is_trained(tmp_path: Path) -> None:
    spec = load_spec(table_kit.write_house(tmp_path))
    made = make_plan(spec, tmp_path / "runs", seeds=[0, 1, 2])
    assert kinds(made) == {("train", "craft"): 12, ("eval", "zero_shot"): 4, ("eval", "craft"): 24}
    assert {len(jobs) for jobs in made.cells.values()} == {1, 3}
    assert all(f"--seed_everything={n.facts['seed']}" in n.arguments for n in made.jobs)
    one = keys(make_plan(spec, tmp_path / "runs"))
    assert one.items() <= keys(made).items()


def test_limit_is_the_same_code_in_another_folder(tmp_path: Path) -> None:
    spec = load_spec(table_kit.write_house(tmp_path, number=4))
    made = make_plan(spec, tmp_path / "runs", limit=1)
    assert kinds(made) == {("train", "craft"): 2, ("eval", "zero_shot"): 2, ("eval", "craft"): 2}
    assert {n.folder.relative_to(tmp_path).parts[1] for n in made.jobs} == {"pocket-limit1"}
    train = next(n for n in made.jobs if n.kind == "train")
    assert "--trainer.max_steps=3" in train.arguments
    assert all("--data.test_size=8" in n.arguments for n in made.jobs if n.kind == "eval")
    assert not set(keys(made).values()) & set(keys(make_plan(spec, tmp_path / "runs")).values())


def test_keys_change_with_what_they_depend_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = table_kit.write_house(tmp_path)

    def fresh() -> dict[str, str]:
        fingerprint.weights_version.cache_clear()
        return keys(make_plan(load_spec(path), tmp_path / "runs"))

    first = fresh()
    assert fresh() == first, "planning twice gives the same keys"
    assert keys(make_plan(load_spec(path), tmp_path / "elsewhere")) == first, "the place of results is no setting"

    def changed() -> set[str]:
        now = fresh()
        assert now.keys() == first.keys()
        return {name for name in now if now[name] != first[name]}

    craft = tmp_path / "experiments/methods/craft.yaml"
    craft.write_text(yaml.safe_dump(table_kit.METHODS["craft"]) + "# a comment is no setting\n")
    assert changed() == set()
    craft.write_text(craft.read_text().replace("0.1", "0.2"))
    assert changed() == {name for name in first if "/craft/" in name}
    craft.write_text(yaml.safe_dump(table_kit.METHODS["craft"]))

    table_kit.write_house(tmp_path, **_with_override({"craft": {"model.init_args.lambda_commit": 0.3}}))
    first = fresh()
    craft.write_text(yaml.safe_dump(table_kit.METHODS["craft"]).replace("0.1", "0.2"))
    assert changed() == {name for name in first if name.startswith("d1/") and "/craft/" in name}, "overridden in d0"
    table_kit.write_house(tmp_path)
    first = fresh()

    (tmp_path / "weights/small/config.json").write_text("{}")
    assert changed() == {name for name in first if "small" in name}
    table_kit.write_house(tmp_path)

    table_kit.write_house(tmp_path, **_with_override({"craft": {"model.lambda_contrastive": 0.1}}))
    now = fresh()
    assert {name for name in first if now.get(name) == first[name]} == {
        name for name in first if name.startswith("d1/") or "/craft/" not in name
    }
    table_kit.write_house(tmp_path)
    assert changed() == set()

    monkeypatch.setattr(plan, "code_version", lambda *_: "other")
    assert changed() == set(first)


def _with_override(overrides: dict[str, dict[str, float]]) -> dict[str, object]:
    columns = table_kit.spec_value()["columns"]
    columns[0]["overrides"] = overrides
    return {"columns": columns}


def test_defaults_of_the_command_line_are_those_that_count() -> None:
    """What counts as code is what the command line uses: nothing sets a seed or the checkpoint callback beside it."""
    source = (ROOT / "craft_lightning/cli/run.py").read_text(encoding="utf-8")
    assert "defaults.SEED," in source
    assert "defaults.CHECKPOINT.items()" in source
    assert source.count("set_defaults(") == 1


def test_results_of_other_libraries_are_kept_and_named(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    spec = table_kit.write_house(tmp_path, number=1)
    made = make_plan(load_spec(spec), tmp_path / "runs")
    one, two, three, *_ = made.jobs
    table_kit.write_result(one, {}, versions=versions())
    assert store.other_libraries(made.jobs) is None
    table_kit.write_result(two, {}, versions=versions() | {"torch": "1.0.0", "python": "3.0"})
    table_kit.write_result(three, {}, versions={"torch": versions()["torch"], "peft": "0.0.1"})
    assert store.state(two) == store.state(three) == "done"
    expected = (
        f"2 results are of other libraries (torch 1.0.0, here {versions()['torch']}, peft 0.0.1, here "
        f"{versions()['peft']}): they are kept; remove them to compute again"
    )
    assert store.other_libraries(made.jobs) == expected
    assert verbs.main(["status", str(spec), "--runs", str(tmp_path / "runs")]) == 0
    assert expected in capsys.readouterr().out


def test_a_shared_tower_counts_as_weights(tmp_path: Path) -> None:
    (tmp_path / "tower").mkdir()
    (tmp_path / "tower/model.bin").write_bytes(b"1")
    (tmp_path / "vlm").mkdir()
    (tmp_path / "vlm/config.json").write_text('{"vision_tower_cfg": "../tower"}')
    first = fingerprint.weights_version((tmp_path / "vlm",))
    (tmp_path / "tower/model.bin").write_bytes(b"2")
    fingerprint.weights_version.cache_clear()
    assert fingerprint.weights_version((tmp_path / "vlm",)) != first
    assert fingerprint.weights_version((tmp_path / "none",)) == "missing"


def digests_of(folder: Path) -> str:
    fingerprint.weights_version.cache_clear()
    return fingerprint.weights_version((folder,))


@pytest.fixture
def large(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A checkpoint whose file of weights is large, and old enough for its digest to be kept."""
    monkeypatch.setattr(fingerprint, "LARGE", 64)
    monkeypatch.setattr(fingerprint, "SETTLED", 0.0)
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    file = tmp_path / "vlm/model.safetensors"
    file.parent.mkdir()
    file.write_bytes(bytes(1000))
    return file


def test_weights_are_hashed_whole(large: Path) -> None:
    """A byte in the middle counts, whatever the size of the file, and though size and time of change are as before."""
    first, marks = digests_of(large.parent), large.stat()
    with large.open("r+b") as stream:
        stream.seek(500)
        stream.write(b"x")
    os.utime(large, ns=(marks.st_atime_ns, marks.st_mtime_ns))
    assert large.stat().st_mtime_ns == marks.st_mtime_ns
    second = digests_of(large.parent)
    assert second != first
    large.write_bytes(bytes(1000))
    assert digests_of(large.parent) == first


def test_large_weights_are_read_once(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = digests_of(large.parent)
    kept = fingerprint.known_digests()
    assert kept.is_relative_to(large.parents[1] / "hub")
    with monkeypatch.context() as patch:
        patch.setattr(fingerprint, "_read_whole", lambda file: pytest.fail(f"{file} is read again"))
        assert digests_of(large.parent) == first
    name, *known = (str(large.resolve()), *json.loads(kept.read_text())[str(large.resolve())])
    for spoilt in ([], {}, {name: None}, {name: []}, {name: [*known[:-1], "no digest"]}, {name: [*known[:-1], None]}):
        kept.write_text(json.dumps(spoilt))
        assert digests_of(large.parent) == first
    (large.parent / "small.json").write_bytes(b"{}")
    assert digests_of(large.parent) != first
    assert len(json.loads(kept.read_text())) == 1


def test_a_file_that_was_just_written_is_read_again(large: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A coarse clock cannot tell a change that follows the reading at once."""
    monkeypatch.setattr(fingerprint, "SETTLED", 60.0)
    first = digests_of(large.parent)
    assert not fingerprint.known_digests().exists()
    assert digests_of(large.parent) == first


@pytest.mark.parametrize("config", ["{", "[]", '"x"', '{"vision_tower_cfg": {"a": 1}}'])
def test_a_checkpoint_with_an_odd_config_is_planned(config: str, tmp_path: Path) -> None:
    """The run that reads it says what is wrong."""
    (tmp_path / "vlm").mkdir()
    (tmp_path / "vlm/config.json").write_text(config)
    assert len(digests_of(tmp_path / "vlm")) == 64


def test_files_that_settings_name_count(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = table_kit.spec_value()["rows"]
    rows[1]["eval"] = {"prune.prior": "counts.json"}
    spec = load_spec(table_kit.write_house(tmp_path, rows=rows))
    monkeypatch.chdir(tmp_path)

    def fresh() -> dict[str, str]:
        fingerprint._named_file.cache_clear()
        return keys(make_plan(spec, tmp_path / "runs"))

    (tmp_path / "counts.json").write_text("1")
    first = fresh()
    (tmp_path / "counts.json").write_text("2")
    second = fresh()
    changed = {name for name in first if first[name] != second[name]}
    assert changed == {name for name in first if "/eval/" in name and "prior" in name}
    assert changed


@pytest.mark.parametrize("setting", ["data.root", *(f"model.init_args.backbone.{n}" for n in ("encoder", "adapter"))])
def test_files_in_a_folder_count(setting: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Images, an adapted encoder, an adapter."""
    spec = load_spec(table_kit.write_house(tmp_path, **_with_override({"all": {setting: "birds"}})))
    monkeypatch.chdir(tmp_path)
    image = tmp_path / "birds" / "train" / "robin" / "1.png"
    image.parent.mkdir(parents=True)
    image.write_bytes(b"1")

    def fresh() -> dict[str, str]:
        fingerprint._named_folder.cache_clear()
        return keys(make_plan(spec, tmp_path / "runs"))

    first = fresh()
    (image.parent / ".hidden").write_bytes(b"1")
    assert fresh() == first
    for change in (
        lambda: image.write_bytes(b"12"),
        lambda: os.utime(image, ns=(5, 5)),
        lambda: image.rename(image.with_name("2.png")),
    ):
        change()
        now = fresh()
        assert {name for name in first if now[name] != first[name]} == {n for n in first if n.startswith("d0/")}
        first = now


def test_a_known_model_that_an_adapter_is_taken_of_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = {"overrides": {"model.init_args.backbone.adapter": "pocket-vila"}}
    (first,) = fingerprint.named_files(settings).values()
    assert first == fingerprint.weights_version((ROOT / "craft_lightning/pocket/pocket-vila",))
    fingerprint._known_model.cache_clear()
    monkeypatch.setattr(fingerprint, "weights_version", lambda folders: "others")
    assert fingerprint.named_files(settings) == {"pocket-vila": "others"}
    fingerprint._known_model.cache_clear()


def test_what_has_a_shipped_name_shares_no_folder_with_it(tmp_path: Path) -> None:
    """A user's method file, dataset file or column with overrides; the shipped tables mark nothing."""

    def names(**changes: object) -> set[str]:
        return set(keys(make_plan(load_spec(table_kit.write_house(tmp_path, 1, **changes)), tmp_path / "runs")))

    plain = names()
    assert "d0/small/craft/seed0" in plain
    rows = table_kit.spec_value()["rows"]
    for name, method in table_kit.METHODS.items():
        (tmp_path / "mine").mkdir(exist_ok=True)
        (tmp_path / "mine" / f"{name}.yaml").write_text(yaml.safe_dump(method))
    own = names(rows=[row | {"method": row["method"].replace("../methods", "../../mine")} for row in rows])
    roots = [names(columns=[{"id": "d0", "dataset": "eurosat", "overrides": {"all": {"data.root": r}}}]) for r in "ab"]
    (tmp_path / "mine" / "eurosat.yaml").write_text("data: {query: Which?}")
    datasets = [names(columns=[{"id": "d0", "dataset": d}]) for d in ("eurosat", "../../mine/eurosat.yaml")]
    made = [plain, own, *roots, *datasets]
    assert sum(map(len, made)) == len(set().union(*made)) == 6 * len(plain)
    shipped = make_plan(load_spec(ROOT / "experiments/tables/table1-paper.yaml"), tmp_path / "runs")
    assert {"iconqa", "kvasir"} < {name.split("/")[0] for name in keys(shipped)}
    assert {name.split("/")[2] for name in keys(shipped)} <= {
        "zero_shot",
        *(row.method.stem for row in shipped.spec.rows),
    }


def test_testing_settings_name_their_own_folder(tmp_path: Path) -> None:
    rows = table_kit.spec_value()["rows"]
    rows.append(rows[1] | {"id": "craft_keep", "eval": {"prune.keep": 0.8}, "eval_on": ["big"]})
    rows.append(rows[1] | {"id": "craft_half", "overrides": {"model.lambda_commit": 0.5}, "train_on": ["big"]})
    made = make_plan(load_spec(table_kit.write_house(tmp_path, number=1, rows=rows)), tmp_path / "runs")
    names = {n.name for n in made.jobs}
    assert {"d0/big/craft/seed0/eval/big", "d0/big/craft/seed0/eval/big-keep0.8"} <= names
    assert {"d0/big/craft-lambda_commit0.5/seed0", "d0/big/craft-lambda_commit0.5/seed0/eval/big"} <= names
    assert sum(n.kind == "train" for n in made.jobs) == 3


def test_two_settings_never_share_a_folder(tmp_path: Path) -> None:
    columns = [{"id": name, "dataset": f"../datasets/{name}d0.yaml"} for name in ("", "other/")]
    columns[0]["id"] = "d0"
    (tmp_path / "experiments/datasets/other").mkdir(parents=True)
    (tmp_path / "experiments/datasets/other/d0.yaml").write_text("data: {query: Which?}")
    spec = load_spec(table_kit.write_house(tmp_path, columns=columns))
    with pytest.raises(CraftError, match="share the folder d0/none/zero_shot/seed0"):
        make_plan(spec, tmp_path / "runs")


def test_only_takes_parents_along(tmp_path: Path) -> None:
    made = make_plan(load_spec(table_kit.write_house(tmp_path)), tmp_path / "runs")
    names = [n.name for n in select(made, "d1/small/craft/*/eval/big").jobs]
    assert names == ["d1/small/craft/seed0", "d1/small/craft/seed0/eval/big"]
    assert len(select(made, "d0/*").jobs) == 8
    with pytest.raises(CraftError, match="no job matches 'crafd'; did you mean 'craft'"):
        select(made, "crafd")


def test_arguments_are_what_a_person_would_type(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = table_kit.write_house(tmp_path)
    monkeypatch.chdir(tmp_path)
    made = make_plan(load_spec(path.relative_to(tmp_path)))
    train = next(n for n in made.jobs if n.name == "d0/small/craft/seed0")
    fragments = ["base", "methods/craft", "datasets/d0"]
    shared = [part for name in fragments for part in ("--config", f"experiments/{name}.yaml")]
    place = "runs/pocket/d0/small/craft/seed0"
    backbone = "--model.init_args.backbone.name="
    own = (f"{backbone}small", "--seed_everything=0", f"--trainer.default_root_dir={place}")
    assert train.arguments == ("fit", *shared, *own)
    test = next(n for n in made.jobs if n.name == "d0/small/craft/seed0/eval/big")
    assert test.arguments[0] == "test"
    assert f"{backbone}big" in test.arguments
    assert test.arguments[-2:] == (f"--trainer.default_root_dir={place}/eval/big", f"--encoder={place}/encoder")


def test_a_method_that_leaves_the_encoder_is_tested_from_its_checkpoint(tmp_path: Path) -> None:
    rows = table_kit.spec_value()["rows"]
    rows[1] = {k: v for k, v in rows[1].items() if k != "eval_on"} | {"tested_from": "checkpoint"}
    made = make_plan(load_spec(table_kit.write_house(tmp_path, number=1, rows=rows)), tmp_path / "runs")
    tests = [n for n in made.jobs if n.parent]
    assert [n.name for n in tests] == [f"d0/{b}/craft/seed0/eval/{b}" for b in ("big", "small")]
    for job in tests:
        assert job.parent is not None
        assert job.arguments[-1] == f"--ckpt_path={job.parent.folder}/checkpoints/last.ckpt"
        assert not any("--encoder" in argument for argument in job.arguments)


AGAIN = {"id": "again", "label": "Again", "method": "../methods/zero_shot.yaml", "tested_from": "checkpoint"}


def test_a_row_may_stand_behind_the_encoder_of_another(tmp_path: Path) -> None:
    def planned(**row: Any) -> dict[str, Job]:
        rows = [*table_kit.spec_value()["rows"], *([row] if row else [])]
        path = table_kit.write_house(tmp_path, rows=rows)
        return {job.name: job for job in make_plan(load_spec(path), tmp_path / "runs", (3,)).jobs}

    again, runs = {**AGAIN, "train_on": ["small", "big"]}, tmp_path / "runs/pocket"
    jobs = planned(**again, behind={"row": "craft", "surrogate": "big"})
    craft, mine = "d1/big/craft/seed3", "d1/small/zero_shot-behind-big-craft/seed3"
    tested = jobs[f"{mine}/eval/small"]
    assert [job.name for job in tested.lineage] == [craft, mine, tested.name]
    assert jobs[mine].arguments[-1] == f"--encoder={runs / craft}/encoder"
    taken = [f"--ckpt_path={runs / mine}/checkpoints/last.ckpt", f"--encoder={runs / craft}/encoder"]
    assert list(tested.arguments[-2:]) == taken
    assert jobs[craft].key == planned()[craft].key, "it is shared"
    own = planned(**again, behind={"row": "craft"})["d1/small/zero_shot-behind-small-craft/seed3"]
    assert own.parent is not None
    assert own.parent.name == "d1/small/craft/seed3"


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"behind": {"row": "zero_shot"}}, r"rows\[again\].behind: row zero_shot is not trained with big"),
        ({"behind": {"row": "again"}}, r"rows\[again\].behind: needs a row that leaves an encoder"),
        ({"tested_from": "encoder"}, "behind: what is trained behind an encoder is tested_from: checkpoint"),
    ],
)
def test_a_row_behind_what_leaves_no_encoder_is_a_mistake(tmp_path: Path, change: dict[str, Any], words: str) -> None:
    row = AGAIN | {"train_on": ["big"], "behind": {"row": "craft"}} | change
    path = table_kit.write_house(tmp_path, rows=[*table_kit.spec_value()["rows"], row])
    with pytest.raises(CraftError, match=words):
        load_spec(path)


def test_an_adapter_is_tested_behind_other_language_models(tmp_path: Path) -> None:
    rows = table_kit.spec_value()["rows"]
    rows[1] |= {"tested_from": "adapter"}
    made = make_plan(load_spec(table_kit.write_house(tmp_path, number=1, rows=rows)), tmp_path / "runs")
    tests = [n for n in made.jobs if n.parent]
    assert {n.name for n in tests} == {
        f"d0/{a}/craft/seed0/eval/{b}" for a in ("big", "small") for b in ("big", "small")
    }
    for job in tests:
        assert job.parent is not None
        assert job.arguments[-1] == f"--adapter={job.parent.folder}/adapter"


def test_lines_follow_the_backbones_or_the_rows(tmp_path: Path) -> None:
    def lines(**changes: str) -> list[str]:
        made = make_plan(load_spec(table_kit.write_house(tmp_path, **changes)), tmp_path / "runs")
        return [f"{n.row.id} {n.surrogate.id if n.surrogate else '-'} {n.backbone.id}" for n in made.lines]

    zero, craft = ["zero_shot - big", "zero_shot - small"], ["craft small big", "craft big big"]
    other = ["craft small small", "craft big small"]
    assert lines() == [zero[0], *craft, zero[1], *other]
    assert lines(order="rows") == [*zero, *craft, *other]
    limited = make_plan(load_spec(table_kit.write_house(tmp_path, order="rows")), tmp_path / "runs", limit=1)
    assert [line.row.id for line in limited.lines] == ["zero_shot", "craft"], "a rehearsal trains something"


@pytest.mark.parametrize("arguments", [["--help"], ["plan", "--help"], ["status", "experiments/tables/toy.yaml"]])
def test_tables_import_no_torch(tmp_path: Path, arguments: list[str]) -> None:
    table_kit.write_house(tmp_path)
    code = (
        "import sys, runpy\n"
        f"sys.argv = ['craft_lightning', 'table', *{arguments!r}]\n"
        "try:\n    runpy.run_module('craft_lightning', run_name='__main__')\n"
        "except SystemExit as stop:\n    assert not stop.code, stop.code\n"
        "heavy = {'torch', 'lightning', 'transformers', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    environment = {"PYTHONPATH": str(ROOT), "PATH": ""}
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=environment, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime < 1, "a light verb starts at once"


def test_a_longer_budget_is_a_table_of_its_own_with_other_trainings(tmp_path: Path) -> None:
    table = ROOT / "experiments" / "tables" / "table1.yaml"
    short, long = (make_plan(load_spec(table, budget=name), tmp_path / "runs", [0]) for name in ("short", "long"))
    assert (long.spec.name, long.spec.title) == ("table1-long", f"{short.spec.title}, long budget")
    assert len(long.jobs) == len(short.jobs)
    for a, b in zip(short.jobs, long.jobs, strict=True):
        trained = b.kind == "train" or b.parent is not None
        assert b.name == (a.name.replace(a.facts["method"], f"{a.facts['method']}-long", 1) if trained else a.name)
        assert (a.key == b.key) is not trained, "what trains nothing is shared"
        assert ("--trainer.max_steps=400" in b.arguments) is (b.kind == "train")
    trial = make_plan(load_spec(table, budget="long"), tmp_path / "runs", limit=1)
    assert all("--trainer.max_steps=3" in job.arguments for job in trial.jobs if job.kind == "train")


def test_a_budget_of_ones_own_hides_the_shipped_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "experiments/budgets").mkdir(parents=True)
    (tmp_path / "experiments/budgets/long.yaml").write_text("all: {trainer.max_steps: 7}\n")
    (tmp_path / "experiments/budgets/mine.yaml").write_text("all: {trainer.max_steps: 8}\n")
    assert [read_budget(name).of("craft") for name in ("long", "mine")] == [{"trainer.max_steps": n} for n in (7, 8)]


def test_a_budget_has_rates_by_method_which_rows_may_change(tmp_path: Path) -> None:
    held = Budget("long", {"all": {"steps": 4, "lr": 1}, "craft": {"lr": 2}})
    assert held.of("craft") == {"steps": 4, "lr": 2}
    assert held.of("ldifs") == {"steps": 4, "lr": 1}
    methods = {file.stem for file in (ROOT / "experiments" / "methods").glob("*.yaml")}
    for file in (ROOT / "experiments" / "budgets").glob("*.yaml"):
        assert set(read_budget(file.stem).settings) <= {"all", *methods}
    sweep = make_plan(load_spec(ROOT / "experiments" / "tables" / "sweep.yaml", budget="long"), tmp_path / "runs")
    flags = [f for job in sweep.jobs for f in job.arguments if f.startswith("--model.init_args.optim.lr")]
    assert len({*flags}) == 6


def test_an_unknown_budget_is_one_line() -> None:
    with pytest.raises(CraftError, match=r"budget: no budget 'lnog'; did you mean 'long'\? Known: short, long"):
        load_spec(ROOT / "experiments" / "tables" / "table1.yaml", budget="lnog")


def test_a_budget_of_anything_but_settings_by_method_is_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "experiments/budgets").mkdir(parents=True)
    (tmp_path / "experiments/budgets/mine.yaml").write_text("all: 400\n")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CraftError, match=r"budget: experiments/budgets/mine.yaml: all must hold settings, got 400"):
        load_spec(ROOT / "experiments/tables/table1.yaml", budget="mine")


def test_what_a_claim_is_decided_from_comes_first(tmp_path: Path) -> None:
    made = make_plan(load_spec(ROOT / "experiments" / "tables" / "table1.yaml"), tmp_path / "runs", [0])
    first = dict.fromkeys((job.facts["method"], job.facts["backbone"]) for job in made.jobs)
    assert list(first)[:4] == [
        ("zero_shot", "pocket-vila-u"),
        ("zero_shot", "pocket-vila"),
        ("vision_ft", "pocket-vila"),
        ("craft", "pocket-vila-u"),
    ]


def test_a_file_that_the_environment_names_counts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As tables at paper scale name archives."""
    for name, text in (("a", "one"), ("b", "two")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "all.zip").write_text(text)
    settings = {"data": {"root": "${oc.env:SOMEWHERE," + str(tmp_path / "a") + "}/all.zip"}}
    monkeypatch.delenv("SOMEWHERE", raising=False)
    usual = fingerprint.named_files(settings)
    assert [*usual] == [str(tmp_path / "a" / "all.zip")]
    monkeypatch.setenv("SOMEWHERE", str(tmp_path / "b"))
    assert fingerprint.named_files(settings) != usual
    assert [*fingerprint.named_files(settings)] == [str(tmp_path / "b" / "all.zip")]


def test_judgements_that_were_paid_for_outlive_their_training(tmp_path: Path) -> None:
    made = make_plan(load_spec(table_kit.write_house(tmp_path)), tmp_path / "runs")
    training = next(job for job in made.jobs if job.kind == "train")
    test = next(job for job in made.jobs if job.parent == training)
    for job in (training, test):
        table_kit.write_result(job, {})
    paid = [test.folder / f"judgements{tag}.claude-x.jsonl" for tag in ("", ".keep0.8")]
    for path in (*paid, test.folder / "judgements.offline.jsonl", training.folder / "events" / "x"):
        path.parent.mkdir(exist_ok=True)
        path.write_text("{}")
    assert not store.prepare(training)
    left = sorted(path for path in training.folder.rglob("*") if path.is_file())
    assert left == sorted([*paid, training.folder / "started.json"])
    assert not (training.folder / "events").exists()
