"""Builds a family of frozen parts from one config, resumable to the step.

Stage 0 trains a tower with its codebook, text-only stages teach new language models to read, stages 1 and 2 are the
paper's. What is shipped is written in half precision, and the language models are trained on the tower as it is
shipped.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Mapping
from functools import cached_property, lru_cache, partial
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from transformers import PreTrainedTokenizerBase

from craft_lightning.checkpoints import configs
from craft_lightning.checkpoints.adapter import WORDS, read_words, write_words
from craft_lightning.checkpoints.load import load_tower, load_vlm
from craft_lightning.checkpoints.tokenizer import load_tokenizer
from craft_lightning.checkpoints.vila_u_writer import write_model, write_tower
from craft_lightning.errors import CraftError
from craft_lightning.io import write_json
from craft_lightning.models.sharding import blocks
from craft_lightning.models.vlm import DiscreteVlm
from craft_lightning.models.vlm_spec import VlmSpec
from craft_lightning.pretraining.language_stage import (
    CHAT,
    CHUNK_BATCHES,
    ConversationEncoder,
    Shown,
    TextStage,
    TokenizedConversation,
    VisionLanguageStage,
    collate,
    length_grouped,
    lookup_primer,
    new_language_model,
    store_tokens,
)
from craft_lightning.pretraining.paper_scale import updated_language_model
from craft_lightning.pretraining.plans import FamilyPlan, LanguagePlan, LoopSpec
from craft_lightning.pretraining.shards import tensors_digest
from craft_lightning.pretraining.tokenizers import train_tokenizer
from craft_lightning.pretraining.tower_stage import PairBatch, TowerPretraining, grouped_rows
from craft_lightning.pretraining.training_loop import FLOAT32_SDPA, run_stage
from craft_lightning.pretraining.words import adapter_digest, common_words, first_projector, studio_texts
from craft_lightning.types import VqaBatch
from data_modules.twins import TWINS
from data_modules.twins.studio import ALL_KINDS, MOSTLY_QUESTIONS, Studio, rng_of
from data_modules.twins.twin import ClassificationTwin, QuestionTwin

TOWER = "vision_tower"
_EXCHANGES = 5
"""Messages, each with its reply, of a conversation about an image."""
_FEW_WORDS = 40
_WIDEN = 200
"""Steps before the end of the phase of few words from which its primer draws from all."""
_MATCHES = 0.85
"""Share of the second stage's conversations that tell before they ask."""
_TOKENIZER_IMAGES = 4000


class FamilyBuilder:
    """Builds what is missing of a family, and prints lines of progress."""

    def __init__(self, plan: FamilyPlan) -> None:
        self.plan = plan
        self.fabric = Fabric(accelerator="cpu", devices=1, precision="bf16-mixed")  # its parts are small
        self.twins = [kind() for kind in TWINS.values()]

    def build(self, only: Collection[str] = ()) -> None:
        """Write every part that is not there, or those of the given names, to ``<output>/<name>``."""
        parts: dict[str, Callable[[Path], None]] = {TOWER: self._tower}
        parts |= {part.name: partial(self._language, part) for part in self.plan.language}
        for name, write in parts.items():
            folder = self.plan.output / name
            if only and name not in only:
                continue
            if (folder / "config.json").is_file():
                print(f"{folder}: there already")
            else:
                write(folder)
                print(f"wrote {folder}")

    @cached_property
    def studio(self) -> Studio:
        """The pool of images of the language models (and the tokenizers), drawn on first use."""
        return self._draw(self.plan.pictures_per_twin, self.plan.tower.shape.image_size)

    def again(self, model: str, adapter: str, folder: Path) -> None:
        """Stage 2 of a finished model once more, with another adapter: that and the language model learn by the plan's
        ``again``.

        The model goes to ``model/`` of the folder, and its cost to ``result.json``: ``steps``, their ``seconds`` and
        trained ``parameters``. A killed run goes on from ``checkpoints/last.ckpt``. Raises CraftError: the plan has no
        ``again``, or the adapter does not fit the model.
        """
        if self.plan.again is None:
            raise CraftError("the plan does not say how long: again: {steps: 600, batch_size: 32}")
        own = self.plan.output / model
        spec = VlmSpec(str(own) if own.is_dir() else model, adapter=adapter)
        vlm, root = load_vlm(spec), configs.root_of(spec)
        vlm.language_model.set_attn_implementation(FLOAT32_SDPA)
        self.studio = self._draw(self.plan.pictures_per_twin, vlm.tower.image_size)
        more = f", {model} with {tensors_digest(vlm.language_model.state_dict())[:12]}"
        more += adapter_digest(vlm.projector, taken=True)
        seconds = self._see(vlm, {"last": self.plan.again}, folder / "checkpoints", self.plan.seed, more)
        own_tower = os.path.relpath(configs.tower_folder(root).resolve(), (folder / "model").resolve())
        write_model(folder / "model", vlm, own_tower)
        parameters = sum(p.numel() for part in (vlm.projector, vlm.language_model) for p in part.parameters())
        cost = {"steps": self.plan.again.steps, "seconds": round(seconds, 3), "parameters": parameters}
        write_json(folder / "result.json", {"adapter": adapter, "model": model, **cost})

    def _draw(self, per_twin: int, side: int) -> Studio:
        studio = Studio(self.twins, side, per_twin)
        print(f"drew {len(studio)} studio images of {len(self.twins)} synthetic datasets")
        return studio

    def _train(
        self, name: str, model: Any, batch: Callable[[int], Any], loop: LoopSpec, folder: Path, data: str
    ) -> float:
        return run_stage(name, model.train(), batch, loop, folder, self.fabric, data=data)

    def _tower(self, folder: Path) -> None:
        """Stage 0."""
        plan, seed = self.plan.tower, self.plan.seed
        tokenizer = self.tokenizer("siglip", plan.vocabulary)
        studio = self._draw(plan.pictures_per_twin, plan.shape.image_size)
        model = TowerPretraining(plan.shape, len(tokenizer), tokenizer.pad_token_id, studio.answers_allowed, seed)
        padding: Any = {"padding": "max_length", "max_length": plan.shape.text_positions, "truncation": True}

        def batch(step: int, places: bool = True) -> PairBatch:
            groups = 2 if step // 2 % 2 else 4  # contrast, on even steps, meets both
            rows = grouped_rows(len(studio), len(self.twins), plan.loop.batch_size, groups, step, seed)
            rng = rng_of("sentences", seed, step)
            said = [studio.sentence(row, rng) for row in rows]
            ids = tokenizer(said, **padding, return_tensors="pt").input_ids
            same = studio.same_meaning(rows, said)
            return PairBatch(studio.images(rows), ids, same, *studio.quiz(rows), step, places)

        def placeless(step: int) -> PairBatch:
            return batch(plan.loop.steps + step, places=False)

        data = f"seed {seed}, {plan.pictures_per_twin} pictures a twin, {plan.shape!r}"
        self._train("tower", model, batch, plan.loop, self.plan.work, data)
        self._train("placeless", model, placeless, plan.placeless, self.plan.work, data)
        write_tower(folder, model.parts(tokenizer), dtype=torch.float16)

    def _language(self, plan: LanguagePlan, folder: Path) -> None:
        """Text-only stages, stage 1 and stage 2 of one model."""
        model: Any
        if plan.shape is not None:
            tokenizer: Any = self.tokenizer(plan.tokenizer or plan.reader, plan.vocabulary, plan.shape.style)
            model, chat = new_language_model(plan.shape, tokenizer, self.plan.seed + plan.seed), CHAT
        elif plan.start_from is not None:
            finished = load_vlm(VlmSpec(str(self.plan.output / plan.start_from)))
            model, tokenizer, chat = finished.language_model, finished.tokenizer, CHAT
            model.set_attn_implementation(FLOAT32_SDPA)
        else:
            model, tokenizer = updated_language_model(plan, self.plan.seed + plan.seed)
            chat = CHAT | {"image_wrap": False}  # the marks would be new words, and those of the base are not trained
        for block in blocks(model) if self.plan.compile else ():
            block.compile(dynamic=True)  # batches differ in width
        tower = load_tower(self.plan.output / TOWER)
        tower.quantizer = None if plan.continuous else tower.quantizer
        words = self._words_of_all() if plan.langbridge is not None else ()
        torch.manual_seed(self.plan.seed + plan.seed)
        projector = first_projector(plan, tower, model.config.hidden_size, words, self.plan.output)
        if plan.shape is not None:
            self._read(plan, model, ConversationEncoder(tokenizer))
        vlm, taken = DiscreteVlm(tower, projector, model, tokenizer, **chat), plan.adapter_of is not None
        more = adapter_digest(projector, taken)
        if plan.shape is None:
            more += f", {plan.pretrained or plan.start_from} with {tensors_digest(model.state_dict())[:12]}"
        stages = {name: getattr(plan, name) for name in ("projector", "joint", "questions")[taken:]}
        self._see(vlm, stages, self.plan.work / plan.name, self.plan.seed + plan.seed, more)
        write_model(folder, vlm, f"../{TOWER}")

    def _read(self, plan: LanguagePlan, model: Any, encoder: ConversationEncoder) -> None:
        """The text-only stages: ``text`` (a word is looked up after the list) and ``match`` (before it)."""
        tokenizer, folder, seed = encoder.tokenizer, self.plan.work / plan.reader, self.plan.seed + plan.seed
        words = [w for w in self._words() if w.isalpha() and len(tokenizer.tokenize(f" {w}")) == 1]
        few, phases = words[:: len(words) // _FEW_WORDS], plan.phases

        def primer(name: str, step: int, size: int, known: list[str]) -> VqaBatch:
            rng = rng_of(name, seed, step)
            rows = [lookup_primer(tokenizer, known, rng, asked_first=name == "match") for _ in range(size)]
            return collate(rows, tokenizer.pad_token_id)

        @lru_cache(2)
        def chunk(name: str, number: int, count: int, lookups: float, known: bool) -> list[TokenizedConversation]:
            rng, names = rng_of("conversations", name, seed, number), few if known else None
            talks = (
                self.studio.matches(rng, names)
                if name == "match" and rng.random() < _MATCHES
                else self.studio.text_conversation(rng, lookups, names)
                for _ in range(count)
            )
            return [encoder(pairs, False) for pairs in talks]

        def conversations(name: str, step: int, size: int, lookups: float, known: bool) -> VqaBatch:
            number, place = divmod(step, CHUNK_BATCHES)
            pool = chunk(name, number, size * CHUNK_BATCHES, lookups, known)
            return collate(length_grouped(pool, size, place, lambda row: len(row.ids)), tokenizer.pad_token_id)

        def text(step: int) -> VqaBatch:
            size = plan.text.batch_size
            if step < phases.primer or (step < phases.few and step % 2) or (step < phases.names and step % 4 == 1):
                return primer("text", step, size, few if step < phases.few - _WIDEN else words)
            return conversations("text", step, size, 1.0 if step < phases.names else 0.5, step < phases.few)

        def match(step: int) -> VqaBatch:
            size = plan.match.batch_size
            if step < phases.match_primer or step % 3 == 2:
                return primer("match", step, size, few if step < phases.match_few else words)
            return conversations("match", step, size, 0.7, step < phases.match_few)

        data = f"seed {seed}, {phases!r}"
        self._train("text", TextStage(model), text, plan.text, folder, data)
        self._train("match", TextStage(model), match, plan.match, folder, data)

    def _see(self, vlm: DiscreteVlm, stages: Mapping[str, LoopSpec], folder: Path, seed: int, more: str) -> float:
        """Stages on images by name: ``projector`` (stage 1, the projector alone), ``joint``, and others, which are
        mostly about questions. ``more`` is added to what their recipes say of the data. Returns the seconds of the
        steps."""
        encoder = ConversationEncoder(vlm.tokenizer)
        stored = store_tokens(vlm.tower, self.studio.images, len(self.studio))
        print(f"{folder.name}: stored the tokens of {len(self.studio)} images")

        @lru_cache(2)
        def chunk(name: str, number: int) -> list[tuple[int, TokenizedConversation]]:
            loop, kinds = stages[name], ALL_KINDS if name in ("projector", "joint") else MOSTLY_QUESTIONS
            rng = rng_of("pictures", seed + loop.seed, number)
            rows = rng.sample(range(len(self.studio)), loop.batch_size * CHUNK_BATCHES)
            return [(row, encoder(self.studio.conversation(row, rng, _EXCHANGES, kinds), True)) for row in rows]

        def batch(name: str, step: int) -> Shown:
            number, place = divmod(step, CHUNK_BATCHES)
            size = stages[name].batch_size
            pairs = length_grouped(chunk(name, number), size, place, lambda pair: len(pair[1].ids))
            return Shown([row for row, _ in pairs], [conversation for _, conversation in pairs])

        data = f"seed {seed}, {self.plan.pictures_per_twin} pictures a twin, {_EXCHANGES} exchanges{more}"
        seconds = 0.0
        for name, loop in stages.items():
            stage = VisionLanguageStage(vlm, stored, train_language=name != "projector")
            seconds += self._train(name, stage, partial(batch, name), loop, folder, data)
        return seconds

    def _words_of_all(self) -> list[str]:
        """What the tokenizers of all new language models share, found on first use and kept in the work folder."""
        file = self.plan.work / WORDS
        if not file.is_file():
            made = {plan.tokenizer or plan.reader: plan for plan in reversed(self.plan.language)}
            tokenizers = [self.tokenizer(n, one.vocabulary, one.shape.style) for n, one in made.items() if one.shape]
            write_words(file, common_words(tokenizers, studio_texts(self.studio)))
        return read_words(file)

    def tokenizer(self, name: str, size: int, style: Any = "siglip") -> PreTrainedTokenizerBase:
        """The tokenizer of a part: that of the finished one, or trained on first use and kept in the work folder."""
        finished, folder = self.plan.output / name / "llm", self.plan.work / name / "tokenizer"
        if (finished / "tokenizer.json").is_file():
            return load_tokenizer(finished)
        if not (folder / "tokenizer.json").is_file():
            rng, images = rng_of("tokenizer"), [i % len(self.studio) for i in range(_TOKENIZER_IMAGES)]
            if style == "siglip":
                texts: Iterable[str] = (self.studio.sentence(i, rng) for i in images)
            else:
                said = (text for i in images for pair in self.studio.conversation(i, rng, 2) for text in pair)
                texts = chain(said, *self.studio.names[: len(self.twins)])
            whole = [w.lower() for w in self._words()] if style == "siglip" else self._words()
            train_tokenizer(texts, whole, size, style).save_pretrained(str(folder))
        return load_tokenizer(folder)

    def _words(self) -> list[str]:
        """Words that every tokenizer keeps whole: of labels, answers, queries, facts."""
        texts: list[str] = []
        for twin in self.twins:
            if isinstance(twin, ClassificationTwin):
                texts += [*twin.class_names, twin.query, twin.domain]
            elif isinstance(twin, QuestionTwin):
                texts += twin.answer_vocabulary
        rng = rng_of("words")
        texts += [self.studio.description(i % len(self.studio), rng) for i in range(_TOKENIZER_IMAGES)]
        return sorted({word.strip(".,?()") for text in texts for word in text.split()} - {""})
