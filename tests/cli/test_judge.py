"""The verb ``judge``: what it asks, what it stores, and what it leaves out."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from craft_lightning import __main__ as entry
from craft_lightning.cli import judge as verb
from craft_lightning.evaluation.api_judge import KEYS
from craft_lightning.run_folder import alone
from tests.api_kit import RIGHT, Api, serving

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments"
MODEL, SECRET, ITEMS = "some-model", "sk-very-secret", 6


@pytest.fixture(scope="module")
def tested(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    root = tmp_path_factory.mktemp("tested")
    for name, flags in (("justified", ["--data.directive=justify", "--model.max_new_tokens=9"]), ("short", [])):
        small = [f"--data.test_size={ITEMS}", "--trainer.enable_progress_bar=false", "--trainer.logger=false"]
        where = [f"--model.backbone.name={checkpoints / 'host'}", f"--trainer.default_root_dir={root / name}"]
        assert entry.main(["test", "--config", str(EXPERIMENTS / "smoke.yaml"), *small, *where, *flags]) == 0
    return {name: root / name for name in ("justified", "short")}


@pytest.fixture
def run(tested: dict[str, Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(tested["justified"], tmp_path / "run"))


@pytest.fixture
def api(monkeypatch: pytest.MonkeyPatch) -> Iterator[Api]:
    pytest.importorskip("openai")
    monkeypatch.setenv(KEYS["openai"], SECRET)
    with serving() as found:
        yield found


def judge(api: Api, *arguments: str | Path) -> int:
    flags = ["--judge", MODEL, "--url", api.url, "--at_once", "1", "--yes"]
    return entry.main(["judge", *map(str, arguments), *flags])


def stored(run: Path, name: str = MODEL) -> list[dict[str, object]]:
    return [json.loads(line) for line in (run / f"judgements.{name}.jsonl").read_text().splitlines()]


def test_by_rules_the_verb_says_what_the_test_said(run: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = stored(run, "offline")
    (run / "judgements.offline.jsonl").unlink()
    assert entry.main(["judge", str(run)]) == 0
    assert stored(run, "offline") == before
    assert "Judged by offline" in capsys.readouterr().out


def test_without_yes_the_cost_is_told_and_nothing_asked(
    run: Path, api: Api, capsys: pytest.CaptureFixture[str]
) -> None:
    assert entry.main(["judge", str(run), "--judge", MODEL, "--url", api.url, "--price", "1", "2"]) == 0
    assert "6 items, about 0.01 million tokens" in (text := capsys.readouterr().out)
    assert "add --yes" in text
    assert not api.asked


def test_finished_items_are_never_asked_again(run: Path, api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    api.next = [json.dumps(RIGHT), "no JSON", "no JSON", "no JSON"]
    assert judge(api, run) == 1
    assert [len(row) for row in stored(run)].count(2) == 1, "one was asked in vain"
    assert "1 of 6 items are left out" in capsys.readouterr().out
    asked = len(api.asked)
    with (run / f"judgements.{MODEL}.jsonl").open("a") as file:
        file.write('{"key": "cut o')
    assert judge(api, run) == 0
    assert len(api.asked) == asked + 1
    assert len(stored(run)) == ITEMS + 1
    assert judge(api, run) == 0
    assert len(api.asked) == asked + 1
    assert f"{MODEL} has judged all items" in capsys.readouterr().out


def test_what_fails_for_one_run_is_left_out_for_all(run: Path, api: Api, capsys: pytest.CaptureFixture[str]) -> None:
    other = Path(shutil.copytree(run, run.with_name("other")))
    assert judge(api, other) == 0
    api.next = ["no JSON"] * 3
    assert judge(api, run, other) == 1
    text = capsys.readouterr().out
    assert "run: 1 of 6 items are left out" in text
    assert "other: 1 of 6 items are left out" in text


def test_an_endpoint_that_only_fails_ends_the_call(
    run: Path, api: Api, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(verb, "IN_A_ROW", 3)
    api.next = ["no JSON"] * 99
    assert judge(api, run) == 2
    assert "3 items in a row got no judgement: the API cannot be reached" in capsys.readouterr().err
    in_vain = [row["key"] for row in stored(run)]
    assert 3 <= len(in_vain) <= 4, "what was being asked is stored, too"
    assert len(api.asked) == 3 * len(in_vain)
    api.next = [(400, "a filter")] * 3
    assert judge(api, run) == 2
    assert "got no judgement: the endpoint of some-model refuses: " in capsys.readouterr().err
    assert stored(run)[len(in_vain)]["key"] not in in_vain, "what was never asked comes first"
    assert judge(api, run) == 0


def test_an_answer_that_is_under_way_when_others_end_the_call_is_stored(run: Path, api: Api) -> None:
    api.next = ["late", 401]
    assert entry.main(["judge", str(run), "--judge", MODEL, "--url", api.url, "--at_once", "2", "--yes"]) == 2
    assert sum(len(row) > 2 for row in stored(run)) >= 1, "it was paid for"


def test_a_second_call_for_the_same_replies_is_refused_and_loses_nothing(
    run: Path, api: Api, capsys: pytest.CaptureFixture[str]
) -> None:
    assert judge(api, run) == 0
    kept = (run / f"judgements.{MODEL}.jsonl").read_text()
    (run / f"judgements.{MODEL}.jsonl").write_text(kept[: kept.index("\n") + 1])
    with alone(run / f"judgements.{MODEL}.lock", "the first"):
        assert judge(api, run) == 2
    assert "already, in another process: wait for its end" in capsys.readouterr().err
    assert len(stored(run)) == 1


def test_judgements_of_a_model_outlive_a_test_of_the_same_replies(run: Path, api: Api) -> None:
    assert judge(api, run) == 0
    asked = len(api.asked)
    assert (
        entry.main(["test", "--config", str(run / "config.test.yaml"), "--output", str(run), "--overwrite=true"]) == 0
    )
    assert judge(api, run) == 0
    assert len(api.asked) == asked


def test_the_key_is_nowhere(run: Path, api: Api, capfd: pytest.CaptureFixture[str]) -> None:
    assert judge(api, run) == 0
    api.next = [401]
    (run / f"judgements.{MODEL}.jsonl").unlink()
    assert judge(api, run) == 2
    out, err = capfd.readouterr()
    assert SECRET not in out + err + "".join(api.texts())
    assert all(SECRET.encode() not in path.read_bytes() for path in run.rglob("*") if path.is_file())


def test_mistakes_are_one_line(tested: dict[str, Path], capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert entry.main(["judge", str(tested["short"])]) == 2
    assert "holds short answers: test with --data.directive justify" in capsys.readouterr().err
    assert entry.main(["judge", "table2", "--runs", str(tmp_path)]) == 2
    assert "table2: no test is computed" in capsys.readouterr().err
    assert entry.main(["judge", "table2", "--budget", "lang", "--runs", str(tmp_path)]) == 2
    assert "did you mean 'long'?" in capsys.readouterr().err
    assert entry.main(["judge", "tabel2"]) == 2
    assert "did you mean 'table2'?" in capsys.readouterr().err
