"""Justifications asked for on the command line: what is asked, how long replies are, and how they are judged."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from craft_lightning import __main__ as entry
from craft_lightning.evaluation.judgement import DIMENSIONS, Judgement
from craft_lightning.evaluation.offline_judge import OfflineJudge
from craft_lightning.models.vlm_spec import VlmSpec
from craft_lightning.text.multiple_choice import item_hash
from craft_lightning.text.prompts import message
from data_modules.datamodule import VqaDataModule
from data_modules.twins import facts_of_all

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"
JUSTIFY = ["--data.directive=justify", "--model.max_new_tokens=9"]


def rows(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def run(checkpoints: Path, folder: Path, *flags: str) -> Path:
    configs = ["--config", str(EXPERIMENTS / "smoke.yaml"), "--config", str(EXPERIMENTS / "callbacks/prune.yaml")]
    small = ["--data.test_size=6", "--data.train_size=16", "--trainer.enable_progress_bar=false"]
    where = [f"--model.backbone.name={checkpoints / 'host'}", f"--trainer.default_root_dir={folder}"]
    keep = ["--prune.keep=0.5", "--prune.also=[0.5,1.0]", "--trainer.logger=false"]
    assert entry.main(["test", *configs, *where, *small, *keep, *flags]) == 0
    return folder


@pytest.fixture(scope="module")
def folders(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    root = tmp_path_factory.mktemp("judged")
    return run(checkpoints, root / "justified", *JUSTIFY), run(checkpoints, root / "plain")


def test_justifications_are_judged_and_short_answers_are_not(folders: tuple[Path, Path]) -> None:
    justified, plain = folders
    metrics = json.loads((justified / "result.json").read_text())["metrics"]
    for keep, place in (("", "test"), (".keep0.5", "test/keep0.5"), (".keep1.0", "test/keep1.0")):
        replies = rows(justified / f"predictions{keep}.jsonl")
        judged = rows(justified / f"judgements{keep}.offline.jsonl")
        assert [row["key"] for row in judged] == [row["key"] for row in replies]
        found = [Judgement(**{k: v for k, v in row.items() if k not in ("key", "reply")}) for row in judged]
        for name in DIMENSIONS:
            mean = sum(float(getattr(one, name)) for one in found) / len(found)
            assert metrics[f"{place}/{name}"] == pytest.approx(mean)
    assert not list(plain.glob("judgements*"))
    assert "test/presence" not in json.loads((plain / "result.json").read_text())["metrics"]


def test_a_judgement_is_that_of_the_stored_reply(folders: tuple[Path, Path]) -> None:
    data = VqaDataModule(VlmSpec("pocket-vila-u"), test_size=6, directive="justify")
    data.setup("test")
    items = {item.key: item for item in data.asked("test")}
    judge = OfflineJudge((item.meta["facts"] for item in items.values()), facts_of_all())
    replies = {row["key"]: str(row["prediction"]) for row in rows(folders[0] / "predictions.jsonl")}
    for row in rows(folders[0] / "judgements.offline.jsonl"):
        key = str(row["key"])
        assert row["notes"] == judge.judge(replies[key], items[key]).notes


def test_replies_are_as_long_as_asked_for(folders: tuple[Path, Path]) -> None:
    longest = [max(len(str(row["prediction"])) for row in rows(folder / "predictions.jsonl")) for folder in folders]
    assert longest[0] > longest[1], "nine tokens of untrained weights against five"


def test_every_stored_item_asks_for_a_reason_and_keeps_its_options() -> None:
    justified, plain = (VqaDataModule(VlmSpec("pocket-vila-u"), "vqa_rad", directive=d) for d in ("justify", "answer"))
    for data in (justified, plain):
        data.setup()
    for split in ("val", "test"):
        for one, other in zip(justified.asked(split), plain.asked(split), strict=True):
            assert message(one).endswith("Justify your answer.")
            assert message(one).count("nswer ") == 0
            assert (one.options, one.answer, one.key) == (other.options, other.answer, other.key)
            assert item_hash(one) != item_hash(other), "another question"
    assert justified.asked("train") == plain.asked("train"), "training asks for short answers"
    assert justified.digest()["train"] == plain.digest()["train"]
