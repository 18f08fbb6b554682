"""The plan of a surrogate at paper scale: what its config file says, checked setting by setting."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import yaml

from craft_lightning.environment import places
from craft_lightning.errors import CraftError, unknown
from craft_lightning.pretraining.family_plan import make
from data_modules.sources.llava_conversations import PUBLISHED

STRATEGIES = ("auto", "ddp", "fsdp2")


@dataclass(frozen=True)
class StagePlan:
    """One of the two stages: one epoch of its sets.

    Attributes:
        sets: names in :data:`.llava_conversations.PUBLISHED`. form: the bare picture and its caption, or the
            language model's chat template.
        batch_size: conversations of a step, over all devices. rows: most of them in a device's pass (gradients of
            several passes are added: the step stays the same).
        lr, warmup, weight_decay, clip, save_every: see :class:`.training_loop.LoopSpec`.
    """

    sets: tuple[str, ...]
    form: Literal["caption", "chat"]
    batch_size: int
    rows: int
    lr: float
    warmup: float = 0.03
    weight_decay: float = 0.0
    beta2: float = 0.999
    clip: float = 1.0
    save_every: int = 200


@dataclass(frozen=True)
class SurrogatePlan:
    """A language model that is to read a host's codebook.

    Attributes:
        name: of the known backbone that it becomes. language_model: hub repository or folder.
        tower: known backbone or folder, whose tower and codebook are used as they are.
        data: folder of the published sets. work: folder of codes, token ids and checkpoints. output: folder that all
            models are in, or None: ``$CRAFT_MODELS``.
        projector, joint: stages 1 and 2 (appendix 8).
        max_length: positions of a training row, picture included. precision: Fabric's name.
        strategy: of several devices; ``fsdp2`` for what does not fit on each. recompute: gradient checkpointing.
        skip_broken: pictures that cannot be read are left out and counted.
        seed: order of the data, initial projector. It is the same order for every language model.
    """

    name: str
    language_model: str
    tower: str
    data: Path
    work: Path
    projector: StagePlan
    joint: StagePlan
    output: Path | None = None
    max_length: int = 8192
    precision: Any = "bf16-mixed"
    strategy: Literal["auto", "ddp", "fsdp2"] = "auto"
    recompute: bool = True
    skip_broken: bool = False
    seed: int = 0


def read_settings(path: Path) -> dict[str, Any]:
    """A config file's settings; one with ``like: FILE`` says only what differs from that file beside it.

    Raises:
        CraftError: no such file, or no mapping in it.
    """
    if not path.is_file():
        names = sorted({p.name for place in places(path.parent) for p in place.glob("*.yaml")})
        raise CraftError(f"no config {path}; there is {', '.join(str(path.with_name(n)) for n in names) or 'none'}")
    try:
        raw = yaml.safe_load(path.read_text(encoding="utf-8"))
    except yaml.YAMLError as error:
        raise CraftError(f"{path} is no YAML ({' '.join(str(error).split())})") from error
    if not isinstance(raw, dict):
        raise CraftError(f"{path} holds no settings")
    like = raw.pop("like", None)
    return raw if like is None else {**read_settings(path.parent / like), **raw}


def surrogate_plan(settings: dict[str, Any]) -> SurrogatePlan:
    """The plan of a file's settings.

    Raises:
        CraftError: a setting or a set that is not known, or a batch that no pass divides.
    """
    stages = {name: make(StagePlan, settings.get(name, {})) for name in ("projector", "joint")}
    for name, stage in stages.items():
        for each in stage.sets:
            if each not in PUBLISHED:
                raise unknown("set of conversations", each, PUBLISHED)
        if stage.form not in ("caption", "chat"):
            raise unknown(f"form of {name}", stage.form, ("caption", "chat"))
    if settings.get("strategy", "auto") not in STRATEGIES:
        raise unknown("strategy", str(settings["strategy"]), STRATEGIES)
    folders = {name: Path(settings[name]).expanduser() for name in ("data", "work", "output") if settings.get(name)}
    plan: SurrogatePlan = make(SurrogatePlan, {**settings, **folders, **stages})
    return plan
