"""The models and rows of a table's file, as values that check themselves; a row of the file may stand for several."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

from pydantic import Field, field_validator, model_validator

from craft_lightning.benchmark.table_values import (
    BackboneName,
    File,
    Folder,
    Named,
    RowName,
    Settings,
    Values,
    one_of,
    unknown_name,
)
from craft_lightning.errors import CraftError
from craft_lightning.models.vlm_spec import BACKBONES, VlmSpec, models_root, resolve

ADAPTER = "model.init_args.backbone.adapter"
"""Setting that names an adapter in the place of a model's own."""


class Backbone(Named):
    """A language model with its vision tower.

    Attributes:
        name: a known backbone or the folder of a checkpoint, as ``--model.backbone.name`` takes it; by default the id.
        overrides: settings of this backbone, for training and testing.
        weights: checkpoint folders, which need not be there; by default that of ``name``: itself, or where a known
            checkpoint is shipped, lies below ``$CRAFT_MODELS`` or in the hub's cache.
        origin: how to get them.
    """

    paper: Annotated[str, one_of(kind="paper's backbone")] = ""
    name: str = Field(default_factory=lambda data: data.get("id", ""))
    overrides: Settings = {}
    weights: tuple[Folder, ...] = ()
    _origin: str = "make pocket-family trains them"

    @model_validator(mode="after")
    def _find_weights(self) -> Backbone:
        if "weights" in self.model_fields_set:
            return self
        folder = Path(self.name)
        if self.name in BACKBONES:
            self._origin = BACKBONES[self.name].origin
            try:
                folder = resolve(VlmSpec(self.name))
            except CraftError:
                folder = models_root() / self.name
        elif not folder.is_dir():
            raise ValueError(unknown_name(self.name, BACKBONES, "checkpoint"))
        return self.model_copy(update={"weights": (folder,)})

    @property
    def origin(self) -> str:
        """How to get the weights."""
        return self._origin


class Behind(Values):
    """Whose training leaves the encoder that another row's trainings stand behind: of a ``row`` with a ``surrogate``,
    by default with the model that is trained."""

    row: RowName
    surrogate: BackboneName = ""


class RowEntry(Named):
    """A row of the file: a method with the surrogates it trains on and the backbones it is tested on.

    Attributes:
        method: the config fragment; its stem names the method in run folders.
        train_on: surrogates, none if the method trains nothing.
        eval_on: backbones, none if each surrogate is tested on itself only.
        tested_from: what a test takes from the training: the adapted ``encoder``, which any backbone of its codebook
            reads; the ``adapter``, a LangBridge that any language model behind its tower reads; or the ``checkpoint``,
            for a method that leaves both as they were and is tested on its surrogate.
        behind: what is trained stands behind an encoder that another row has adapted to the same set with the same
            seed; for rows that are ``tested_from: checkpoint``.
        stage2: a family's plan (verb ``surrogate``): before a test, the tested model goes through its stage 2 ``again``
            with the row's adapter, that of the training or one that the overrides name.
        overrides: settings of this row, for training and testing. eval: settings for testing only.
        sweep: values by setting: the row stands for one row a combination.
        keep: keep ratios of visual tokens: the row stands for one row a ratio, all measured by one test.
    """

    paper: Annotated[str, one_of(kind="paper's row")] = ""
    method: File
    train_on: tuple[BackboneName, ...] = ()
    eval_on: tuple[BackboneName, ...] = ()
    tested_from: Annotated[str, one_of("encoder", "adapter", "checkpoint")] = "encoder"
    behind: Behind | None = None
    stage2: File | None = None
    overrides: Settings = {}
    eval: Settings = {}
    sweep: dict[str, Annotated[list[Any], Field(min_length=1)]] = {}
    keep: list[Any] = []

    @field_validator("keep")
    @classmethod
    def _check_ratios(cls, ratios: list[Any]) -> list[Any]:
        for ratio in ratios:
            if not isinstance(ratio, float) or not 0.0 < ratio <= 1.0 or ratios.count(ratio) > 1:
                raise ValueError(f"must be different ratios in (0, 1], written like 0.8 or 1.0, got {ratio!r}")
        return ratios

    @model_validator(mode="after")
    def _check_models(self) -> RowEntry:
        if not self.train_on and not self.eval_on:
            raise ValueError("needs train_on, eval_on or both")
        if self.tested_from == "checkpoint" and (self.eval_on or not self.train_on):
            raise ValueError("a checkpoint is tested where it was trained: needs train_on and no eval_on")
        if self.behind is not None and self.tested_from != "checkpoint":
            raise ValueError("behind: what is trained behind an encoder is tested_from: checkpoint")
        named = self.tested_from == "adapter" if self.train_on else ADAPTER in self.overrides
        if self.stage2 is not None and not named:
            raise ValueError(f"stage2 needs an adapter: tested_from: adapter, or {ADAPTER} without train_on")
        return self

    def rows(self) -> Iterator[Row]:
        """The rows that it stands for; of several keep ratios the first stands beside the paper's number."""
        for values in itertools.product(*self.sweep.values()):
            chosen = dict(zip(self.sweep, values, strict=True))
            words = " ".join(f"{setting.rsplit('.', 1)[-1]} {value}" for setting, value in chosen.items())
            row = Row.model_construct(**{name: getattr(self, name) for name in RowEntry.model_fields})
            if chosen:
                name, label = f"{self.id}-{words.replace(' ', '')}", f"{self.label}, {words}"
                overrides = {**self.overrides, **chosen}
                row = row.model_copy(update={"id": name, "label": label, "overrides": overrides, "swept": self.id})
            shown = {"curve": row.id, "eval": {**self.eval, "prune.enabled": True, "prune.also": self.keep}}
            for number, ratio in enumerate(self.keep):
                name, label = f"{row.id}-keep{ratio}", f"{row.label}, keep {ratio}"
                paper = {} if number == 0 else {"paper": ""}
                yield row.model_copy(update={"id": name, "label": label, "keep_ratio": ratio, **shown, **paper})
            if not self.keep:
                yield row


class Row(RowEntry):
    """A row of the table.

    Attributes:
        swept: id of the row in the file that this one is a setting of, empty otherwise.
        keep_ratio, curve: share of visual tokens that this row shows, and id of the row that lists it among others.
    """

    swept: str = ""
    keep_ratio: float | None = None
    curve: str = ""


def row_ids(raw: dict[str, Any]) -> list[str]:
    """Ids of the rows that an item of the file stands for, so far as it can be read."""
    try:
        return [row.id for row in RowEntry.model_construct(**raw).rows()]
    except (AttributeError, TypeError):
        return [str(raw.get("id"))]
