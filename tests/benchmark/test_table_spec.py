"""A table's file: every mistake at once, each with the nearest name."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import table_kit

from craft_lightning.benchmark.spec import find_table, load_spec
from craft_lightning.benchmark.table_parts import table_lines
from craft_lightning.errors import CraftError

ROOT = Path(__file__).resolve().parents[2]


def test_a_sound_table_is_read_whole(tmp_path: Path) -> None:
    spec = load_spec(table_kit.write_house(tmp_path))
    assert [b.id for b in spec.backbones] == ["big", "small"]
    assert spec.rows[1].train_on == ("small", "big")
    assert spec.rows[0].train_on == ()
    assert spec.seeds == (0,)
    assert spec.metric.name == "test/exact_match"
    assert spec.paper.values["CRAFT", "SMALL", "BIG", "p1"] == 52.5
    assert [(d.name, d.config and d.config.is_file()) for d in spec.columns[1].datasets] == [("d1", True)]


def test_all_mistakes_are_told_together(tmp_path: Path) -> None:
    value = table_kit.spec_value()
    value["rows"][1] |= {"train_on": ["smal"], "method": "../methods/craf.yaml", "paper": "CRAFTY"}
    value["rows"][0]["lable"] = "Zero"
    value["columns"][0]["overrides"] = {"crafty": {"model.lr": 1}}
    value["columns"][1]["id"] = "d0"
    del value["backbones"][0]["weights"]
    value["columns"][1]["paper"] = "p7"
    value |= {"baseline": "zeroshot", "seeds": [0, "one"], "colour": "red", "metric": {"nme": "x"}, "scale": 3}
    with pytest.raises(CraftError) as caught:
        load_spec(table_kit.write_house(tmp_path, **value))
    lines = str(caught.value).splitlines()
    assert lines[0] == f"13 mistakes in {tmp_path / 'experiments/tables/toy.yaml'}:"
    text = "\n".join(lines)
    for expected in (
        "rows[craft].train_on: unknown name 'smal'; did you mean 'small'? Known: big, small",
        "rows[craft].method: '../methods/craf.yaml' does not exist; did you mean 'craft.yaml'?",
        "rows[craft].paper: unknown name 'CRAFTY'; did you mean 'CRAFT'?",
        "rows[zero_shot]: unknown key 'lable'; did you mean 'label'?",
        "columns[d0].overrides: unknown name 'crafty'; did you mean 'craft'?",
        "columns: 'd0' is there 2 times",
        "backbones[big]: unknown checkpoint 'big'",
        "columns[d0].paper: unknown name 'p7'",
        "baseline: unknown name 'zeroshot'; did you mean 'zero_shot'?",
        "seeds: must be a valid integer, got 'one'",
        "unknown key 'colour'",
        "metric: unknown key 'nme'; did you mean 'name'?",
        "scale: must be a valid string, got 3",
    ):
        assert expected in text, expected


def test_what_no_row_can_show_is_a_mistake(tmp_path: Path) -> None:
    claims = [
        {"id": 1, "text": "a", "gain": {"row": "zero_shot", "surrogate": "big"}},
        {"id": 2, "text": "b", "gain": {"row": "craft"}, "above": {"row": "zero_shot", "pairs": "same"}},
    ]
    with pytest.raises(CraftError) as caught:
        load_spec(table_kit.write_house(tmp_path, claims=claims, metric={"name": "exact_match"}))
    assert "metric.name: must say what measures it, as test/exact_match or val/exact_match" in str(caught.value)
    with pytest.raises(CraftError) as caught:
        load_spec(table_kit.write_house(tmp_path, claims=claims))
    assert str(caught.value).splitlines()[1:] == [
        "  claims[1].gain: no printed row is that",
        "  claims[2].above: no printed row is that",
    ]


def test_a_table_that_says_its_steps_has_no_other_budget() -> None:
    path = find_table("steps")
    assert load_spec(path).budget.name == "short"
    with pytest.raises(CraftError, match=r"say their own trainer\.max_steps, so this table has no 'long' one"):
        load_spec(path, budget="long")


@pytest.mark.parametrize(
    ("text", "expected"),
    [("rows: [", "cannot be read"), ("- a", "must hold a mapping, got list"), ("rows: []", "rows: is empty")],
)
def test_no_table_at_all(tmp_path: Path, text: str, expected: str) -> None:
    path = tmp_path / "x.yaml"
    path.write_text(text)
    with pytest.raises(CraftError, match=expected):
        load_spec(path)


def test_words_with_few_values_and_where_a_checkpoint_can_be_tested(tmp_path: Path) -> None:
    rows = table_kit.spec_value()["rows"]
    rows[0] |= {"tested_from": "checkpont"}
    rows[1] |= {"tested_from": "checkpoint"}
    with pytest.raises(CraftError) as caught:
        load_spec(table_kit.write_house(tmp_path, rows=rows, order="row"))
    assert [line.strip() for line in str(caught.value).splitlines()[1:]] == [
        "rows[zero_shot].tested_from: unknown name 'checkpont'; did you mean 'checkpoint'? Known: encoder, adapter, "
        "checkpoint",
        "rows[craft]: a checkpoint is tested where it was trained: needs train_on and no eval_on",
        "order: unknown name 'row'; did you mean 'rows'? Known: backbones, rows",
    ]


def test_a_badly_transcribed_number_is_named(tmp_path: Path) -> None:
    path = table_kit.write_house(tmp_path)
    paper = path.parent / "paper.csv"
    paper.write_text(paper.read_text().replace("BIG,40.00", "BIG,4O.00", 1))
    with pytest.raises(CraftError, match=r"paper.values: paper.csv, line 2: p0 is no number: '4O.00'"):
        load_spec(path)


def test_names_and_scales(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = table_kit.write_house(tmp_path)
    monkeypatch.chdir(tmp_path)
    assert find_table("toy") == find_table("experiments/tables/toy.yaml") == path.relative_to(tmp_path)
    with pytest.raises(CraftError, match="no table 'tyo' in experiments/tables; did you mean 'toy'"):
        find_table("tyo")
    with pytest.raises(CraftError, match="no table 'toy-paper'"):
        find_table("toy", "paper")
    with pytest.raises(CraftError, match="made for 'pocket', not for 'paper'"):
        load_spec(path, "paper")


def test_the_papers_numbers_are_those_of_its_tables() -> None:
    paper = load_spec(ROOT / "experiments/tables/table1.yaml").paper.values
    assert paper["CRAFT", "VILA-U-7B", "VILA-U-7B", "avg_printed"] == 68.58
    assert paper["Zero-shot", "none", "VILA-U-7B", "avg_printed"] == 55.07
    assert paper["CRAFT", "VILA-U-7B", "Qwen2-0.5B", "iconqa"] == 17.73
    assert paper["Vision FT", "VILA-7B", "VILA-7B", "avg_printed"] == 61.76


def test_every_row_of_the_papers_table_has_its_own() -> None:
    spec = load_spec(ROOT / "experiments/tables/table1.yaml")
    with (ROOT / "experiments/tables/paper/table1.csv").open() as file:
        named = ("method", "train_surrogate", "inference_backbone")
        printed = {tuple(row[name] for name in named) for row in csv.DictReader(file)}
    lines = [line for line in table_lines(spec) if line.row.paper]
    ours = {(line.row.paper, line.surrogate.paper if line.surrogate else "none", line.backbone.paper) for line in lines}
    assert printed == ours
    assert {row.id for row in spec.rows if not row.paper} == {"craft-keep1.0"}
