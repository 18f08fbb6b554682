"""The judgements behind a table: stored beside the replies, and read for the items that every row has one of."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from craft_lightning.benchmark import store
from craft_lightning.benchmark.plan import Job, Plan
from craft_lightning.evaluation.judgement import Judgement, judgements_file, means, read_judgements


def reply_texts(file: Path) -> dict[str, str]:
    """Replies by key."""
    return {key: str(row["prediction"]) for key, row in store.read_replies(file).items()}


class Judged:
    """What the table's judge says of replies; each file is read once."""

    def __init__(self, plan: Plan) -> None:
        self.plan, self._read = plan, cache(self._read_file)
        self.kept, self.dropped = cache(self._kept), cache(self._dropped)

    def _read_file(self, file: Path) -> Mapping[str, Judgement]:
        """Judgements by key; empty until the judge was asked about all replies of the file."""
        texts = reply_texts(file)
        found = read_judgements(judgements_file(file, self.plan.spec.judge), texts)
        return {key: said for key, said in found.items() if said} if found.keys() == texts.keys() else {}

    def files(self, column: int) -> dict[str, list[Path]]:
        """The replies of all finished jobs of a column that are judged, by their dataset."""
        found: dict[str, list[Path]] = {}
        for number, line in enumerate(self.plan.lines):
            for job in filter(store.result, self.plan.cells[number, column]):
                if self._read(file := store.predictions(job, line.row.keep_ratio)):
                    found.setdefault(str(job.facts["dataset"]), []).append(file)
        return found

    def _kept(self, column: int) -> frozenset[str]:
        """Keys of the items of a column that are judged in every file of their dataset: what a judge failed at for one
        is left out for all."""
        keys = [map(frozenset, map(self._read, files)) for files in self.files(column).values()]
        return frozenset().union(*(frozenset.intersection(*each) for each in keys))

    def _dropped(self, column: int) -> int:
        """How many items of a column are left out."""
        asked = {key for files in self.files(column).values() for file in files for key in reply_texts(file)}
        return len(asked) - len(self.kept(column))

    def of(self, file: Path, column: int) -> dict[str, Judgement]:
        """Judgements by key of a file of replies; empty where it is not judged."""
        found = self._read(file)
        return {key: found[key] for key in found if key in self.kept(column)}

    def result(self, job: Job, keep_ratio: float | None, column: int) -> dict[str, Any] | None:
        """A finished job's result with the metrics ``judge/<dimension>``, none where it is not judged; else None."""
        if (result := store.result(job)) is None:
            return None
        found = self.of(store.predictions(job, keep_ratio), column)
        said = {f"judge/{name}": value for name, value in means(found.values()).items()} if found else {}
        return {**result, "metrics": said, "items": {"all": len(found)}}
