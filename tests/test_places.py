"""Places to write to and checkpoints to read, made sure of before anything is computed."""

from __future__ import annotations

import logging
import os
import re
import sys
from pathlib import Path

import lightning
import pytest

from craft_lightning import __main__ as entry
from craft_lightning.errors import CraftError
from craft_lightning.io import check_file
from craft_lightning.run_folder import check_folder, find_checkpoint

SMOKE = str(Path(__file__).resolve().parent.parent / "experiments" / "smoke.yaml")


def test_a_run_folder_that_cannot_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    check_folder(tmp_path / "not" / "yet")
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to("nowhere")
    for name in ("file", "file/below", "link"):
        with pytest.raises(CraftError, match=r"is no folder; name another folder with --output"):
            check_folder(tmp_path / name)
    monkeypatch.setattr(os, "access", lambda path, mode: False)
    with pytest.raises(CraftError, match=f"no permission to write in {tmp_path}"):
        check_folder(tmp_path / "new")


def test_a_file_to_write_is_no_folder(tmp_path: Path) -> None:
    check_file(tmp_path / "new.png", "--output")
    with pytest.raises(CraftError, match=r"--output .* is a folder: name a file in it"):
        check_file(tmp_path, "--output")
    with pytest.raises(CraftError, match=f"no folder {tmp_path}/no"):
        check_file(tmp_path / "no" / "new.png", "--output")


def test_a_checkpoint_is_a_file_or_the_last_of_a_training(tmp_path: Path) -> None:
    (tmp_path / "checkpoints").mkdir()
    with pytest.raises(CraftError, match=f"no checkpoint .*last.ckpt; there is none in {tmp_path}/checkpoints"):
        find_checkpoint("last", tmp_path)
    last = tmp_path / "checkpoints" / "last.ckpt"
    last.write_text("")
    assert find_checkpoint("last", tmp_path) == find_checkpoint(str(last), tmp_path) == str(last)
    for word in ("best", "hpc", "registry:model"):
        with pytest.raises(CraftError, match=f"no checkpoint {word}; there is {last}: --ckpt_path takes a file"):
            find_checkpoint(word, tmp_path)
    with pytest.raises(CraftError, match=f"no checkpoint {tmp_path}/best.ckpt; there is none in {tmp_path}:"):
        find_checkpoint(str(tmp_path / "best.ckpt"), tmp_path)


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["table", "run", "table1", "--limit", "1", "--runs", "FILE"], "FILE is no folder; name another .* --runs"),
        (["board", "--runs", "FILE"], "FILE is no folder; name another folder with --runs"),
        (["draw", "--output", "NONE/x.png"], "--output NONE/x.png: no folder NONE"),
        (["draw", "--output", "FILE/x.png"], "--output FILE/x.png: no folder FILE"),
    ],
)
def test_other_verbs_say_so_too(
    arguments: list[str], told: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    named = {"FILE": str(tmp_path / "file"), "NONE": str(tmp_path / "none")}
    for word, path in named.items():
        arguments, told = [text.replace(word, path) for text in arguments], told.replace(word, path)
    assert entry.main(arguments) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert re.search(told, line)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("verb", ["fit", "test"])
@pytest.mark.parametrize(
    ("flag", "expected"),
    [
        ("--ckpt_path=best", "no checkpoint best"),
        ("--output=FILE/run", "name another folder with --output"),
        ("--data.root=FILE/mine", "images are drawn by default; --data.source folder or hub reads those there"),
    ],
)
def test_a_run_says_so_in_one_line(
    verb: str,
    flag: str,
    expected: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    # Lightning writes to what was standard error when it was imported, which need not be what is captured here.
    for name in (lightning.__name__, "lightning.fabric", "lightning.pytorch"):
        for handler in logging.getLogger(name).handlers:
            if type(handler) is logging.StreamHandler:  # and not one of pytest's
                monkeypatch.setattr(handler, "stream", sys.stderr)
    (tmp_path / "file").write_text("")
    where = f"--output={tmp_path / 'run'}"
    assert entry.main([verb, "--config", SMOKE, where, flag.replace("FILE", str(tmp_path / "file"))]) == 2
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert expected in line
