"""A discrete vision-language model: encode, quantise, project, language model. No training code."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence
from transformers import DynamicCache, PreTrainedModel, PreTrainedTokenizerBase

from craft_lightning.errors import CraftError
from craft_lightning.models.branches import branches_known, find_branches
from craft_lightning.models.image_processing import Aspect
from craft_lightning.models.langbridge import LangBridge
from craft_lightning.models.last_block import hidden_at
from craft_lightning.models.pruning import positions_with_gaps
from craft_lightning.models.towers.tower import Attention, Tower
from craft_lightning.types import IGNORED_LABEL, IMAGE_TOKEN_ID, MethodOutput, VisualTokens, VqaBatch

logger = logging.getLogger(__name__)

WRAP_TOKENS = ("<im_start>", "<im_end>")
PROMPT_TAIL = 4
"""Last prompt tokens that no trimming takes: they open the assistant's turn."""


class Projector(nn.Module):
    """Tower width to language-model width, ``[..., width]`` to ``[..., llm_width]``, with the host's parameter names.
    ``kind``: ``mlpNx_gelu`` (N linear layers, exact GELU between), ``linear`` or ``identity``. Raises CraftError:
    another kind, or ``identity`` between different widths."""

    def __init__(self, kind: str, width: int, llm_width: int) -> None:
        super().__init__()
        self.kind = kind
        depth = kind.removeprefix("mlp").removesuffix("x_gelu")
        if kind == "linear":
            self.layers: nn.Module = nn.Linear(width, llm_width)
        elif kind == "identity" and width == llm_width:
            self.layers = nn.Identity()
        elif kind == f"mlp{depth}x_gelu" and depth.isdecimal() and int(depth) > 0:
            layers: list[nn.Module] = [nn.Linear(width, llm_width)]
            for _ in range(int(depth) - 1):
                layers += [nn.GELU(), nn.Linear(llm_width, llm_width)]
            self.layers = nn.Sequential(*layers)
        else:
            raise CraftError(
                f"no projector {kind!r} from width {width} to {llm_width}; known: mlpNx_gelu, linear, identity"
            )

    def forward(self, tokens: Tensor) -> Tensor:
        return self.layers(tokens)


class _Read(NamedTuple):
    """What the language model made of images and prompts.

    Attributes:
        batch: as it was read, trimmed where it exceeded the context.
        hidden: ``[B, L | n, D]``, before the output layer, at all positions or at those that were asked for.
        mask: ``[B, L]`` bool, False at padding.
        gaps: ``[B, L]`` position ids where pruned tokens left gaps in them, else None.
    """

    batch: VqaBatch
    hidden: Tensor
    mask: Tensor
    gaps: Tensor | None


def _last(batch: VqaBatch, mask: Tensor, positions: Tensor) -> Tensor:
    """``[B, 1]``, the last position of each row."""
    return mask.sum(dim=1, keepdim=True) - 1


def _labelled(labels: Tensor) -> Tensor:
    """``[B, n]`` columns of the labels of each row; a row that has fewer than another is filled with others."""
    labelled = (labels != IGNORED_LABEL).int()
    return labelled.argsort(dim=1, descending=True, stable=True)[:, : max(1, int(labelled.sum(dim=1).max()))]


def _before_labels(batch: VqaBatch, mask: Tensor, positions: Tensor) -> Tensor:
    """``[B, n]``, the positions at which the tokens of :func:`_labelled` are foretold."""
    return (positions.gather(1, _labelled(batch.labels)) - 1).clamp(min=0)


class DiscreteVlm(nn.Module):
    """Tower, projector and language model; also the continuous twin, whose tower has no quantiser. Raises CraftError:
    wrapping without the two tokens in the tokenizer, or a word of a LangBridge that is not in it.

    Args:
        tower: turns pixels into visual tokens. projector: their width to that of the language model; a
            :class:`.langbridge.LangBridge` takes its words' embeddings from the language model here.
        language_model: a transformers causal language model. tokenizer: its tokenizer, with a pad token.
        image_wrap: put visual tokens between the embeddings of ``<im_start>`` and ``<im_end>``. Prompts then hold
            the bare placeholder: the wrapping happens here and nowhere else.
        conversation: ``"vicuna_v1"`` or ``"chat_template"``, for whoever writes prompts.
        aspect: how an image becomes a square, for whoever makes pixels (:func:`.image_processing.preprocess`).

    Attributes:
        grid: (rows, columns) of visual tokens. image_size: side of the input image in pixels.
        wrap_ids: (start, end) or None. codebook_hash: SHA-256 of the tower's codebook, None for a continuous tower.
        num_visual: language-model positions that a whole image takes, wrapping included.
        context: positions that the language model was trained for.
        token_prior: ``[K]`` counts of first-level codes that came with an adapted encoder, or None.
        encoder_facts, adapter_facts: ``config.json`` of the adapted encoder, and of the LangBridge, that were plugged
            in, or None.
        lockstep: weights are shared with other processes, so all of them take the same number of passes per batch.
    """

    def __init__(
        self,
        tower: Tower,
        projector: Projector | LangBridge,
        language_model: PreTrainedModel,
        tokenizer: PreTrainedTokenizerBase,
        *,
        image_wrap: bool = False,
        conversation: Literal["vicuna_v1", "chat_template"] = "vicuna_v1",
        aspect: Aspect = "resize",
    ) -> None:
        super().__init__()
        self.tower, self.projector = tower, projector
        self.language_model, self.tokenizer = language_model, tokenizer
        self.conversation, self.aspect = conversation, aspect
        self.grid, self.image_size = tower.grid, tower.image_size
        self.wrap_ids = _wrap_ids(tokenizer) if image_wrap else None
        self.codebook_hash = None if tower.quantizer is None else tower.quantizer.hash()
        self.num_visual = tower.num_tokens + (2 if image_wrap else 0)
        self.context = context_length(language_model.config)
        if isinstance(projector, LangBridge) and tokenizer is not None:  # None: a skeleton, without weights
            embedding: Any = language_model.get_input_embeddings()
            projector.attach(tokenizer, embedding.weight)
        self.token_prior: Tensor | None = None
        self.encoder_facts: Mapping[str, Any] | None = None
        self.adapter_facts: Mapping[str, Any] | None = None
        self.lockstep = False

    @property
    def device(self) -> torch.device:
        """Where the language model is."""
        return next(self.language_model.parameters()).device

    def letter_ids(self, letters: str = "ABCDEFGH") -> dict[str, int]:
        """Token ids of the letters whose reply is a single token, as it is written after the assistant's mark."""
        before, gap = (":", " ") if self.conversation == "vicuna_v1" else ("\n", "")
        mark = self.tokenizer.encode(before, add_special_tokens=False)
        found = {}
        for letter in letters:
            ids = self.tokenizer.encode(f"{before}{gap}{letter}", add_special_tokens=False)
            if ids[: len(mark)] == mark and len(ids) == len(mark) + 1:
                found[letter] = ids[-1]
        return found

    def encode(self, pixel_values: Tensor, cls: Tensor | None = None, attention: Attention = "one_way") -> VisualTokens:
        """See :meth:`.tower.Tower.encode`."""
        return self.tower.encode(pixel_values, cls, attention)

    def embed(
        self, tokens: Tensor, input_ids: Tensor, attention_mask: Tensor, counts: Tensor | None = None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Language-model inputs, right-padded, with the projected visual tokens in place of the placeholder. Raises
        CraftError: a row without exactly one placeholder.

        Args:
            tokens: ``[B, M, d]`` visual tokens. counts: ``[B]`` how many of them each row has, if not all M.
            input_ids: ``[B, T]``, right-padded, one :data:`IMAGE_TOKEN_ID` per row. attention_mask: ``[B, T]`` bool.

        Returns:
            ``inputs_embeds [B, L, D]`` (zeros at padding), ``attention_mask [B, L]`` bool, and ``positions [B, T]``:
            where each text token went (the placeholder: its first visual position; padding: unspecified, in range).
        """
        is_image = (input_ids == IMAGE_TOKEN_ID) & attention_mask.bool()
        if not bool((is_image.sum(dim=1) == 1).all()):
            raise CraftError("every prompt needs exactly one image placeholder")
        embedding = self.language_model.get_input_embeddings()
        text = embedding(input_ids.masked_fill(input_ids == IMAGE_TOKEN_ID, 0))
        visual = self.project(tokens).to(text.dtype)
        if self.wrap_ids is not None:
            ends = embedding(torch.tensor(self.wrap_ids, device=text.device)).expand(len(text), 2, -1)
            visual = torch.cat([ends[:, :1], visual, ends[:, 1:]], dim=1)
        rows, width, most = *input_ids.shape, visual.shape[1]
        extra: Tensor | int = most if counts is None else counts[:, None] + (most - tokens.shape[1])
        at = is_image.int().argmax(dim=1, keepdim=True)
        lengths = attention_mask.sum(dim=1, keepdim=True) - 1 + extra
        total = int(lengths.max())
        slot = torch.arange(total, device=text.device).expand(rows, total)
        inside = slot - at
        if counts is not None and self.wrap_ids is not None:
            inside = torch.where(inside == extra - 1, most - 1, inside)  # the end token follows the last one kept
        source = torch.where(slot < at, slot, torch.where(slot < at + extra, width + inside, slot - extra + 1))
        mask = slot < lengths
        flat = source.clamp(0, width + most - 1) + torch.arange(rows, device=text.device)[:, None] * (width + most)
        joined = torch.cat([text, visual], dim=1).flatten(0, 1)
        embeds = joined.index_select(0, flat.flatten()).view(rows, total, -1) * mask.unsqueeze(-1)
        old = torch.arange(width, device=text.device).expand(rows, width)
        positions = torch.where(old > at, old + extra - 1, old)
        return embeds, mask, positions.clamp(0, total - 1)

    def project(self, tokens: Tensor) -> Tensor:
        """``[B, M, d]`` visual tokens to ``[B, M, D]``, in the projector's dtype."""
        parameter = next(self.projector.parameters(), None)
        return self.projector(tokens if parameter is None else tokens.to(parameter.dtype))

    def forward(self, visual: VisualTokens, batch: VqaBatch) -> MethodOutput:
        """Logits at the labelled positions only, and the answer loss (equation 2, mean over tokens), in float32.

        A prompt that does not fit the context loses text of its question, never visual tokens or the answer. Raises
        CraftError: the answer and the image alone do not fit the context.
        """
        read = self._read(visual, batch, reserve=0, where=_before_labels)
        targets = read.batch.labels.gather(1, _labelled(read.batch.labels))
        inside = targets != IGNORED_LABEL
        logits, targets = self._logits(read.hidden[inside]), targets[inside]
        loss = F.cross_entropy(logits, targets, reduction="sum") / max(len(targets), 1)
        return MethodOutput(visual=visual, logits=logits, targets=targets, answer_loss=loss)

    def answer_logits(self, visual: VisualTokens, batch: VqaBatch) -> Tensor:
        """``[B, V]`` float32 logits of the first reply token, read at the last prompt position."""
        return self._logits(self._read(visual, prompts_only(batch), reserve=1, where=_last).hidden[:, 0])

    def prompt_logits(self, visual: VisualTokens, batch: VqaBatch) -> tuple[Tensor, Tensor]:
        """Logits ``[B, L, V]`` float32 at every position that the language model reads, and ``input_ids [B, T]``.

        L counts text and all visual positions, wrapping included; ``input_ids`` are the prompts as they were read (cut
        where they exceeded the context) with one placeholder for the image. For prompts of equal length.
        """
        read = self._read(visual, prompts_only(batch), reserve=0)
        return self._logits(read.hidden), read.batch.input_ids

    def generate(self, visual: VisualTokens, batch: VqaBatch, max_new_tokens: int = 5) -> list[str]:
        """Greedy replies to the prompts of a batch (its replies, if any, are not read); stops at the end token."""
        return self.reply(visual, batch, max_new_tokens)[0]

    def reply(self, visual: VisualTokens, batch: VqaBatch, max_new_tokens: int) -> tuple[list[str], Tensor]:
        """As :meth:`generate`, and ``[B, V]`` logits of the first token, as :meth:`answer_logits` finds them."""
        ids, logits = self._greedy(visual, batch, max_new_tokens)
        return [text.strip() for text in self.tokenizer.batch_decode(ids, skip_special_tokens=True)], logits

    @torch.no_grad()
    def _greedy(self, visual: VisualTokens, batch: VqaBatch, max_new_tokens: int) -> tuple[list[list[int]], Tensor]:
        """Token ids of the replies, up to and including the end token, and the logits of their first tokens."""
        cache, decoder = DynamicCache(config=self.language_model.config), self.language_model.get_decoder()
        read = self._read(visual, prompts_only(batch), max_new_tokens, where=_last, cache=cache)
        mask, last = read.mask, read.mask.sum(dim=1, keepdim=True) - 1
        where = last if read.gaps is None else read.gaps.gather(1, last)
        first = logits = self._logits(read.hidden[:, 0])
        stops = torch.tensor(sorted(self._stop_ids()), device=mask.device)
        finished = torch.zeros(len(mask), dtype=torch.bool, device=mask.device)
        found: list[Tensor] = []
        while True:
            token = logits.argmax(dim=-1)
            found.append(token.masked_fill(finished, stops[0]))
            finished = finished | torch.isin(token, stops)
            if len(found) == max_new_tokens or (bool(finished.all()) and not self.lockstep):
                break
            mask, where = F.pad(mask, (0, 1), value=True), where + 1
            one = {"input_ids": found[-1].unsqueeze(1), "attention_mask": mask.long(), "position_ids": where}
            logits = self._logits(decoder(**one, cache=cache, use_cache=True).last_hidden_state[:, 0])
        replies, known = torch.stack(found, dim=1).tolist(), set(stops.tolist())
        ends = [next((place for place, token in enumerate(row, 1) if token in known), None) for row in replies]
        return [row[:end] for row, end in zip(replies, ends, strict=True)], first

    def _stop_ids(self) -> set[int]:
        """End tokens of the tokenizer and of the model's generation config."""
        configured = self.language_model.generation_config.eos_token_id
        ids = configured if isinstance(configured, list) else [configured]
        stops = {i for i in [*ids, self.tokenizer.eos_token_id] if i is not None}
        if not stops:
            raise CraftError("neither the tokenizer nor the generation config names an end token")
        return stops

    def _read(
        self,
        visual: VisualTokens,
        batch: VqaBatch,
        reserve: int,
        where: Callable[[VqaBatch, Tensor, Tensor], Tensor] | None = None,
        cache: DynamicCache | None = None,
    ) -> _Read:
        """Run the language model over a batch that leaves room for ``reserve`` new tokens; fills the cache, if any.

        ``where`` says at which positions ``[B, n]`` its output is read (by default at all), of the batch as it is read,
        ``mask`` and ``positions`` of :meth:`embed`.

        Rows are padded on the right and read without a mask: causal attention never looks there, and without a mask the
        fast kernel runs. Positions with gaps need it: transformers would take each gap for the start of another text.
        """
        selection, num_tokens = visual.selection, visual.features.shape[1]
        with_gaps, marks = selection is not None and selection.gaps, 0 if self.wrap_ids is None else 2
        room = self.context - reserve - marks + 1 - (num_tokens if with_gaps else visual.tokens.shape[1])
        if batch.input_ids.shape[1] > room:
            batch, rows = trim_prompts(batch, room)
            if rows:
                logger.warning("%d items lost text: the context is %d positions", rows, self.context)
        counts = None if selection is None else selection.counts
        embeds, mask, positions = self.embed(visual.tokens, batch.input_ids, batch.attention_mask, counts)
        gaps, masked = None, {}
        image, decoder = (batch.input_ids == IMAGE_TOKEN_ID).int().argmax(dim=1), self.language_model.get_decoder()
        if selection is not None and selection.gaps:
            gaps = positions_with_gaps(selection, num_tokens, mask, image + marks // 2)
            masked = {"attention_mask": mask.long(), "position_ids": gaps}
        at = None if where is None else where(batch, mask, positions)
        if batch.image_of is not None and branches_known(decoder.config):
            prefix = image + 1 + mask.sum(dim=1) - batch.attention_mask.sum(dim=1)  # all that is not text is the image
            kept = [()] * len(batch) if selection is None else selection.positions.tolist()
            heads = [row[:end] for row, end in zip(batch.input_ids.tolist(), image.tolist(), strict=True)]
            # Text before the image may have been cut in one of them, other tokens pruned at random.
            alike = [repr(row) for row in zip(batch.image_of.tolist(), prefix.tolist(), heads, kept, strict=True)]
            if branches := find_branches(alike, prefix, mask, embeds.shape[2]):
                return _Read(batch, branches.read(decoder, embeds, gaps, at, cache), mask, gaps)
        inputs = {"inputs_embeds": embeds, "cache": cache, "use_cache": cache is not None, **masked}
        hidden = decoder(**inputs).last_hidden_state if at is None else hidden_at(decoder, at, **inputs)
        return _Read(batch, hidden, mask, gaps)

    def _logits(self, hidden: Tensor) -> Tensor:
        head = self.language_model.get_output_embeddings()
        with torch.autocast(hidden.device.type, enabled=False):
            return head(hidden.to(head.weight.dtype)).float()


def _wrap_ids(tokenizer: PreTrainedTokenizerBase) -> tuple[int, int]:
    vocabulary = tokenizer.get_vocab()
    if missing := [token for token in WRAP_TOKENS if token not in vocabulary]:
        raise CraftError(f"the checkpoint wraps images, but its tokenizer has no {' and no '.join(missing)}")
    return vocabulary[WRAP_TOKENS[0]], vocabulary[WRAP_TOKENS[1]]


def prompts_only(batch: VqaBatch) -> VqaBatch:
    """The batch without replies: positions from ``prompt_lengths`` on are masked, or cut off where no row has more."""
    width = int(batch.prompt_lengths.max())
    mask = torch.arange(width, device=batch.input_ids.device) < batch.prompt_lengths[:, None]
    labels = torch.full_like(batch.labels[:, :width], IGNORED_LABEL)
    return replace(batch, input_ids=batch.input_ids[:, :width], attention_mask=mask, labels=labels)


def trim_prompts(batch: VqaBatch, room: int) -> tuple[VqaBatch, int]:
    """The batch with at most ``room`` positions per row (the placeholder counts as one), and the number of rows cut.

    The beginning of the question goes first (after the placeholder), then text before the image, then the end of the
    reply; the first token of the row, the placeholder, the last :data:`PROMPT_TAIL` prompt tokens and the reply's first
    stay. Raises CraftError: what has to stay is longer than ``room``.
    """
    lengths, prompts = batch.attention_mask.sum(dim=1), batch.prompt_lengths
    kept = []
    for ids, length, prompt, key in zip(batch.input_ids, lengths.tolist(), prompts.tolist(), batch.keys, strict=True):
        places = torch.arange(length, device=ids.device)
        if (excess := length - room) > 0:
            image, end = int((ids == IMAGE_TOKEN_ID).int().argmax()), prompt - PROMPT_TAIL
            expendable = [*range(image + 1, end), *range(1, min(image, end)), *range(length - 1, prompt, -1)]
            if excess > len(expendable):
                raise CraftError(f"{key}: the image does not fit the context, {excess - len(expendable)} too many")
            places = places[~torch.isin(places, torch.tensor(expendable[:excess], device=ids.device))]
        kept.append(places)
    new = torch.tensor([len(places) for places in kept], device=lengths.device)
    input_ids = pad_sequence([ids[places] for ids, places in zip(batch.input_ids, kept, strict=True)], True)
    labels = pad_sequence([row[at] for row, at in zip(batch.labels, kept, strict=True)], True, IGNORED_LABEL)
    mask = torch.arange(input_ids.shape[1], device=new.device) < new[:, None]
    left = torch.tensor([int((at < end).sum()) for at, end in zip(kept, prompts, strict=True)], device=prompts.device)
    trimmed = replace(batch, input_ids=input_ids, labels=labels, attention_mask=mask, prompt_lengths=left)
    return trimmed, int((new < lengths).sum())


def context_length(config: Any) -> int:
    """Positions that a language model was trained for: VILA-U's own field, or the maximum times linear RoPE scaling."""
    trained = getattr(config, "tokenizer_model_max_length", None)
    if trained is not None:
        return int(trained)
    rope = getattr(config, "rope_parameters", None) or {}
    factor = float(rope.get("factor", 1.0)) if rope.get("rope_type") == "linear" else 1.0
    return int(config.max_position_embeddings * factor)
