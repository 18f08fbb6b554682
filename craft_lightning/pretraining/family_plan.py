"""The plan of a family: what its config file says, checked setting by setting."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields, replace
from pathlib import Path
from typing import Any

import yaml

from craft_lightning.errors import CraftError, unknown
from craft_lightning.pretraining.language_stage import LanguageSpec
from craft_lightning.pretraining.tower_stage import TowerSpec
from craft_lightning.pretraining.training_loop import LoopSpec

_STAGES = ("text", "match", "projector", "joint", "questions")


@dataclass(frozen=True)
class TowerPlan:
    """Stage 0: entries of the text tokenizer, shape, length, and studio pictures of each twin it is trained on."""

    vocabulary: int
    shape: TowerSpec
    loop: LoopSpec
    pictures_per_twin: int


@dataclass(frozen=True)
class ReadingPhases:
    """Steps at which the text-only stage moves on, from the form in which look-ups form first to the full mixture.

    Attributes:
        primer: bare look-ups alone until here. few: conversations about few words, every second batch a primer, until
            here. names: conversations of look-ups in all names, every fourth batch a primer, until here; then half of
            the conversations are about descriptions. match_primer, match_few: the same of the second stage.
    """

    primer: int
    few: int
    names: int
    match_primer: int
    match_few: int


@dataclass(frozen=True)
class LanguagePlan:
    """One language model.

    Attributes:
        name: of its folder. vocabulary: entries of its tokenizer. shape: see :class:`LanguageSpec`.
        text, match, projector, joint, questions: lengths of the two text-only stages, of stage 1, and of stage 2 in two
            halves, the second mostly of short answers.
        phases: of the text-only stages.
        like: name of a model whose plan, tokenizer and text-only stages it shares (a continuous twin).
        tokenizer: name of a model whose tokenizer it shares; None: its reader's.
        continuous: reads features instead of codewords.
    """

    name: str
    vocabulary: int
    shape: LanguageSpec
    text: LoopSpec
    match: LoopSpec
    phases: ReadingPhases
    projector: LoopSpec
    joint: LoopSpec
    questions: LoopSpec
    like: str | None = None
    tokenizer: str | None = None
    continuous: bool = False

    @property
    def reader(self) -> str:
        """Whose tokenizer and text-only stage it uses."""
        return self.like or self.name


@dataclass(frozen=True)
class FamilyPlan:
    """A family: where it goes, where its checkpoints are while it trains, and its parts."""

    output: Path
    work: Path
    seed: int
    pictures_per_twin: int
    tower: TowerPlan
    language: tuple[LanguagePlan, ...]


def read_plan(path: Path) -> FamilyPlan:
    """A plan from YAML; ``stages`` holds what all language models share, and each may say otherwise.

    Raises:
        CraftError: no such file, or a key that no plan has.
    """
    if not path.is_file():
        raise CraftError(f"no config {path}; there is experiments/surrogates/pocket.yaml")
    raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    shared: dict[str, Any] = raw.pop("stages", {})
    parts: dict[str, dict[str, Any]] = {}
    language = []
    for entry in raw.pop("language"):
        inherited = parts.get(entry.get("like", ""), shared)
        entry = parts[entry["name"]] = {**inherited, **entry}
        loops = {k: make(LoopSpec, entry[k]) for k in _STAGES}
        made = {"shape": make(LanguageSpec, entry["shape"]), "phases": make(ReadingPhases, entry["phases"])}
        language.append(make(LanguagePlan, {**entry, **loops, **made}))
    tower = raw.pop("tower")
    tower = replace(make(TowerPlan, tower), shape=make(TowerSpec, tower["shape"]), loop=make(LoopSpec, tower["loop"]))
    folders = {k: Path(raw.pop(k)) for k in ("output", "work")}
    return make(FamilyPlan, {**raw, **folders, "tower": tower, "language": tuple(language)})


def make(kind: type[Any], values: Mapping[str, Any]) -> Any:
    """A dataclass of settings.

    Raises:
        CraftError: a setting that it does not have, or one that is missing.
    """
    known = [f.name for f in fields(kind)]
    for key in values:
        if key not in known:
            raise unknown(f"setting of {kind.__name__}", key, known)
    missing = [f.name for f in fields(kind) if f.default is MISSING and f.name not in values]
    if missing:
        raise CraftError(f"{kind.__name__} lacks {', '.join(missing)}")
    return kind(**values)
