"""What stands between tower and language model in a checkpoint: ``mm_projector/``, or such a folder on its own.

``config.json`` names the kind (``mm_projector_type``). A LangBridge's also holds ``mlp_hidden_size`` and
``combination``, and its words stand beside it in ``words.json``, in the order of the coefficients; their embeddings are
the language model's and are not stored.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tokenizers.decoders import ByteLevel
from torch import Tensor

from craft_lightning.checkpoints import configs
from craft_lightning.checkpoints.tensors import (
    SAFE,
    TensorFiles,
    building,
    fresh_folder,
    load_strict,
    read_as,
    read_json,
    save_tensors,
)
from craft_lightning.errors import CraftError
from craft_lightning.io import write_json
from craft_lightning.models.langbridge import LangBridge
from craft_lightning.models.vlm import Projector

PROJECTOR = "model.mm_projector."
"""Beginning of the projector's names in a single folder, where ``model.*`` and ``lm_head.*`` are the language model's
but for this and the tower's."""
WORDS = "words.json"


def read_words(file: Path) -> list[str]:
    """A vocabulary subset: ours (``{"words": [...]}``), or one of LangBridge's authors, which map byte-level tokens to
    ids in this order. Raises CraftError: the file is neither."""
    held = read_json(file)
    words = held.get("words")
    if isinstance(words, list) and all(isinstance(word, str) for word in words):
        return words
    if held and all(isinstance(number, int) for number in held.values()):
        return [ByteLevel().decode([token]) for token in held]
    raise CraftError(f'{file} is no vocabulary subset: expected {{"words": [texts of tokens]}}')


def write_words(file: Path, words: Sequence[str], **facts: Any) -> None:
    """A vocabulary subset that :func:`read_words` reads, with what else is to be said of it."""
    write_json(file, {**facts, "words": list(words)})


def fill_adapter(
    folder: Path, projector: Projector | LangBridge, state: Mapping[str, Tensor], **more: Any
) -> dict[str, Any]:
    """Write a projector's weights, config and words into a folder; returns the config, to which ``more`` is added."""
    facts: dict[str, Any] = {"model_type": configs.ADAPTER, "mm_projector_type": projector.kind}
    if isinstance(projector, LangBridge):
        facts |= {"mlp_hidden_size": projector.hidden, "combination": projector.combination}
        write_words(folder / WORDS, projector.words)
    save_tensors(folder / SAFE, state)
    write_json(folder / "config.json", facts | more)
    return facts | more


def write_adapter(folder: Path, projector: LangBridge, state: Mapping[str, Tensor], **facts: Any) -> None:
    """A folder of an adapter on its own, replaced as a whole when everything is written, for ``backbone.adapter``.

    Args:
        state: its weights. facts: of the tower that it reads (:func:`.load.tower_facts`), and of its training.
    """
    with fresh_folder(folder) as fresh:
        fill_adapter(fresh, projector, state, **facts)


def empty_projector(root: Path, width: int, llm_width: int) -> Projector | LangBridge:
    """The projector that a checkpoint, or an adapter's folder, describes; its weights not read."""
    facts = configs.projector_config(root)
    if facts.get("mm_projector_type") != LangBridge.kind:
        return Projector(str(facts.get("mm_projector_type")), width, llm_width)
    folder = configs.projector_folder(root)
    with read_as(folder / "config.json", "a LangBridge"):
        return LangBridge(read_words(folder / WORDS), width, facts["mlp_hidden_size"], facts["combination"])


def load_projector(root: Path, width: int, llm_width: int) -> Projector | LangBridge:
    """The projector of a checkpoint, or of an adapter's folder, in float32."""
    with building():
        projector = empty_projector(root, width, llm_width)
    if projector.state_dict():
        folder = configs.projector_folder(root)
        state = TensorFiles(folder).under(PROJECTOR if configs.is_single(root) else "")
        if configs.is_single(root):
            state = {f"layers.{name}": value for name, value in state.items()}
        load_strict(projector, state, folder)
    return projector
