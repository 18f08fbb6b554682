"""A table's YAML file as typed values; every mistake in it is reported together."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from craft_lightning.benchmark.paper_numbers import PaperKey, read_paper
from craft_lightning.benchmark.row_expansion import at_keeps, swept
from craft_lightning.benchmark.statistics import Claim, read_claims
from craft_lightning.benchmark.yaml_values import Reader, check_known, read_mapping
from craft_lightning.environment import EXPERIMENTS, find, places
from craft_lightning.errors import CraftError, nearest
from craft_lightning.models.vlm_spec import BACKBONES, VlmSpec, models_root, resolve
from data_modules.datasets import DATASETS

TABLES = Path(EXPERIMENTS) / "tables"
SOURCES = ("encoder", "checkpoint")
ORDERS = ("backbones", "rows")
TEST_ON = ("same", "others")


@dataclass(frozen=True)
class Backbone:
    """A language model with its vision tower: its files, and the paper's model beside it.

    Attributes:
        name: a known backbone or the folder of a checkpoint, as ``--model.backbone.name`` takes it.
        weights: checkpoint folders, which need not be there. origin: how to get them.
        overrides: settings of this backbone, for training and testing.
    """

    id: str
    label: str
    name: str
    weights: tuple[Path, ...]
    paper: str
    overrides: Mapping[str, Any] = field(default_factory=dict)
    origin: str = "make pocket-family trains them"


@dataclass(frozen=True)
class Dataset:
    """What is adapted to or tested on: a dataset by name or import path, as ``--data.dataset`` takes it, or settings of
    the user's in a config file named after it."""

    name: str
    config: Path | None = None


@dataclass(frozen=True)
class Column:
    """What a method adapts to, and what it is tested on afterwards.

    Attributes:
        datasets: those to adapt to, each on its own; the column shows the mean over them.
        test_on: ``same`` set as adapted to, or each of the ``others`` of the table.
        eval: settings for testing only, for example another look.
        paper: the column's name in the paper's table, empty if it has none.
        overrides: maps a row's id (or ``all``) to the settings that are needed there.
    """

    id: str
    label: str
    datasets: tuple[Dataset, ...]
    paper: str = ""
    test_on: str = "same"
    eval: Mapping[str, Any] = field(default_factory=dict)
    overrides: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """A method with the surrogates it trains on and the backbones it is tested on.

    Attributes:
        method: the config fragment; its stem names the method in run folders.
        train_on: ids of surrogates, empty if the method trains nothing.
        eval_on: ids of backbones, empty if each surrogate is tested on itself only.
        tested_from: what a test takes from the training: the adapted ``encoder``, which any backbone of its codebook
            reads, or the ``checkpoint``, for a method that leaves the encoder as it was and is tested on its surrogate.
        overrides: settings of this row, for training and testing. eval: settings for testing only.
        paper: the row's name in the paper's table, empty if it has none.
        swept: id of the row in the file that this one is a setting of (key ``sweep``), empty otherwise.
        keep, curve: keep ratio of visual tokens that this row shows, and the id of the row in the file that lists it
            among others (key ``keep``): one test measures them all.
    """

    id: str
    label: str
    method: Path
    train_on: tuple[str, ...] = ()
    eval_on: tuple[str, ...] = ()
    tested_from: str = "encoder"
    overrides: Mapping[str, Any] = field(default_factory=dict)
    eval: Mapping[str, Any] = field(default_factory=dict)
    paper: str = ""
    swept: str = ""
    keep: float | None = None
    curve: str = ""


@dataclass(frozen=True)
class Metric:
    """The name of the metric of record in ``node.json``, the factor for printing and the digits printed.

    A table of a ``val/`` metric shows what trainings found on their validation items; it tests nothing.
    """

    name: str = "test/exact_match"
    scale: float = 100.0
    digits: int = 2

    @property
    def of_validation(self) -> bool:
        """Whether it is measured on validation items."""
        return self.name.startswith("val/")

    @property
    def by_labels(self) -> bool:
        """Whether it exists for seen and unseen labels apart, as ``<name>_seen`` and ``<name>_unseen``."""
        return not self.name.endswith("seen")

    def at(self, keep: float | None) -> Metric:
        """The same at one of the keep ratios that a test measures; None is the test's own."""
        stage, name = self.name.split("/", 1)
        return self if keep is None else replace(self, name=f"{stage}/keep{keep}/{name}")


@dataclass(frozen=True)
class TableSpec:
    """A whole table.

    Attributes:
        order: lines are printed by ``backbones``, each with all its rows, or by ``rows``, each on all its backbones.
        baseline: id of the row that gains are counted from, on the same backbone.
    """

    name: str
    title: str
    note: str
    scale: str
    path: Path
    base: tuple[Path, ...]
    backbones: tuple[Backbone, ...]
    rows: tuple[Row, ...]
    columns: tuple[Column, ...]
    seeds: tuple[int, ...]
    order: str
    baseline: str
    metric: Metric
    paper_source: str
    paper: Mapping[PaperKey, float]
    claims: tuple[Claim, ...] = ()

    @property
    def datasets(self) -> tuple[Dataset, ...]:
        """Every set that some column names."""
        return tuple(dict.fromkeys(d for column in self.columns for d in column.datasets))

    @property
    def averaged(self) -> bool:
        """Whether a mean over the columns says something: all of them test in the same way."""
        return len({(c.test_on, tuple(c.eval.items())) for c in self.columns}) == 1

    def backbone(self, name: str) -> Backbone:
        """The backbone with this id."""
        return next(b for b in self.backbones if b.id == name)


def find_table(name: str, scale: str | None = None) -> Path:
    """The file of a table given as a path or as a name below ``experiments/tables``.

    Raises:
        CraftError: if there is none; names the nearest.
    """
    path = Path(name)
    if path.suffix in {".yaml", ".yml"}:
        folder, wanted = path.parent, path.stem
    else:
        folder, wanted = TABLES, name if scale in {None, "pocket"} else f"{name}-{scale}"
        path = folder / f"{wanted}.yaml"
    if (found := find(path)).is_file():
        return found
    known = sorted({p.stem for place in places(folder) for p in place.glob("*.yaml")})
    close = nearest(wanted, known)
    hint = f"; did you mean {close!r}?" if close else "."
    raise CraftError(f"no table {wanted!r} in {folder}{hint} Known: {', '.join(known) or 'none'}")


def load_spec(path: Path, scale: str | None = None) -> TableSpec:
    """Read and check a table.

    Args:
        path: the YAML file; the paths in it are relative to its folder.
        scale: refuse the file if it is made for another scale.

    Raises:
        CraftError: with every mistake found, one a line.
    """
    errors: list[str] = []
    top = Reader(read_mapping(path), "", path.parent, errors)
    backbones = _backbones(top)
    _check_unique(top, "backbones", [b.id for b in backbones])
    rows = _rows(top, [b.id for b in backbones])
    _check_unique(top, "rows", [r.id for r in rows])
    columns = _columns(top, [r.id for r in rows])
    _check_unique(top, "columns", [c.id for c in columns])
    parts: dict[str, Any] = {"backbones": backbones, "rows": rows, "columns": columns}
    source, values = read_paper(top, {kind: [(p.id, p.paper) for p in part] for kind, part in parts.items()})
    spec = TableSpec(
        name=str(top.take("name", str, path.stem)),
        title=str(top.take("title", str, "")),
        note=" ".join(str(top.take("note", str, "")).split()),
        scale=str(top.take("scale", str, "pocket")),
        path=path,
        base=top.files("base"),
        backbones=backbones,
        rows=rows,
        columns=columns,
        seeds=tuple(top.take("seeds", list, [0])),
        order=top.one_of("order", ORDERS),
        baseline=str(top.take("baseline", str, "") or ""),
        metric=_metric(top),
        paper_source=source,
        paper=values,
        claims=read_claims(top, [r.id for r in rows], [b.id for b in backbones]),
    )
    if spec.baseline:
        check_known(top, "baseline", spec.baseline, [r.id for r in rows])
    if spec.claims and any(len(c.datasets) > 1 or c.test_on != "same" for c in columns):
        top.fail("are decided item by item, so every column needs one dataset", "claims")
    for seed in spec.seeds:
        if not isinstance(seed, int) or isinstance(seed, bool) or seed < 0:
            top.fail(f"must be whole numbers from 0, got {seed!r}", "seeds")
    if scale is not None and spec.scale != scale:
        top.fail(f"this table is made for {spec.scale!r}, not for {scale!r}", "scale")
    top.done()
    if errors:
        count = f"{len(errors)} mistake{'s' if len(errors) > 1 else ''}"
        raise CraftError(f"{count} in {path}:\n" + "\n".join(f"  {e}" for e in errors))
    return spec


def _items(top: Reader, key: str) -> list[Reader]:
    values = top.take(key, list)
    if not values:
        if values == []:
            top.fail("is empty", key)
        return []
    readers = []
    for number, value in enumerate(values):
        name = value.get("id", number) if isinstance(value, dict) else number
        readers.append(Reader(value, f"{key}[{name}]", top.folder, top.errors))
    return readers


def _check_unique(top: Reader, key: str, names: list[str]) -> None:
    for name in sorted({n for n in names if names.count(n) > 1}):
        top.fail(f"{name!r} is there {names.count(name)} times", key)


def _backbones(top: Reader) -> tuple[Backbone, ...]:
    found = []
    for item in _items(top, "backbones"):
        known = str(item.take("id", str) or "")
        name, overrides = item.take("name", str, known), item.take("overrides", dict, {})
        made = Backbone(known, item.take("label", str, known), name, (), item.take("paper", str, ""), overrides)
        weights = item.take("weights", list, [])
        folders = tuple(top.folder / str(folder) for folder in weights)
        found.append(replace(made, weights=folders) if "weights" in item.value else _with_weights(item, made))
        item.done()
    return tuple(found)


def _with_weights(item: Reader, made: Backbone) -> Backbone:
    """The backbone with its checkpoint: a folder, or a known one that is shipped, below ``$CRAFT_MODELS`` or in the
    hub's cache."""
    if made.name not in BACKBONES and Path(made.name).is_dir():
        return replace(made, weights=(Path(made.name),))
    if made.name not in BACKBONES:
        check_known(item, "name", made.name, BACKBONES)
        return made
    try:
        folder = resolve(VlmSpec(made.name))
    except CraftError:
        folder = models_root() / made.name
    return replace(made, weights=(folder,), origin=BACKBONES[made.name].origin)


def _rows(top: Reader, backbones: list[str]) -> tuple[Row, ...]:
    found = []
    for item in _items(top, "rows"):
        name = str(item.take("id", str) or "")
        row = Row(
            id=name,
            label=item.take("label", str, name),
            method=item.file("method"),
            train_on=item.names("train_on", backbones),
            eval_on=item.names("eval_on", backbones),
            tested_from=item.one_of("tested_from", SOURCES),
            overrides=item.take("overrides", dict, {}),
            eval=item.take("eval", dict, {}),
            paper=item.take("paper", str, ""),
        )
        if not row.train_on and not row.eval_on:
            item.fail("needs train_on, eval_on or both")
        if row.tested_from == "checkpoint" and (row.eval_on or not row.train_on):
            item.fail("a checkpoint is tested where it was trained: needs train_on and no eval_on", "tested_from")
        settings = swept(item, row)
        keeps = item.take("keep", list, [])
        found += [at for each in settings for at in at_keeps(item, each, keeps)]
        item.done()
    return tuple(found)


def _columns(top: Reader, rows: list[str]) -> tuple[Column, ...]:
    found = []
    for item in _items(top, "columns"):
        name = str(item.take("id", str) or "")
        overrides = item.take("overrides", dict, {})
        for row, settings in overrides.items():
            check_known(item, "overrides", str(row), ["all", *rows])
            if not isinstance(settings, dict):
                item.fail(f"must be a mapping of settings, got {settings!r}", f"overrides.{row}")
        key = "datasets" if "datasets" in item.value else "dataset"
        named = item.take("datasets", list) if key == "datasets" else [item.take("dataset", str)]
        column = Column(
            id=name,
            label=item.take("label", str, name),
            datasets=tuple(_dataset(item, key, str(text or "")) for text in named or ()),
            paper=item.take("paper", str, ""),
            test_on=item.take("test_on", str, "same"),
            eval=item.take("eval", dict, {}),
            overrides=overrides,
        )
        check_known(item, "test_on", column.test_on, TEST_ON)
        found.append(column)
        item.done()
    return tuple(found)


def _dataset(item: Reader, key: str, text: str) -> Dataset:
    if text.endswith((".yaml", ".yml")):
        file = item.existing(key, text)
        return Dataset(file.stem, file)
    if text and not DATASETS.place(text):
        check_known(item, key, text, DATASETS)
    return Dataset(text)


def _metric(top: Reader) -> Metric:
    if "metric" not in top.value:
        return Metric()
    item = Reader(top.take("metric", dict, {}), "metric", top.folder, top.errors)
    metric = Metric(
        str(item.take("name", str, Metric.name)),
        float(item.take("scale", (int, float), Metric.scale)),
        int(item.take("digits", int, Metric.digits)),
    )
    item.done()
    return metric
