"""Builds a family of frozen parts from one config, resumable to the step.

Stage 0 trains a tower with its codebook, a text-only stage teaches new language models to read, stages 1 and 2 are
the paper's appendix 8. What is shipped is written in half precision, and the language models are trained on the tower
as it is shipped.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from functools import cached_property, lru_cache
from typing import Any

import torch
from lightning.fabric import Fabric
from transformers import PreTrainedTokenizerBase

from craft_lightning.checkpoints.load import load_tower
from craft_lightning.checkpoints.tokenizer import load_tokenizer
from craft_lightning.checkpoints.vila_u_writer import write_tower, write_vlm
from craft_lightning.models.projector import Projector
from craft_lightning.models.vlm import DiscreteVlm
from craft_lightning.pretraining.family_plan import FamilyPlan, LanguagePlan, TowerPlan
from craft_lightning.pretraining.language_stage import (
    Shown,
    StoredTokens,
    TextStage,
    VisionLanguageStage,
    new_language_model,
    store_tokens,
)
from craft_lightning.pretraining.quiz import QuizRows
from craft_lightning.pretraining.tokenizers import train_tokenizer
from craft_lightning.pretraining.tower_stage import PairBatch, TowerPretraining, grouped_rows
from craft_lightning.pretraining.training_loop import LoopSpec, run_stage
from craft_lightning.pretraining.turns import TokenizedTurns, TurnEncoder, collate, length_grouped, lookup_primer
from craft_lightning.types import VqaBatch
from data_modules.twins import TWINS
from data_modules.twins.studio import ALL_KINDS, MOSTLY_QUESTIONS, Studio, rng_of
from data_modules.twins.twin import ClassificationTwin, QuestionTwin

TOWER = "vision_tower"
_CHUNK_BATCHES = 8
_TURNS_PICTURE = 3
_FEW_WORDS = 40
_WIDEN = 200
"""Steps before the end of the phase of few words from which its primer draws from all."""
_MATCHES = 0.85
"""Share of the second stage's conversations that tell before they ask."""
_TOKENIZER_PICTURES = 4000


class FamilyBuilder:
    """Builds what is missing of a family.

    Args:
        plan: the family. log: takes a line of progress.
    """

    def __init__(self, plan: FamilyPlan, log: Callable[[str], None] = print) -> None:
        self.plan, self.log = plan, log
        self.fabric = Fabric(accelerator="auto", devices=1, precision="bf16-mixed")
        self.twins = [kind() for kind in TWINS.values()]

    @cached_property
    def studio(self) -> Studio:
        """The pool of pictures of the language models (and the tokenizers), drawn on first use."""
        return self._draw(self.plan.pictures_per_twin)

    def _draw(self, per_twin: int) -> Studio:
        studio = Studio(self.twins, self.plan.tower.shape.image_size, per_twin)
        self.log(f"drew {len(studio)} studio pictures of {len(self.twins)} twins")
        return studio

    def _data(self, pool: FamilyPlan | TowerPlan) -> str:
        return f"seed {self.plan.seed}, {pool.pictures_per_twin} pictures a twin"

    def tower(self) -> None:
        """Stage 0, written to ``<output>/vision_tower``."""
        folder = self.plan.output / TOWER
        if (folder / "config.json").is_file():
            self.log(f"{folder}: there already")
            return
        plan = self.plan.tower
        tokenizer, studio = self.tokenizer("siglip", plan.vocabulary), self._draw(plan.pictures_per_twin)
        model = TowerPretraining(
            plan.shape, len(tokenizer), tokenizer.pad_token_id, studio.answers_allowed, self.plan.seed
        )
        positions = plan.shape.text_positions

        def batch(step: int) -> PairBatch:
            groups = 2 if step // 2 % 2 else 4  # contrast, on even steps, meets both
            rows = grouped_rows(len(studio), len(self.twins), plan.loop.batch_size, groups, step, self.plan.seed)
            rng = rng_of("sentences", self.plan.seed, step)
            said = [studio.sentence(row, rng) for row in rows]
            ids = tokenizer(said, padding="max_length", max_length=positions, truncation=True, return_tensors="pt")
            same = studio.same_meaning(rows, said)
            return PairBatch(studio.images(rows), ids.input_ids, same, QuizRows(*studio.quiz(rows)), step)

        run_stage("tower", model.train(), batch, plan.loop, self.plan.work, self.fabric, self.log, self._data(plan))
        write_tower(folder, model.parts(tokenizer), dtype=torch.float16)
        self.log(f"wrote {folder}")

    def language(self, plan: LanguagePlan) -> None:
        """Text-only stage, stage 1 and stage 2 of one model, written to ``<output>/<name>``."""
        folder = self.plan.output / plan.name
        if (folder / "config.json").is_file():
            self.log(f"{folder}: there already")
            return
        tokenizer = self.tokenizer(plan.tokenizer or plan.reader, plan.vocabulary, plan.shape.style)
        encoder = TurnEncoder(tokenizer)
        model = new_language_model(plan.shape, tokenizer, self.plan.seed)
        self._read(plan, model, encoder)
        tower = load_tower(self.plan.output / TOWER)
        tower.quantizer = None if plan.continuous else tower.quantizer
        torch.manual_seed(self.plan.seed)
        vlm = DiscreteVlm(
            tower,
            Projector("mlp2x_gelu", tower.width, plan.shape.width),
            model,
            tokenizer,
            image_wrap=True,
            conversation="chat_template",
        )
        stored = store_tokens(tower, self.studio.images, len(self.studio))
        self.log(f"{plan.name}: stored the tokens of {len(self.studio)} pictures")
        self._see(plan, vlm, stored, encoder)
        write_vlm(
            folder,
            tower=f"../{TOWER}",
            projector=vlm.projector,
            language_model=vlm.language_model,
            tokenizer=tokenizer,
            dtype=torch.float16,
            image_wrap=True,
            conversation="chat_template",
            continuous=plan.continuous,
        )
        self.log(f"wrote {folder}")

    def _read(self, plan: LanguagePlan, model: Any, encoder: TurnEncoder) -> None:
        """The text-only stages: ``text`` (a word is looked up after the list) and ``match`` (before it)."""
        tokenizer, folder = encoder.tokenizer, self.plan.work / plan.reader
        words = [w for w in self._words() if w.isalpha() and len(tokenizer.tokenize(f" {w}")) == 1]
        few, phases = words[:: len(words) // _FEW_WORDS], plan.phases

        def primer(name: str, step: int, size: int, known: list[str]) -> VqaBatch:
            rng = rng_of(name, self.plan.seed, step)
            rows = [lookup_primer(tokenizer, known, rng, asked_first=name == "match") for _ in range(size)]
            return collate(rows, tokenizer.pad_token_id)

        @lru_cache(2)
        def chunk(name: str, number: int, count: int, lookups: float, known: bool) -> list[TokenizedTurns]:
            rng, names = rng_of("conversations", name, self.plan.seed, number), few if known else None
            talk = []
            for _ in range(count):
                before = name == "match" and rng.random() < _MATCHES
                talk.append(
                    self.studio.matches(rng, names) if before else self.studio.text_conversation(rng, lookups, names)
                )
            return [encoder(turns, False) for turns in talk]

        def conversations(name: str, step: int, size: int, lookups: float, known: bool) -> VqaBatch:
            number, place = divmod(step, _CHUNK_BATCHES)
            pool = chunk(name, number, size * _CHUNK_BATCHES, lookups, known)
            rows = length_grouped(pool, size, place, lambda row: len(row.ids))
            return collate(rows, tokenizer.pad_token_id)

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

        stage = TextStage(model).train()
        data = f"seed {self.plan.seed}, {phases}"
        run_stage("text", stage, text, plan.text, folder, self.fabric, self.log, data)
        run_stage("match", stage, match, plan.match, folder, self.fabric, self.log, data)

    def _see(self, plan: LanguagePlan, vlm: DiscreteVlm, stored: StoredTokens, encoder: TurnEncoder) -> None:
        folder = self.plan.work / plan.name
        stages = (("projector", plan.projector), ("joint", plan.joint), ("questions", plan.questions))
        for name, loop in stages:
            kinds = MOSTLY_QUESTIONS if name == "questions" else ALL_KINDS

            @lru_cache(2)
            def chunk(
                number: int,
                loop: LoopSpec = loop,
                kinds: Mapping[str, int] = kinds,
            ) -> list[tuple[int, TokenizedTurns]]:
                rng = rng_of("pictures", self.plan.seed + loop.seed, number)
                rows = rng.sample(range(len(self.studio)), loop.batch_size * _CHUNK_BATCHES)
                return [(i, encoder(self.studio.conversation(i, rng, _TURNS_PICTURE, kinds), True)) for i in rows]

            def batch(step: int, loop: LoopSpec = loop) -> Shown:
                number, place = divmod(step, _CHUNK_BATCHES)
                pairs = length_grouped(chunk(number), loop.batch_size, place, lambda pair: len(pair[1].ids))
                return Shown([row for row, _ in pairs], [turns for _, turns in pairs])

            stage = VisionLanguageStage(vlm, stored, train_language=name != "projector").train()
            run_stage(name, stage, batch, loop, folder, self.fabric, self.log, self._data(self.plan))
        vlm.eval()

    def tokenizer(self, name: str, size: int, style: Any = "siglip") -> PreTrainedTokenizerBase:
        """The tokenizer of a part, trained on first use and kept in the work folder."""
        folder = self.plan.work / name / "tokenizer"
        if not (folder / "tokenizer.json").is_file():
            texts = self._sentences() if style == "siglip" else self._conversations()
            whole = [w.lower() for w in self._words()] if style == "siglip" else self._words()
            train_tokenizer(texts, whole, size, style).save_pretrained(str(folder))
        return load_tokenizer(folder)

    def _sentences(self) -> Iterator[str]:
        rng = rng_of("tokenizer")
        for i in range(_TOKENIZER_PICTURES):
            yield self.studio.sentence(i % len(self.studio), rng)

    def _conversations(self) -> Iterator[str]:
        rng = rng_of("tokenizer")
        for i in range(_TOKENIZER_PICTURES):
            for turn in self.studio.conversation(i % len(self.studio), rng, 2):
                yield from turn
        for names in self.studio.names[: len(self.twins)]:
            yield from names

    def _words(self) -> list[str]:
        """Words that every tokenizer keeps whole: of labels, answers, queries, facts."""
        texts: list[str] = []
        for twin in self.twins:
            if isinstance(twin, ClassificationTwin):
                texts += [*twin.class_names, twin.query, twin.domain]
            elif isinstance(twin, QuestionTwin):
                texts += twin.answer_vocabulary
        rng = rng_of("words")
        texts += [self.studio.description(i % len(self.studio), rng) for i in range(_TOKENIZER_PICTURES)]
        return sorted({word.strip(".,?()") for text in texts for word in text.split()} - {""})
