"""From a table's spec to jobs: what to train and to test, each named by its folder, keyed by what it depends on.

A **train** job is one adapted model: (method, surrogate, dataset, seed, overrides), and where sets are adapted to in
turn, those before, or the encoder that it stands behind. A **stage2** job has a model learn to read an adapter from
elsewhere. An **eval** job tests what was adapted (the encoder, unless the row says otherwise), or an untouched model,
on a backbone. Rows, tables and backbones share jobs: a folder says what a job is, not who asked.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any

from craft_lightning.benchmark.budget import SHORT
from craft_lightning.benchmark.cache_key import digest, named_files, resolve, weights_version
from craft_lightning.benchmark.code_version import code_version, of_stage2
from craft_lightning.benchmark.table_parts import Column, Dataset, Line, TableSpec, counted, table_lines
from craft_lightning.benchmark.table_rows import ADAPTER, Backbone, Row
from craft_lightning.environment import EXPERIMENTS, experiments
from craft_lightning.errors import CraftError, did_you_mean
from craft_lightning.io import read_mapping
from data_modules.datasets import DATASETS

CHECKPOINT = Path("checkpoints") / "last.ckpt"
"""Where a training leaves its last step."""

STAGE2 = "stage2"

LIMIT_LINES = 2
LIMIT_COLUMNS = 2
LIMIT_ITEMS = 8
LIMIT_TRAINING = {"trainer.max_steps": 3, "data.train_size": 72, "data.val_size": LIMIT_ITEMS}
"""What ``limit`` cuts: printed rows (of the first backbone), columns, test items per unit of the limit, trainings."""


@dataclass(frozen=True)
class Job:
    """One unit of work with one result.

    Attributes:
        kind: ``"train"``, ``"stage2"`` or ``"eval"``.
        name: folder below the scale's folder, for example ``eurosat/pocket-vila-u/craft/seed0/eval/pocket-qwen2-xs``.
        folder: where ``job.json`` goes.
        arguments: what follows ``python -m craft_lightning``; the run folder is part of it.
        key: SHA-256 of settings, code, weights and the parent's key. A result with another key is stale.
        facts: method, dataset, surrogate, backbone and seed, for the result file.
        parent: the job that leaves what is tested or trained on; or None.
        devices: the trainer's, as the settings say it.
    """

    kind: str
    name: str
    folder: Path
    arguments: tuple[str, ...]
    key: str
    facts: Mapping[str, Any]
    parent: Job | None = None
    devices: Any = 1

    @property
    def lineage(self) -> tuple[Job, ...]:
        """The jobs that have to be done before it, in order, and itself."""
        return (*(self.parent.lineage if self.parent else ()), self)

    @property
    def training(self) -> Job | None:
        """The training that adapted what it tests, or itself; None where nothing was adapted."""
        return next((job for job in reversed(self.lineage) if job.kind == "train"), None)


@dataclass(frozen=True)
class Plan:
    """Jobs in the order of running, and those behind each cell (line, column number): one a seed and dataset.
    ``began``: when their files were first read, in seconds since 1970."""

    spec: TableSpec
    root: Path
    lines: tuple[Line, ...]
    columns: tuple[Column, ...]
    jobs: tuple[Job, ...]
    cells: Mapping[tuple[int, int], tuple[Job, ...]]
    began: float = field(default=0.0, compare=False)

    @property
    def counted(self) -> list[int]:
        """Numbers of the columns that means of the table's metric are over, and claims decided from."""
        return counted(self.columns, self.spec.metric)

    @property
    def output(self) -> Path:
        """The folder of the rendered table."""
        return self.root / "tables"


def baseline_of(plan: Plan, line: Line) -> int | None:
    """The number of the line that this line's gain is counted from: the baseline row on the same backbone.

    A baseline that is trained itself has to be trained with the same surrogate.
    """
    for number, other in enumerate(plan.lines if line.row.id != plan.spec.baseline else ()):
        here = other.backbone == line.backbone and other.surrogate in (None, line.surrogate)
        if here and other.row.id == plan.spec.baseline:
            return number
    return None


def make_plan(
    spec: TableSpec, runs: Path = Path("runs"), seeds: Iterable[int] | None = None, limit: int | None = None
) -> Plan:
    """All jobs of a table.

    Args:
        spec: the table. runs: results go to ``runs/<scale>``. seeds: in place of the spec's.
        limit: a small trial with the same code: two rows, two columns a metric, three training steps and eight times
            this many test items, in the folder ``runs/<scale>-limit<n>``.

    Raises:
        CraftError: if two settings of one table would share a folder.
    """
    scale = spec.scale if limit is None else f"{spec.scale}-limit{limit}"
    lines, columns = table_lines(spec), spec.columns
    if limit is not None:
        together = tuple(line for line in lines if line.backbone == lines[0].backbone)
        alike = [[column for column in spec.columns if column.metric == metric] for metric in spec.metrics]
        lines, columns = together[:LIMIT_LINES], tuple(c for each in alike for c in each[:LIMIT_COLUMNS])
    builder = _PlanBuilder(spec, runs / scale, limit)
    cells = {}
    # What a claim is decided from is computed first.
    places = [(c, column, n, line) for c, column in enumerate(columns) for n, line in enumerate(lines)]
    for c, column, n, line in sorted(places, key=lambda place: not _claimed(spec, place[-1])):
        chosen = tuple(spec.seeds if seeds is None else seeds) if line.surrogate else (0,)
        made = [builder.measured(line, column, *pair, seed) for seed in chosen for pair in builder.pairs(column)]
        # What trains nothing has one job for a tested set, whatever it would have adapted to.
        cells[n, c] = tuple({job.name: job for job in made}.values())
    printed = {(n, c): cells[n, c] for c in range(len(columns)) for n in range(len(lines))}
    return Plan(spec, runs / scale, lines, columns, tuple(builder.jobs.values()), printed, builder.began)


def _claimed(spec: TableSpec, line: Line) -> bool:
    """Whether a claim is about the line, or a gain that it speaks of is counted from it."""
    named = [lines for claim in spec.claims for lines in (claim.gain, claim.above) if lines is not None]
    base = line.row.id == spec.baseline
    return any(lines.mean(line) or (base and lines.backbone in ("", line.backbone.id)) for lines in named)


def metrics_read(plan: Plan) -> dict[str, tuple[str, ...]]:
    """Names of the metrics that the table reads from a job's result, by the job's name."""
    found: dict[str, dict[str, None]] = {}
    for (number, c), jobs in plan.cells.items():
        for job in jobs:
            read, metric = found.setdefault(job.name, {}), plan.columns[c].metric
            if not metric.judged:
                read[metric.at(plan.lines[number].row.keep_ratio)] = None
    return {name: tuple(metrics) for name, metrics in found.items()}


def select(plan: Plan, pattern: str | None) -> Plan:
    """The plan cut to the jobs whose name matches (a part of the name, or a shell pattern), with their parents. Raises
    CraftError: if nothing matches."""
    if pattern is None:
        return plan
    chosen = [j for j in plan.jobs if pattern in j.name or fnmatch(j.name, pattern)]
    if not chosen:
        hint = did_you_mean(pattern, sorted({part for job in plan.jobs for part in job.name.split("/")}), ".")
        raise CraftError(f"no job matches {pattern!r}{hint} Example of a name: {plan.jobs[0].name} (table plan)")
    names = {needed.name for job in chosen for needed in job.lineage}
    return replace(plan, jobs=tuple(j for j in plan.jobs if j.name in names))


class _PlanBuilder:
    """Makes each job once."""

    def __init__(self, spec: TableSpec, root: Path, limit: int | None) -> None:
        self.spec, self.root, self.limit = spec, root, limit
        self.jobs: dict[str, Job] = {}
        self.began, self.fragment = time.time(), cache(read_mapping)
        self.merged = cache(lambda files: resolve(map(self.fragment, files), {})["config"])

    def pairs(self, column: Column) -> list[tuple[Dataset, Dataset]]:
        """Datasets that a column adapts to and tests on."""
        many = LIMIT_COLUMNS if self.limit is not None else None
        sets = column.datasets[:many]
        if column.test_on == "same":
            return [(each, each) for each in sets]
        tested = sets if column.test_on == "before" else (column.others or self.spec.datasets)[:many]
        if not column.in_turn:
            return [(adapted, other) for adapted in sets for other in tested if other != adapted]
        known = sets[-1:] if column.test_on == "before" else sets
        return [(sets[-1], other) for other in tested if other not in known]

    def measured(self, line: Line, column: Column, adapted: Dataset, tested: Dataset, seed: int) -> Job:
        """The job whose result holds the table's metric."""
        row, validation = line.row, self.spec.metric.of_validation
        parent = self.training(row, line.surrogate, column, adapted, seed) if line.surrogate else None
        if validation and parent:
            return parent
        only_here = {**column.eval, **row.eval}
        flags = {**_overrides(row, column), **only_here}
        if row.stage2 is not None:
            parent = self.stage2(row, line.backbone, flags.pop(ADAPTER, None), parent)
        if self.limit is not None:
            flags["data.val_size" if validation else "data.test_size"] = LIMIT_ITEMS * self.limit
        where = parent.name if parent else self._place(row, "none", column, tested, seed)
        alone = parent and parent.training is None
        elsewhere = f"+{self._dataset_name(tested)}" if alone or (parent and tested != adapted) else ""
        folder = "validate" if validation else "eval"
        name = f"{where}/{folder}/{line.backbone.id}{elsewhere}{_suffix(only_here)}"
        return self._job("eval", name, row, line.backbone, tested, seed, flags, parent)

    def training(self, row: Row, surrogate: Backbone, column: Column, adapted: Dataset, seed: int) -> Job:
        """The job that adapts a model to a dataset, and as its parent the one whose encoder or weights it begins with:
        that of the set before, where sets are adapted to in turn, or that of the row it stands behind."""
        longer = self.spec.budget.of(row.method.stem)
        flags = {**longer, **_overrides(row, column), **({} if self.limit is None else LIMIT_TRAINING)}
        before = column.datasets[: column.datasets.index(adapted)] if column.in_turn else ()
        parent, origin, behind = None, "", row.behind
        if before:
            parent = self.training(row, surrogate, column, before[-1], seed)
            origin = "-".join(("", "after", *map(self._dataset_name, before)))
        elif behind is not None:
            other = next(other for other in self.spec.rows if other.id == behind.row)
            model = self.spec.backbone(behind.surrogate) if behind.surrogate else surrogate
            parent = self.training(other, model, column, adapted, seed)
            origin = f"-behind-{model.id}-{other.method.stem}{_suffix(other.overrides)}"
        name = self._place(row, surrogate.id, column, adapted, seed, origin)
        return self._job("train", name, row, surrogate, adapted, seed, flags, parent)

    def stage2(self, row: Row, model: Backbone, adapter: str | None, training: Job | None) -> Job:
        """The job in which a model learns to read the adapter of a training, or one by name."""
        assert row.stage2 is not None
        place = training.name if training else f"{STAGE2}/{row.method.stem}{_suffix(row.overrides)}"
        name, plan = f"{place}/{STAGE2}/{model.id}", self.fragment(row.stage2)
        own = {part: plan.get(part) for part in ("again", "pictures_per_twin", "seed")}
        trial = ["--trial"] if self.limit is not None else []
        known: Mapping[str, Any] = training.facts if training else {"dataset": STAGE2, "backbone": None, "seed": 0}
        who = dict.fromkeys(("kind", "method"), STAGE2) | {"surrogate": known["backbone"], "backbone": model.id}
        facts = who | {
            "dataset": known["dataset"],
            "seed": known["seed"],
            "code": of_stage2(),
            "weights": weights_version(model.weights),
            "config": digest({"plan": own, "trial": trial, "files": named_files({ADAPTER: adapter})}),
        }
        taken = training.folder / "adapter" if training else adapter
        chosen = (f"--again={model.name}", f"--adapter={taken}", f"--output={self.root / name}", *trial)
        arguments = ("surrogate", "--config", _shown(row.stage2, Path.cwd()), *chosen)
        key = digest({**facts, "parent": training.key if training else None})
        return self._once(Job(STAGE2, name, self.root / name, arguments, key, facts, training))

    def _place(self, row: Row, model: str, column: Column, dataset: Dataset, seed: int, origin: str = "") -> str:
        """A job's folder. What a user's table, method or dataset changes of a shipped one of its name is marked; the
        ``origin`` of what it begins with is named."""
        budget = "" if not row.train_on or self.spec.budget.name == SHORT else f"-{self.spec.budget.name}"
        method = row.method.stem + budget + ("" if _shipped(row.method) else self._mark(row.method))
        column_only = {**column.overrides.get("all", {}), **column.overrides.get(row.id, {})}
        changed = f"-{digest(column_only)[:6]}" if column_only and not _shipped(self.spec.path) else ""
        return f"{self._dataset_name(dataset)}/{model}/{method}{_suffix(row.overrides)}{changed}{origin}/seed{seed}"

    def _dataset_name(self, dataset: Dataset) -> str:
        return dataset.name + (self._mark(dataset.config) if dataset.config and DATASETS.place(dataset.name) else "")

    def _mark(self, file: Path) -> str:
        """Digest of where a file is, from the results: it stays when the file is edited, or both move together."""
        return f"-{digest(Path(os.path.relpath(file.resolve(), self.root.resolve())).as_posix())[:6]}"

    def _job(
        self,
        kind: str,
        name: str,
        row: Row,
        model: Backbone,
        dataset: Dataset,
        seed: int,
        flags: dict[str, Any],
        parent: Job | None,
    ) -> Job:
        files = (*self.spec.base, row.method, *([dataset.config] if dataset.config else []))
        named = {"model.init_args.backbone.name": model.name}
        named |= {} if dataset.config else {"data.dataset": dataset.name}
        flags = {**named, **model.overrides, **flags, "seed_everything": seed}
        settings = resolve([self.merged(files)], flags)
        facts = {
            "kind": kind,
            "method": row.method.stem,
            "dataset": dataset.name,
            "surrogate": (parent.facts["surrogate"] or parent.facts["backbone"]) if parent and kind == "eval" else None,
            "backbone": model.id,
            "seed": seed,
            "code": code_version(settings, row.method.stem, dataset.name),
            "weights": weights_version(model.weights),
            "config": digest({**settings, "files": named_files(settings)}),
        }
        key = digest({**facts, "parent": parent.key if parent else None})
        folder = self.root / name
        verb = "fit" if kind == "train" else "validate" if self.spec.metric.of_validation else "test"
        configs = [part for file in files for part in ("--config", _shown(file, Path.cwd()))]
        taken: list[str] = []
        if parent and parent.kind == STAGE2:  # whose model holds its adapter
            flags["model.init_args.backbone.name"] = parent.folder
        elif parent and row.tested_from == "checkpoint":
            setting = "model.init_args.start_from" if kind == "train" else "ckpt_path"
            taken = [f"--{setting}={parent.folder / CHECKPOINT}"] if kind == "eval" or not row.behind else []
            taken += [f"--encoder={parent.lineage[0].folder / 'encoder'}"] if row.behind else []
        elif parent:
            taken = [f"--{row.tested_from}={parent.folder / row.tested_from}"]
        given = [f"--{flag}={_text(value)}" for flag, value in flags.items()]
        arguments = (verb, *configs, *given, f"--trainer.default_root_dir={folder}", *taken)
        in_files = settings["config"].get("trainer", {}).get("devices", "auto")
        devices = flags.get("trainer.devices", in_files)
        return self._once(Job(kind, name, folder, arguments, key, facts, parent, devices))

    def _once(self, job: Job) -> Job:
        """The job, or the same one as it was made before. Raises CraftError: that one is another."""
        known = self.jobs.setdefault(job.name, job)
        if known.key != job.key:
            told = f"two different settings share the folder {job.name}"
            raise CraftError(f"{told}: give the rows their own method fragments")
        return known


def _overrides(row: Row, column: Column) -> dict[str, Any]:
    return {**column.overrides.get("all", {}), **column.overrides.get(row.id, {}), **row.overrides}


def _suffix(settings: Mapping[str, Any]) -> str:
    """What settings add to a folder's name: ``{"prune.enabled": True, "prune.keep": 0.8}`` gives ``-prune-keep0.8``."""
    parts = []
    for key, value in sorted(settings.items(), key=lambda pair: (not pair[0].endswith(".enabled"), pair[0])):
        section, _, name = key.rpartition(".")
        text = "-".join(map(_text, value)) if isinstance(value, list) else _text(value)
        parts.append(f"-{section}" if (name, value) == ("enabled", True) else f"-{name}{text}")
    return "".join(parts)


@cache
def _shipped(file: Path) -> bool:
    """Whether a file is below ``experiments/`` where a shipped one is, which it is or stands in for."""
    parts = file.resolve().parts
    if EXPERIMENTS not in parts:
        return False
    below = parts[len(parts) - parts[::-1].index(EXPERIMENTS) :]
    return experiments().joinpath(*below).is_file()


def _text(value: Any) -> str:
    """A value as the command line takes it."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return str(value)


@cache
def _shown(path: Path, here: Path) -> str:
    """The path without ``..``, from the working folder if it is below it."""
    whole, here = path.resolve(), here.resolve()
    return str(whole.relative_to(here) if whole.is_relative_to(here) else whole)
