"""Stored replies read again: every item of a run with its question, and what the run says of itself."""

from __future__ import annotations

import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from craft_lightning import run_folder
from craft_lightning.benchmark.store import read_replies
from craft_lightning.errors import CraftError
from craft_lightning.io import read_json, read_lines
from craft_lightning.text.scoring import normalise

REPLIES = ("predictions.test.jsonl", "predictions.jsonl")
"""Where a run's folder holds its replies: those of a test in a training's folder, else its own."""


@dataclass(frozen=True)
class Answered:
    """An item and what a run replied to it.

    Attributes:
        key: of the item. item: its hash, None where the run's data told none.
        question: empty where only the replies are left. options: empty for open questions.
        answer, reply: the option's text where there are options, else the text itself.
        correct: by exact match. seen: False if the label was held out of training.
        image: its name in the run, which questions may share; empty where the run did not tell.
    """

    key: str
    item: str | None
    question: str
    options: tuple[str, ...]
    answer: str
    reply: str
    correct: bool
    seen: bool
    image: str = ""

    @property
    def said(self) -> tuple[str, str]:
        """Answer and reply; of an open question as exact match reads them, whatever their case."""
        return (self.answer, self.reply) if self.options else (normalise(self.answer), normalise(self.reply))


@dataclass(frozen=True)
class StoredRun:
    """The replies of a run and what it says of itself.

    Attributes:
        file: of the replies. name: what tells the run from those beside it.
        result: ``result.json`` beside the replies; empty if there is none. items: in the order of the file, by key.
    """

    file: Path
    name: str
    result: Mapping[str, Any]
    items: Mapping[str, Answered]

    @property
    def about(self) -> str:
        """Method and model, ``craft on pocket-vila-u``; empty where no result tells them."""
        backbone = self.result.get("settings", {}).get("backbone", {}).get("name")
        return f"{self.result['method']} on {Path(backbone).name}" if backbone else ""

    @cached_property
    def training(self) -> Path | None:
        """The folder of the training that it tests, or is; None where nothing was trained or the folder has gone."""
        folders = (self.file.parent, *([Path(self._plugged_in).parent] if self._plugged_in else []))
        return next((f for f in folders if run_folder.result(f).get("verb") == "fit"), None)

    @property
    def encoder(self) -> str | None:
        """The adapted encoder that it tests or, as a training, has left; None for the model alone."""
        left = self.training / "encoder" if self.training else None
        own = str(left) if left and left.is_dir() and self.result.get("method") != "zero_shot" else None
        return own or self._plugged_in if self.result.get("verb") == "fit" else self._plugged_in or own

    @property
    def _plugged_in(self) -> str | None:
        return self.result.get("settings", {}).get("backbone", {}).get("encoder")


def read_runs(runs: Sequence[str | Path]) -> list[StoredRun]:
    """The replies of some runs to the same items. Raises CraftError: no replies there, or replies to
    different items."""
    files = [_replies(Path(run)) for run in runs]
    read = [_read(file, name) for file, name in zip(files, short_names(files), strict=True)]
    for other in read[1:]:
        _same_items(read[0], other)
    return read


def _replies(run: Path) -> Path:
    if run.is_file():
        return run
    found = next((run / name for name in REPLIES if (run / name).is_file()), None)
    if found is None:
        raise CraftError(f"no {' or '.join(REPLIES)} in {run}: name the folder of a run")
    return found


def short_names(files: Sequence[Path]) -> list[str]:
    """The shortest ends of the folders' paths that tell them apart; of the files', where they share a folder."""
    places = [file.resolve().parent.parts for file in files]
    if len(set(places)) < len(places):
        places = [file.resolve().parts for file in files]
    ends = [["/".join(place[-count:]) for place in places] for count in range(1, max(map(len, places)) + 1)]
    return next((names for names in ends if len(set(names)) == len(names)), ends[0])


def _read(file: Path, name: str) -> StoredRun:
    rows = read_replies(file)
    if not rows:
        raise CraftError(f"{file} holds no replies")
    stem = file.name.partition(".keep")[0].removesuffix(".jsonl")
    told = file.with_name(f"{stem.replace('predictions', 'items')}.jsonl")
    result = read_json(file.with_name(f"{stem.replace('predictions', 'result')}.json"))
    asked = {item.get("key"): item for item in (read_lines(told) if told != file else ())}
    return StoredRun(file, name, result, {key: _answered(row, asked.get(key, {})) for key, row in rows.items()})


def _answered(row: Mapping[str, Any], asked: Mapping[str, Any]) -> Answered:
    options = tuple(asked.get("options", ()))

    def text(said: str) -> str:
        place = string.ascii_lowercase.find(normalise(said) or " ")
        return options[place] if 0 <= place < len(options) and len(normalise(said)) == 1 else said.strip()

    return Answered(
        key=row["key"],
        item=row["item"],
        question=asked.get("question", ""),
        options=options,
        answer=text(row.get("answer", "")),
        reply=text(row.get("prediction", "")),
        correct=row["correct"],
        seen=bool(row.get("seen", True)),
        image=row.get("image", ""),
    )


def _same_items(base: StoredRun, run: StoredRun) -> None:
    """Raises CraftError: two runs answer different items; says how many, one of them, and what differs."""
    asked = [{(key, item.item) for key, item in each.items.items()} for each in (base, run)]
    other = sorted({key for key, _ in asked[0] ^ asked[1]})
    if not other:
        return
    facts = [_facts(each) for each in (base, run)]
    changed = [f"{name} {value} / {facts[1][name]}" for name, value in facts[0].items() if facts[1][name] != value]
    told = f"{base.file} and {run.file} answer different items: {len(other)}, {other[0]} for one"
    raise CraftError(f"{told} ({', '.join([*changed, f'items {len(base.items)} / {len(run.items)}'])})")


def _facts(run: StoredRun) -> dict[str, Any]:
    """What may make the items of two runs differ."""
    data, settings = run.result.get("data", {}), run.result.get("data_settings", {})
    facts = {"evaluation": run.result.get("verb"), "seed": run.result.get("seed")}
    facts |= {name: data.get(name) for name in ("dataset", "source", "look", "distractors", "side")}
    return facts | {name: settings.get(name) for name in ("root", "query", "test_size", "val_size", "holdout", "apart")}
