"""How much memory of a device a run takes, from shapes alone.

The bytes that a block keeps for the backward pass are counted from transformers' blocks as they are (fused attention,
no dropout): a test compares them with what autograd saves. docs/strategies.md sets the sums beside the paper's Table 4.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, nn

from craft_lightning.models.quantizer import BLOCK_BYTES
from craft_lightning.models.sharding import blocks
from craft_lightning.models.vlm import DiscreteVlm

Kind = Literal["single", "ddp", "zero2", "fsdp2"]

TEXT_TOKENS = 128
"""Language-model positions of prompt and reply, the image's not counted: four options and VILA-U's system prompt."""
REPLY_TOKENS = 4
"""Labelled positions of a row: only these have logits."""
PACKED = {"int8": 1.0, "nf4": 0.5 + 1 / 64 + 4 / (64 * 256)}
"""Bytes of a matrix's parameter, scales included; those of int8's rows are next to nothing."""
MASTER, GRADIENT, MOMENTS = 4, 4, 8
"""Bytes of a trained parameter, of its gradient, and of AdamW's two moments."""


@dataclass(frozen=True)
class Stack:
    """Transformer blocks as memory sees them: ``blocks`` that run, ``width``, width of keys and values, of the MLP."""

    blocks: int
    width: int
    kv_width: int
    mlp: int


@dataclass(frozen=True)
class Profile:
    """What a method holds and computes, in numbers.

    Attributes:
        trained, frozen: parameters. outside: those outside of the blocks. block: those of the largest block.
        tables: bytes of the codebook and its norms.
        tower, language: the blocks that run; ``tower`` is None where its shapes are not known (timm).
        tokens: of one image. vocabulary: rows of the output layer.
        distances: FLOPs of an image's distances to all codewords at all levels.
        tower_trains, language_trains: whether some of their parameters are trained.
        matrices: parameters of the language model's frozen linear layers, the output layer not counted.
        language_dtype: what these are held in, see :class:`.vlm_spec.VlmSpec`. reply: tokens that an evaluation makes.
    """

    trained: int
    frozen: int
    tables: int
    outside: int
    block: int
    tower: Stack | None
    language: Stack
    tokens: int
    vocabulary: int
    distances: int
    tower_trains: bool
    language_trains: bool
    matrices: int
    language_dtype: str = "same"
    reply: int = 1 + REPLY_TOKENS

    @property
    def parameters(self) -> int:
        """All of them."""
        return self.trained + self.frozen

    @property
    def packed(self) -> int:
        """Parameters that are held in 8 or 4 bits."""
        return 0 if self.language_dtype == "same" else self.matrices


def profile(module: nn.Module, vlm: DiscreteVlm, language_dtype: str = "same") -> Profile:
    """The numbers of a module (a method, usually on the meta device) around a model."""
    trained = sum(p.numel() for p in module.parameters() if p.requires_grad)
    total = sum(p.numel() for p in module.parameters())
    sizes = [sum(p.numel() for p in block.parameters()) for block in blocks(module)]
    config: Any = vlm.language_model.config
    head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
    keys = config.num_key_value_heads * head
    linear = [m.weight for m in vlm.language_model.modules() if isinstance(m, nn.Linear)]
    output: Any = vlm.language_model.get_output_embeddings()
    tower, quantizer = vlm.tower, vlm.tower.quantizer
    tables: list[Tensor] = [] if quantizer is None else [b for b in quantizer.buffers() if b is not None]
    return Profile(
        trained=trained,
        frozen=total - trained,
        tables=sum(t.numel() * t.element_size() for t in tables),
        outside=total - sum(sizes),
        block=max(sizes, default=0),
        tower=None if tower.mlp is None else Stack(tower.depth, tower.width, tower.width, tower.mlp),
        language=Stack(config.num_hidden_layers, config.hidden_size, keys, config.intermediate_size),
        tokens=tower.num_tokens,
        vocabulary=config.vocab_size,
        distances=2 * tower.num_tokens * quantizer.entries * quantizer.levels * tower.width if quantizer else 0,
        tower_trains=any(p.requires_grad for p in tower.parameters()),
        language_trains=any(p.requires_grad for p in vlm.language_model.parameters()),
        matrices=sum(p.numel() for p in linear if not p.requires_grad and p is not output.weight),
        language_dtype=language_dtype,
        reply=getattr(module, "max_new_tokens", 1 + REPLY_TOKENS),
    )


@dataclass(frozen=True)
class MemoryPlan:
    """What :func:`estimate` is asked about.

    Attributes:
        kind: of strategy. processes: in all. rows: of one process and pass. eval_rows: of an evaluation batch.
        half: blocks compute in bfloat16. frozen_bytes: of a frozen parameter. recompute: gradient checkpointing.
    """

    kind: Kind
    processes: int
    rows: int
    eval_rows: int
    half: bool
    frozen_bytes: int
    recompute: bool = False


@dataclass(frozen=True)
class Estimate:
    """Bytes of one device.

    Attributes:
        weights: parameters and codebook. states: gradients and optimiser. activations: of a training pass.
        evaluation: what an evaluation batch takes, when no activations are kept.
    """

    weights: int
    states: int
    activations: int
    evaluation: int

    @property
    def peak(self) -> int:
        """The largest sum that is held at a time."""
        return self.weights + self.states + max(self.activations, self.evaluation)


def estimate(profile: Profile, plan: MemoryPlan) -> Estimate:
    """Memory of one device under a plan."""
    return Estimate(*(part(profile, plan) for part in (_weights, _states, _activations, _evaluation)))


def _weights(p: Profile, plan: MemoryPlan) -> int:
    frozen = (p.frozen - p.packed) * plan.frozen_bytes + int(p.packed * PACKED.get(p.language_dtype, 0)) + p.tables
    if plan.kind == "fsdp2":
        # The parts of all, what no block holds, and two blocks: the one that runs and the one that is fetched.
        whole = (p.outside + 2 * p.block) * plan.frozen_bytes
        return (p.trained * MASTER + p.frozen * plan.frozen_bytes) // plan.processes + whole + p.tables
    return frozen + p.trained * (2 if plan.kind == "zero2" else MASTER)


def _states(p: Profile, plan: MemoryPlan) -> int:
    if plan.kind == "zero2":  # a half-precision gradient bucket each; master weights, gradients and moments in parts
        return p.trained * 2 + p.trained * (MASTER + 2 + MOMENTS) // plan.processes
    own = p.trained * (GRADIENT + MOMENTS)
    if plan.kind == "fsdp2":
        return own // plan.processes
    return own + (p.trained * GRADIENT if plan.kind == "ddp" else 0)  # DDP's buckets are a second copy


def tower_bytes(stack: Stack, half: bool) -> int:
    """Bytes that a trained block of a tower keeps of one token, [CLS]'s copy of keys and values included."""
    return 29 * stack.width + 4 * stack.mlp if half else 41 * stack.width + 8 * stack.mlp


def language_bytes(stack: Stack, half: bool, trains: bool, inputs: bool = False) -> int:
    """Bytes that a block of the language model keeps of one position.

    A frozen block keeps no inputs of its matrices, only what its norms, attention and gate need; bitsandbytes' int8
    matrices keep theirs (``inputs``). The last block, which runs at the positions alone that are read, keeps less and
    is counted like the others.
    """
    width, mlp = (30, 8) if half and trains else (12, 6) if half else (32, 16) if trains else (16, 12)
    if inputs and not trains:
        width, mlp = (width + 4, mlp + 2) if half else (width + 8, mlp + 4)
    return width * stack.width + mlp * stack.mlp + (4 if half else 8) * stack.kv_width


def _activations(p: Profile, plan: MemoryPlan) -> int:
    if not p.trained:
        return 0
    size, positions = 2 if plan.half else 4, p.tokens + TEXT_TOKENS
    of_language = language_bytes(p.language, plan.half, p.language_trains, inputs=p.language_dtype == "int8")
    kept = plan.rows * positions * _kept(p.language, of_language, size, plan.recompute)
    if p.tower is not None and p.tower_trains:
        kept += plan.rows * p.tokens * _kept(p.tower, tower_bytes(p.tower, plan.half), 4, plan.recompute)
    width = p.tower.width if p.tower is not None else p.language.width
    ends = plan.rows * (positions * p.language.width * size * 4 + p.tokens * width * 4 * 6)
    logits = plan.rows * REPLY_TOKENS * p.vocabulary * 4 * 3
    # Autocast multiplies by copies of float32 weights; without recomputing, the backward pass needs them again.
    copied = plan.half and not plan.recompute
    copies = 2 * (p.trained + (p.frozen - p.packed if plan.frozen_bytes == 4 else 0)) if copied else 0
    if p.packed:  # the largest matrix in whole numbers, and its copy: less than half of a block
        copies += p.block // 2 * size
    return kept + ends + logits + copies + (BLOCK_BYTES if p.tables else 0)


def _kept(stack: Stack, per_block: int, size: int, recompute: bool) -> int:
    """Bytes of one position over all blocks: everything, or the blocks' inputs and one block at a time."""
    return stack.blocks * stack.width * size + per_block if recompute else stack.blocks * per_block


def _evaluation(p: Profile, plan: MemoryPlan) -> int:
    size, positions = 2 if plan.half else 4, p.tokens + TEXT_TOKENS
    cache = (positions + p.reply - 1 - REPLY_TOKENS) * p.language.blocks * 2 * p.language.kv_width * size
    passing = positions * (3 * p.language.mlp + 4 * p.language.width) * size + p.vocabulary * 4
    return plan.eval_rows * (cache + passing) + (BLOCK_BYTES if p.tables else 0)
