"""What a backbone and a checkpoint must agree with before anything is trained or copied.

Non-strict loading alone would hide mistakes.
"""

from __future__ import annotations

import pickle
import warnings
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from craft_lightning.errors import CraftError
from craft_lightning.methods import METHODS
from craft_lightning.methods._support.resuming import other_weights
from craft_lightning.plugins import subclasses

if TYPE_CHECKING:
    from craft_lightning.methods.base import BaseMethod
    from craft_lightning.models.towers.siglip import VisionTower

FORMAT = 1
"""Of checkpoints; later ones are refused."""


def read_checkpoint(path: str | Path) -> dict[str, Any]:
    """A checkpoint that ``fit`` wrote, on the CPU; plain values and tensors only.

    Raises:
        CraftError: no such file, or one that is no checkpoint.
    """
    if not Path(path).is_file():
        raise CraftError(f"no checkpoint {path}")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True, mmap=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, OSError, ValueError) as error:
        raise CraftError(f"{path} is no checkpoint of fit: it will not be unpickled") from error
    if not isinstance(checkpoint, dict):
        raise CraftError(f"{path} is no checkpoint of fit: it holds a {type(checkpoint).__name__}")
    return checkpoint


def check_continuous(wanted: bool, codebook_hash: str | None, method: str, backbone: str) -> None:
    """A method for continuous models never sees a quantiser (methods.md 3.1).

    Raises:
        CraftError: there is one.
    """
    if wanted and codebook_hash is not None:
        raise CraftError(
            f"{method} is for continuous models, and {backbone} has a codebook; take --model.backbone.name pocket-vila "
            "(through a codebook, the same is craft with lambda_commitment and lambda_contrastive 0)"
        )


def check_method(checkpoint: Mapping[str, Any], method: str | None) -> Mapping[str, Any]:
    """What a checkpoint says of itself, if the format is known and the method is the given one (None accepts any).

    Raises:
        CraftError: not ours, a later format, or another method's.
    """
    facts: Mapping[str, Any] | None = checkpoint.get("craft_lightning")
    if not facts:
        raise CraftError("the checkpoint was not written by craft_lightning")
    if facts["format"] > FORMAT:
        raise CraftError(f"the checkpoint has format {facts['format']}, this version reads up to {FORMAT}: update it")
    if method is not None and facts["method"] != method:
        raise CraftError(f"the checkpoint is of method {facts['method']!r}, the config names {method!r}")
    return facts


def check_codebook(facts: Mapping[str, Any], codebook_hash: str | None, backbone: str) -> None:
    """Compare codebooks: an encoder adapted to one is meaningless with another.

    Raises:
        CraftError: with both hashes.
    """
    if facts["codebook_hash"] != codebook_hash:
        raise CraftError(
            f"another codebook: the checkpoint was adapted to {facts['codebook_hash']}, {backbone} has {codebook_hash}"
        )


def check_readers(
    facts: Mapping[str, Any], stored: Iterable[str], tower: VisionTower, weights: Mapping[str, str], backbone: str
) -> None:
    """Compare what reads the trained weights: a continuous tower is read by a projector that knows one tower, and a
    trained projector or language model works behind and in front of no other weights than its own (a codebook makes
    towers alike, see :func:`check_codebook`).

    Args:
        facts: of the checkpoint; an older one does not say everything. stored: names of its tensors.
        tower, weights, backbone: those here, see :func:`.resuming.weight_hashes`.

    Raises:
        CraftError: another tower, projector or language model.
    """
    base, own = facts.get("base_hash"), tower.base_hash
    if base and own and base != own:
        raise CraftError(f"another tower: the checkpoint was adapted from {base}, {backbone} has {own}")
    if not any(name.startswith(("vlm.projector.", "vlm.language_model.")) for name in stored):
        return
    other = [part for part in other_weights(facts.get("weights", {}), weights) if part != "tower"]
    if other:
        raise CraftError(f"the checkpoint's weights belong to another {' and '.join(other)} than that of {backbone}")


def check_names(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], method: str) -> None:
    """Compare names and shapes of the stored tensors with those that the method trains.

    Raises:
        CraftError: with the first tensor that is missing, unexpected or of another shape.
    """
    missing = [name for name in wanted if name not in state]
    unexpected = [name for name in state if name not in wanted]
    if missing or unexpected:
        parts = [f"lacks {missing[0]} (and {len(missing) - 1} more)"] if missing else []
        parts += [f"has {unexpected[0]} (and {len(unexpected) - 1} more)"] if unexpected else []
        raise CraftError(f"the checkpoint does not fit {method}: it {' and '.join(parts)}")
    for name, tensor in wanted.items():
        if tensor.shape != state[name].shape:
            raise CraftError(f"{name} is {tuple(state[name].shape)} in the checkpoint, {tuple(tensor.shape)} here")


def count_in_parts(checkpoint: Mapping[str, Any], before: int, now: int) -> None:
    """Where a checkpoint counts batches: count those of this run, which cuts an optimiser step into other parts."""
    progress = checkpoint.get("loops", {}).get("fit_loop", {}).get("epoch_loop.batch_progress", {})
    for counts in filter(None, (progress.get("total"), progress.get("current"))):
        under_way = counts["processed"] - counts["completed"]  # 1 where a callback wrote the checkpoint
        counts.update({name: count // before * now for name, count in counts.items()})
        counts["completed"] = counts["processed"] - under_way


def load_method(path: str | Path, **overrides: Any) -> BaseMethod:
    """The method of a checkpoint, weights included, of the class whose name the file holds.

    A file imports nothing: a class that is neither ours nor an installed package's is found once it was imported.

    Args:
        path: a ``.ckpt`` written by ``fit``. overrides: constructor arguments in place of the stored ones.

    Raises:
        CraftError: no such file, not one of our checkpoints, or an unknown method.
    """
    from craft_lightning.methods.base import BaseMethod

    facts = check_method(read_checkpoint(path), None)
    name, place = facts["method"], facts.get("class", "")
    imported = [cls for cls in subclasses(BaseMethod) if f"{cls.__module__}.{cls.__qualname__}" == place]
    if not imported and name not in METHODS:
        raise CraftError(f"the checkpoint is of method {name!r}: import {place.rpartition('.')[0]} first")
    method: type[BaseMethod] = imported[0] if imported else METHODS[name]
    with warnings.catch_warnings():
        # Only trained tensors are stored: on_load_checkpoint has compared their names.
        warnings.filterwarnings(
            "ignore", message="Found keys that are in the model state dict but not in the checkpoint"
        )
        loaded: BaseMethod = method.load_from_checkpoint(path, map_location="cpu", weights_only=True, **overrides)
    return loaded
