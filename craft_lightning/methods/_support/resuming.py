"""A training that goes on is the one that its checkpoint is of: the same settings, data and frozen weights.

What differs is refused, or told, before the first step.
"""

from __future__ import annotations

import hashlib
import json
import shlex
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from craft_lightning.errors import CraftError
from craft_lightning.models.langbridge import LangBridge
from craft_lightning.models.vlm import DiscreteVlm
from craft_lightning.settings import flat

IDLE = frozenset(f"data.{name}" for name in ("eval_batch_size", "num_workers", "test_size", "on_bad", "partial"))
"""Settings that no training depends on, or only through its data, which are compared themselves."""
FREE = {f"model.backbone.{name}" for name in ("name", "encoder", "adapter", "dtype", "attention")}
FREE |= {"model.backbone.gradient_checkpointing"}
FREE |= {*("data.root", "data.hub_id", "data.hub_revision"), *("trainer.accumulate_grad_batches", "trainer.precision")}
"""Settings that may differ and are told: where data and weights lie, which are compared themselves, and what a machine
chooses for itself."""

SAMPLE = 1024
"""Values of each parameter that its hash covers."""
Settings = Mapping[str, Any]
Changes = Mapping[str, tuple[Any, Any]]
"""By a setting's name: what the checkpoint says, and what is given."""


def named(model: Any, data: Any) -> dict[str, Any]:
    """Settings of a method and of a data module by their whole names, as ``model.optim.lr``, lists for tuples; without
    the data's copy of the backbone, and what Lightning adds."""
    parts = {"model": model, "data": data}
    settings = {f"{part}.{name}": value for part, held in parts.items() for name, value in flat(held).items()}
    ours = {k: v for k, v in settings.items() if not k.startswith(("data.backbone.", "model._", "data._"))}
    return {name: list(value) if isinstance(value, tuple) else value for name, value in ours.items()}


def of_trainer(trainer: Any, clip: float | None) -> dict[str, Any]:
    """Settings of a trainer that make another training, or the same in other digits; null for what says nothing, as its
    clip beside the method's own (``clip``)."""
    limit, algorithm = trainer.limit_train_batches, trainer.gradient_clip_algorithm
    norm = trainer.gradient_clip_val if clip is None and trainer.gradient_clip_val else None
    told = {
        "limit_train_batches": None if isinstance(limit, float) and limit == 1.0 else limit,
        "accumulate_grad_batches": trainer.accumulate_grad_batches,
        "precision": trainer.precision,
        "gradient_clip_val": norm,
        "gradient_clip_algorithm": norm and str(getattr(algorithm, "value", algorithm or "norm")),
    }
    return {f"trainer.{name}": value for name, value in told.items()}


def changes(checkpoint: Mapping[str, Any], given: Settings) -> dict[str, tuple[Any, Any]]:
    """Settings that both know and that differ, but for those in :data:`IDLE`."""
    held = named(checkpoint.get("hyper_parameters", {}), checkpoint.get("datamodule_hyper_parameters", {}))
    held |= _in_parts(checkpoint.get("craft_lightning", {}).get("trainer", {}), given)
    both = {name: (value, given[name]) for name, value in held.items() if name in given and name not in IDLE}
    return {name: pair for name, pair in both.items() if pair[0] != pair[1]}


def _in_parts(held: Settings, given: Settings) -> dict[str, Any]:
    """A trainer's settings with a limit that counts batches of the given size: a step may be cut into other parts."""
    before, now = (told.get("trainer.accumulate_grad_batches", 1) for told in (held, given))
    limit = held.get("trainer.limit_train_batches")
    return {**held, "trainer.limit_train_batches": limit // before * now} if isinstance(limit, int) else dict(held)


def check_settings(found: Changes, path: str | Path) -> dict[str, tuple[Any, Any]]:
    """What :func:`changes` found, if it is :data:`FREE`. Raises CraftError: something else; with both values, and the
    flags that mend it."""
    if bound := {name: pair for name, pair in found.items() if name not in FREE}:
        told = ", ".join(f"{name} {_text(old)} (given: {_text(new)})" for name, (old, new) in bound.items())
        named = {"data.seed": "seed_everything"}
        flags = " ".join(f"--{named.get(name, name)} {_text(old)}" for name, (old, _) in bound.items())
        raise CraftError(f"{path} was trained with {told}: resume with {flags}, or start again without --ckpt_path")
    return dict(found)


def tell(found: Changes) -> str:
    """Settings that are used though the checkpoint has others, in a line."""
    told = ", ".join(f"{name}={_text(new)} (checkpoint: {_text(old)})" for name, (old, new) in found.items())
    return f"the run's settings hold, not the checkpoint's: {told}"


def _text(value: Any) -> str:
    return shlex.quote(value) if isinstance(value, str) else json.dumps(value)


def out_of_steps(checkpoint: Mapping[str, Any], max_steps: int, max_epochs: int | None) -> str | None:
    """The trainer's limit that a checkpoint has reached, as its flag, or None."""
    epochs = checkpoint["loops"]["fit_loop"]["epoch_progress"]["current"]["processed"]
    if -1 < max_steps <= checkpoint["global_step"]:
        return "--trainer.max_steps"
    return "--trainer.max_epochs" if max_epochs is not None and -1 < max_epochs <= epochs else None


def weight_hashes(vlm: DiscreteVlm) -> dict[str, str]:
    """SHA-256 of each part of a model, the same in float32 and bfloat16: names, shapes, and values spread over each
    parameter. Empty in float16, which rounds otherwise."""
    if vlm.language_model.dtype == torch.float16:
        return {}
    parts = {"tower": vlm.tower, "projector": vlm.projector, "language model": vlm.language_model}
    hashes = {name: _sampled(part) for name, part in parts.items()}
    if isinstance(vlm.projector, LangBridge):  # whose weights mean nothing without its words
        hashes["projector"] += hashlib.sha256("\n".join(vlm.projector.words).encode()).hexdigest()
    return hashes


def _sampled(module: nn.Module) -> str:
    digest = hashlib.sha256()
    for name, parameter in module.named_parameters():
        values = parameter.detach().flatten()
        some = values[:: max(1, len(values) // SAMPLE)][:SAMPLE].to("cpu", torch.bfloat16)
        digest.update(f"{name} {tuple(parameter.shape)} ".encode() + some.view(torch.int16).numpy().tobytes())
    return digest.hexdigest()


def other_weights(held: Mapping[str, str], own: Mapping[str, str]) -> list[str]:
    """Parts whose :func:`weight_hashes` are known on both sides and differ."""
    return [part for part, value in held.items() if own.get(part, value) != value]


def check_weights(held: Mapping[str, str], own: Mapping[str, str], backbone: str, path: str | Path) -> None:
    """Compare the weights that a training began with, encoder included. Raises CraftError: a part of the backbone has
    others."""
    if other := other_weights(held, own):
        raise CraftError(
            f"the {' and the '.join(other)} of {backbone} {'are' if len(other) > 1 else 'is'} not what {path} was "
            "trained with: resume with the same backbone (and --encoder, --adapter), or start again without --ckpt_path"
        )


def check_data(held: Mapping[str, Any], own: Mapping[str, Any], path: str | Path) -> None:
    """Compare digests of the data, see :meth:`.datamodule.VqaDataModule.digest`. Raises CraftError: they differ, and in
    what."""
    told = {split: ", ".join(_others(held[split], own[split])) for split in held if split in own}
    if other := {split: what for split, what in told.items() if what}:
        differs = "; ".join(f"{split}: {what}" for split, what in other.items())
        raise CraftError(
            f"the {' and '.join(other)} data are not those that {path} was trained with ({differs}): bring those back, "
            "or start again without --ckpt_path"
        )


def _others(held: Mapping[str, Any], own: Mapping[str, Any]) -> Iterator[str]:
    if held["count"] != own["count"]:
        yield f"{own['count']:,} items, then {held['count']:,}"
    elif held["items"] != own["items"]:
        yield "other labels, questions, answers or captions"
    if held["pictures"] != own["pictures"]:
        yield "other images"
