"""Files are there whole or not at all."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from craft_lightning.errors import CraftError
from craft_lightning.io import check_root, fresh_file, read_lines, read_settings, write_json, write_text


def _die_in_the_middle(path: Path) -> None:
    with fresh_file(path) as temporary:
        temporary.write_text("half of it")
        assert temporary.suffix == path.suffix, "writers choose their format by the ending"
        assert path.read_text() == "old"
        raise KeyboardInterrupt


def test_a_writer_that_dies_leaves_the_old_file(tmp_path: Path) -> None:
    path = write_text(tmp_path / "new" / "table.csv", "old")
    with pytest.raises(KeyboardInterrupt):
        _die_in_the_middle(path)
    assert path.read_text() == "old"
    assert [p.name for p in path.parent.iterdir()] == ["table.csv"]


def test_a_text_may_hold_other_ends_of_lines(tmp_path: Path) -> None:
    rows = [{"prediction": "one\u2028two"}, {"prediction": "a\x85b\x0c"}]
    (tmp_path / "x.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    assert read_lines(tmp_path / "x.jsonl") == rows
    assert read_lines(tmp_path / "y.jsonl") == []
    for line in ('"text"', '{"key": 1', "[1]", "null", "\udcff"):
        (tmp_path / "x.jsonl").write_text(f'{{"key": 0}}\n{line}\n', errors="surrogateescape")
        with pytest.raises(CraftError, match=r"x\.jsonl cannot be read: line 2 is no JSON object"):
            read_lines(tmp_path / "x.jsonl")


def test_what_is_written_is_read_again(tmp_path: Path) -> None:
    value = {"name": "Kästchen", "values": [1, 2.5, None]}
    write_json(tmp_path / "a.json", value)
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == value
    write_json(tmp_path / "a.json", {})
    assert (tmp_path / "a.json").read_text() == "{}\n"


def test_a_place_that_is_none_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "photos.zip").touch()
    with pytest.raises(CraftError, match=r"photos\.zip is a file; give that, and all of it is read"):
        check_root(str(tmp_path / "photos.zip" / "train"), "folder")
    with pytest.raises(CraftError, match="has no such entry"):
        check_root(str(tmp_path / ("long" * 100)), "folder")


def test_settings_that_are_like_themselves_are_one_line(tmp_path: Path) -> None:
    write_text(tmp_path / "a.yaml", "like: b.yaml\nx: 1\n")
    write_text(tmp_path / "b.yaml", "like: c.yaml\nx: 2\ny: 2\n")
    write_text(tmp_path / "c.yaml", "x: 3\nz: 3\n")
    assert read_settings(tmp_path / "a.yaml") == {"x": 1, "y": 2, "z": 3}
    write_text(tmp_path / "c.yaml", "like: a.yaml\n")
    with pytest.raises(CraftError, match=r"a\.yaml is like itself: \S+a\.yaml is like \S+b\.yaml is like \S+c\.yaml"):
        read_settings(tmp_path / "a.yaml")
