"""What a table is made of, as values that check themselves: backbones, rows, columns, metric, claims."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import (
    AfterValidator,
    AliasChoices,
    BeforeValidator,
    Field,
    StrictInt,
    model_validator,
)

from craft_lightning.benchmark.budget import Budget, read_budget
from craft_lightning.benchmark.table_rows import Backbone, Row, RowEntry
from craft_lightning.benchmark.table_values import (
    BackboneName,
    ColumnName,
    File,
    Info,
    Metric,
    Named,
    Paper,
    RowName,
    Settings,
    Values,
    existing,
    one_of,
    unknown_name,
)
from craft_lightning.run_folder import OFFLINE
from data_modules.datasets import DATASETS


@dataclass(frozen=True)
class Dataset:
    """What is adapted to or tested on: a dataset by name or import path, as ``--data.dataset`` takes it, or settings of
    the user's in a config file named after it."""

    name: str
    config: Path | None = None


def _dataset(text: Any, info: Info) -> Dataset:
    if not isinstance(text, str):
        raise ValueError(f"must be a name or a config file, got {text!r}")
    if text.endswith((".yaml", ".yml")):
        return Dataset(Path(text).stem, existing(Path(text), info))
    if not DATASETS.place(text):
        raise ValueError(unknown_name(text, DATASETS))
    return Dataset(text)


class Column(Named):
    """What a method adapts to, and what it is tested on afterwards.

    Attributes:
        datasets: those to adapt to, each on its own; the column shows the mean over them. In the file also ``dataset``,
            a single one.
        test_on: ``same`` set as adapted to, or each of the ``others`` of the table; in turn also those ``before``.
        in_turn: adapt to the datasets one after the other, each from what the last one has left (see ``tested_from``).
            Other sets than the one adapted to are then tested at the end: those ``before`` the last one, or ``others``
            than all.
        others: which sets ``others`` are; by default all of the table.
        eval: settings for testing only.
        overrides: maps a row's id (or ``all``) to the settings that are needed there.
        metric: what it shows, by default what the table does. Columns that differ in nothing else share their jobs.
    """

    paper: Annotated[str, one_of(kind="paper's column")] = ""
    datasets: Annotated[
        tuple[Annotated[Dataset, BeforeValidator(_dataset)], ...],
        BeforeValidator(lambda value: value if isinstance(value, list) else [value]),
        Field(min_length=1, validation_alias=AliasChoices("dataset", "datasets")),
    ]
    test_on: Annotated[str, one_of("same", "before", "others")] = "same"
    in_turn: bool = False
    others: tuple[Annotated[Dataset, BeforeValidator(_dataset)], ...] = ()
    eval: Settings = {}
    overrides: dict[Annotated[str, one_of(kind="row or all")], Settings] = {}
    metric: Metric = Metric()

    @property
    def plain(self) -> bool:
        """Whether it adapts to one set and tests that one."""
        return self.test_on == "same" and len(self.datasets) == 1

    @model_validator(mode="after")
    def _check_turn(self) -> Column:
        if self.test_on == "before" and not self.in_turn:
            raise ValueError("test_on: before needs in_turn: true")
        return self


def counted(columns: Sequence[Column], metric: Metric) -> list[int]:
    """Numbers of the columns that a metric's means are over, and claims decided from: those that adapt to one set and
    test it, or all of its columns where there is none."""
    own = [c for c, column in enumerate(columns) if column.metric == metric]
    return [c for c in own if columns[c].plain] or own


class Lines(Values):
    """Printed rows of a table: all of a row of the spec, those of one surrogate or backbone (empty: any), or those
    whose surrogate and backbone are the ``same`` or ``different`` models."""

    row: RowName
    surrogate: BackboneName = ""
    backbone: BackboneName = ""
    pairs: Annotated[str, one_of("any", "same", "different")] = "any"

    def mean(self, line: Line) -> bool:
        """Whether a printed row is one of them."""
        surrogate = line.surrogate.id if line.surrogate else ""
        pair = "" if line.surrogate is None else "same" if surrogate == line.backbone.id else "different"
        return (
            line.row.id == self.row
            and self.backbone in ("", line.backbone.id)
            and self.surrogate in ("", surrogate)
            and self.pairs in ("any", pair)
        )


class Replies(Values):
    """Lines whose replies to the same questions are shown: ``before`` and ``after`` adaptation, and one ``beside``."""

    before: Lines
    after: Lines
    beside: Lines | None = None


class Claim(Values):
    """``gain``: lines whose mean gain over their own baseline is claimed to be above 0, or above that of ``above``.

    Attributes:
        over_own: False compares the lines themselves, not their gains over their own baselines; needs ``above``.
        margin: points by which they may fall short: a claim of being *no less*.
        columns: ids of those it is decided from; empty: all that the table's means are over.
    """

    id: Annotated[str, Field(coerce_numbers_to_str=True)]
    text: str
    gain: Lines
    above: Lines | None = None
    over_own: bool = True
    margin: float = Field(default=0.0, ge=0)
    columns: tuple[ColumnName, ...] = ()

    @model_validator(mode="after")
    def _check_sides(self) -> Claim:
        if not self.over_own and self.above is None:
            raise ValueError("over_own: false compares lines with others: needs above")
        return self


class TableSpec(Values):
    """A whole table.

    Attributes:
        budget: name of a file of ``experiments/budgets``, by default ``short``.
        base: config fragments below those of method, backbone and dataset.
        order: lines are printed by ``backbones``, each with all its rows, or by ``rows``, each on all its backbones.
        baseline: id of the row that gains are counted from, on the same backbone.
        receivers: backbones that are to use what was adapted elsewhere: a section and a figure show what each line
            gains there, and what had to be trained there for it.
        also: metrics that are shown beside the table's own: a column of the file stands for one column a metric, from
            the same jobs; the paper's column is named after both, ``vqarad_relevance``.
        replies: whose replies to questions that became right or wrong are shown, where a judge has seen them.
        judge: whose judgements the metrics of ``judge/`` are: ``offline``, or the name of a model that judges.
        trace: a scalar that trainings log (``train/codebook_distance``): a section and a figure show it over the steps.
    """

    path: Path
    name: str = Field(default_factory=lambda data: data["path"].stem)
    title: str = ""
    note: Annotated[str, AfterValidator(lambda text: " ".join(text.split()))] = ""
    scale: str = "pocket"
    budget: Annotated[Budget, BeforeValidator(read_budget)] = Budget()
    base: tuple[File, ...] = ()
    backbones: tuple[Backbone, ...]
    entries: tuple[RowEntry, ...] = Field(alias="rows")
    columns: tuple[Column, ...]
    seeds: tuple[Annotated[StrictInt, Field(ge=0)], ...] = (0,)
    order: Annotated[str, one_of("backbones", "rows")] = "backbones"
    baseline: RowName = ""
    receivers: tuple[BackboneName, ...] = ()
    trace: str = ""
    metric: Metric = Metric()
    also: tuple[Metric, ...] = ()
    judge: str = OFFLINE
    replies: Replies | None = None
    paper: Paper = Paper(source="")
    claims: tuple[Claim, ...] = ()

    @model_validator(mode="after")
    def _fill_metrics(self) -> TableSpec:
        whole = {"metric": self.metric}
        own = [c if "metric" in c.model_fields_set else c.model_copy(update=whole) for c in self.columns]
        for metric in self.also:
            names = [(f"{c.id}-{metric.short}", c.paper and f"{c.paper}_{metric.short}") for c in self.columns]
            pairs = zip(self.columns, names, strict=True)
            own += [c.model_copy(update={"id": name, "paper": p, "metric": metric}) for c, (name, p) in pairs]
        if any(column.metric.of_validation != self.metric.of_validation for column in own):
            raise ValueError("columns: a table shows what is found on validation items, or on test items, not both")
        if not counted(own, self.metric):
            raise ValueError(f"columns: none shows the table's metric {self.metric.name}")
        return self.model_copy(update={"columns": tuple(own)})

    @model_validator(mode="after")
    def _check_behind(self) -> TableSpec:
        for row in self.rows:
            if row.behind is None:
                continue
            other = next((other for other in self.rows if other.id == row.behind.row), row)
            models = [row.behind.surrogate] if row.behind.surrogate else row.train_on
            if missing := [model for model in models if model not in other.train_on]:
                raise ValueError(f"rows[{row.id}].behind: row {other.id} is not trained with {missing[0]}")
            if other.behind or other.tested_from != "encoder" or any(column.in_turn for column in self.columns):
                raise ValueError(f"rows[{row.id}].behind: needs a row that leaves an encoder, and no column in turn")
        return self

    @property
    def rows(self) -> tuple[Row, ...]:
        """The rows of the table."""
        return tuple(row for entry in self.entries for row in entry.rows())

    @property
    def datasets(self) -> tuple[Dataset, ...]:
        """Every set that some column names."""
        return tuple(dict.fromkeys(d for column in self.columns for d in (*column.datasets, *column.others)))

    @property
    def averaged(self) -> bool:
        """Whether a mean over the columns says something: all that count in it test in the same way."""
        own = [self.columns[c] for c in counted(self.columns, self.metric)]
        return len({(column.test_on, tuple(column.eval.items())) for column in own}) == 1

    @property
    def metrics(self) -> tuple[Metric, ...]:
        """What the columns show, each metric once."""
        return tuple({column.metric.name: column.metric for column in self.columns}.values())

    def backbone(self, name: str) -> Backbone:
        """The backbone with this id."""
        return next(b for b in self.backbones if b.id == name)


class PaperClaim(Values):
    """A claim of the paper in a line, and what the ``paper`` itself shows for it. Claims of tables whose ids begin with
    its own, like 3a and 3-sal, are its parts."""

    id: Annotated[str, Field(coerce_numbers_to_str=True)]
    text: str
    paper: str

    def has_part(self, claim: str) -> bool:
        """Whether a table's claim of this id is this one or a part of it."""
        return claim.startswith(self.id) and not claim.removeprefix(self.id)[:1].isdigit()


class Collection(Values):
    """Several tables as one.

    Attributes:
        tables: names of tables beside the file, in the order of running and printing.
        measured: pages of ``docs/`` that no table fills, by name, with the program that writes each.
        pictures: what figures are of, by file of ``docs/``; the published page shows them.
    """

    name: str
    title: str
    note: Annotated[str, AfterValidator(lambda text: " ".join(text.split()))]
    scale: str
    tables: tuple[Annotated[str, one_of(kind="table")], ...]
    measured: dict[str, str] = {}
    pictures: dict[str, str] = {}
    claims: tuple[PaperClaim, ...]


@dataclass(frozen=True)
class Line:
    """A printed row of the table: a row of the spec at one surrogate (or None) and one backbone."""

    row: Row
    surrogate: Backbone | None
    backbone: Backbone

    @property
    def label(self) -> str:
        """``"CRAFT, trained with pocket-qwen2-xs"``, or the row's alone where nothing or only the backbone trains."""
        return self.row.label + (f", trained with {self.surrogate.label}" if self.surrogate and self.several else "")

    @property
    def training_label(self) -> str:
        """The same without its keep ratio, which a training does not know."""
        return self.label.replace(f", keep {self.row.keep_ratio}", "")

    @property
    def paper(self) -> str:
        """The label in the paper's words."""
        return self.row.paper + (f", trained with {self.surrogate.paper}" if self.surrogate and self.several else "")

    @property
    def several(self) -> bool:
        """Whether the row trains on more than the backbone that it is tested on."""
        return len(self.row.train_on) > 1 or self.surrogate != self.backbone


def table_lines(spec: TableSpec) -> tuple[Line, ...]:
    """The printed rows: for each backbone those of every row of the spec, or the other way round (``order``).

    Neighbouring rows that test the same trainings in two ways stand beside each other at every surrogate.
    """
    alike = itertools.groupby(spec.rows, key=lambda row: (row.method, row.overrides, row.train_on))
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
