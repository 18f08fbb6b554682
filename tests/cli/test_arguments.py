"""The flags of all verbs: one spelling, one name for one thing, and mistakes in one line."""

from __future__ import annotations

import argparse
import inspect
import re
from collections.abc import Iterator
from contextlib import suppress
from typing import Any

import pytest
from lightning.pytorch import Trainer

from callbacks.last_step import LastCheckpoint
from callbacks.prune_at_validation import PruneAtValidation
from callbacks.ste_check import SteCheck
from callbacks.token_map import TokenMap
from craft_lightning import __main__ as entry
from craft_lightning.cli import early
from craft_lightning.cli.arguments import RENAMED, SHARED, VerbParser
from craft_lightning.cli.config_layers import ALIASES
from craft_lightning.cli.parser import settings
from craft_lightning.cli.verbs import adapt as adapt_parser
from craft_lightning.cli.verbs import predict as predict_parser
from craft_lightning.methods import METHODS
from craft_lightning.models.pruning import PruneRule
from craft_lightning.models.vlm_spec import VlmSpec
from craft_lightning.optim import OptimSpec
from data_modules.datamodule import VqaDataModule

OTHERS = sorted({*entry.VERBS} - {*entry.RUNS, "predict"})
"""Verbs whose main builds their parser; the settings of runs are those of :mod:`craft_lightning.cli.parser`."""

MEANINGS = {
    "--adapter": "adapter to plug in",
    "--backbone": "model",
    "--encoder": "adapted encoder to plug in",
    "--images": "images of one's own",
    "--help_all": "all settings",
    "--keep": "share of tokens that pruning keeps",
    "--output": "what is written",
    "--runs": "folder of all results",
    "--budget": "how long trainings are",
    "--seeds": "seeds of a table",
    "--scale": "size of models",
    "--workers": "processes that read images",
    "--only": "part of the work",
    "--devices": "accelerators",
    "--dry_run": "say what would be done, and do nothing",
}
"""What a flag is about that several verbs have."""

SAME = {"--only", "--devices", "--dry_run"}
"""Those of them that each verb describes by itself: a table's are patterns and an estimate's machine."""


def parsers(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """A parser and those of its verbs."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            for inner in action.choices.values():
                yield from parsers(inner)


def collected(verb: str, monkeypatch: pytest.MonkeyPatch) -> argparse.ArgumentParser:
    """The parser that a verb builds, at the moment when it would parse."""
    found: list[argparse.ArgumentParser] = []

    def stop(self: argparse.ArgumentParser, *args: Any) -> Any:
        found.append(self)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(VerbParser, "parse_known_args", stop)
        assert entry.main([verb]) == 130
    return found[0]


@pytest.fixture
def flags(monkeypatch: pytest.MonkeyPatch, capsys: Any) -> dict[str, dict[str, argparse.Action]]:
    """All flags of all verbs: by flag and verb what the parser says of it."""
    every = {"predict": predict_parser(), **{verb: collected(verb, monkeypatch) for verb in OTHERS}}
    found: dict[str, dict[str, argparse.Action]] = {}
    for verb, parser in every.items():
        for inner in parsers(parser):
            for action in inner._actions:
                for flag in action.option_strings:
                    found.setdefault(flag, {})[verb] = action
    return found


def test_flags_have_one_spelling(flags: Any) -> None:
    wrong = [flag for flag in {*flags, *ALIASES} - {"-h", "--help"} if not re.fullmatch(r"--[a-z]+(_[a-z]+)*", flag)]
    assert wrong == []
    assert not {*flags} & {*RENAMED}, "the old name of a flag is no flag"
    assert {*RENAMED.values()} <= {*flags}


def test_a_flag_of_several_verbs_is_one_thing(flags: Any) -> None:
    several = {flag: verbs for flag, verbs in flags.items() if len(verbs) > 1 and flag not in ("-h", "--help")}
    assert {*several, *ALIASES, *SHARED} <= {*MEANINGS}, "a line in MEANINGS says what it is about in all of them"
    assert len({*MEANINGS.values()}) == len(MEANINGS)
    assert {*SHARED} <= {*several} <= {*SHARED} | SAME, "what several verbs take is said once"
    for flag in {*several} - SAME:
        kinds = {(action.type, action.nargs, action.metavar) for action in several[flag].values()}
        assert kinds == {(SHARED[flag].get("type"), SHARED[flag].get("nargs"), SHARED[flag].get("metavar"))}, flag
    undescribed = [flag for flag, verbs in flags.items() for action in verbs.values() if not action.help]
    assert undescribed == []


def test_things_that_several_verbs_take_have_no_second_name(flags: Any) -> None:
    """Of one kind of thing there is one flag, whatever words its help has for it."""
    about = {
        "--backbone": r"list backbones|folder of a checkpoint",
        "--images": r"image files",
        "--encoder": r"adapted encoder",
        "--output": r"file to write$|folder to make",
        "--runs": r"folder of all results \(runs\)$",
        "--keep": r"share of tokens",
    }
    for one, words in about.items():
        named = {flag for flag, verbs in flags.items() for a in verbs.values() if re.search(words, str(a.help))}
        assert one in named
        assert named == {one}, words


@pytest.mark.parametrize("spelling", ["--batch_size=0", "--batch-size=0", "--batch-size 0"])
def test_hyphens_are_understood(spelling: str, capsys: Any) -> None:
    given = ["tokenize", "--backbone", "x", "--images", ".", "--output", "z", *spelling.split()]
    assert entry.main(given) == 2
    assert "argument --batch_size: must be at least 1, not 0" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "settings"),
    [
        (["--trainer.max_steps", "60", "leaves"], ["--trainer.max_steps=60"]),
        (
            ["--trainer.max-steps=-1", "leaves", "--data.query", "Which leaf?"],
            ["--trainer.max_steps=-1", "--data.query=Which leaf?"],
        ),
        (["--data.query=Which leaf?", "leaves"], ["--data.query=Which leaf?"]),
        (
            ["-c", "one.yaml", "--plug", "a", "b", "--data.holdout", "-1", "leaves"],
            ["-c=one.yaml", "--data.holdout=-1"],
        ),
        (["leaves", "--plug", "a", "b", "-c=one.yaml", "--config", "two.yaml"], ["-c=one.yaml", "--config=two.yaml"]),
    ],
)
def test_a_setting_of_a_run_takes_one_value_of_a_verb_that_has_a_place_of_its_own(
    given: list[str], settings: list[str]
) -> None:
    args, others = adapt_parser().parse_with_settings(given)
    assert (args.data, others) == ("leaves", settings)
    assert args.plug == (["a", "b"] if "a" in given else [])


def help_of(verb: str, capsys: Any) -> str:
    with suppress(SystemExit):  # argparse's way
        assert entry.main([verb, "--help"]) == 0
    return str(capsys.readouterr().out)


@pytest.mark.parametrize("verb", OTHERS)
def test_the_help_of_a_verb_begins_with_its_call(verb: str, capsys: Any) -> None:
    assert help_of(verb, capsys).startswith(f"usage: python -m craft_lightning {verb} ")


def test_the_first_names_of_flags_are_still_understood(checkpoints: Any, tmp_path: Any, capsys: Any) -> None:
    given = ["--checkpoint", str(checkpoints / "host"), "--input", str(tmp_path / "none.png")]
    assert entry.main(["tokenize", *given, "--output", str(tmp_path / "o")]) == 2
    assert "no image or folder" in capsys.readouterr().err
    asked = ["--checkpoint", str(checkpoints / "host"), "--image", str(tmp_path / "none.png"), "--question", "What?"]
    assert entry.main(["predict", *asked]) == 2
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
def test_the_whole_help_of_a_run_begins_with_what_it_is_about(verb: str, capsys: Any) -> None:
    with pytest.raises(SystemExit) as stop:
        entry.main([verb, "--help_all"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert text.startswith(f"usage: python -m craft_lightning {verb} --config FILE ... [--SETTING VALUE ...]\n")
    at = [text.index(f"  --{setting}") for setting in ("model ", "data.dataset", "prune.keep", "trainer.max_steps")]
    assert at == sorted(at)


@pytest.mark.parametrize("verb", entry.VERBS)
def test_the_help_of_a_verb_fits_on_two_screens(verb: str, capsys: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    lines = help_of(verb, capsys).splitlines()
    assert len(lines) <= 2 * 24
    assert max(map(len, lines)) <= 80


@pytest.mark.parametrize("verb", early.RUNS)
def test_the_help_of_a_run_names_ten_settings_that_there_are(verb: str, capsys: Any) -> None:
    named = re.findall(r"^  --([\w.]+) ", help_of(verb, capsys).rpartition("--SETTING")[2], re.MULTILINE)
    assert len(named) == 10
    assert {*named} - {"config", "model"} <= {*settings(), *(flag.removeprefix("--") for flag in ALIASES)}


def test_settings_are_known_before_their_classes_are_imported() -> None:
    METHODS.values()
    classes = {"trainer": Trainer, "data": VqaDataModule, "checkpoint": LastCheckpoint, "token_map": TokenMap}
    classes |= {"ste_check": SteCheck, "model.optim": OptimSpec, "model.backbone": VlmSpec, "prune": PruneAtValidation}
    classes |= {"prune.rule": PruneRule}
    known, taken = early.settings(), {part: [*inspect.signature(cls).parameters] for part, cls in classes.items()}
    assert {part: names for part, names in known.items() if part != "model"} == taken
    methods = {name for cls in METHODS.values() for name in inspect.signature(cls).parameters if name != "kwargs"}
    assert methods <= {*known["model"]}
