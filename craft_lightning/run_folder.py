"""Run folders: what a run writes where, made sure of before anything is computed; no run writes over another."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from itertools import chain, count
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from craft_lightning.errors import CraftError
from craft_lightning.io import read_json

EVENTS = "events"
"""The folder of event files in a run's folder."""

MARK = "craft_lightning=="
"""Begins the comment in the first line of a run's own config; a version follows."""

FINDINGS = ("checkpoints", "encoder", "adapter", "result.json", "result.*.json")
"""What makes a folder a used one."""

OFFLINE = "offline"
"""Name of the judge by rules. Its judgements go with the replies; those of a model were paid for, and stay."""

OUTPUTS = (
    *(*FINDINGS, "config.yaml", "config.*.yaml", "predictions.jsonl", "predictions.*.jsonl"),
    *(f"judgements*.{OFFLINE}.jsonl", "items.jsonl", "items.*.jsonl", "token_map.*.png", EVENTS),
)
"""What a run writes into its folder, and all that ``--overwrite`` removes."""


@contextmanager
def alone(lock: Path, work: str) -> Iterator[None]:
    """Keep other processes from the same work while the block runs, by a file that goes with it. Raises CraftError:
    another one is at it."""
    lock.parent.mkdir(parents=True, exist_ok=True)
    held = FileLock(lock)
    try:
        held.acquire(blocking=False)
    except Timeout:
        raise CraftError(f"{work} already, in another process: wait for its end") from None
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
        held.release()
        with suppress(OSError):  # of a run that ended before it wrote anything nothing is left
            lock.parent.rmdir()


def paid_judgements(folder: Path) -> set[Path]:
    """What models have said of replies below a folder. It was paid for, and holds of the replies that come out the same
    again."""
    found = folder.rglob("judgements*.jsonl")
    return {path for path in found if not path.stem.endswith(f".{OFFLINE}")}


def check_folder(folder: Path, flag: str = "--output") -> None:
    """Make sure that a run can write into the folder of a flag, which need not exist yet. Raises CraftError: a file is
    in the way, or the folder is not the user's to write."""
    there = next(p for p in (folder.absolute(), *folder.absolute().parents) if os.path.lexists(p))
    if there.is_dir() and os.access(there, os.W_OK | os.X_OK):
        return
    why = f"no permission to write in {there}" if there.is_dir() else f"{there} is no folder"
    raise CraftError(f"cannot write to {folder}: {why}; name another folder with {flag}")


def result_files(folder: Path, verb: str) -> tuple[Path, Path]:
    """Where a run of this verb writes its result and its replies.

    In a folder that holds a fit, the files of an evaluation carry its verb: ``result.test.json``.
    """
    tag = f".{verb}" if verb != "fit" and holds_fit(folder) else ""
    return folder / f"result{tag}.json", folder / f"predictions{tag}.jsonl"


def holds_fit(folder: Path) -> bool:
    """Whether a training wrote into this folder."""
    return (folder / "config.yaml").exists() or result(folder).get("verb") == "fit"


def home_of(part: str | None) -> Path | None:
    """The folder of the run that left an encoder or an adapter, whose folder is given; None if it is no run's."""
    home = Path(part or "").expanduser().parent
    return home if part and Path(part).expanduser().is_dir() and holds_fit(home) else None


def find_checkpoint(path: str, run: Path) -> str:
    """The checkpoint that ``--ckpt_path`` names, or that of the run whose folder it names; ``last``: of ``run``. Raises
    CraftError: there is none; names those that there are. ``best`` and Lightning's other words never have one: only the
    last step is kept."""
    found = run / "checkpoints" / "last.ckpt" if path == "last" else Path(path)
    if found.is_dir() and not (found / "checkpoint").is_dir():  # which is one in parts, as DeepSpeed writes it
        inside = (found / "checkpoints" / "last.ckpt", found / "last.ckpt")
        last = next((file for file in inside if file.exists()), None)
        if last is None:
            there = ", ".join(sorted(map(str, found.rglob("*.ckpt")))) or "none in it"
            raise CraftError(f"no checkpoint of a run in {path}; there is {there}: --ckpt_path takes a file, or last")
        found = last
    if found.exists():
        return str(found)
    word = path != "last" and found.name == path and not found.suffix
    place = run / "checkpoints" if word else found.parent
    there = ", ".join(sorted(map(str, place.glob("*.ckpt")))) or f"none in {place}"
    raise CraftError(f"no checkpoint {path if word else found}; there is {there}: --ckpt_path takes a file, or last")


def is_finished(folder: Path, step: int) -> bool:
    """Whether a fit that ended at this step has left its result, which is the last thing that it writes."""
    found = result(folder)
    return (found.get("verb"), found.get("steps")) == ("fit", step)


def used(folder: Path) -> str | None:
    """What makes a folder that of a finished run; None if nothing does."""
    return next((name for name in ("result.json", "encoder", "adapter") if (folder / name).exists()), None)


def result(folder: Path) -> dict[str, Any]:
    """``result.json``; empty if there is none that can be read."""
    return read_json(folder / "result.json")


def claim(folder: Path, checkpoint: str | None, overwrite: bool, asked: bool = False) -> None:
    """Make sure that a fit begins in a clean run folder, or goes on in its own.

    Args:
        checkpoint: that the fit goes on from; one of another folder begins a run.
        overwrite: remove an earlier run; asked: by a flag, for the config of a run keeps what its first start was told.

    Raises:
        CraftError: the folder holds a run, or files named like a run's that are none's, and neither ``--ckpt_path`` of
            that run nor ``--overwrite`` was given.
    """
    if checkpoint is not None and Path(checkpoint).resolve().is_relative_to(folder.resolve()):
        if asked:
            raise CraftError(
                f"--overwrite true would remove {checkpoint}, which --ckpt_path resumes from: give one of the two"
            )
        return
    kept = sorted(path for pattern in FINDINGS for path in folder.glob(pattern))
    named = [path for pattern in OUTPUTS for path in folder.glob(pattern)]
    if kept and not overwrite:
        raise CraftError(
            f"{folder} holds a run ({kept[0].name}); continue it with --ckpt_path last, replace it with --overwrite "
            "true, or name another folder with --output"
        )
    if not overwrite and not any(map(_marked, folder.glob("config*.yaml"))):
        # Event files alone are what a start that failed leaves, or somebody's: they may stay.
        named = [path for path in named if path.name != EVENTS]
        if not named:
            return
        raise CraftError(
            f"{folder} holds {named[0].name}, which no run left there: name another folder with "
            "--output, or have it removed with --overwrite true"
        )
    # What a run left that found nothing would mix with the new one's curves.
    for path in named:
        shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()


def _marked(config: Path) -> bool:
    """Whether a run wrote this file."""
    with config.open("rb") as file:
        return file.readline().startswith(f"# {MARK}".encode())


def unused(folder: Path, verb: str) -> Path:
    """The folder, or the first of ``<folder>-2``, ``<folder>-3``... that holds no evaluation of this verb."""
    others = (folder.with_name(f"{folder.name}-{number}") for number in count(2))
    return next(f for f in chain((folder,), others) if not any(path.exists() for path in result_files(f, verb)))


def claim_evaluation(folder: Path, verb: str, overwrite: bool) -> None:
    """Make sure that an evaluation writes over no other. Raises CraftError: the folder holds one, and ``--overwrite``
    was not given."""
    result, lines = result_files(folder, verb)
    kept = [path for path in (result, lines) if path.exists()]
    if kept and not overwrite:
        raise CraftError(
            f"{folder} holds an evaluation ({kept[0].name}); name another folder with --output, or "
            "replace it with --overwrite true"
        )
    judged = f"{lines.stem.replace('predictions', 'judgements')}*.{OFFLINE}.jsonl"
    for path in [*kept, *folder.glob(f"{lines.stem}.keep*.jsonl"), *folder.glob(judged)]:
        path.unlink()
