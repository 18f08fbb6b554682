"""Stages 1 and 2: language models that read a frozen codebook, after text-only stages for new ones.

The tower is frozen, so every image's codes are computed once and stored as integers (features, for a continuous twin);
a stage then sees token rows only. The loss is the text loss on replies, nothing else.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import cycle
from random import Random
from typing import Any, NamedTuple, TypeVar

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedModel, Qwen2Config, Qwen2ForCausalLM

from craft_lightning.models.langbridge import LangBridge
from craft_lightning.models.towers.tower import Tower
from craft_lightning.models.vlm import DiscreteVlm
from craft_lightning.pretraining.plans import LanguageSpec
from craft_lightning.pretraining.training_loop import FLOAT32_SDPA
from craft_lightning.text.prompts import PLACEHOLDER, pad_right
from craft_lightning.types import IGNORED_LABEL, IMAGE_TOKEN_ID, VisualTokens, VqaBatch

Item = TypeVar("Item")

CHAT: Any = {"image_wrap": True, "conversation": "chat_template"}
"""How every language model that is trained here is shown images and messages."""
CHUNK_BATCHES = 8
"""Batches of a chunk: see :func:`length_grouped`."""
_LETTERS, _COUNTS, _LOOKUPS, _LISTS = "ABCDE", (2, 3, 4, 4, 4, 5), 8, 4
_WIDTH_STEP = 32
"""Batches are padded to multiples of this: every new width costs a compilation of the bfloat16 kernels."""


@dataclass
class TokenizedConversation:
    """Ids and labels of one conversation, equally long; one :data:`IMAGE_TOKEN_ID` if it has an image."""

    ids: list[int] = field(default_factory=list)
    labels: list[int] = field(default_factory=list)

    def write(self, tokens: Sequence[int], learnt: bool = False) -> None:
        """Add tokens, which carry a loss or not."""
        self.ids += tokens
        self.labels += tokens if learnt else [IGNORED_LABEL] * len(tokens)


class ConversationEncoder:
    """Writes conversations with a tokenizer's chat template, message by message.

    The template must write every message alike, and once what opens a conversation (a beginning-of-sequence token, a
    system message); both are checked.
    """

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        first, full, end = self._render("x"), self._render("x", "reply"), tokenizer.eos_token
        if f"reply{end}" not in full:
            raise ValueError(f"the chat template does not close a reply with {end!r}")
        self.tail = self._encode(full.split(f"reply{end}")[1])
        later = self._render("x", "reply", "x").removeprefix(full)
        if not first.endswith(later):
            raise ValueError("the chat template writes a second message unlike a first one")
        self.opening = first.removesuffix(later)
        self.start = [] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id]

    def _render(self, *texts: str) -> str:
        """Messages of the user and replies in turn; after a message, what opens its reply."""
        messages = [{"role": role, "content": text} for role, text in zip(cycle(("user", "assistant")), texts)]
        return self.tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=len(texts) % 2 == 1)

    def _encode(self, text: str) -> list[int]:
        return self.tokenizer.encode(text, add_special_tokens=False) if text else []

    def __call__(self, pairs: Sequence[tuple[str, str]], image: bool) -> TokenizedConversation:
        """Encode (message, reply) pairs; the image, if any, opens the first."""
        row = TokenizedConversation()
        for k, (message, reply) in enumerate(pairs):
            if k:
                row.write(self.tail)
            prompt = self._render(f"{PLACEHOLDER}\n{message}" if image and k == 0 else message)
            before, *after = prompt.removeprefix(self.opening if k else "").split(PLACEHOLDER)
            row.write(self._encode(before))
            for piece in after:
                row.write([IMAGE_TOKEN_ID, *self._encode(piece)])
            row.write([*self._encode(reply), self.tokenizer.eos_token_id], learnt=True)
        return row

    def caption(self, text: str) -> TokenizedConversation:
        """The bare image followed by its caption, as stage 1 shows them."""
        row = TokenizedConversation()
        row.write([*self.start, IMAGE_TOKEN_ID])
        row.write([*self._encode(text), self.tokenizer.eos_token_id], learnt=True)
        return row


def lookup_primer(tokenizer: Any, words: Sequence[str], rng: Random, asked_first: bool) -> TokenizedConversation:
    """The barest form of looking up, where the circuit forms first: a lettered list and a word of it, then its letter.

    Only the letters carry a loss. Two orders, two circuits: a word asked for *after* the list finds its equal there;
    a word that stands *before* the list (as an image does) has to mark the option that equals it.

    Args:
        words: single tokens after a space. rng: draws two to five options, and what is asked.
        asked_first: several lists, each behind its word; else one list and eight words.
    """
    newline, dot, *letters = (tokenizer.encode(text, add_special_tokens=False)[-1] for text in ("\n", ".", *_LETTERS))
    row = TokenizedConversation()
    row.write([] if tokenizer.bos_token_id is None else [tokenizer.bos_token_id])

    def listing() -> list[int]:
        drawn = rng.sample(words, rng.choice(_COUNTS))
        return [tokenizer.encode(f" {word}", add_special_tokens=False)[-1] for word in drawn]

    options = listing()
    for number in range(_LISTS if asked_first else _LOOKUPS):
        k = rng.randrange(len(options))
        lines = [token for pair in zip(letters, options, strict=False) for token in (pair[0], dot, pair[1], newline)]
        if asked_first:
            row.write([options[k], newline, *lines])
        else:
            row.write([*([] if number else lines), options[k]])
        row.write([letters[k]], learnt=True)
        row.write([newline])
        options = listing() if asked_first else options
    return row


def collate(rows: Sequence[TokenizedConversation], pad_id: int) -> VqaBatch:
    """A batch for :meth:`DiscreteVlm.forward`; pixels are absent because visual tokens are precomputed."""
    n, spare = len(rows), -max(len(row.ids) for row in rows) % _WIDTH_STEP
    none = torch.full((n,), -1)
    return VqaBatch(
        pixel_values=torch.empty(n, 0),
        input_ids=F.pad(pad_right([r.ids for r in rows], pad_id), (0, spare), value=pad_id),
        attention_mask=F.pad(pad_right([[1] * len(r.ids) for r in rows], 0), (0, spare)).bool(),
        labels=F.pad(pad_right([r.labels for r in rows], IGNORED_LABEL), (0, spare), value=IGNORED_LABEL),
        prompt_lengths=torch.zeros(n, dtype=torch.long),
        label_ids=none,
        caption_ids=none,
        seen=torch.ones(n, dtype=torch.bool),
        answers=("",) * n,
        keys=tuple(f"conversation {number} of a batch" for number in range(n)),
        option_counts=(0,) * n,
    )


def length_grouped(chunk: Sequence[Item], batch_size: int, place: int, length: Callable[[Item], int]) -> list[Item]:
    """Batch number ``place`` of a chunk whose batches hold rows of about one length, so that little is padding.

    The chunk is sorted and cut into batches, which are visited in a fixed order of their own; every row is used once.
    """
    order = torch.randperm(len(chunk) // batch_size, generator=torch.Generator().manual_seed(0)).tolist()
    start = order[place] * batch_size
    return sorted(chunk, key=length)[start : start + batch_size]


def new_language_model(spec: LanguageSpec, tokenizer: Any, seed: int) -> PreTrainedModel:
    """A decoder with fresh weights, made for small widths (see :func:`start_lookups`)."""
    torch.manual_seed(seed)
    shape: dict[str, Any] = {
        "vocab_size": len(tokenizer),
        "hidden_size": spec.width,
        "intermediate_size": spec.mlp,
        "num_hidden_layers": spec.layers,
        "num_attention_heads": spec.heads,
        "num_key_value_heads": spec.kv_heads,
        "max_position_embeddings": spec.context,
        "initializer_range": spec.width**-0.5,
        "tie_word_embeddings": False,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "rope_parameters": {"rope_type": "default", "rope_theta": spec.rope_base},
    }
    kinds: Any = (LlamaForCausalLM, LlamaConfig) if spec.style == "llama" else (Qwen2ForCausalLM, Qwen2Config)
    model = kinds[0]._from_config(kinds[1](**shape), attn_implementation=FLOAT32_SDPA)
    start_lookups(model)
    return model


@torch.no_grad()
def start_lookups(model: Any, common: float = 0.7, sharpness: float = 4.0) -> None:
    """Re-scale and tie fresh weights so that a small decoder learns to look an option's letter up.

    That is a two-step circuit: every word of the list has to know the letter that stands two tokens before it, and
    the word that is asked for has to find its equal in the list. From the usual initial weights it does not form
    within thousands of steps at width 128; from these it forms within two hundred. Matrices start at ``width ** -0.5``
    (the config's ``initializer_range``), and

    * embeddings at 1, outputs of attention and MLP at ``(2 layers) ** -0.5`` of theirs, so that the words are not
      drowned by what the first block adds;
    * the heads of the first block look 1, 2, 3 ... tokens back: all embeddings share one direction (``common``), which
      queries and keys read into the fast rotary planes, turned by the offset; ``sharpness`` is by how much the wanted
      offset's score exceeds its neighbours';
    * queries of the other blocks equal their keys, so that equal words attend to each other.
    """
    config = model.config
    width, heads, groups = config.hidden_size, config.num_attention_heads, config.num_key_value_heads
    size = width // heads
    shared = torch.full((width,), width**-0.5)
    table = model.get_input_embeddings().weight
    table.mul_(width**0.5)
    table.sub_((table @ shared)[:, None] * shared).add_(common * width**0.5 * shared)
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.mul_((2 * config.num_hidden_layers) ** -0.5)
        layer.mlp.down_proj.weight.mul_((2 * config.num_hidden_layers) ** -0.5)
    first, *others = (layer.self_attn for layer in model.model.layers)
    turn = model.model.rotary_emb.inv_freq[: size // 2].float()
    fast = (turn > 0.1).float()
    along = width**0.5 * common / (1 + common**2) ** 0.5
    strength = (sharpness * size**0.5 / (along**2 * ((1 - turn.cos()) * fast).sum())) ** 0.5
    first.k_proj.weight.mul_(0.1)
    first.q_proj.weight.mul_(0.1)
    for group in range(groups):
        pattern = torch.cat([fast, torch.zeros_like(fast)])
        first.k_proj.weight[group * size : (group + 1) * size] += strength * pattern[:, None] * shared
    for head in range(heads):
        angle = turn * (head + 1)
        pattern = torch.cat([angle.cos() * fast, -angle.sin() * fast])
        first.q_proj.weight[head * size : (head + 1) * size] += strength * pattern[:, None] * shared
        for attention in others:
            group = head * groups // heads
            key = attention.k_proj.weight[group * size : (group + 1) * size]
            attention.q_proj.weight[head * size : (head + 1) * size] = key


class TextStage(nn.Module):
    """The text-only stage: mean next-token loss on replies of conversations without images (a :class:`VqaBatch` whose
    prompts hold no placeholder)."""

    def __init__(self, language_model: PreTrainedModel) -> None:
        super().__init__()
        self.language_model = language_model

    def forward(self, batch: VqaBatch) -> dict[str, Tensor]:
        """The one term of the loss. Rows are right-padded, so causal attention needs no mask."""
        hidden = self.language_model.get_decoder()(input_ids=batch.input_ids, use_cache=False).last_hidden_state
        row, column = (batch.labels != IGNORED_LABEL).nonzero(as_tuple=True)
        head = self.language_model.get_output_embeddings()
        with torch.autocast(hidden.device.type, enabled=False):
            logits = head(hidden[row, column - 1].to(head.weight.dtype)).float()
            return {"text": F.cross_entropy(logits, batch.labels[row, column])}


@dataclass(frozen=True)
class StoredTokens:
    """What the frozen tower made of a pool of images, ready to be looked up.

    Attributes:
        look_up: rows -> codes ``[n, N, R]`` (int16 or int32); of a continuous tower features ``[n, N, d]`` (float16).
        decode: codes -> ``[..., N, d]`` float32 sums of codewords; None for a continuous tower.
        grid: (rows, columns).
    """

    look_up: Callable[[Sequence[int]], Tensor]
    decode: Callable[[Tensor], Tensor] | None
    grid: tuple[int, int]

    def take(self, rows: Sequence[int], device: torch.device | str = "cpu") -> VisualTokens:
        """Visual tokens of some images, without gradients, on the device where ``decode`` has its codewords."""
        stored = self.look_up(rows).to(device)
        codes = None if self.decode is None else stored.long()
        tokens = stored.float() if self.decode is None or codes is None else self.decode(codes)
        return VisualTokens(tokens, tokens, codes, None, self.grid)


@torch.no_grad()
def store_tokens(tower: Tower, images: Callable[[Sequence[int]], Tensor], count: int, chunk: int = 100) -> StoredTokens:
    """Run the frozen tower once over images ``0..count-1``; ``images`` maps rows to pixels in [-1, 1]."""
    parts = []
    for start in range(0, count, chunk):
        visual = tower.encode(images(range(start, min(start + chunk, count))))
        parts.append(visual.features.half() if visual.codes is None else visual.codes.to(torch.int16))
    stored, decode = torch.cat(parts), None if tower.quantizer is None else tower.quantizer.decode
    return StoredTokens(lambda rows: stored[rows], decode, tower.grid)


class Shown(NamedTuple):
    """What a pass of a stage reads.

    Attributes:
        rows: images of the pool. conversations: one about each. weight: of the mean over the pass's reply tokens; a
            step of several passes or processes weighs each by its share of the step's tokens.
    """

    rows: Sequence[int]
    conversations: Sequence[TokenizedConversation]
    weight: float = 1.0


class VisionLanguageStage(nn.Module):
    """Stage 1 (projector) or stage 2 (projector and language model) on stored visual tokens; the word matrix of a
    LangBridge follows the language model's embeddings. Of one with low-rank updates these alone are trained and saved.
    """

    def __init__(self, vlm: DiscreteVlm, stored: StoredTokens, train_language: bool) -> None:
        super().__init__()
        layers: list[Any] = [layer for layer in vlm.language_model.modules() if hasattr(layer, "lora_A")]
        updates = nn.ModuleList(part for layer in layers for part in (layer.lora_A, layer.lora_B))
        self.projector, self.language_model = vlm.projector, updates if layers else vlm.language_model
        self.language_model.requires_grad_(train_language)
        self._vlm, self._stored = [vlm], stored  # in a list: what is always frozen is no part of a stage's checkpoint

    def forward(self, batch: Shown) -> dict[str, Tensor]:
        """The one term of the loss."""
        (vlm,) = self._vlm
        if isinstance(self.projector, LangBridge):  # a loaded model finds the words where they are, so does every step
            table: Any = vlm.language_model.get_input_embeddings()
            if table.weight.requires_grad:
                self.projector.follow(table.weight)
        text = collate(batch.conversations, vlm.tokenizer.pad_token_id).to(vlm.device)
        return {"reply": batch.weight * vlm(self._stored.take(batch.rows, vlm.device), text).answer_loss}
