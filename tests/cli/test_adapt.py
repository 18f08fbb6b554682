"""From own images to a verdict: what is shown before training, what runs, what a second call does, what is refused."""

import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from PIL import Image

from craft_lightning import __main__ as entry
from craft_lightning.cli import adapt
from craft_lightning.comparison import compare
from craft_lightning.errors import CraftError

SHORT = [
    "--trainer.max_steps=2",
    "--trainer.enable_progress_bar=false",
    "--data.batch_size=4",
    "--trainer.accelerator=cpu",
]


@pytest.fixture
def leaves(tmp_path):
    """Four classes of eight tiny images, one of them also a test image and one in two classes, and what is no image."""
    rng = np.random.default_rng(0)
    for split, count in (("train", 8), ("test", 4)):
        for name in ("Apple___Apple_scab", "Apple___healthy", "BlackRot", "oak"):
            folder = tmp_path / "leaves" / split / name
            folder.mkdir(parents=True)
            for i in range(count):
                Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    root = tmp_path / "leaves"
    copied = (root / "train" / "oak" / "0.png").read_bytes()
    (root / "test" / "oak" / "0.png").write_bytes(copied)
    (root / "train" / "BlackRot" / "1.png").write_bytes((root / "train" / "oak" / "1.png").read_bytes())
    (root / "train" / "oak" / "notes.txt").write_text("no image")
    (root / "train" / "oak" / "2.png").write_bytes(b"broken")
    return root


@pytest.fixture
def called(monkeypatch):
    """Verbs run in this process; what was asked of them."""
    calls = []

    def call(*arguments):
        calls.append(list(arguments))
        return entry.main(list(arguments))

    monkeypatch.setattr(adapt, "_call", call)
    return calls


@pytest.fixture
def run(checkpoints, leaves, tmp_path, monkeypatch):
    """``run(*flags)``: the verb on the leaves, with a tiny model."""
    monkeypatch.chdir(tmp_path)
    return lambda *flags: adapt.main([str(leaves), f"--backbone={checkpoints / 'small'}", *SHORT, *flags])


@pytest.mark.parametrize(
    ("items", "batch", "steps", "interval"),
    [(5, 5, 200, 40), (64, 24, 200, 40), (150, 24, 250, 50), (401, 24, 670, 134), (9000, 24, 1200, 240)],
)
def test_the_length_of_a_training_follows_the_number_of_items(items, batch, steps, interval):
    told = adapt._usual(items, {})
    names = ("data.batch_size", "trainer.max_steps", "trainer.val_check_interval")
    assert tuple(map(told.get, names)) == (batch, steps, interval)


@pytest.mark.parametrize(("steps", "interval"), [(1, 1), (7, 7), (8, 2), (100, 20)])
def test_the_last_step_is_validated(steps, interval):
    given = {"trainer.max_steps": steps, "data.batch_size": 3, "data.apart": False}
    told = adapt._usual(10, given)
    assert told["trainer.val_check_interval"] == interval
    assert told | given == told


def test_a_dry_run_shows_data_wording_and_commands_and_writes_nothing(run, called, tmp_path, capsys):
    before = sorted(tmp_path.rglob("*"))
    assert run("--dry_run", "--domain", "a leaf", "--query", "Which leaf?") == 0
    said = capsys.readouterr().out
    assert re.search(r"^data         class folders in .*leaves: 4 classes$", said, re.MULTILINE)
    assert "items        train 26, val 4, test 16" in said
    assert re.search(r"^trained      .*\boak 6$", said, re.MULTILINE)
    assert "sizes        30 x 20 pixels; the model sees them stretched to 32 x 32" in said
    assert "copies       files equal to another: 1; in two classes, one of which is wrong: 1 (train/" in said
    assert "1 x train item whose image is tested" in said
    assert "1 x broken image" in said
    assert "question     Which leaf? | A. " in said
    assert "caption      An image of a leaf, specifically a healthy Apple leaf." in said
    assert "caption      An image of a leaf, specifically a black rot." in said
    assert "training     2 steps of 4 items, 0.3 passes of all, with" in said
    assert re.findall(r"^python -m craft_lightning (\w+)", said, re.MULTILINE) == ["test", "fit", "test", "compare"]
    assert called == []
    assert sorted(tmp_path.rglob("*")) == before


def test_it_tests_trains_tests_again_and_tells(run, called, checkpoints, tmp_path, capsys):
    plugged = ["--plug", str(checkpoints / "host")]
    assert run(*plugged) == 0
    said, folder = capsys.readouterr().out, Path("runs/leaves")
    assert [call[0] for call in called] == ["test", "fit", "test", "compare", "test", "test", "compare"]
    printed = re.findall(r"^python -m craft_lightning (.*)$", said, re.MULTILINE)
    assert list(map(shlex.split, printed))[:7] == called, "what is printed is what ran"
    for place in (folder, folder / "host"):
        found = compare(place / "before", place / "after")
        assert f"{found.before:.1%} of {found.items} test items were right, {found.after:.1%} are now: " in said
        assert (
            f"{100 * found.difference:+.1f} points, between {100 * found.low:+.1f} and {100 * found.high:+.1f}" in said
        )
        assert f"flipped      {found.better} became right, {found.worse} became wrong" in said
    assert "guessing gives 25%" in said
    assert "by class     " in said
    assert re.search(r"^took         training \d+ s, tests \d+ s and \d+ s$", said, re.MULTILINE)
    config = yaml.safe_load((folder / "adapt.yaml").read_text())
    assert config["data"]["apart"] is True
    assert config["model"]["init_args"]["backbone"]["name"] == str(checkpoints / "small")
    assert adapt.main([str(tmp_path / "leaves"), *plugged]) == 0, "settings are kept: nobody repeats them"
    assert len(called) == 7, "nothing is done twice"
    assert f"card         {folder / 'encoder' / 'README.md'} says what was measured" in said
    gains = json.loads((folder / "encoder" / "config.json").read_text())["gains"]
    assert [Path(gain["backbone"]).name for gain in gains] == ["small", "host"]
    assert gains[0]["difference"] == compare(folder / "before", folder / "after").difference
    assert (folder / "encoder" / "README.md").read_text().count(" of leaves |") == 2
    assert said.splitlines()[-8:] == capsys.readouterr().out.splitlines()[-8:]


@pytest.mark.parametrize(
    ("outcome", "follows", "flags"),
    [
        ({"better": 16, "worse": 0, "difference": 1.0}, r"use it       .* predict", set()),
        ({"better": 1, "worse": 2}, r"train longer .* adapt", {"--trainer.max_steps=4", "--output=runs/leaves-longer"}),
        (
            {"better": 0, "worse": 16, "difference": -1.0},
            r"train gently .* adapt",
            {"--trainer.max_steps=2", "--model.optim.lr=0.0001", "--output=runs/leaves-gently"},
        ),
    ],
)
def test_the_next_command_follows_from_the_verdict(outcome, follows, flags, run, called, monkeypatch, capsys):
    monkeypatch.setattr(adapt, "add_gain", lambda _, *tests: replace(compare(*tests), **outcome))
    assert run("--data.domain=leaf") == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert re.match(follows, last)
    if flags:
        assert flags | {"--data.batch_size=4", "--data.domain=leaf"} < set(shlex.split(last)), "all else is the same"


def test_a_second_call_goes_on_where_the_first_one_ended(run, called, monkeypatch, capsys):
    folder, real = Path("runs/leaves"), adapt._call

    def stopped(*arguments):
        """The test is killed before its result, the training after its checkpoint."""
        code = real(*arguments)
        place = folder / "before" if arguments[0] == "test" else folder
        (place / "result.json").unlink()
        return code or 137

    monkeypatch.setattr(adapt, "_call", stopped)
    assert run() == 137
    assert "it stopped at: test the model as it is" in capsys.readouterr().err
    monkeypatch.setattr(adapt, "_call", lambda *a: stopped(*a) if a[0] == "fit" else real(*a))
    assert run() == 137
    monkeypatch.setattr(adapt, "_call", real)
    assert run() == 0
    assert [[call[0], *call[-1:]] for call in called[:2]] == [
        ["test", "--output=runs/leaves/before"],
        ["test", "--overwrite=true"],
    ]
    assert [call[-1] for call in called if call[0] == "fit"] == [
        "--output=runs/leaves",
        "--ckpt_path=last",
    ]
    assert [call[0] for call in called[-2:]] == ["test", "compare"]
    assert "<html" in (folder / "report.html").read_text()


def test_what_does_not_fit_is_refused_before_anything_runs(run, called, checkpoints, leaves, tmp_path):
    for flags, told in (
        (["--model=Ldifs"], "adapt trains CRAFT"),
        (["--data.batch_sice=4"], "data.batch_sice"),
        (["--plug", str(checkpoints / "other")], "it has not the codebook of"),
        (["--plug", "pocket-vila-v"], "did you mean"),
        (["--plug", "a/model", "b/model"], "two of one name"),
        (["--data.batch_size=many"], "data.batch_size: expected a whole number"),
        (["--data.batch_size=0"], "sizes are at least 1"),
        (["--trainer.max_epochs=3"], "adapt counts steps, not epochs: --trainer.max_steps N"),
        (["--trainer.max_steps"], "--trainer.max_steps: expected one argument"),
    ):
        with pytest.raises(CraftError, match=told):
            run(*flags)
    with pytest.raises(CraftError, match=r"did you mean .*leaves"):
        adapt.main([str(tmp_path / "leafs")])
    (tmp_path / "asked.jsonl").write_text('{"image": "leaves/test/oak/1.png", "question": "Oak?", "answer": "yes"}\n')
    with pytest.raises(CraftError, match="asks its own questions"):
        adapt.main([str(tmp_path / "asked.jsonl"), "--query", "Which leaf?"])
    Path("runs/leaves").mkdir(parents=True)
    Path("runs/leaves/result.json").write_text("{}")
    with pytest.raises(CraftError, match=r"runs/leaves holds another run \(result.json\): .* --output"):
        run()
    Path("runs/leaves/adapt.yaml").write_text(f"data:\n  root: {leaves}\n  query: Which?\n")
    with pytest.raises(CraftError, match=r"data.query is 'Which\?' there, not 'What\?'; .*--output"):
        adapt.main([str(leaves), "--query", "What?"])
    assert called == []


def test_few_images_are_one_batch(checkpoints, tmp_path, capsys):
    rng = np.random.default_rng(0)
    for i in range(12):
        folder = tmp_path / "pets" / ("cat", "dog")[i % 2]
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (20, 30, 3), dtype=np.uint8)).save(folder / f"{i}.png")
    assert adapt.main([str(tmp_path / "pets"), f"--backbone={checkpoints / 'small'}", "--dry_run"]) == 0
    found = re.search(r"items +train (\d+), .*steps of (\d+) items", capsys.readouterr().out, re.DOTALL)
    assert found[1] == found[2]


def test_a_plugged_model_has_a_folder_of_its_own(checkpoints, monkeypatch):
    monkeypatch.chdir(checkpoints / "host")
    assert [adapt._short(name) for name in (".", "../small", "pocket-qwen2-xs")] == ["host", "small", "pocket-qwen2-xs"]
    (step,) = [step for step in adapt._steps(Path("mine"), ["."]) if step.title == "test . as it is"]
    assert step.result == Path("mine/host/before/result.json")
    with pytest.raises(CraftError, match=r"--plug \S+/encoder: a run has a folder 'encoder' of its own; rename"):
        adapt._check_plugged([str(checkpoints / "encoder")], str(checkpoints / "host"))


def test_wording_is_asked_for_once_and_only_on_a_terminal(run, called, monkeypatch, capsys):
    asked = []

    def answer(question):
        asked.append(question)
        return "plant leaf" if "all images" in question else ""

    monkeypatch.setattr("builtins.input", answer)
    monkeypatch.setattr(adapt, "_call", lambda *a: 1)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert run() == 1
    assert len(asked) == 2
    assert "An image of a healthy Apple." in asked[0]
    said = capsys.readouterr().out
    assert "specifically an Apple scab." in said
    assert "question     Which of these choices is shown in the image? |" in said
    assert run() == 1, "the answers are kept"
    assert len(asked) == 2
    assert yaml.safe_load(Path("runs/leaves/adapt.yaml").read_text())["data"]["domain"] == "plant leaf"


def test_no_answer_leaves_the_wording_as_it_is(run, called, monkeypatch):
    def ended(question):
        raise EOFError

    monkeypatch.setattr("builtins.input", ended)
    monkeypatch.setattr(adapt, "_call", lambda *a: 1)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    assert run("--trainer.max_steps", "3") == 1
    held = yaml.safe_load(Path("runs/leaves/adapt.yaml").read_text())
    assert not {"domain", "query"} & set(held["data"])
    assert held["trainer"]["max_steps"] == 3


@pytest.mark.parametrize("zipped", [False, True])
def test_the_command_to_use_it_names_an_image_that_is_there(zipped, leaves, checkpoints, tmp_path):
    root = shutil.make_archive(str(tmp_path / "leaves"), "zip", leaves) if zipped else str(leaves)
    data = adapt._open({"data.root": root, "model.backbone.name": str(checkpoints / "small")})
    data.setup("test")
    said = shlex.split(adapt._predict(Path("runs/leaves/encoder"), data))
    image = said[said.index("--images") + 1]
    assert image == "IMAGE.jpg" if zipped else Path(image).is_file()
    assert len(said[said.index("--options") + 1 :]) == 4


def test_the_tables_of_compare_are_left_to_its_page(capfd):
    assert [adapt._call(verb, "--help") for verb in ("compare", "list")] == [0, 0]
    assert re.findall(r"usage: .*craft_lightning (\w+)", capfd.readouterr().out) == ["list"]


@pytest.mark.skipif(sys.platform != "linux", reason="by Linux's prctl")
def test_what_it_has_started_ends_with_it(tmp_path):
    program, note = tmp_path / "long", tmp_path / "pid"
    program.write_text(f"#!/bin/sh\necho $$ > {note}.new && mv {note}.new {note}\nexec sleep 60\n")
    program.chmod(0o755)
    code = "import sys; from craft_lightning.cli import adapt; sys.executable = sys.argv[1]; adapt._call('fit')"
    ours = subprocess.Popen([sys.executable, "-c", code, str(program)])
    wait_for(note.exists)
    child = int(note.read_text())
    os.kill(ours.pid, signal.SIGKILL)
    ours.wait()
    stat = Path(f"/proc/{child}/stat")
    wait_for(lambda: not stat.exists() or stat.read_text().rpartition(")")[2].split()[0] == "Z")


def wait_for(condition):
    """Until it holds; fails after a minute."""
    end = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)
