"""A surrogate at paper scale: a language model learns to read a host's frozen codebook, in two stages of one epoch.

Everything that does not change is computed once: the codes of all images, which all surrogates of a host share, and
the token ids of all conversations. Stage 1 trains the projector on captions, stage 2 projector and language model on
conversations; both resume to the step.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields
from functools import partial
from itertools import accumulate, islice
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from torch import Tensor, nn
from torch.utils.data import ConcatDataset

from craft_lightning.checkpoints.configs import aspect_of, checkpoint_root, tower_folder
from craft_lightning.checkpoints.load import language_config, load_language_model, load_tower
from craft_lightning.checkpoints.pretrained import base_folder, start_lora
from craft_lightning.checkpoints.tokenizer import load_tokenizer, tokenizer_bytes
from craft_lightning.checkpoints.vila_u_writer import write_model
from craft_lightning.errors import CraftError
from craft_lightning.models.image_processing import READING, Aspect, to_pixels
from craft_lightning.models.image_workers import in_order
from craft_lightning.models.sharding import recompute
from craft_lightning.models.towers.tower import Tower
from craft_lightning.models.vlm import WRAP_TOKENS, DiscreteVlm
from craft_lightning.models.vlm_spec import VlmSpec, models_root, resolve
from craft_lightning.pretraining.language_stage import (
    CHAT,
    CHUNK_BATCHES,
    ConversationEncoder,
    Shown,
    StoredTokens,
    TokenizedConversation,
    VisionLanguageStage,
    length_grouped,
)
from craft_lightning.pretraining.plans import LanguagePlan, LoopSpec, OptimizerSpec, StagePlan, SurrogatePlan
from craft_lightning.pretraining.shards import Shards, StoredConversations, digest, tensors_digest, token_rows
from craft_lightning.pretraining.training_loop import FLOAT32_SDPA, run_stage
from craft_lightning.pretraining.words import adapter_digest, first_projector
from data_modules.sources.images import read_square
from data_modules.sources.llava_conversations import PUBLISHED, Talks

_PASS = 64
"""Images that a tower encodes at once."""


class SurrogateBuilder:
    """Builds a surrogate, or what is missing of it, on the devices of a ``fabric`` that is launched; ``log`` takes a
    line of progress, ``workers`` is the number of processes that read images (:func:`.in_order`). Raises CraftError:
    host, language model or data are not on this machine, with the command that brings them."""

    def __init__(
        self, plan: SurrogatePlan, fabric: Fabric, log: Callable[[str], None] = print, workers: int | None = None
    ) -> None:
        self.plan, self.fabric, self.workers = plan, fabric, workers
        self.log = log if fabric.is_global_zero else lambda line: None
        self.host = checkpoint_root(resolve(VlmSpec(plan.tower)))
        self.language_folder = base_folder(plan.language_model)
        self.work = plan.work / plan.name
        self.output = (plan.output or models_root()) / plan.name

    def build(self) -> Path:
        """All of it, written to ``<output>/<name>`` in VILA-U's layout; returns that folder."""
        if (self.output / "config.json").is_file():
            self.log(f"{self.output}: there already")
            return self.output
        stages = {"projector": self.plan.projector, "joint": self.plan.joint}
        if self.plan.adapter_of is not None:
            del stages["projector"]
        names = dict.fromkeys(name for stage in stages.values() for name in stage.sets)
        sets = {name: Talks(self.plan.data, PUBLISHED[name]) for name in names}
        for talks in sets.values():
            found, published = len(talks.talks) + talks.without, talks.published
            part = "" if found == published.rows else f" of the {published.rows:,} that were published"
            left = f", {talks.without:,} without an image left out" if talks.without else ""
            self.log(f"{published.title}: {found:,} conversations{part}, {len(talks.names):,} images{left}")
        tower = load_tower(self.host)
        if tower.quantizer is None:
            raise CraftError(f"{self.host} has no codebook: a surrogate reads codes")
        # A mistake in what the plan says of the adapter is told now, not after the hours of the codes.
        width = language_config(self.language_folder).hidden_size
        first_projector(self.plan, tower, width, family=self.output.parent)
        coded = {name: self.codes(talks, tower) for name, talks in sets.items()}
        files: Any = [tensors["codes"] for shards in coded.values() for tensors in shards.tensors]
        codes = ConcatDataset[Tensor](files)  # of what has a length and rows; no copy is made
        kept = torch.cat([shards.column("kept") for shards in coded.values()])
        counts = [len(talks.names) for talks in sets.values()]
        first = dict(zip(sets, accumulate(counts, initial=0), strict=False))
        vlm = self.model(tower)
        tokens = {
            name: {each: self.tokens(sets[each], stage.form, vlm) for each in stage.sets}
            for name, stage in stages.items()
        }
        del sets, vlm
        tower.cpu()
        tower.quantizer.to(self.fabric.device)  # only codewords are looked up from now on
        decode = tower.quantizer.decode
        stored = StoredTokens(lambda rows: torch.stack([codes[row] for row in rows]), decode, tower.grid)
        for name, stage in stages.items():
            corpus = StoredConversations([(first[each], shards) for each, shards in tokens[name].items()])
            made_of = [*(coded[each] for each in stage.sets), *tokens[name].values()]
            self.stage(name, self.model(tower), stored, corpus, kept, made_of)
        self._write(tower)
        return self.output

    def codes(self, talks: Talks, tower: Tower) -> Shards:
        """The codes of a set's images, computed where they are missing; each process takes its share of the files."""
        assert tower.quantizer is not None
        title, total, skipped = talks.published.title, len(talks.names), list[str]()
        # An image's side and the codes' precision are the host's: its tower's digest stands for both.
        facts = {"tower": tensors_digest(dict(tower.used_parameters())), "codebook": tower.quantizer.hash()}
        facts |= {"aspect": aspect_of(self.host), "reading": READING}
        folder = self.plan.work / "codes" / digest([repr(sorted(facts.items())).encode()])[:12]
        shards = Shards(folder / title, facts, talks.names)

        read = partial(_square_of, talks, side=tower.image_size, aspect=aspect_of(self.host))

        def whole(found: Tensor | CraftError) -> Tensor | None:
            if not isinstance(found, CraftError):
                return found
            if not self.plan.skip_broken:
                raise CraftError(f"{found} (to leave such rows out: skip_broken: true)") from found
            skipped.append(str(found))
            return None

        def made(rows: Sequence[int]) -> Mapping[str, Tensor]:
            tower.to(self.fabric.device)
            found = codes_of(tower, map(whole, in_order(read, rows, self.workers)))
            self.log(f"{title}: codes of {rows[-1] + 1:,} of {total:,} images")
            return found

        def complete(tensors: Mapping[str, Tensor]) -> bool:
            return self.plan.skip_broken or bool(tensors["kept"].all())

        count = shards.fill(made, self.fabric.global_rank, self.fabric.world_size, complete)
        self.log(f"{title}: {count} files of codes computed, {len(shards.ranges) - count} there already")
        self.fabric.barrier()
        if left := (~shards.column("kept")).nonzero().flatten().tolist():
            one = skipped[0] if skipped else f"{talks.names[left[0]]} (skip_broken: false reads such files again)"
            self.log(f"{title}: {len(left)} images left out, such as {one}")
        return shards

    def tokens(self, talks: Talks, form: str, vlm: DiscreteVlm) -> Shards:
        """The token ids of a set's conversations in one of the two forms, no longer than the plan's ``max_length``."""
        encoder = ConversationEncoder(vlm.tokenizer)
        longest = min(self.plan.max_length, vlm.context) - vlm.num_visual + 1
        facts = {"tokenizer": digest([tokenizer_bytes(vlm.tokenizer), str(vlm.tokenizer.chat_template).encode()])}
        facts |= {"form": form, "longest": str(longest)}
        keys = [digest([repr(talk).encode()]) for talk in talks.talks]
        shards = Shards(self.work / form / talks.published.title, facts, keys)

        def encode(pairs: Sequence[tuple[str, str]]) -> TokenizedConversation:
            row = encoder.caption(pairs[0][1]) if form == "caption" else encoder(pairs, True)
            return TokenizedConversation(row.ids[:longest], row.labels[:longest])

        def made(rows: Sequence[int]) -> Mapping[str, Tensor]:
            part = [talks.talks[row] for row in rows]
            return token_rows([encode(talk.turns) for talk in part], [talk.image for talk in part])

        shards.fill(made, self.fabric.global_rank, self.fabric.world_size)
        self.fabric.barrier()
        return shards

    def model(self, tower: Tower) -> DiscreteVlm:
        """The language model as published, the marks of an image added, behind the projector that it begins with."""
        language: Any = load_language_model(self.language_folder)
        tokenizer = chat_tokenizer(self.language_folder)
        add_marks(language, tokenizer)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(self.plan.seed)
            projector = first_projector(self.plan, tower, language.config.hidden_size, family=self.output.parent)
        return DiscreteVlm(tower, projector, language, tokenizer, aspect=aspect_of(self.host), **CHAT)

    def stage(
        self,
        name: str,
        vlm: DiscreteVlm,
        stored: StoredTokens,
        corpus: StoredConversations,
        kept: Tensor,
        made_of: Sequence[Shards],
    ) -> None:
        """One epoch of a stage, from the previous one's weights."""
        plan: StagePlan = getattr(self.plan, name)
        if name == "joint" and self.plan.adapter_of is None:
            self._load("projector", vlm.projector, "projector")
        if self.plan.recompute:
            recompute(vlm.language_model)
        usable = (kept[corpus.images] & (corpus.replies > 0)).nonzero().squeeze(1)
        steps = len(usable) // plan.batch_size
        if steps == 0:
            raise CraftError(f"stage {name}: {len(usable)} usable rows, fewer than a batch of {plan.batch_size}")
        order = usable[torch.randperm(len(usable), generator=torch.Generator().manual_seed(self.plan.seed))].tolist()
        batch = partial(_pass, plan, self.fabric, corpus, order[: steps * plan.batch_size])
        shared = {field.name: getattr(plan, field.name) for field in fields(OptimizerSpec)}
        loop, passes = LoopSpec(**shared, steps=steps, seed=self.plan.seed), passes_of(plan, self.fabric.world_size)
        self.log(f"stage {name}: {len(usable):,} rows, {steps:,} steps, {passes} passes a step")
        model = VisionLanguageStage(vlm, stored, train_language=name == "joint").train()
        read = digest([usable.numpy().tobytes(), *(shards.digest.encode() for shards in made_of)])[:12]
        # Of all weights that it starts from: the language model's, and the first stage's projector.
        start = tensors_digest(dict(model.named_parameters()))[:12]
        data = f"{len(usable)} rows of {', '.join(plan.sets)} ({read}) from weights {start}"
        data += adapter_digest(vlm.projector, taken=False)  # whose weights are among those
        run_stage(name, model, batch, loop, self.work, self.fabric, self.log, data, passes)

    def _load(self, stage: str, module: nn.Module, part: str) -> None:
        """Put a finished stage's weights in place; checkpoints hold them whole, however they were trained."""
        state = torch.load(self.work / f"{stage}.ckpt", map_location="cpu", weights_only=True, mmap=True)["model"]
        start = f"model.{part}."
        module.load_state_dict({k.removeprefix(start): value for k, value in state.items() if k.startswith(start)})

    def _write(self, tower: Tower) -> None:
        if self.fabric.is_global_zero:
            vlm = self.model(tower)
            for part in ("projector", "language_model"):
                self._load("joint", vlm.get_submodule(part), part)
            self.output.parent.mkdir(parents=True, exist_ok=True)
            # The parent's links are followed, since the way up leads through real folders.
            place = self.output.parent.resolve() / self.output.name
            write_model(self.output, vlm, os.path.relpath(tower_folder(self.host).resolve(), place), torch.bfloat16)
            self.log(f"wrote {self.output}")
        self.fabric.barrier()


def _square_of(talks: Talks, row: int, side: int, aspect: Aspect) -> Tensor:
    return read_square(talks.image(row), side, aspect)


@torch.no_grad()
def codes_of(tower: Tower, squares: Iterable[Tensor | None]) -> Mapping[str, Tensor]:
    """``codes [n, N, R]`` (int16, or int32 for large codebooks) and ``kept [n]`` of some images.

    Args:
        tower: frozen. squares: ``[3, S, S]`` uint8 each, or None for an image that cannot be read: its codes are 0, and
            it is not ``kept``.
    """
    assert tower.quantizer is not None
    kind = torch.int16 if tower.quantizer.entries <= 2**15 else torch.int32
    blank = torch.zeros(3, tower.image_size, tower.image_size, dtype=torch.uint8)
    parts, kept, device = list[Tensor](), list[bool](), next(tower.parameters()).device
    remaining = iter(squares)
    while read := list(islice(remaining, _PASS)):
        kept += [square is not None for square in read]
        pixels = to_pixels(torch.stack([blank if square is None else square for square in read]))
        codes = tower.encode(pixels.to(device)).codes
        assert codes is not None
        parts.append(codes.to(kind).cpu())
    keep = torch.tensor(kept)
    return {"codes": torch.cat(parts) * keep.view(-1, 1, 1), "kept": keep}


def passes_of(plan: StagePlan, processes: int) -> int:
    """Passes of a step: as few as hold no more than the plan's rows. Raises CraftError: the devices cannot share a
    batch equally."""
    share, rest = divmod(plan.batch_size, processes)
    if rest or not share:
        raise CraftError(f"{processes} devices cannot share a batch of {plan.batch_size} equally")
    return next(passes for passes in range(1, share + 1) if share % passes == 0 and share // passes <= plan.rows)


def _pass(plan: StagePlan, fabric: Fabric, corpus: StoredConversations, order: Sequence[int], number: int) -> Shown:
    """What a process reads in a pass. The loss of a step is the mean over its reply tokens, however it is cut."""
    passes = passes_of(plan, fabric.world_size)
    step, part = divmod(number, passes)
    size = plan.batch_size
    start = step // CHUNK_BATCHES * CHUNK_BATCHES
    chunk = order[start * size : (start + CHUNK_BATCHES) * size]
    rows = length_grouped(chunk, size, step - start, lambda row: int(corpus.lengths[row]))
    width = size // (passes * fabric.world_size)
    first = (part * fabric.world_size + fabric.global_rank) * width
    mine = rows[first : first + width]
    learnt, all_learnt = int(corpus.replies[mine].sum()), int(corpus.replies[rows].sum())
    # Processes average their gradients.
    weight = fabric.world_size * learnt / all_learnt
    return Shown(corpus.images[mine].tolist(), [corpus[row] for row in mine], weight)


def chat_tokenizer(folder: Path) -> Any:
    """The tokenizer of a language model, its end token the one with which its chat template closes a reply.

    A base model's end token is another (Qwen2: ``<|endoftext|>``), though its template writes ``<|im_end|>``. Raises
    CraftError: no chat template, or one that closes a reply with no token of its own.
    """
    tokenizer: Any = load_tokenizer(folder)
    if not tokenizer.chat_template:
        raise CraftError(f"{folder}: the tokenizer has no chat template, with which stage 2 writes conversations")
    messages = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "reply"}]
    closed = tokenizer.apply_chat_template(messages, tokenize=False).rpartition("reply")[2]
    ends = [token for token in tokenizer.get_added_vocab() if closed.startswith(token)]
    if not ends:
        raise CraftError(f"{folder}: the chat template closes a reply with {closed!r}, which is no token of its own")
    tokenizer.eos_token = max(ends, key=len)
    return tokenizer


def updated_language_model(plan: LanguagePlan, seed: int) -> tuple[Any, Any]:
    """A published language model with fresh low-rank updates, in bfloat16 but for these, and its tokenizer. Raises
    CraftError: it is not on this machine, with the command that brings it; its replies end with a token of their own.
    """
    assert plan.pretrained is not None
    assert plan.lora is not None
    folder = base_folder(plan.pretrained)
    tokenizer, own = chat_tokenizer(folder), load_tokenizer(folder).eos_token
    if tokenizer.eos_token != own:  # whoever loads the updates takes the base's tokenizer
        raise CraftError(f"{plan.pretrained} ends with {own}, its chat template's replies with {tokenizer.eos_token}")
    language = load_language_model(folder, dtype="bfloat16", attention=FLOAT32_SDPA)
    torch.manual_seed(seed)
    start_lora(language, plan.pretrained, plan.lora.rank, plan.lora.alpha)
    return language, tokenizer


def add_marks(language: Any, tokenizer: Any) -> None:
    """Let a language model and its tokenizer know the two marks of an image, and let replies end with the message. The
    marks' embeddings start as the mean of the others, and are learnt in stage 2."""
    known = len(tokenizer)
    tokenizer.add_tokens(list(WRAP_TOKENS), special_tokens=True)
    if len(tokenizer) > len(language.get_input_embeddings().weight):
        language.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    marks = tokenizer.convert_tokens_to_ids(list(WRAP_TOKENS))
    tables = [module.weight for module in (language.get_input_embeddings(), language.get_output_embeddings())]
    with torch.no_grad():
        for weight in {id(table): table for table in tables}.values():  # one, where they are tied
            weight[marks] = weight[:known].mean(dim=0)
    language.generation_config.eos_token_id = tokenizer.eos_token_id
