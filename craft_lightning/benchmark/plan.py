"""From a table's spec to nodes: what to train and to test, each named by its folder, keyed by what it depends on.

A **train** node is one adapted model: (method, surrogate, dataset, seed, overrides). An **eval** node tests what was
adapted (the encoder, unless the row says otherwise), or an untouched model, on a backbone. Rows, tables and backbones
share nodes: a folder says what a node is, not who asked.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from fnmatch import fnmatch
from functools import cache
from pathlib import Path
from typing import Any

from craft_lightning.benchmark.cache_key import digest, named_files, resolve, weights_version
from craft_lightning.benchmark.code_version import code_version
from craft_lightning.benchmark.spec import Backbone, Column, Dataset, Row, TableSpec
from craft_lightning.benchmark.yaml_values import read_mapping
from craft_lightning.errors import CraftError, nearest

CHECKPOINT = Path("checkpoints") / "last.ckpt"
"""Where a training leaves its last step."""

LIMIT_LINES = 2
LIMIT_COLUMNS = 2
LIMIT_ITEMS = 8
LIMIT_TRAINING = {"trainer.max_steps": 3, "data.train_size": 72, "data.val_size": LIMIT_ITEMS}
"""What ``limit`` cuts: printed rows (of the first backbone), columns, test items per unit of the limit, trainings."""


@dataclass(frozen=True)
class Node:
    """One unit of work with one result.

    Attributes:
        kind: ``"train"`` or ``"eval"``.
        name: folder below the scale's folder, for example ``eurosat/pocket-vila-u/craft/seed0/eval/pocket-qwen2-xs``.
        folder: where ``node.json`` goes.
        arguments: what follows ``python -m craft_lightning``; the run folder is part of it.
        key: SHA-256 of settings, code, weights and the parent's key. A result with another key is stale.
        facts: method, dataset, surrogate, backbone and seed, for the result file.
        parent: the train node whose encoder or checkpoint is tested, or None.
    """

    kind: str
    name: str
    folder: Path
    arguments: tuple[str, ...]
    key: str
    facts: Mapping[str, Any]
    parent: Node | None = None


@dataclass(frozen=True)
class Line:
    """A printed row of the table: a row of the spec at one surrogate (or None) and one backbone."""

    row: Row
    surrogate: Backbone | None
    backbone: Backbone


@dataclass(frozen=True)
class Plan:
    """Nodes in the order of running, and those behind each cell (line, column number): one a seed and dataset."""

    spec: TableSpec
    root: Path
    lines: tuple[Line, ...]
    columns: tuple[Column, ...]
    nodes: tuple[Node, ...]
    cells: Mapping[tuple[int, int], tuple[Node, ...]]

    @property
    def output(self) -> Path:
        """The folder of the rendered table."""
        return self.root / "tables"


def table_lines(spec: TableSpec) -> tuple[Line, ...]:
    """The printed rows: for each backbone those of every row of the spec, or the other way round (``order``).

    Neighbouring rows that test the same trainings in two ways stand beside each other at every surrogate.
    """
    alike = itertools.groupby(spec.rows, key=lambda row: (row.method, dict(row.overrides), row.train_on))
    groups = [list(rows) for _, rows in alike]
    pairs = [(group, backbone) for backbone in spec.backbones for group in groups]
    if spec.order == "rows":
        pairs.sort(key=lambda pair: groups.index(pair[0]))
    lines: list[Line] = []
    for group, backbone in pairs:
        surrogates: list[Backbone | None] = [spec.backbone(s) for s in group[0].train_on] or [None]
        for surrogate in surrogates:
            tested = [r for r in group if (backbone.id in r.eval_on if r.eval_on else surrogate == backbone)]
            lines += [Line(row, surrogate, backbone) for row in tested]
    return tuple(lines)


def make_plan(
    spec: TableSpec, runs: Path = Path("runs"), seeds: Iterable[int] | None = None, limit: int | None = None
) -> Plan:
    """All nodes of a table.

    Args:
        spec: the table.
        runs: results go to ``runs/<scale>``.
        seeds: in place of the spec's.
        limit: a small trial with the same code: two rows, two columns, three training steps and eight times this
            many test items, in the folder ``runs/<scale>-limit<n>``.

    Raises:
        CraftError: if two settings of one table would share a folder.
    """
    scale = spec.scale if limit is None else f"{spec.scale}-limit{limit}"
    lines, columns = table_lines(spec), spec.columns
    if limit is not None:
        together = tuple(line for line in lines if line.backbone == lines[0].backbone)
        lines, columns = together[:LIMIT_LINES], columns[:LIMIT_COLUMNS]
    builder = _Builder(spec, runs / scale, limit)
    cells = {}
    for c, column in enumerate(columns):
        for n, line in enumerate(lines):
            chosen = tuple(spec.seeds if seeds is None else seeds) if line.surrogate else (0,)
            made = [builder.measured(line, column, *pair, seed) for seed in chosen for pair in builder.pairs(column)]
            # What trains nothing has one node for a tested set, whatever it would have adapted to.
            cells[n, c] = tuple({node.name: node for node in made}.values())
    return Plan(spec, runs / scale, lines, columns, tuple(builder.nodes.values()), cells)


def metrics_read(plan: Plan) -> dict[str, tuple[str, ...]]:
    """Names of the metrics that the table reads from a node's result, by the node's name."""
    found: dict[str, dict[str, None]] = {}
    for (number, _), nodes in plan.cells.items():
        for node in nodes:
            found.setdefault(node.name, {})[plan.spec.metric.at(plan.lines[number].row.keep).name] = None
    return {name: tuple(metrics) for name, metrics in found.items()}


def select(plan: Plan, pattern: str | None) -> Plan:
    """The plan cut to the nodes whose name matches (a part of the name, or a shell pattern), with their parents.

    Raises:
        CraftError: if nothing matches.
    """
    if pattern is None:
        return plan
    chosen = [n for n in plan.nodes if pattern in n.name or fnmatch(n.name, pattern)]
    if not chosen:
        parts = sorted({part for n in plan.nodes for part in n.name.split("/")})
        close = nearest(pattern, parts)
        hint = f"; did you mean {close!r}?" if close else "."
        raise CraftError(f"no node matches {pattern!r}{hint} Example of a name: {plan.nodes[0].name} (table plan)")
    names = {n.name for n in chosen} | {n.parent.name for n in chosen if n.parent}
    return replace(plan, nodes=tuple(n for n in plan.nodes if n.name in names))


class _Builder:
    """Makes each node once."""

    def __init__(self, spec: TableSpec, root: Path, limit: int | None) -> None:
        self.spec, self.root, self.limit = spec, root, limit
        self.nodes: dict[str, Node] = {}

    def pairs(self, column: Column) -> list[tuple[Dataset, Dataset]]:
        """Datasets that a column adapts to and tests on."""
        many = LIMIT_COLUMNS if self.limit is not None else None
        return [
            (adapted, tested)
            for adapted in column.datasets[:many]
            for tested in (self.spec.datasets[:many] if column.test_on == "others" else [adapted])
            if column.test_on == "same" or tested != adapted
        ]

    def measured(self, line: Line, column: Column, adapted: Dataset, tested: Dataset, seed: int) -> Node:
        """The node whose result holds the table's metric."""
        if self.spec.metric.of_validation and line.surrogate:
            return self.training(line.row, line.surrogate, column, adapted, seed)
        parent = self.training(line.row, line.surrogate, column, adapted, seed) if line.surrogate else None
        overrides = {**_overrides(line.row, column), **column.eval, **line.row.eval}
        size = "data.val_size" if self.spec.metric.of_validation else "data.test_size"
        flags: dict[str, Any] = {} if self.limit is None else {size: LIMIT_ITEMS * self.limit}
        where = parent.name if parent else f"{tested.name}/none/{_method_name(line.row)}/seed{seed}"
        folder = "validate" if self.spec.metric.of_validation else "eval"
        elsewhere = f"+{tested.name}" if parent and tested != adapted else ""
        name = f"{where}/{folder}/{line.backbone.id}{elsewhere}{_suffix({**column.eval, **line.row.eval})}"
        return self._node("eval", name, line.row, line.backbone, tested, seed, {**overrides, **flags}, parent)

    def training(self, row: Row, surrogate: Backbone, column: Column, adapted: Dataset, seed: int) -> Node:
        flags: dict[str, Any] = {} if self.limit is None else LIMIT_TRAINING
        name = f"{adapted.name}/{surrogate.id}/{_method_name(row)}/seed{seed}"
        return self._node("train", name, row, surrogate, adapted, seed, {**_overrides(row, column), **flags}, None)

    def _node(
        self,
        kind: str,
        name: str,
        row: Row,
        model: Backbone,
        dataset: Dataset,
        seed: int,
        overrides: dict[str, Any],
        parent: Node | None,
    ) -> Node:
        files = (*self.spec.base, row.method, *([dataset.config] if dataset.config else []))
        flags: dict[str, Any] = {"model.init_args.backbone.name": model.name}
        flags |= {} if dataset.config else {"data.dataset": dataset.name}
        flags |= {**model.overrides, **overrides, "seed_everything": seed}
        settings = resolve([_merged(files)], flags)
        facts = {
            "kind": kind,
            "method": row.method.stem,
            "dataset": dataset.name,
            "surrogate": parent.facts["backbone"] if parent else None,
            "backbone": model.id,
            "seed": seed,
            "code": code_version(settings, row.method.stem, dataset.name),
            "weights": weights_version(model.weights),
            "config": digest({**settings, "files": named_files(settings)}),
        }
        key = digest({**facts, "parent": parent.key if parent else None})
        known = self.nodes.get(name)
        if known is not None and known.key != key:
            raise CraftError(
                f"two different settings share the folder {name}: give the rows their own method fragments"
            )
        if known is None:
            folder = self.root / name
            check = "validate" if self.spec.metric.of_validation else "test"
            arguments = ["fit" if kind == "train" else check]
            arguments += [part for file in files for part in ("--config", _shown(file))]
            arguments += [f"--{flag}={_text(value)}" for flag, value in flags.items()]
            arguments += [f"--trainer.default_root_dir={folder}"]
            if parent and row.tested_from == "checkpoint":
                arguments += [f"--ckpt_path={parent.folder / CHECKPOINT}"]
            elif parent:
                arguments += [f"--encoder={parent.folder / 'encoder'}"]
            known = self.nodes[name] = Node(kind, name, folder, tuple(arguments), key, facts, parent)
        return known


@cache
def _merged(files: tuple[Path, ...]) -> dict[str, Any]:
    """Config fragments, one laid over the other; nobody changes the result."""
    config: dict[str, Any] = resolve(map(_fragment, files), {})["config"]
    return config


@cache
def _fragment(path: Path) -> dict[str, Any]:
    return read_mapping(path)


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


def _method_name(row: Row) -> str:
    return row.method.stem + _suffix(row.overrides)


def _text(value: Any) -> str:
    """A value as the command line takes it."""
    if isinstance(value, bool) or value is None:
        return {True: "true", False: "false", None: "null"}[value]
    return str(value)


def _shown(path: Path) -> str:
    """The path without ``..``, from the working folder if it is below it."""
    return _seen_from(path, Path.cwd())


@cache
def _seen_from(path: Path, here: Path) -> str:
    whole, here = path.resolve(), here.resolve()
    return str(whole.relative_to(here) if whole.is_relative_to(here) else whole)
