"""What TensorBoard reads of a run: scalars of the same names for every method, and a row of the HPARAMS tab."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.plugins.hparams import metadata

from callbacks.hparams_tab import ACCURACIES
from craft_lightning.cli.run import build_cli
from craft_lightning.methods import METHODS

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"
TRAINED = [name for name in METHODS if name != "zero_shot"]
SETTINGS = ["dataset", "learning_rate", "method", "parameters", "surrogate", "tested_on"]


def arguments(verb: str, method: str, backbone: Path, folder: Path, dataset: str = "eurosat") -> list[str]:
    files = ("base.yaml", f"methods/{method}.yaml")
    small = ["--data.train_size=12", "--data.val_size=4", "--data.test_size=12", "--data.batch_size=4"]
    steps = ["--trainer.max_steps=2", "--trainer.val_check_interval=2", "--trainer.log_every_n_steps=1"]
    where = [f"--model.backbone.name={backbone}", f"--trainer.default_root_dir={folder}"]
    quiet = ["--trainer.enable_progress_bar=false"]
    configs = [part for file in files for part in ("--config", str(EXPERIMENTS / file))]
    return [verb, *configs, f"--data.dataset={dataset}", *where, *small, *steps, *quiet]


def read(folder: Path) -> EventAccumulator:
    events = EventAccumulator(str(folder / "events"))
    events.Reload()
    return events


def last(events: EventAccumulator) -> dict[str, float]:
    return {tag: events.Scalars(tag)[-1].value for tag in events.Tags()["scalars"]}


def row(events: EventAccumulator) -> tuple[dict[str, Any], list[str]]:
    """The settings of a run's row, and the columns that the run would have TensorBoard show."""
    start = metadata.parse_session_start_info_plugin_data(
        events.SummaryMetadata(metadata.SESSION_START_INFO_TAG).plugin_data.content
    )
    experiment = metadata.parse_experiment_plugin_data(
        events.SummaryMetadata(metadata.EXPERIMENT_TAG).plugin_data.content
    )
    found = {name: getattr(value, value.WhichOneof("kind")) for name, value in start.hparams.items()}
    assert sorted(info.name for info in experiment.hparam_infos) == sorted(found)
    return found, [info.name.tag for info in experiment.metric_infos]


@pytest.mark.parametrize("method", TRAINED)
def test_every_method_logs_the_same_names(method: str, checkpoints: Path, tmp_path: Path) -> None:
    continuous = getattr(METHODS[method], "continuous", False)
    backbone = checkpoints / ("continuous" if continuous else "host")
    build_cli(arguments("fit", method, backbone, tmp_path))
    events = read(tmp_path)
    scalars = last(events)
    found = json.loads((tmp_path / "result.json").read_text())
    assert {"train/loss", "val/accuracy", "val/accuracy_seen"} <= set(scalars)
    assert all("/" in name for name in scalars), "cards are sorted by name: one of its own would be the first"
    assert scalars["trainer/epoch"] == 0
    codebook = {"val/codebook_perplexity", "val/codebook_dead", "val/codes_changed"}
    assert codebook & set(scalars) == (set() if continuous else codebook)
    terms = {name for name in scalars if name.startswith("train/") and name.count("/") == 1} - {
        "train/loss",
        "train/codebook_distance",
    }
    assert terms
    assert sum(scalars[name] for name in terms) == pytest.approx(scalars["train/loss"], rel=1e-4)
    assert scalars["val/accuracy"] == pytest.approx(found["metrics"]["val/accuracy"])
    # Validation shows no held-out label: an accuracy on them would be another number than its name says.
    assert "val/accuracy_unseen" not in scalars
    settings, columns = row(events)
    assert columns == list(ACCURACIES)
    assert settings == {
        "dataset": "eurosat",
        "learning_rate": found["settings"]["optim"]["lr"],
        "method": "ldifs lambda_ldifs=1.0" if method == "ldifs" else method,  # 10 is its authors'
        "parameters": found["trained"]["count"],
        "surrogate": str(backbone),
        "tested_on": str(backbone),
    }


def test_a_test_of_an_encoder_names_its_surrogate(checkpoints: Path, tmp_path: Path) -> None:
    build_cli(arguments("fit", "craft", checkpoints / "host", tmp_path / "fit"))
    encoder = f"--encoder={tmp_path / 'fit' / 'encoder'}"
    build_cli([*arguments("test", "craft", checkpoints / "small", tmp_path / "test"), encoder])
    events = read(tmp_path / "test")
    assert {"test/exact_match", "test/exact_match_seen", "test/exact_match_unseen"} <= set(last(events))
    settings, columns = row(events)
    assert settings["surrogate"] == str(checkpoints / "host")
    assert settings["tested_on"] == str(checkpoints / "small")
    trained, same = row(read(tmp_path / "fit"))
    assert settings["parameters"] == trained["parameters"]
    assert columns == same
    checkpoint = f"--ckpt_path={tmp_path / 'fit' / 'checkpoints' / 'last.ckpt'}"
    build_cli([*arguments("test", "craft", checkpoints / "host", tmp_path / "again"), checkpoint])
    assert row(read(tmp_path / "again"))[0] == trained


def test_rows_of_one_method_are_told_apart(checkpoints: Path, tmp_path: Path) -> None:
    given = arguments("fit", "vision_ft", checkpoints / "continuous", tmp_path)
    build_cli([*given, "--model.init_args.lambda_contrastive=null"])
    assert row(read(tmp_path))[0]["method"] == "vision_ft lambda_contrastive=1.0", "the paper's, for labelled images"
    given = arguments("fit", "craft", checkpoints / "host", tmp_path / "craft")
    build_cli([*given, "--model.init_args.logit_bias=true", "--model.init_args.commitment_level=cumulative"])
    named = row(read(tmp_path / "craft"))[0]["method"]
    assert named == "craft commitment_level=cumulative logit_bias=True", "its own settings and inherited ones"


def test_zero_shot_has_a_row_of_the_same_settings(checkpoints: Path, tmp_path: Path) -> None:
    for verb in ("test", "validate"):
        build_cli(arguments(verb, "zero_shot", checkpoints / "host", tmp_path / verb, "vqa_rad"))
        settings, columns = row(read(tmp_path / verb))
        assert sorted(settings) == SETTINGS
        assert (settings["surrogate"], settings["dataset"]) == ("none", "vqa_rad")
        assert (settings["parameters"], settings["learning_rate"]) == (0.0, 0.0)
        assert columns == list(ACCURACIES)
