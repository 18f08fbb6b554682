"""What the parts of a table's file have in common: values that check themselves against its folder and names, and the
paper's numbers."""

from __future__ import annotations

import csv
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationInfo, field_validator

from craft_lightning.environment import EXPERIMENTS, find
from craft_lightning.errors import did_you_mean
from craft_lightning.evaluation.judgement import DIMENSIONS

PaperKey = tuple[str, str, str, str]
"""(method, surrogate or "none", backbone, column), in the paper's own words."""
PAPER_NAMES = ("method", "train_surrogate", "inference_backbone")
NO_NUMBERS = {*PAPER_NAMES, "vision_token"}


@dataclass
class Context:
    """What values are checked against: the folder that paths start from, and names by what they name."""

    folder: Path
    names: dict[str, list[str]]


Info = ValidationInfo[Context]


def context_of(info: Info) -> Context:
    """What the values are checked against."""
    assert info.context is not None
    return info.context


def unknown_name(name: str, known: Collection[str], kind: str = "name") -> str:
    """The message for a name that is none of the known ones, with the nearest."""
    return f"unknown {kind} {name!r}{did_you_mean(name, known)} Known: {', '.join(known)}"


def existing(path: Path, info: Info) -> Path:
    """The file that a path of the table's means: beside it, or among the shipped. Raises ValueError: there is none."""
    found = context_of(info).folder / path
    if path.parts[:1] == (EXPERIMENTS,) and not found.is_file():
        found = find(path)
    if not found.is_file():
        there = [p.name for p in found.parent.glob(f"*{found.suffix}")] if found.parent.is_dir() else []
        raise ValueError(f"{str(path)!r} does not exist{did_you_mean(found.name, there)}")
    return found


def one_of(*words: str, kind: str = "") -> AfterValidator:
    """A check for one of some words, or for one of the context's names of a kind, where there are any.

    An empty text is the name of nothing.
    """

    def check(name: str, info: Info) -> str:
        known = context_of(info).names[kind] if kind else words
        if known and name not in known and (name or words):
            raise ValueError(unknown_name(name, known))
        return name

    return AfterValidator(check)


Folder = Annotated[Path, AfterValidator(lambda path, info: context_of(info).folder / path)]
File = Annotated[Path, AfterValidator(existing)]
RowName = Annotated[str, one_of(kind="row")]
BackboneName = Annotated[str, one_of(kind="backbone")]
ColumnName = Annotated[str, one_of(kind="column")]
Settings = dict[str, Any]


class Values(BaseModel):
    """Values of a table's file: no unknown keys, and nothing is changed afterwards."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Named(Values):
    """Something with an id; ``label`` is what is printed, and ``paper`` its name in the paper (empty: none)."""

    id: str
    label: str = Field(default_factory=lambda data: data.get("id", ""))


class Metric(Values):
    """A metric of record: its name in ``job.json``, what it is called, the factor for printing and the digits printed.

    A table of a ``val/`` metric shows what trainings found on their validation items; it tests nothing. One of
    ``judge/`` is a mean over what the table's judge says of justified answers, of the items judged for all rows.

    Attributes:
        most: the largest value that is printed. falls: less of it is better.
    """

    name: str = "test/exact_match"
    label: str = "Exact match"
    scale: float = 100.0
    digits: int = 2
    most: float = Field(default=100.0, gt=0)
    falls: bool = False

    @field_validator("name")
    @classmethod
    def _check_dimension(cls, name: str) -> str:
        if name.startswith("judge/") and name.removeprefix("judge/") not in DIMENSIONS:
            raise ValueError(unknown_name(name, [f"judge/{dimension}" for dimension in DIMENSIONS], "metric"))
        if "/" not in name:
            raise ValueError(f"must say what measures it, as test/{name} or val/{name}")
        return name

    @property
    def title(self) -> str:
        """``"Exact match, per cent"``."""
        return f"{self.label}, per cent" if self.scale == 100.0 else self.label

    @property
    def of_validation(self) -> bool:
        """Whether it is measured on validation items."""
        return self.name.startswith("val/")

    @property
    def short(self) -> str:
        """Its name without where it is from."""
        return self.name.rsplit("/", 1)[-1]

    @property
    def judged(self) -> str:
        """The dimension that a judge has to say, empty for what a test measures."""
        return self.short if self.name.startswith("judge/") else ""

    @property
    def by_labels(self) -> bool:
        """Whether it exists for seen and unseen labels apart, as ``<name>_seen`` and ``<name>_unseen``."""
        return not self.name.endswith("seen") and not self.judged

    def at(self, keep_ratio: float | None) -> str:
        """Its name at one of the keep ratios that a test measures; None is the test's own."""
        stage, name = self.name.split("/", 1)
        return self.name if keep_ratio is None or self.judged else f"{stage}/keep{keep_ratio}/{name}"


def _read_numbers(files: Any, info: Info) -> dict[PaperKey, float]:
    """The numbers in some CSV files."""
    if not isinstance(files, list):
        raise ValueError(f"must be a list of files, got {files!r}")
    values, wrong = dict[PaperKey, float](), list[str]()
    for path in [existing(Path(str(file)), info) for file in files]:
        with path.open(encoding="utf-8", newline="") as file:
            reader = csv.DictReader(file)
            headers = list(reader.fieldnames or [])
            if not set(PAPER_NAMES) <= set(headers):
                raise ValueError(f"{path.name} needs the columns {', '.join(PAPER_NAMES)}")
            for line in reader:
                method, surrogate, backbone = (line[name] for name in PAPER_NAMES)
                for column in [name for name in headers if name not in NO_NUMBERS]:
                    try:
                        values[method, surrogate, backbone, column] = float(line[column])
                    except (TypeError, ValueError):
                        where = f"{path.name}, line {reader.line_num}"
                        wrong.append(f"{where}: {column} is no number: {line[column]!r}")
    if wrong:
        raise ValueError("; ".join(wrong))
    return values


class Paper(Values):
    """The paper's own numbers, transcribed as CSV files, and where they are from."""

    source: str
    values: Annotated[dict[PaperKey, float], BeforeValidator(_read_numbers)] = {}
