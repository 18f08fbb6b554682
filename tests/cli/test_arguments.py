"""The flags of the verbs that are no runs: the same one for the same thing, and mistakes in one line."""

from __future__ import annotations

import re
from typing import Any

import pytest

from craft_lightning import __main__ as entry
from craft_lightning.cli.arguments import RENAMED, SHARED

FLAGS = {
    "tokenize": ("--backbone", "--encoder", "--images", "--keep", "--output"),
    "tokens": ("--backbone", "--encoder", "--images", "--keep", "--output"),
    "export": ("--backbone", "--encoder", "--output"),
    "draw": ("--output",),
    "board": ("--runs",),
    "doctor": ("--scale",),
    "list": (),
    "surrogate": (),
    "table": (),
}
"""Shared flags by verb."""


def help_of(verb: str, capsys: Any) -> str:
    with pytest.raises(SystemExit) as stop:
        entry.main([verb, "--help"])
    assert stop.value.code == 0
    return str(capsys.readouterr().out)


@pytest.mark.parametrize("verb", FLAGS)
def test_a_verb_takes_what_several_verbs_take_by_one_name(verb: str, capsys: Any) -> None:
    text = help_of(verb, capsys)
    assert text.startswith(f"usage: python -m craft_lightning {verb} ")
    listed = set(re.findall(r"^  (--[\w-]+)", text, re.MULTILINE))
    assert listed & SHARED.keys() == set(FLAGS[verb])
    assert not listed & {*RENAMED, "--model", "--image", "--out"}


def test_the_first_names_of_flags_are_still_understood(checkpoints: Any, tmp_path: Any, capsys: Any) -> None:
    given = ["--checkpoint", str(checkpoints / "host"), "--input", str(tmp_path / "none.png")]
    assert entry.main(["tokenize", *given, "--output", str(tmp_path / "o")]) == 2
    assert "no image or folder" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (["tokens", "--imagse", "x"], "tokens: the following arguments are required: --backbone, --images, --output"),
        (["draw", "--output", "x.png", "--sied", "8"], "unrecognized arguments: --sied 8; did you mean --side?"),
        (["draw", "--output", "x.png", "--side", "0"], "draw: argument --side: must be at least 1, not 0"),
        (["board", "--run", "x"], "board: unrecognized arguments: --run x; did you mean --runs?"),
        (["list"], "list: the following arguments are required"),
        (["list", "method"], "no list of 'method'; did you mean 'methods'?"),
        (["doctor", "--scale", "large"], "doctor: argument --scale: invalid choice: 'large'"),
        (["--backbone", "x"], "--backbone comes after the verb"),
        (["exprot"], "no verb 'exprot'; did you mean 'export'?"),
    ],
)
def test_mistakes_are_one_line(given: list[str], expected: str, capsys: Any) -> None:
    assert entry.main(given) == 2
    told = capsys.readouterr().err
    assert expected in told
    assert told.count("\n") == 1


@pytest.mark.parametrize("verb", ["fit", "test"])
def test_the_help_of_a_run_begins_with_what_it_is_about(verb: str, capsys: Any) -> None:
    text = help_of(verb, capsys)
    assert text.startswith(f"usage: python -m craft_lightning {verb} --config FILE ... [--SETTING VALUE ...]\n")
    at = [text.index(f"  --{setting}") for setting in ("model ", "data.dataset", "prune.keep", "trainer.max_steps")]
    assert at == sorted(at)
