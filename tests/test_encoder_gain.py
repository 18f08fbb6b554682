"""The card of an adapted encoder: what it gains comes from two tests of the same items, and its commands work."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image

import craft_lightning as cl
from craft_lightning import __main__ as entry
from craft_lightning.checkpoints.encoder import write_encoder

SMOKE = str(Path(__file__).resolve().parents[1] / "experiments" / "smoke.yaml")
CLASSES = ("ash", "maple", "oak")


def stored(folder: Path, said: str, encoder: Any = None, backbone: str = "pocket-vila-u", **more: Any) -> Path:
    """The folder of a test of 30 items, ten of each class; ``1`` for a right reply."""
    folder.mkdir(parents=True)
    answers = [CLASSES[i // 10] for i in range(len(said))]
    items = [{"key": f"k{i}", "question": "Which?", "options": [], "answer": a} for i, a in enumerate(answers)]
    rows = [
        {"key": f"k{i}", "item": f"h{i}", "prediction": a if one == "1" else "elm", "answer": a, "correct": one == "1"}
        for i, (a, one) in enumerate(zip(answers, said, strict=True))
    ]
    for name, lines in (("items", items), ("predictions", rows)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    plugged = None if encoder is None else json.loads((encoder / "config.json").read_text())
    result = {
        "verb": "test",
        "method": "craft" if plugged else "zero_shot",
        "settings": {"backbone": {"name": backbone, "encoder": encoder and str(encoder)}},
        "encoder": plugged,
        "data": {"dataset": "folder", "title": "leaves", "source": "folder", "look": None},
        "pruning": {},
    }
    (folder / "result.json").write_text(json.dumps({**result, **more}))
    return folder


BEFORE = "1" * 5 + "0" * 5 + "1" * 4 + "0" * 6 + "0" * 10
AFTER = "1" * 9 + "0" + "1" * 2 + "0" * 8 + "1" * 10
"""Ash 5 to 9, maple 4 to 2, oak 0 to 10: 9 of 30 right to 21, 14 gained and 2 lost."""


def written(folder: Path, weight: float) -> Path:
    """An adapted encoder; two of them differ in nothing but their weights."""
    run = {"dataset": "folder", "title": "leaves", "source": "folder", "classes": CLASSES, "held_out": ["oak"]}
    facts: Any = {"base": "pocket-qwen2-xs", "codebook_hash": "0" * 64, "method": "craft", "run": run}
    write_encoder(folder, {"weight": torch.tensor([weight])}, **facts)
    return folder


@pytest.fixture
def encoder(tmp_path: Path) -> Path:
    return written(tmp_path / "encoder", 0.0)


def test_the_card_says_what_two_tests_found(encoder: Path, tmp_path: Path) -> None:
    assert "Not measured. Test the model without and with the encoder" in (encoder / "README.md").read_text()
    weights = encoder / "encoder.safetensors"  # names the folder as well
    found = cl.add_gain(weights, stored(tmp_path / "before", BEFORE), stored(tmp_path / "after", AFTER, encoder))
    assert (found.items, found.better, found.worse) == (30, 14, 2)
    card = ModelCard.load(encoder / "README.md")
    interval = f"[{100 * found.low:+.1f}, {100 * found.high:+.1f}]"
    assert f"| `pocket-vila-u` | 30 of leaves | 30.0 % | 70.0 % | +40.0 points {interval} | better |" in card.text
    better, worse = re.findall(r"^\* (?:better|worse) at: (.+)$", card.text, re.MULTILINE)
    assert re.fullmatch(r"oak \(\+100\.0 points \[.+\] of 10\)(, ash \(\+40\.0 points \[.+\] of 10\))?", better)
    assert worse == "nothing, beyond chance"  # maple lost two of its ten
    assert "| classes | ash, maple, oak |" in card.text
    assert "| classes held out of training | oak |" in card.text
    assert (card.data.license, "| licence of the weights | Apache-2.0, as the base |" in card.text) == (
        "apache-2.0",
        True,
    )
    (score,) = card.data.eval_results
    assert (score.metric_value, score.dataset_split, score.dataset_args["items"]) == (0.7, "test", 30)


def test_a_later_gain_takes_the_place_of_the_same_alone(encoder: Path, tmp_path: Path) -> None:
    def add(name: str, said: str, **more: Any) -> None:
        before = stored(tmp_path / f"{name}0", BEFORE, **more)
        cl.add_gain(encoder, before, stored(tmp_path / f"{name}1", said, encoder, **more))

    add("first", AFTER)
    add("again", BEFORE)
    add("other", AFTER, backbone="pocket-qwen2-s")
    add("pruned", AFTER, pruning={"keep": 0.6})
    gains = json.loads((encoder / "config.json").read_text())["gains"]
    assert [(g["backbone"], g["keep"], round(g["difference"], 6)) for g in gains] == [
        ("pocket-vila-u", 1.0, 0.0),
        ("pocket-qwen2-s", 1.0, 0.4),
        ("pocket-vila-u", 0.6, 0.4),
    ]
    text = (encoder / "README.md").read_text()
    scores = ModelCard.load(encoder / "README.md").data.eval_results
    assert [(s.dataset_args["backbone"], s.dataset_args["keep"], s.metric_value) for s in scores] == [
        (g["backbone"], g["keep"], round(g["after"], 4)) for g in gains
    ]
    assert "| `pocket-vila-u`, keep 0.6 | 30 of leaves |" in text
    assert "* better at: nothing, beyond chance\n* worse at: nothing, beyond chance" in text
    assert "no difference beyond chance" in text


def test_what_is_no_gain_of_this_encoder_is_refused(encoder: Path, tmp_path: Path, capsys: Any) -> None:
    before, after = stored(tmp_path / "b", BEFORE), stored(tmp_path / "a", AFTER, encoder)
    card = (encoder / "README.md").read_bytes()
    other = written(tmp_path / "other", 1.0)
    for pair, told in (
        ((before, stored(tmp_path / "o", AFTER, other)), "o is a test of another encoder, not of"),
        ((before, stored(tmp_path / "n", AFTER)), "is a test of no encoder (test with --encoder, not --ckpt_path)"),
        ((before, stored(tmp_path / "m", AFTER, encoder, "pocket-qwen2-s")), "name pocket-vila-u / pocket-qwen2-s"),
        ((after, after), "a is a test of craft: a gain is over the model as it is"),
        ((stored(tmp_path / "v", BEFORE, verb="validate"), after), "v holds no result of a test"),
        ((stored(tmp_path / "f", BEFORE[:-1]), after), "answer different items: 1"),
        ((before, tmp_path / "none"), "name the folder of a run"),
    ):
        assert entry.main(["export", "--encoder", str(encoder), "--gain", *map(str, pair)]) == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert told in line
        assert (encoder / "README.md").read_bytes() == card


def test_what_runs_leave_is_taken_and_the_card_works(
    checkpoints: Path, tmp_path: Path, capsys: Any, monkeypatch: Any
) -> None:
    """From a training to a card whose three lines of Python and one command answer alike."""
    monkeypatch.chdir(tmp_path)
    small = ["--data.train_size=16", "--data.val_size=2", "--data.test_size=10", "--trainer.enable_progress_bar=false"]
    run = ["--config", SMOKE, "--backbone", str(checkpoints / "small"), *small, "--trainer.logger=false"]
    assert entry.main(["fit", *run, "--trainer.max_steps=1", "--output=runs/x"]) == 0
    assert entry.main(["test", *run, "--output=runs/before"]) == 0
    assert entry.main(["test", *run, "--encoder=runs/x/encoder"]) == 0
    capsys.readouterr()
    exported = ["export", "--encoder=runs/x/encoder", "--gain", "runs/before", "runs/x/test"]
    assert entry.main(exported) == 0
    assert f"runs/x/encoder: {cl.compare('runs/before', 'runs/x/test')}\n" == capsys.readouterr().out
    assert entry.main(["test", *run, "--encoder=runs/x/encoder"]) == 0, "it is the same encoder with its gain on it"
    assert entry.main([*exported[:-1], "runs/x/test-2"]) == 0
    text = Path("runs/x/encoder/README.md").read_text()
    assert f"| `{checkpoints / 'small'}` | 10 of EuroSAT, drawn |" in text
    classes = re.search(r"^\| classes \| (.+) \|$", text, re.MULTILINE)
    assert classes
    assert {"forest", "industrial"} <= {*classes[1].split(", ")}
    assert len(classes[1].split(", ")) == 10
    assert "| classes held out of training | forest, industrial |" in text

    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)).save("photo.jpg")
    use = text.split("## Use")[1].replace("THIS_FOLDER_OR_REPOSITORY", "runs/x/encoder")
    (python,), (command,) = (re.findall(rf"```{name}\n(.+?)```", use, re.DOTALL) for name in ("python", "bash"))
    assert len([line for line in python.splitlines() if line]) == 3
    capsys.readouterr()
    exec(python, {})
    said = capsys.readouterr().out
    command = command.replace("ANOTHER_MODEL_OF_THIS_CODEBOOK", str(checkpoints / "small"))
    argv = shlex.split(command.replace("\\\n", ""))
    assert argv[:3] == ["python", "-m", "craft_lightning"]
    assert entry.main(argv[3:]) == 0
    assert capsys.readouterr().out == said


def test_nothing_is_uploaded_unless_asked(encoder: Path, monkeypatch: Any, capsys: Any) -> None:
    asked: list[Any] = []

    def push(self: Any, repository: str, **more: Any) -> str:
        if "/" not in repository:
            raise ValueError("no such namespace\nand more")
        asked.append((self.config["method"], repository, more))
        return f"https://hub/{repository}"

    monkeypatch.setattr(cl.AdaptedEncoder, "push_to_hub", push)
    for given, told in (
        ([], "say what to do: --gain BEFORE AFTER, --push OWNER/NAME or --output FOLDER"),
        (["--output", "x"], "name the one that the encoder goes into with --backbone NAME"),
        (["--push", "nobody"], "--push nobody: no such namespace; log in with hf auth login"),
    ):
        assert entry.main(["export", "--encoder", str(encoder), *given]) == 2
        assert told in capsys.readouterr().err
    assert not asked
    assert entry.main(["export", "--encoder", str(encoder), "--push", "me/mine"]) == 0
    assert asked == [("craft", "me/mine", {"private": True})]
    assert "is at https://hub/me/mine; in Python: " in capsys.readouterr().out
