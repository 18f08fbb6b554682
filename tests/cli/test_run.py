"""The command line: what goes wrong with it and with Lightning, each as it once went wrong."""

from __future__ import annotations

import json
import re
import shlex
import shutil
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml

from craft_lightning import __main__ as entry
from craft_lightning import __version__
from craft_lightning.cli.run import CraftCLI, build_cli
from craft_lightning.errors import CraftError
from craft_lightning.methods import METHODS, load_method
from craft_lightning.models import vlm_spec as spec
from craft_lightning.models.vlm_spec import BACKBONES

ROOT = Path(__file__).resolve().parents[2]
SMOKE = str(ROOT / "experiments" / "smoke.yaml")
SMALL = ["--data.train_size=16", "--data.val_size=4", "--data.test_size=4", "--trainer.enable_progress_bar=false"]


@pytest.fixture
def flags(checkpoints: Path, tmp_path: Path) -> list[str]:
    """A complete small run in the folder ``run``."""
    where = [f"--model.backbone.name={checkpoints / 'host'}", f"--trainer.default_root_dir={tmp_path / 'run'}"]
    return ["--config", SMOKE, *where, *SMALL]


@pytest.fixture
def fails(capsys: pytest.CaptureFixture[str]) -> Callable[..., str]:
    """Runs the command line, which must end with exit code 2 and one line; returns the line."""

    def run(*argv: str) -> str:
        capsys.readouterr()
        assert entry.main(list(argv)) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1, lines
        assert lines[0].startswith("craft_lightning: ")
        return lines[0].removeprefix("craft_lightning: ")

    return run


def parse(*argv: str) -> Any:
    return build_cli(list(argv), run=False).config[argv[0]]


def fragment(folder: Path, text: str, name: str = "f.yaml") -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.fixture(scope="module")
def fitted(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of one finished run."""
    folder = tmp_path_factory.mktemp("fitted") / "run"
    where = [f"--model.backbone.name={checkpoints / 'host'}", f"--trainer.default_root_dir={folder}"]
    assert (
        entry.main(
            ["fit", "--config", SMOKE, *where, *SMALL, "--trainer.max_steps=2", "--trainer.val_check_interval=2"]
        )
        == 0
    )
    return folder


def test_a_fit_leaves_everything_behind(fitted: Path) -> None:
    names = {p.name for p in fitted.iterdir()}
    assert {"config.yaml", "result.json", "predictions.jsonl", "checkpoints", "encoder", "events"} <= names
    assert len(list((fitted / "events").glob("events.out.tfevents*"))) == 1
    result = json.loads((fitted / "result.json").read_text())
    stored = torch.load(fitted / "checkpoints" / "last.ckpt", weights_only=True)
    assert stored["global_step"] == result["steps"] == 2
    assert set(stored["state_dict"]) == set(result["trained"]["names"])
    assert result["trained"]["count"] == sum(v.numel() for v in stored["state_dict"].values())
    assert result["method"] == "craft"
    assert result["settings"]["lambda_contrastive"] == 1.0
    assert len(result["codebook_hash"]) == len(result["config_hash"]) == 64
    assert result["quantizer_dtype"] == result["settings"]["backbone"]["quantizer_dtype"] == "float32"
    assert result["data"]["splits"] == {"train": 16, "val": 4}
    assert result["rows"] == 4
    assert {"torch", "lightning", "python"} <= set(result["versions"])
    assert {"val/accuracy", "val/letter_likelihood", "train/sal", "train/commitment"} <= set(result["metrics"])
    lines = [json.loads(line) for line in (fitted / "predictions.jsonl").read_text().splitlines()]
    assert len(lines) == 4
    assert all(line["item"] and line["seen"] and line["key"].startswith("eurosat/val/") for line in lines)
    assert result["metrics"]["val/accuracy"] == pytest.approx(sum(line["correct"] for line in lines) / 4)


def test_the_adapted_encoder_plugs_into_another_backbone(fitted: Path, checkpoints: Path, tmp_path: Path) -> None:
    where = [f"--model.backbone.name={checkpoints / 'small'}", f"--trainer.default_root_dir={tmp_path}"]
    argv = ["test", "--config", SMOKE, *where, *SMALL, f"--encoder={fitted / 'encoder'}"]
    tower: Any = build_cli(argv).model.vlm.tower
    trained: Any = load_method(fitted / "checkpoints" / "last.ckpt").vlm.tower
    for name, value in dict(trained.used_parameters()).items():
        assert torch.equal(value, dict(tower.used_parameters())[name])
    result = json.loads((tmp_path / "result.json").read_text())
    assert result["encoder"]["method"] == "craft"
    assert {"test/exact_match", "test/letter_likelihood"} <= set(result["metrics"])


@pytest.mark.parametrize("other", ["--data.look=studio", "--data.look=grey", "--data.dataset=kvasir"])
def test_an_encoder_is_tested_on_another_look_and_dataset(
    other: str, fitted: Path, checkpoints: Path, tmp_path: Path
) -> None:
    where = [f"--model.backbone.name={checkpoints / 'small'}", f"--trainer.default_root_dir={tmp_path}"]
    argv = ["test", "--config", SMOKE, *where, *SMALL, "--data.test_size=12", f"--encoder={fitted / 'encoder'}", other]
    assert entry.main(argv) == 0
    result = json.loads((tmp_path / "result.json").read_text())
    name, value = other.removeprefix("--data.").split("=")
    given = {"dataset": "eurosat", "look": "field", name: value}
    assert {k: result["data"][k] for k in given} == given
    assert result["encoder"]["method"] == "craft"
    assert result["data"]["splits"] == {"test": 12}
    rows = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert len(rows) == 12
    assert all(row["key"].startswith(f"{given['dataset']}/test/") for row in rows)
    for name, some in (
        ("exact_match", rows),
        ("exact_match_seen", [row for row in rows if row["seen"]]),
        ("exact_match_unseen", [row for row in rows if not row["seen"]]),
    ):
        assert some
        share = sum(row["correct"] for row in some) / len(some)
        assert result["metrics"][f"test/{name}"] == pytest.approx(share)
    letters = sum(row["letter_correct"] for row in rows) / len(rows)
    assert result["metrics"]["test/letter_likelihood"] == pytest.approx(letters)
    assert {"test/well_formed", "test/lenient"} <= set(result["metrics"])


def test_what_nothing_was_plugged_into_is_zero_shot(flags: Any, fails: Any, capsys: Any, tmp_path: Path) -> None:
    build_cli(["test", *flags])
    said = [line for line in capsys.readouterr().err.splitlines() if line.startswith("method")]
    assert said == [
        "method    zero_shot: the model as it is, for the config names craft, but no --encoder or --ckpt_path was given"
    ]
    result = tmp_path / "run" / "result.json"
    assert json.loads(result.read_text())["method"] == "zero_shot"
    before = result.read_bytes()
    line = fails("test", *flags, "--data.test_size=8")
    assert line.startswith(
        f"{tmp_path / 'run'} holds an evaluation (result.json); name another folder with --output, or"
    )
    assert result.read_bytes() == before


def test_an_encoder_counts_as_the_method_that_made_it(fitted: Path, checkpoints: Path, tmp_path: Path) -> None:
    method = str(ROOT / "experiments" / "methods" / "zero_shot.yaml")
    where = [f"--model.backbone.name={checkpoints / 'small'}", f"--trainer.default_root_dir={tmp_path}"]
    build_cli(["validate", "--config", method, *where, *SMALL, f"--encoder={fitted / 'encoder'}"])
    assert json.loads((tmp_path / "result.json").read_text())["method"] == "craft"


def test_an_encoder_that_needs_its_cls_stays_in_the_checkpoint(flags: Any, tmp_path: Path, capsys: Any) -> None:
    """A bidirectional [CLS] changes the patches: an encoder without it would not be what was trained."""
    run = tmp_path / "run"
    argv = [*flags, "--model.cls_attention=bidirectional"]
    trained = build_cli(["fit", *argv, "--trainer.max_steps=2", "--trainer.val_check_interval=2"]).model
    told = [line for line in capsys.readouterr().err.splitlines() if "no encoder is exported" in line]
    assert len(told) == 1
    assert told[0].endswith(f"(cls_attention: bidirectional); test --ckpt_path {run / 'checkpoints' / 'last.ckpt'}")
    assert not (run / "encoder").exists()
    cli: CraftCLI = build_cli(["test", *argv, f"--ckpt_path={run / 'checkpoints' / 'last.ckpt'}"])
    assert json.loads((run / "result.test.json").read_text())["method"] == "craft"
    pixels = next(iter(cli.datamodule.test_dataloader())).pixel_values
    features = cli.model.visual_tokens(pixels).features
    assert torch.equal(features, trained.eval().visual_tokens(pixels).features)
    assert not torch.equal(features, cli.model.vlm.encode(pixels).features)


def test_the_last_step_is_saved_in_the_middle_of_everything(flags: Any, tmp_path: Path) -> None:
    """Three steps of an epoch of five, saved every second one: the end of training saves the third."""
    middle = ["--data.train_size=40", "--trainer.max_steps=3", "--checkpoint.every_n_train_steps=2"]
    middle += ["--checkpoint.save_on_train_epoch_end=false"]
    build_cli(["fit", *flags, *middle, "--trainer.limit_val_batches=0"])
    stored = torch.load(tmp_path / "run" / "checkpoints" / "last.ckpt", weights_only=True)
    assert stored["global_step"] == 3


def test_another_codebook_refuses_the_encoder(fitted: Path, checkpoints: Path, tmp_path: Path, fails: Any) -> None:
    where = [f"--model.backbone.name={checkpoints / 'other'}", f"--trainer.default_root_dir={tmp_path}"]
    line = fails("test", "--config", SMOKE, *where, *SMALL, f"--encoder={fitted / 'encoder'}")
    assert "codebook" in line


def test_flags_win_over_the_checkpoint(fitted: Path, flags: Any, capsys: Any) -> None:
    argv = ["test", *flags, f"--ckpt_path={fitted / 'checkpoints' / 'last.ckpt'}", "--model.lambda_commitment=0.9"]
    before = (fitted / "config.yaml").read_text()
    cli = build_cli([*argv, f"--trainer.default_root_dir={fitted}"])
    assert cli.model.lambda_commitment == 0.9
    assert "lambda_commitment=0.9 (checkpoint: 0.1)" in capsys.readouterr().err
    assert (fitted / "config.yaml").read_text() == before
    assert yaml.safe_load((fitted / "config.test.yaml").read_text())["ckpt_path"].endswith("last.ckpt")
    assert (fitted / "result.test.json").exists()
    assert json.loads((fitted / "result.json").read_text())["verb"] == "fit"


def test_the_saved_config_is_complete_and_reproduces_itself(fitted: Path) -> None:
    saved = str(fitted / "config.yaml")
    assert Path(saved).read_text().splitlines()[0] == f"# craft_lightning=={__version__}"  # what claim() looks for
    again = parse("fit", "--config", saved)
    assert again.trainer.max_steps == 2
    assert again.overwrite is False
    held = yaml.safe_load(Path(saved).read_text())
    assert again.model.init_args.as_dict() == {
        **held["model"]["init_args"],
        "optim": again.model.init_args.optim.as_dict(),
    }


def test_last_resumes_and_is_refused_where_there_is_none(fitted: Path, flags: Any, fails: Any) -> None:
    argv = ["fit", *flags, f"--trainer.default_root_dir={fitted}", "--ckpt_path=last", "--trainer.max_steps=3"]
    assert build_cli(argv).trainer.global_step == 3
    assert "no checkpoint" in fails("fit", *flags, "--ckpt_path=last")


def test_a_used_folder_is_refused_unless_overwritten(flags: Any, fails: Any, tmp_path: Path) -> None:
    run = tmp_path / "run"
    (run / "checkpoints").mkdir(parents=True)
    (run / "notes.txt").write_text("mine")
    assert "holds a run (checkpoints)" in fails("fit", *flags)
    (run / "checkpoints" / "old.ckpt").write_text("")
    build_cli(["fit", *flags, "--overwrite=true", "--trainer.max_steps=1"])
    assert not (run / "checkpoints" / "old.ckpt").exists()
    assert (run / "notes.txt").read_text() == "mine"
    assert yaml.safe_load((run / "config.yaml").read_text())["overwrite"] is False


def test_interpolation_reaches_across_files_and_flags(tmp_path: Path) -> None:
    one = fragment(tmp_path, "trainer:\n  default_root_dir: somewhere\n", "1.yaml")
    two = fragment(tmp_path, "checkpoint:\n  dirpath: ${trainer.default_root_dir}/c\n", "2.yaml")
    assert parse("fit", "--config", SMOKE, "--config", two, "--config", one).checkpoint.dirpath == "somewhere/c"
    given = parse("fit", "--config", SMOKE, "--config", two, "--trainer.default_root_dir=x")
    assert given.checkpoint.dirpath == "x/c"


def test_a_broken_interpolation_is_one_line(tmp_path: Path, fails: Any) -> None:
    line = fails(
        "fit", "--config", SMOKE, "--config", fragment(tmp_path, "checkpoint:\n  dirpath: ${trainer.nothing}\n")
    )
    assert "nothing" in line


def test_names_are_not_abbreviated(fails: Any) -> None:
    assert fails("fit", "--config", SMOKE, "--trainer.max_epoch=3") == (
        "no setting 'trainer.max_epoch'; did you mean 'trainer.max_epochs'? All settings: --help_all"
    )


def test_no_completion_is_promised(fails: Any) -> None:
    assert "no setting 'print_completion'" in fails("fit", "--config", SMOKE, "--print_completion=bash")


def test_the_links_reach_the_data(flags: Any, tmp_path: Path) -> None:
    cli: CraftCLI = build_cli(["test", *flags, "--seed_everything=7", f"--trainer.default_root_dir={tmp_path}"])
    assert cli.datamodule.backbone == cli.model.backbone
    assert cli.datamodule.backbone.name.endswith("host")
    assert cli.datamodule.seed == 7


def test_a_linked_setting_cannot_be_set_by_hand(fails: Any) -> None:
    assert "model.init_args.backbone.name" in fails("fit", "--config", SMOKE, "--data.backbone.name=x")


def test_two_methods_are_refused(fails: Any) -> None:
    zero_shot = ROOT / "experiments" / "methods" / "zero_shot.yaml"
    line = fails("fit", "--config", SMOKE, f"--config={zero_shot}")
    assert "names model ZeroShot, but" in line
    assert "names Craft" in line


@pytest.mark.parametrize("devices", ["1", "auto"])
def test_devices_may_be_text(devices: str, flags: Any) -> None:
    cli = build_cli(["test", *flags, f"--trainer.devices={devices}", "--trainer.strategy=auto"])
    assert cli.trainer.num_devices == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("model: {class_path: Kraft}", "no class 'Kraft'; did you mean 'Craft'?"),
        ("model: {class_path: Craft, init_args: {lambda_comitment: 1}}", "did you mean 'model.lambda_commitment'?"),
        ("model: {class_path: Craft, init_args: {optim: {lrr: 1}}}", "did you mean 'model.optim.lr'?"),
        ("model: {class_path: Craft, init_args: {lambda_sal: much}}", "lambda_sal"),
        ("data: {datset: x}", "no setting 'data.datset'; did you mean 'data.dataset'?"),
        ("data: {look: feld}", "'field', 'studio', 'grey'"),
        ("data: [1", "f.yaml"),
        ("model: {init_args: {lambda_sal: 1}}", "the config that names the method (model.class_path) comes before"),
        ("trainer: {max_step: 3}", "did you mean 'trainer.max_steps'?"),
    ],
)
def test_mistakes_in_a_file_are_one_line_with_the_nearest_name(
    text: str, expected: str, tmp_path: Path, fails: Any
) -> None:
    base = ["--config", SMOKE] if "model" not in text else []
    assert expected in fails("fit", *base, "--config", fragment(tmp_path, text))


def test_mistakes_on_the_command_line(fails: Any, flags: Any) -> None:
    assert "did you mean" in fails("fit", "--config", SMOKE, "--model.lambda_sall=1")
    assert "did you mean 'fit'" in fails("fitt")
    assert fails("fit") == "no method is named; for example --config experiments/methods/craft.yaml"
    near = fails("fit", "--config", str(ROOT / "experiments" / "smok.yaml"))
    assert near.endswith("smoke.yaml?")
    assert "did you mean 'eurosat'" in fails("test", *flags, "--data.dataset=eurosta")
    told = fails("test", *flags, "--model.backbone.quantizer_dtype=float16")
    assert told == "no backbone.quantizer_dtype 'float16'; did you mean 'bfloat16'? Known: float32, bfloat16"
    assert "gpu" in fails("test", *flags, "--trainer.accelerator=gpu").lower() or torch.cuda.is_available()


def test_config_before_the_verb(fails: Any) -> None:
    assert "comes after the verb" in fails("-c", SMOKE, "fit")


def test_arguments_from_python_warn_about_nothing(monkeypatch: Any, recwarn: Any) -> None:
    monkeypatch.setattr(sys, "argv", ["pytest", "-q"])
    parse("fit", "--config", SMOKE)
    assert [w for w in recwarn if "sys.argv" in str(w.message)] == []


def test_zero_shot_fit_is_refused(checkpoints: Path, tmp_path: Path, fails: Any) -> None:
    method = str(ROOT / "experiments" / "methods" / "zero_shot.yaml")
    where = [f"--model.backbone.name={checkpoints / 'host'}", f"--trainer.default_root_dir={tmp_path}"]
    line = fails("fit", "--config", method, *where, *SMALL, "--data.batch_size=4")
    assert line.endswith("zero_shot trains nothing: use test, not fit")


def test_default_run_folders_name_the_run(flags: Any, monkeypatch: Any, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    cli = build_cli(["test", *[f for f in flags if "default_root_dir" not in f], "--seed_everything=3"])
    assert cli.trainer.default_root_dir.endswith("runs/eurosat/host/craft/seed3/test")
    assert (tmp_path / "runs/eurosat/host/craft/seed3/test/result.json").exists()
    argv = ["test", *[f for f in flags if "default_root_dir" not in f], "--seed_everything=3"]
    assert build_cli(argv).trainer.default_root_dir.endswith("runs/eurosat/host/craft/seed3/test-2")


def test_the_test_of_an_encoder_lies_in_the_folder_of_its_run(
    flags: Any, monkeypatch: Any, tmp_path: Path, capsys: Any
) -> None:
    """And a training's last lines are what it found, and this test's command."""
    monkeypatch.chdir(tmp_path)
    given = [flag for flag in flags if "default_root_dir" not in flag]
    build_cli(["fit", *given, "--output=runs/my first"])
    done, follows = capsys.readouterr().err.splitlines()[-2:]
    found = json.loads(Path("runs/my first/result.json").read_text())
    accuracy = f"{found['metrics']['val/accuracy']:.1%} of {found['rows']} items"
    assert re.fullmatch(rf"done      4 steps in \d+ s; validation accuracy {accuracy}", done)
    command = "test --config 'runs/my first/config.yaml' --encoder 'runs/my first/encoder'"
    assert follows == f"next      python -m craft_lightning {command}"
    for name in ("test", "test-2"):
        cli = build_cli(["test", *given, "--encoder=runs/my first/encoder"])
        assert Path(cli.trainer.default_root_dir) == Path("runs/my first") / name
    assert {path.name for path in Path("runs").iterdir()} == {"my first"}
    metrics = json.loads(Path("runs/my first/test/result.json").read_text())["metrics"]
    rows = (line.split()[1::2] for line in capsys.readouterr().out.splitlines() if "test/" in line)
    assert dict(rows) == {k: f"{v:.4g}" for k, v in metrics.items() if "test/" in k}
    assert entry.main(shlex.split(command)) == 0
    assert Path("runs/my first/result.test.json").is_file()
    copied = shutil.copytree("runs/my first/encoder", "elsewhere/encoder")
    cli = build_cli(["test", *given, f"--encoder={copied}"])
    assert Path(cli.trainer.default_root_dir) == Path("runs/eurosat/host/craft/seed0/test"), "no run's folder"


def test_flags_of_a_run_have_the_names_and_spelling_of_all_verbs(monkeypatch: Any) -> None:
    given = parse("test", "--config", SMOKE, "--keep", "0.6", "--output", "x", "--data.batch-size=3", "--backbone=y")
    assert (given.prune.enabled, given.prune.keep, given.trainer.default_root_dir) == (True, 0.6, "x")
    assert (given.data.batch_size, given.model.init_args.backbone.name) == (3, "y")


def test_interruption_is_one_line_and_130(monkeypatch: Any, capsys: Any) -> None:
    def stop(argv: list[str]) -> int:
        raise KeyboardInterrupt

    def stopped_by_lightning(argv: list[str]) -> int:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            sys.exit(1)

    for function in (stop, stopped_by_lightning):
        monkeypatch.setitem(sys.modules, "craft_lightning.cli.list", types.SimpleNamespace(main=function))
        assert entry.main(["list", "methods"]) == 130
        assert capsys.readouterr().err == "craft_lightning: interrupted\n"


def test_list(capsys: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert entry.main(["list", "methods"]) == 0
    listed = capsys.readouterr().out
    assert {line.split()[0] for line in listed.splitlines()} == set(METHODS)
    assert entry.main(["list", "datasets"]) == 0
    assert "eurosat        EuroSAT (RGB): 10 land covers from above\n" in capsys.readouterr().out
    assert entry.main(["list", "backbones"]) == 0
    listed = capsys.readouterr().out
    assert [line.split()[0] for line in listed.splitlines()] == list(BACKBONES)
    assert "pocket discrete host" in listed
    assert "; shipped\n" in listed
    assert re.search(r"^pocket-qwen2-s  +the next larger Qwen2-shaped LM; shipped$", listed, re.M)
    assert "the paper's host; hf download mit-han-lab/vila-u-7b-256\n" in listed
    assert "make surrogate BACKBONE=qwen2.5-3b\n" in listed
    monkeypatch.setattr(spec, "POCKET", tmp_path)
    assert BACKBONES["pocket-qwen2-s"].origin == "not built yet: make pocket-family"


def test_a_training_that_diverges_says_so(flags: Any) -> None:
    wild = ["--model.optim.lr=1e30", "--model.optim.warmup=0", "--trainer.max_steps=4"]
    with pytest.raises(CraftError, match=r"the training diverged at step \d .*lower --model.optim.lr from 1e\+30"):
        build_cli(["fit", *flags, *wild])


def test_a_file_that_is_no_checkpoint_is_one_line(flags: Any, fails: Any, tmp_path: Path) -> None:
    junk = tmp_path / "junk.ckpt"
    junk.write_bytes(b"not a checkpoint")
    assert f"{junk} is no checkpoint of fit" in fails("test", *flags, f"--ckpt_path={junk}")


def test_the_last_step_is_validated_whatever_its_number() -> None:
    example = str(ROOT / "experiments" / "examples" / "craft.yaml")
    parsed = parse("fit", "--config", example, "--trainer.max_steps=7")
    assert parsed.trainer.val_check_interval == 7
