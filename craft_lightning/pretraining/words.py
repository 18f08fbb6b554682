"""Adapters of new models: the words that one may combine, and the one with which a plan's stages begin."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, islice
from pathlib import Path
from typing import Any

from craft_lightning.checkpoints.adapter import read_words
from craft_lightning.checkpoints.configs import llm_folder, root_of
from craft_lightning.checkpoints.load import load_langbridge
from craft_lightning.checkpoints.pretrained import base_folder
from craft_lightning.checkpoints.tokenizer import load_tokenizer
from craft_lightning.errors import CraftError, unknown
from craft_lightning.models.langbridge import LangBridge, token_texts
from craft_lightning.models.towers.tower import Tower
from craft_lightning.models.vlm import Projector
from craft_lightning.models.vlm_spec import BACKBONES, VlmSpec
from craft_lightning.pretraining.plans import LanguagePlan, SurrogatePlan
from craft_lightning.pretraining.shards import digest, tensors_digest
from data_modules.sources.llava_conversations import texts_of
from data_modules.twins import TWINS
from data_modules.twins.studio import Studio, rng_of

_AT_ONCE = 1000
"""Texts that a tokenizer is given at a time."""
_STUDIO_IMAGES = 4000


def common_words(tokenizers: Sequence[Any], texts: Iterable[str]) -> list[str]:
    """The texts of tokens that all tokenizers have and that occur, the most frequent first.

    How often a text occurs is counted with every tokenizer and summed, so that their order does not matter; of equally
    frequent ones the lesser in the order of characters comes first.
    """
    named = [{i: text for text, i in token_texts(tokenizer).items()} for tokenizer in tokenizers]
    shared, counts, rest = set.intersection(*(set(names.values()) for names in named)), Counter[str](), iter(texts)
    while some := list(islice(rest, _AT_ONCE)):
        for tokenizer, names in zip(tokenizers, named, strict=True):
            rows = tokenizer(some, add_special_tokens=False).input_ids
            counts.update(names[i] for i in chain.from_iterable(rows) if i in names)
    return sorted(shared & counts.keys(), key=lambda text: (-counts[text], text))


def first_projector(
    plan: LanguagePlan | SurrogatePlan, tower: Tower, llm_width: int, words: Sequence[str] = (), family: Path = Path()
) -> Projector | LangBridge:
    """What stands between tower and language model when a model's stages begin: new, or another model's LangBridge.

    Args:
        words: the subset of a plan that names no file. family: folder of models, where ``adapter_of`` is looked for.

    Raises:
        CraftError: no such adapter, or fewer words than asked for.
    """
    if plan.adapter_of is not None:
        own = family / plan.adapter_of
        return load_langbridge(own if own.is_dir() else plan.adapter_of, tower, llm_width)
    if plan.langbridge is None:
        return Projector("mlp2x_gelu", tower.width, llm_width)
    spec = plan.langbridge
    known = words if spec.file is None else read_words(spec.file)
    if len(known) < spec.words:
        raise CraftError(
            f"{plan.name}: langbridge.words is {spec.words}, {spec.file or 'what is known'} holds {len(known)}; "
            "`python -m craft_lightning vocabulary` writes a langbridge.file"
        )
    return LangBridge(known[: spec.words], tower.width, spec.hidden, spec.combination)


def adapter_digest(projector: Projector | LangBridge, taken: bool) -> str:
    """What a stage's data say of an adapter, after a comma: nothing of the usual one; a LangBridge's words, and its
    weights where they were ``taken`` from another model."""
    if isinstance(projector, Projector):
        return ""
    weights = f" from weights {tensors_digest(projector.state_dict())[:12]}" if taken else ""
    return f", {len(projector.words)} words {digest(word.encode() for word in projector.words)[:12]}{weights}"


def studio_texts(studio: Studio) -> Iterator[str]:
    """What is said about the images that the pocket family is trained on, two exchanges about each of some thousand."""
    rng = rng_of("words of adapters")
    for i in range(_STUDIO_IMAGES):
        for pair in studio.conversation(i % len(studio), rng, 2):
            yield from pair


def new_studio() -> Studio:
    """As many images as :func:`studio_texts` speaks of; they are small, as nobody looks at them."""
    twins = [kind() for kind in TWINS.values()]
    return Studio(twins, 64, _STUDIO_IMAGES // len(twins))


def file_texts(file: Path) -> Iterator[str]:
    """The texts of a file: what is said in one of LLaVA's format (``.json``), else its lines. Raises CraftError: it is
    not there, or holds no text."""
    if not file.is_file():
        raise CraftError(f"no file {file}")
    if file.suffix == ".json":
        yield from texts_of(file)
        return
    try:
        with file.open(encoding="utf-8") as lines:
            yield from lines
    except UnicodeDecodeError as error:
        raise CraftError(f"{file} is no text in UTF-8 ({error})") from error


def tokenizer_of(name: str) -> Any:
    """The tokenizer of a known model, of a folder of one or of a language model, or of a published language model.
    Raises CraftError: there is none of this name."""
    if name in BACKBONES or (Path(name) / "llm").is_dir():
        return load_tokenizer(llm_folder(root_of(VlmSpec(name))))
    if "/" not in name and not Path(name).exists():
        raise unknown("tokenizer", name, BACKBONES)
    return load_tokenizer(base_folder(name))
