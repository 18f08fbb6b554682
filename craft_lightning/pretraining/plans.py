"""What the config files of pre-training say: a family of small models, or one surrogate at paper scale."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar, get_args

from pydantic import AfterValidator, ConfigDict, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from craft_lightning.environment import places
from craft_lightning.errors import CraftError, unknown
from craft_lightning.io import read_settings
from data_modules.sources.llava_conversations import PUBLISHED

Plan = TypeVar("Plan")
STRICT = ConfigDict(extra="forbid")
Folder = Annotated[Path, AfterValidator(Path.expanduser)]


def _published(name: str) -> str:
    if name not in PUBLISHED:
        raise unknown("set of conversations", name, PUBLISHED)
    return name


@dataclass(frozen=True, kw_only=True, config=STRICT)
class OptimizerSpec:
    """How a stage is optimised.

    Attributes:
        batch_size: rows of a step, over all devices. lr: peak rate of AdamW, cosine to 0 after linear warm-up.
        warmup: share of the steps. weight_decay: decoupled. beta2: of AdamW. clip: bound of the gradient norm.
        save_every: steps between checkpoints.
    """

    batch_size: int
    lr: float
    warmup: float = 0.03
    weight_decay: float = 0.0
    beta2: float = 0.999
    clip: float = 1.0
    save_every: int = 200


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LoopSpec(OptimizerSpec):
    """A stage of so many optimiser steps; its seed is added to the plan's, for other batches of the same images."""

    steps: int
    lr: float = 1e-3
    beta2: float = 0.98
    seed: int = 0


@dataclass(frozen=True, config=STRICT)
class TowerSpec:
    """Shape of a tower and weights of its losses.

    Attributes:
        width, layers, heads, mlp: of the vision transformer; the last layer serves the contrastive loss only.
        image_size, patch_size: pixels. text_layers: of the text tower (same width). text_positions: its context.
        codes, levels: of the codebook. quantize_from: step at which quantisation starts.
        places: amplitude of the initial position embeddings.
        reconstruction, commitment, quiz, length: weights beside the contrastive loss.
        contrast_every: steps between two that compute the contrastive loss, the text tower's only one.
    """

    width: int = 128
    layers: int = 6
    heads: int = 4
    mlp: int = 512
    image_size: int = 64
    patch_size: int = 8
    text_layers: int = 3
    text_positions: int = 64
    codes: int = 1024
    levels: int = 4
    quantize_from: int = 200
    places: float = 0.5
    reconstruction: float = 1.0
    commitment: float = 1.0
    quiz: float = 1.0
    length: float = 0.1
    contrast_every: int = 2


@dataclass(frozen=True, config=STRICT)
class TowerPlan:
    """Stage 0: entries of the text tokenizer, shape, both lengths, and studio images of each synthetic dataset.

    In ``placeless``, after ``loop``, the quiz is not told where a token stands: a language model hardly knows either.
    """

    vocabulary: int
    shape: TowerSpec
    loop: LoopSpec
    placeless: LoopSpec
    pictures_per_twin: int


@dataclass(frozen=True, config=STRICT)
class LanguageSpec:
    """Shape of a new language model.

    Attributes:
        style: Llama or Qwen2 architecture (and the tokenizer's manner).
        width, layers, heads, kv_heads, mlp: of the decoder. context: positions. rope_base: of the rotary embedding.
    """

    style: Literal["llama", "qwen2"] = "llama"
    width: int = 128
    layers: int = 4
    heads: int = 4
    kv_heads: int = 4
    mlp: int = 352
    context: int = 1024
    rope_base: float = 1000.0


@dataclass(frozen=True, config=STRICT)
class ReadingPhases:
    """Steps at which the text-only stages move on, from the form in which look-ups form first to the full mixture.

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


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LangBridgeSpec:
    """An adapter :class:`.langbridge.LangBridge` in place of the usual projector.

    Attributes:
        words: how many it combines, the first of a subset. hidden: width of its inner layers.
        combination: see there. file: the subset, as the verb ``vocabulary`` writes it; a family without one takes the
            words that the tokenizers of all its new language models share.
    """

    words: int
    hidden: int
    combination: Literal["softmax", "linear"] = "softmax"
    file: Folder | None = None


@dataclass(frozen=True, kw_only=True, config=STRICT)
class LoraSpec:
    """Low-rank updates ``W + (alpha / rank) B A`` of all linear layers of a published language model but its head."""

    rank: Annotated[int, Field(ge=1)]
    alpha: float


@dataclass(frozen=True, config=STRICT)
class LanguagePlan:
    """One language model of a family.

    Attributes:
        name: of its folder. vocabulary: entries of its tokenizer. text, match, projector, joint, questions: lengths of
            the two text-only stages, of stage 1, and of stage 2 in two halves, the second mostly of short answers.
        phases: of the text-only stages.
        shape: of a new language model. pretrained, lora: in its place a published one (hub id or folder), which stays
            as it is but for updates that stage 2 trains; it has its own tokenizer and no text-only stages.
        start_from: in place of both a finished model of the family, whose language model and tokenizer go on.
        like: name of a model whose plan, tokenizer and text-only stages it shares (a continuous twin).
        tokenizer: name of a model whose tokenizer it shares; None: its reader's.
        continuous: reads features instead of codewords. seed: is added to the family's.
        langbridge: its adapter, if that is one. adapter_of: another of the family's, or an adapter's folder, whose
            LangBridge it starts from, without stage 1.
    """

    name: str
    vocabulary: int
    text: LoopSpec
    match: LoopSpec
    phases: ReadingPhases
    projector: LoopSpec
    joint: LoopSpec
    questions: LoopSpec
    shape: LanguageSpec | None = None
    pretrained: str | None = None
    lora: LoraSpec | None = None
    start_from: str | None = None
    like: str | None = None
    tokenizer: str | None = None
    continuous: bool = False
    seed: int = 0
    langbridge: LangBridgeSpec | None = None
    adapter_of: str | None = None

    def __post_init__(self) -> None:
        one = (self.shape, self.pretrained, self.start_from).count(None) == 2
        if not one or (self.pretrained is None) != (self.lora is None):
            raise CraftError(f"{self.name}: give a shape (of a new language model), start_from, or pretrained and lora")
        _one_adapter(self)

    @property
    def reader(self) -> str:
        """The model whose tokenizer and text-only stages it uses."""
        return self.like or self.name


@dataclass(frozen=True, config=STRICT)
class FamilyPlan:
    """A family: where it goes, where its checkpoints are while it trains, and its parts. ``again``: how long a finished
    model learns to read another adapter. ``compile``: blocks of language models are compiled, which takes a C++
    compiler and a minute a model, and a fifth off every step."""

    output: Folder
    work: Folder
    seed: int
    pictures_per_twin: int
    tower: TowerPlan
    language: tuple[LanguagePlan, ...]
    again: LoopSpec | None = None
    compile: bool = False


@dataclass(frozen=True, kw_only=True, config=STRICT)
class StagePlan(OptimizerSpec):
    """One of a surrogate's two stages: one epoch of its sets.

    Attributes:
        sets: names in :data:`.llava_conversations.PUBLISHED`. form: the bare image and its caption, or the language
            model's chat template. rows: most of a device's pass (the gradients of a step's passes are added).
    """

    sets: tuple[Annotated[str, AfterValidator(_published)], ...]
    form: Literal["caption", "chat"]
    rows: int


@dataclass(frozen=True, config=STRICT)
class SurrogatePlan:
    """A language model that is to read a host's codebook.

    Attributes:
        name: of the known backbone that it becomes. language_model: hub repository or folder.
        tower: known backbone or folder, whose tower and codebook are used as they are.
        data: folder of the published sets. work: folder of codes, token ids and checkpoints. output: folder that all
            models are in, or None: ``$CRAFT_MODELS``.
        projector, joint: stages 1 and 2. max_length: positions of a training row, image included.
        precision: Fabric's name. strategy: of several devices; ``fsdp2`` for what does not fit on each.
        recompute: gradient checkpointing. skip_broken: images that cannot be read are left out and counted.
        seed: order of the data (the same for every language model), initial projector.
        langbridge: its adapter, if that is one. adapter_of: a model, or an adapter's folder, whose LangBridge it starts
            from, without stage 1.
    """

    name: str
    language_model: str
    tower: str
    data: Folder
    work: Folder
    projector: StagePlan
    joint: StagePlan
    output: Folder | None = None
    max_length: int = 8192
    precision: Any = "bf16-mixed"
    strategy: Literal["auto", "ddp", "fsdp2"] = "auto"
    recompute: bool = True
    skip_broken: bool = False
    seed: int = 0
    langbridge: LangBridgeSpec | None = None
    adapter_of: str | None = None

    def __post_init__(self) -> None:
        _one_adapter(self)
        if self.langbridge is not None and self.langbridge.file is None:
            raise CraftError(f"{self.name}: langbridge needs a file: `python -m craft_lightning vocabulary`")


def _one_adapter(plan: LanguagePlan | SurrogatePlan) -> None:
    if plan.langbridge is not None and plan.adapter_of is not None:
        raise CraftError(f"{plan.name}: langbridge makes a new adapter, adapter_of takes one: give one of the two")


def read_plan(path: Path, **given: Any) -> FamilyPlan | SurrogatePlan:
    """The plan of a config file: with a ``language_model`` a surrogate at paper scale, else a family.

    A family's ``stages`` hold what all of its language models share; each may say otherwise. ``given``: settings of a
    surrogate that take the place of the file's. Raises CraftError: no such file, or settings that are unknown, missing
    or of another type.
    """
    if not path.is_file():
        names = sorted({p.name for place in places(path.parent) for p in place.glob("*.yaml")})
        raise CraftError(f"no config {path}; there is {', '.join(str(path.with_name(n)) for n in names) or 'none'}")
    settings = read_settings(path)
    if "language_model" in settings:
        return parse(SurrogatePlan, {**settings, **given})
    shared, parts = parse(dict[str, Any], settings.pop("stages", {})), dict[str, dict[str, Any]]()
    for entry in parse(list[dict[str, Any]], settings.get("language", [])):
        parts[str(entry.get("name"))] = {**parts.get(str(entry.get("like")), shared), "name": None, **entry}
    return parse(FamilyPlan, {**settings, "language": list(parts.values())})


def parse(kind: type[Plan], settings: Any) -> Plan:
    """Settings as a plan. Raises CraftError: settings that are unknown (with the nearest name), missing or of another
    type; all in one line."""
    try:
        return TypeAdapter(kind).validate_python(settings)
    except ValidationError as error:
        mistakes = sorted(error.errors(), key=lambda mistake: mistake["type"] == "missing")
        raise CraftError("; ".join(_told(kind, mistake) for mistake in mistakes)) from error


def _told(kind: Any, mistake: Mapping[str, Any]) -> str:
    *path, name = mistake["loc"] or ("settings",)
    where = ".".join(map(str, mistake["loc"] or ("settings",)))
    if mistake["type"] == "missing":
        return f"{where} is missing"
    if mistake["type"] != "unexpected_keyword_argument":
        return f"{where}: {mistake['msg']}, got {mistake['input']!r}"
    for step in path:
        kind = kind.__pydantic_fields__[step].annotation if isinstance(step, str) else get_args(kind)[0]
        kind = get_args(kind)[0] if type(None) in get_args(kind) else kind
    inside = f" of {'.'.join(map(str, path))}" if path else ""
    return str(unknown(f"setting{inside}", name, kind.__pydantic_fields__))
