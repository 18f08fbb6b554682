"""No run writes over another."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from craft_lightning.errors import CraftError
from craft_lightning.run_folder import alone, claim, claim_evaluation, result_files, unused


def write(path: Path, text: str = "kept") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_evaluations_beside_a_fit_carry_their_verb(tmp_path: Path) -> None:
    assert [p.name for p in result_files(tmp_path, "test")] == ["result.json", "predictions.jsonl"]
    write(tmp_path / "config.yaml")
    assert [p.name for p in result_files(tmp_path, "test")] == ["result.test.json", "predictions.test.jsonl"]
    assert [p.name for p in result_files(tmp_path, "fit")] == ["result.json", "predictions.jsonl"]


def test_an_evaluation_has_a_place_of_its_own(tmp_path: Path) -> None:
    folder = tmp_path / "test"
    assert unused(folder, "test") == folder
    write(folder / "result.json")
    assert unused(folder, "test") == tmp_path / "test-2"
    write(tmp_path / "test-2" / "predictions.jsonl")
    assert unused(folder, "test") == tmp_path / "test-3"


LIKE_A_RUN_S = ("config.yaml", "config.test.yaml", "predictions.jsonl", "items.jsonl")


@pytest.mark.parametrize("name", LIKE_A_RUN_S)
def test_a_fit_removes_no_file_that_no_run_left(name: str, tmp_path: Path) -> None:
    theirs = write(tmp_path / name, "trainer: {max_steps: 5}\n")
    first = name.split("/")[0]
    with pytest.raises(CraftError, match=f"holds {first}, which no run left there: name another folder .*--overwrite"):
        claim(tmp_path, None, overwrite=False)
    claim(tmp_path, str(tmp_path / "checkpoints" / "last.ckpt"), overwrite=False)
    assert theirs.exists()
    claim(tmp_path, None, overwrite=True)
    assert not theirs.exists()


def test_event_files_alone_neither_stop_a_fit_nor_are_removed(tmp_path: Path) -> None:
    events = write(tmp_path / "events/events.out.tfevents")
    claim(tmp_path, None, overwrite=False)
    assert events.exists(), "a start that failed leaves them; they may be somebody's"


def test_a_fit_clears_what_an_interrupted_one_left_and_nothing_else(tmp_path: Path) -> None:
    names = (*LIKE_A_RUN_S, "events/events.out.tfevents")
    left = [write(tmp_path / name, "# craft_lightning==0.0.1\n") for name in names]
    others = [write(tmp_path / name) for name in ("config_of_mine.yaml", "predictions-2024.jsonl", "results.json")]
    claim(tmp_path, None, overwrite=False)
    assert not any(path.exists() for path in left)
    assert all(path.read_text() == "kept" for path in others)


@pytest.mark.parametrize("beside_fit", [False, True])
def test_an_evaluation_is_never_written_over_unasked(beside_fit: bool, tmp_path: Path) -> None:
    fits = [write(tmp_path / name) for name in ("config.yaml", "result.json", "predictions.jsonl") if beside_fit]
    tag = ".test" if beside_fit else ""
    claim_evaluation(tmp_path, "test", overwrite=False)
    names = (f"result{tag}.json", f"predictions{tag}.jsonl", f"predictions{tag}.keep0.8.jsonl")
    ours = [write(tmp_path / name) for name in names]
    with pytest.raises(
        CraftError, match=rf"holds an evaluation \(result{tag}.json\); name another folder .*--overwrite"
    ):
        claim_evaluation(tmp_path, "test", overwrite=False)
    assert all(path.read_text() == "kept" for path in ours)
    claim_evaluation(tmp_path, "test", overwrite=True)
    assert not any(path.exists() for path in ours)
    assert all(path.read_text() == "kept" for path in fits)


def test_a_run_has_its_folder_alone(tmp_path: Path) -> None:
    lock = tmp_path / "run" / ".lock"
    hold = (
        "import sys\nfrom pathlib import Path\nfrom craft_lightning.run_folder import alone\n"
        "with alone(Path(sys.argv[1]), 'it'):\n    print('held', flush=True)\n    sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", hold, str(lock)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        assert other.stdout.readline() == "held\n"
        told = "^a run is at work in x already, in another process: wait for its end"
        with pytest.raises(CraftError, match=told), alone(lock, "a run is at work in x"):
            pass
        other.communicate()
    with alone(lock, "a run is at work in x"):
        pass
    assert not lock.parent.exists(), "nothing was written"


def test_a_link_to_another_disk_is_taken_away_and_what_it_leads_to_stays(tmp_path: Path) -> None:
    there = write(tmp_path / "scratch" / "last.ckpt")
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "checkpoints").symlink_to(there.parent)
    claim(tmp_path / "run", None, overwrite=True)
    assert there.exists()
    assert list((tmp_path / "run").iterdir()) == []


def test_what_a_model_judged_outlives_a_training(tmp_path: Path) -> None:
    paid = write(tmp_path / "judgements.test.claude-x.jsonl")
    ruled = [write(tmp_path / f"judgements{tag}.offline.jsonl") for tag in ("", ".test")]
    write(tmp_path / "result.json")
    claim(tmp_path, None, overwrite=True)
    assert paid.exists()
    assert not any(path.exists() for path in ruled)
