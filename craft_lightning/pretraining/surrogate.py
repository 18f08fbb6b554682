"""A language model taught to read a host's frozen codebook, in two stages of one epoch each (appendix 8).

Everything that does not change is computed once: the codes of all pictures, which all surrogates of a host share, and
the token ids of all conversations. Stage 1 trains the projector on captions, stage 2 projector and language model on
conversations; both resume to the step.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.fabric import Fabric
from lightning.fabric.strategies import ModelParallelStrategy
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh

from craft_lightning.checkpoints.load import load_language_model, load_tower
from craft_lightning.checkpoints.paths import aspect_of, checkpoint_root, tower_folder
from craft_lightning.checkpoints.tokenizer import load_tokenizer, tokenizer_bytes
from craft_lightning.checkpoints.vila_u_writer import write_vlm
from craft_lightning.errors import CraftError
from craft_lightning.models.image_processing import READING, to_pixels
from craft_lightning.models.projector import Projector
from craft_lightning.models.sharding import recompute, shard
from craft_lightning.models.towers.base import Tower
from craft_lightning.models.vlm import WRAP_TOKENS, DiscreteVlm
from craft_lightning.models.vlm_spec import VlmSpec, hub_folder, models_root, resolve
from craft_lightning.pretraining.language_stage import Shown, StoredTokens, VisionLanguageStage
from craft_lightning.pretraining.shards import Shards, digest, tensors_digest
from craft_lightning.pretraining.stored_codes import StoredCodes, StoredConversations, codes_of, token_rows
from craft_lightning.pretraining.surrogate_plan import StagePlan, SurrogatePlan
from craft_lightning.pretraining.training_loop import LoopSpec, run_stage
from craft_lightning.pretraining.turns import TokenizedTurns, TurnEncoder, length_grouped
from data_modules.sources.images import read_square
from data_modules.sources.llava_conversations import PUBLISHED, Talks

STAGES = ("projector", "joint")
_CHUNK_BATCHES = 8


class Cut(ModelParallelStrategy):
    """Weights, gradients and optimiser state in as many parts as there are processes; checkpoints hold them whole."""

    def __init__(self) -> None:
        super().__init__(_cut, tensor_parallel_size=1, save_distributed_checkpoint=False)

    def setup_environment(self) -> None:
        """One mesh of all processes: by itself, Lightning would put one process of each node into it."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()


def _cut(module: nn.Module, mesh: DeviceMesh) -> nn.Module:
    shard(module, mesh["data_parallel"])
    return module


def fabric_of(precision: Any, devices: str = "auto", strategy: str = "auto") -> Fabric:
    """Devices, precision and how several devices share the work."""
    chosen: Any = Cut() if strategy == "fsdp2" else strategy
    return Fabric(accelerator="auto", devices=devices, strategy=chosen, precision=precision)


class SurrogateBuilder:
    """Builds a surrogate, or what is missing of it.

    Args:
        plan: what of. fabric: the devices (launched already). log: takes a line of progress.

    Raises:
        CraftError: host, language model or data are not on this machine, with the command that brings them.
    """

    def __init__(self, plan: SurrogatePlan, fabric: Fabric, log: Callable[[str], None] = print) -> None:
        self.plan, self.fabric = plan, fabric
        self.log = log if fabric.is_global_zero else lambda line: None
        self.host = checkpoint_root(resolve(VlmSpec(plan.tower)))
        self.language_folder = _language_folder(plan.language_model)
        self.output = (plan.output or models_root()) / plan.name

    def build(self) -> Path:
        """All of it, written to ``<output>/<name>`` in VILA-U's layout; returns that folder."""
        if (self.output / "config.json").is_file():
            self.log(f"{self.output}: there already")
            return self.output
        plan = self.plan
        names = tuple(dict.fromkeys(name for each in STAGES for name in getattr(plan, each).sets))
        sets = {name: Talks(plan.data, PUBLISHED[name]) for name in names}
        for talks in sets.values():
            self._tell(talks)
        tower = load_tower(self.host)
        quantizer = tower.quantizer
        if quantizer is None:
            raise CraftError(f"{self.host} has no codebook: a surrogate reads codes")
        coded = {name: self.codes(talks, tower) for name, talks in sets.items()}
        codes = StoredCodes(list(coded.values()))
        offsets = dict(zip(sets, codes.starts, strict=False))
        vlm = self.model(tower)
        tokens = {
            name: StoredConversations(
                [self.tokens(sets[each], getattr(plan, name).form, vlm) for each in getattr(plan, name).sets],
                [offsets[each] for each in getattr(plan, name).sets],
            )
            for name in STAGES
        }
        del sets, vlm
        tower.cpu()
        quantizer.to(self.fabric.device)  # only codewords are looked up from now on
        stored = StoredTokens(codes, None, quantizer.decode, tower.grid)
        for name in STAGES:
            made_of = [*(coded[each] for each in getattr(plan, name).sets), *tokens[name].parts]
            self.stage(name, self.model(tower), stored, tokens[name], codes.kept, made_of)
        self._write(tower)
        return self.output

    def _tell(self, talks: Talks) -> None:
        found, published = len(talks.talks) + talks.without, talks.published
        part = "" if found == published.rows else f" of the {published.rows:,} that were published"
        left = f", {talks.without:,} without a picture left out" if talks.without else ""
        self.log(f"{published.title}: {found:,} conversations{part}, {len(talks.names):,} pictures{left}")

    def codes(self, talks: Talks, tower: Tower) -> Shards:
        """The codes of a set's pictures, computed where they are missing; each process takes its share of the files."""
        assert tower.quantizer is not None
        # A picture's side and the codes' precision are the host's: its tower's digest stands for both.
        facts = {"tower": tensors_digest(dict(tower.used_parameters())), "codebook": tower.quantizer.hash()}
        facts |= {"aspect": aspect_of(self.host), "reading": READING}
        folder = self.plan.work / "codes" / digest([repr(sorted(facts.items())).encode()])[:12]
        shards = Shards(folder / talks.published.title, facts, talks.names)
        skipped: list[str] = []

        def picture(row: int) -> Tensor:
            return to_pixels(read_square(talks.picture(row), tower.image_size, aspect_of(self.host)))

        def skip(error: CraftError) -> None:
            skipped.append(str(error))

        def complete(tensors: Mapping[str, Tensor]) -> bool:
            return self.plan.skip_broken or bool(tensors["kept"].all())

        def made(rows: Sequence[int]) -> Mapping[str, Tensor]:
            tower.to(self.fabric.device)
            found = codes_of(tower, picture, rows, skip if self.plan.skip_broken else None)
            self.log(f"{talks.published.title}: codes of {rows[-1] + 1:,} of {len(talks.names):,} pictures")
            return found

        try:
            count = shards.fill(made, self.fabric.global_rank, self.fabric.world_size, complete)
        except CraftError as error:
            raise CraftError(f"{error} (to leave such rows out: skip_broken: true)") from error
        self.log(f"{talks.published.title}: {count} files of codes computed, {shards.count - count} there already")
        self.fabric.barrier()
        left = (~torch.cat(shards.column("kept"))).nonzero().flatten().tolist()
        if left:
            one = skipped[0] if skipped else f"{talks.names[left[0]]} (skip_broken: false reads such files again)"
            self.log(f"{talks.published.title}: {len(left)} pictures left out, such as {one}")
        return shards

    def tokens(self, talks: Talks, form: str, vlm: DiscreteVlm) -> Shards:
        """The token ids of a set's conversations in one of the two forms, no longer than the plan's ``max_length``."""
        encoder = TurnEncoder(vlm.tokenizer)
        longest = min(self.plan.max_length, vlm.context) - vlm.num_visual + 1
        template = str(vlm.tokenizer.chat_template)
        facts = {"tokenizer": digest([tokenizer_bytes(vlm.tokenizer), template.encode()])}
        facts |= {"form": form, "longest": str(longest)}
        folder = self.plan.work / self.plan.name / form / talks.published.title
        shards = Shards(folder, facts, [digest([repr(talk).encode()]) for talk in talks.talks])

        def encode(turns: Sequence[tuple[str, str]]) -> TokenizedTurns:
            row = encoder.caption(turns[0][1]) if form == "caption" else encoder(turns, True)
            return row.cut(longest)

        def made(rows: Sequence[int]) -> Mapping[str, Tensor]:
            part = [talks.talks[row] for row in rows]
            return token_rows([encode(talk.turns) for talk in part], [talk.picture for talk in part])

        shards.fill(made, self.fabric.global_rank, self.fabric.world_size)
        self.fabric.barrier()
        return shards

    def model(self, tower: Tower) -> DiscreteVlm:
        """The language model as published, the marks of a picture added, behind a new projector."""
        plan = self.plan
        language: Any = load_language_model(self.language_folder)
        tokenizer = chat_tokenizer(self.language_folder)
        add_marks(language, tokenizer)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(plan.seed)
            projector = Projector("mlp2x_gelu", tower.width, language.config.hidden_size)
        return DiscreteVlm(
            tower,
            projector,
            language,
            tokenizer,
            image_wrap=True,
            conversation="chat_template",
            aspect=aspect_of(self.host),
        )

    def stage(
        self,
        name: str,
        vlm: DiscreteVlm,
        stored: StoredTokens,
        tokens: StoredConversations,
        kept: Tensor,
        made_of: Sequence[Shards],
    ) -> None:
        """One epoch of a stage, from the previous one's weights."""
        plan: StagePlan = getattr(self.plan, name)
        if name == "joint":
            self._load("projector", vlm, language=False)
        if self.plan.recompute:
            recompute(vlm.language_model)
        usable = (kept[tokens.pictures] & (tokens.replies > 0)).nonzero().squeeze(1)
        steps = len(usable) // plan.batch_size
        if steps == 0:
            raise CraftError(f"stage {name}: {len(usable)} usable rows, fewer than a batch of {plan.batch_size}")
        order = usable[torch.randperm(len(usable), generator=torch.Generator().manual_seed(self.plan.seed))].tolist()
        batch = partial(_pass, plan, self.fabric, tokens, order[: steps * plan.batch_size])
        loop = LoopSpec(
            steps,
            plan.batch_size,
            lr=plan.lr,
            warmup=plan.warmup,
            weight_decay=plan.weight_decay,
            beta2=plan.beta2,
            clip=plan.clip,
            save_every=plan.save_every,
            seed=self.plan.seed,
            parts=parts_of(plan, self.fabric.world_size),
        )
        self.log(f"stage {name}: {len(usable):,} rows, {steps:,} steps, {loop.parts} passes a step")
        model = VisionLanguageStage(vlm, stored, train_language=name == "joint").train()
        read = digest([usable.numpy().tobytes(), *(shards.digest.encode() for shards in made_of)])[:12]
        # Of all weights that it starts from: the language model's, and the first stage's projector.
        start = tensors_digest(dict(model.named_parameters()))[:12]
        data = f"{len(usable)} rows of {', '.join(plan.sets)} ({read}) from weights {start}"
        run_stage(name, model, batch, loop, self.plan.work / self.plan.name, self.fabric, self.log, data)

    def _load(self, stage: str, vlm: DiscreteVlm, language: bool) -> None:
        """Put a finished stage's weights in place; checkpoints hold them whole, however they were trained."""
        path = self.plan.work / self.plan.name / f"{stage}.ckpt"
        state = torch.load(path, map_location="cpu", weights_only=True, mmap=True)["model"]
        for part in ("projector", "language_model")[: 2 if language else 1]:
            start = f"model.{part}."
            vlm.get_submodule(part).load_state_dict(
                {key.removeprefix(start): value for key, value in state.items() if key.startswith(start)}
            )

    def _write(self, tower: Tower) -> None:
        if self.fabric.is_global_zero:
            vlm = self.model(tower)
            self._load("joint", vlm, language=True)
            self.output.parent.mkdir(parents=True, exist_ok=True)
            write_vlm(
                self.output,
                # The parent's links are followed, since the way up leads through real folders.
                tower=os.path.relpath(
                    tower_folder(self.host).resolve(), self.output.parent.resolve() / self.output.name
                ),
                projector=vlm.projector,
                language_model=vlm.language_model,
                tokenizer=vlm.tokenizer,
                dtype=torch.bfloat16,
                image_wrap=True,
                conversation="chat_template",
                aspect="resize" if vlm.aspect == "resize" else "pad",
            )
            self.log(f"wrote {self.output}")
        self.fabric.barrier()


def parts_of(plan: StagePlan, processes: int) -> int:
    """Passes of a step: as few as hold no more than the plan's rows.

    Raises:
        CraftError: the devices cannot share a batch equally.
    """
    share, rest = divmod(plan.batch_size, processes)
    if rest or not share:
        raise CraftError(f"{processes} devices cannot share a batch of {plan.batch_size} equally")
    return next(parts for parts in range(1, share + 1) if share % parts == 0 and share // parts <= plan.rows)


def _pass(plan: StagePlan, fabric: Fabric, tokens: StoredConversations, order: Sequence[int], number: int) -> Shown:
    """What a process reads in a pass. The loss of a step is the mean over its reply tokens, however it is cut."""
    parts = parts_of(plan, fabric.world_size)
    step, part = divmod(number, parts)
    size = plan.batch_size
    start = step // _CHUNK_BATCHES * _CHUNK_BATCHES
    chunk = order[start * size : (start + _CHUNK_BATCHES) * size]
    rows = length_grouped(chunk, size, step - start, lambda row: int(tokens.lengths[row]))
    width = size // (parts * fabric.world_size)
    first = (part * fabric.world_size + fabric.global_rank) * width
    mine = rows[first : first + width]
    learnt, all_learnt = int(tokens.replies[mine].sum()), int(tokens.replies[rows].sum())
    # Processes average their gradients.
    weight = fabric.world_size * learnt / all_learnt
    return Shown(tokens.pictures[mine].tolist(), [tokens[row] for row in mine], weight)


def chat_tokenizer(folder: Path) -> Any:
    """The tokenizer of a language model, its end token the one with which its chat template closes a reply.

    A base model's end token is another (Qwen2: ``<|endoftext|>``), though its template writes ``<|im_end|>``.

    Raises:
        CraftError: no chat template, or one that closes a reply with no token of its own.
    """
    tokenizer: Any = load_tokenizer(folder)
    if not tokenizer.chat_template:
        raise CraftError(f"{folder}: the tokenizer has no chat template, with which stage 2 writes conversations")
    turns = [{"role": "user", "content": "x"}, {"role": "assistant", "content": "reply"}]
    closed = tokenizer.apply_chat_template(turns, tokenize=False).rpartition("reply")[2]
    ends = [token for token in tokenizer.get_added_vocab() if closed.startswith(token)]
    if not ends:
        raise CraftError(f"{folder}: the chat template closes a reply with {closed!r}, which is no token of its own")
    tokenizer.eos_token = max(ends, key=len)
    return tokenizer


def add_marks(language: Any, tokenizer: Any) -> None:
    """Let a language model and its tokenizer know the two marks of a picture, and let replies end with the turn.

    The marks' embeddings start as the mean of the others (methods.md 6: they are learnt, in stage 2).
    """
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


def _language_folder(name: str) -> Path:
    found = Path(name) if Path(name).is_dir() else hub_folder(name)
    if found is None:
        raise CraftError(f"language model {name} is not on this machine: `hf download {name}`")
    return found
