"""Results on disk: one ``job.json`` a job, written by one writer to a temporary name and renamed.

It stands beside what the run itself writes (``result.json``, ``predictions.jsonl``), comes last, and alone says "done".
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from filelock import BaseFileLock, FileLock, Timeout

from craft_lightning.benchmark.plan import CHECKPOINT, Job
from craft_lightning.environment import LIBRARIES, versions
from craft_lightning.errors import CraftError
from craft_lightning.io import read_json, read_lines, write_json
from craft_lightning.run_folder import paid_judgements

RESULT = "job.json"
FAILURE = "failure.json"
STARTED = "started.json"
LOCKS = ".locks"


def result(job: Job) -> dict[str, Any] | None:
    """The job's result if it belongs to these settings, this code and these weights, else None."""
    found = read_json(job.folder / RESULT)
    return found if found.get("key") == job.key else None


def failure(job: Job) -> str | None:
    """The last error line of a job that failed, or None."""
    found = read_json(job.folder / FAILURE)
    return str(found.get("error")) if found.get("key") == job.key else None


def state(job: Job) -> str:
    """``done``, ``stale`` (there is a result of other settings, code or weights), ``failed`` or ``missing``."""
    if found := read_json(job.folder / RESULT):
        return "done" if found.get("key") == job.key else "stale"
    return "missing" if failure(job) is None else "failed"


def why_stale(job: Job) -> str:
    """Which of config, code and weights differ from those of the stored result, in words."""
    old = read_json(job.folder / RESULT).get("job", {})
    changed = [name for name in ("config", "code", "weights") if old.get(name) != job.facts[name]]
    return ", ".join(changed) or "the encoder under test"


def other_libraries(jobs: Iterable[Job]) -> str | None:
    """How many results were computed with libraries of other versions than those here, in one line; None if none was.

    They count as done: an upgrade must not cost a table, and what it changes is seldom more than the last digits.
    """
    here, differences, count = versions(), dict[str, set[str]](), 0
    for there in [found["versions"] for found in map(result, jobs) if found is not None and "versions" in found]:
        others = {name: there[name] for name in LIBRARIES if there.get(name, here[name]) != here[name]}
        count += bool(others)
        for name, other in others.items():
            differences.setdefault(name, set()).add(other)
    told = ", ".join(f"{name} {', '.join(sorted(there))}, here {here[name]}" for name, there in differences.items())
    line = f"{count} results are of other libraries ({told}): they are kept; remove them to compute again"
    return line if count else None


def arithmetic(jobs: Iterable[Job]) -> tuple[str, ...]:
    """What the sums of some results hang on, in words: ``"AMD EPYC (family 25, model 17), threads 1, torch AVX2"``."""
    told = [found.get("made", {}).get("arithmetic") or {} for found in map(result, jobs) if found is not None]
    words = [[value if name == "processor" else f"{name} {value}" for name, value in each.items()] for each in told]
    return tuple(sorted({", ".join(each) for each in words if each}))


def predictions(job: Job, keep_ratio: float | None) -> Path:
    """The replies of a job, or those at one of the keep ratios that it measured beside its own."""
    return job.folder / ("predictions.jsonl" if keep_ratio is None else f"predictions.keep{keep_ratio}.jsonl")


def read_replies(path: Path) -> dict[str, dict[str, Any]]:
    """The rows of a file of replies by key. Raises CraftError: the file is not there or not whole."""
    try:
        path.stat()  # raises where there is none
        rows = read_lines(path)
        return {row["key"]: {**row, "item": row["item"], "correct": bool(row["correct"])} for row in rows}
    except (OSError, KeyError) as error:
        raise CraftError(f"{path} cannot be read: {' '.join(str(error).split())}") from error


def curves(job: Job) -> list[dict[str, Any]]:
    """What a finished training logged, a step at a time; nothing where it has no result or kept no curves."""
    return [] if result(job) is None else read_lines(job.folder / "curves.jsonl")


def write_failure(job: Job, error: str) -> None:
    """Remember why a job has no result."""
    write_json(job.folder / FAILURE, {"key": job.key, "error": error})


def prepare(job: Job) -> bool:
    """Make the job's folder ready; True if an interrupted training of the same key left a checkpoint to go on from.

    Otherwise everything in it goes, and with a training the tests below it: they tested the encoder that is replaced.
    What models said of replies stays, see :func:`.paid_judgements`.
    """
    mine = read_json(job.folder / STARTED).get("key") == job.key
    if mine and job.kind != "eval" and (job.folder / CHECKPOINT).is_file():
        return True
    kept = paid_judgements(job.folder)
    for home, folders, files in os.walk(job.folder, topdown=False):
        for path in {Path(home, name) for name in (*files, *folders)} - kept:
            if path.is_symlink() or not path.is_dir():
                path.unlink()
            elif not any(path.iterdir()):
                path.rmdir()
    write_json(job.folder / STARTED, {"key": job.key})
    return False


def try_lock(root: Path, job: Job) -> BaseFileLock | None:
    """The job's lock, or None while another process holds it.

    The operating system frees it when its holder dies, so there are no stale locks. Release it to free it.
    """
    path = root / LOCKS / f"{job.name.replace('/', '+')}.lock"
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    try:
        lock.acquire(blocking=False)
    except Timeout:
        return None
    return lock
