from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from craft_lightning.checkpoints.load import load_vlm
from craft_lightning.errors import CraftError
from craft_lightning.models.pruning import PruneRule, prune
from craft_lightning.models.vlm import DiscreteVlm, prompts_only, trim_prompts
from craft_lightning.models.vlm_spec import VlmSpec
from craft_lightning.types import IGNORED_LABEL, IMAGE_TOKEN_ID, VisualTokens, VqaBatch

PROMPTS = ("What is shown in this picture?", "Is it a river? Answer in one letter only.", "B")
REPLIES = ("A river", "yes", "B. forest")


def make_batch(vlm: DiscreteVlm, pixels: Tensor, prompts: tuple[str, ...] = PROMPTS) -> VqaBatch:
    encode = vlm.tokenizer.encode
    rows, labels, lengths = [], [], []
    for prompt, reply in zip(prompts, REPLIES, strict=True):
        head = [*encode("USER: "), IMAGE_TOKEN_ID, *encode(f"\n{prompt} ASSISTANT:")]
        tail = [*encode(f" {reply}"), vlm.tokenizer.eos_token_id]
        rows.append(head + tail)
        labels.append([IGNORED_LABEL] * len(head) + tail)
        lengths.append(len(head))
    width = max(map(len, rows))
    fill = [width - len(row) for row in rows]
    return VqaBatch(
        pixel_values=pixels,
        input_ids=torch.tensor([row + [0] * n for row, n in zip(rows, fill, strict=True)]),
        attention_mask=torch.tensor([[True] * len(row) + [False] * n for row, n in zip(rows, fill, strict=True)]),
        labels=torch.tensor([row + [IGNORED_LABEL] * n for row, n in zip(labels, fill, strict=True)]),
        prompt_lengths=torch.tensor(lengths),
        label_ids=torch.arange(3),
        caption_ids=torch.full((3,), -1),
        seen=torch.ones(3, dtype=torch.bool),
        answers=REPLIES,
        keys=("a", "b", "c"),
        option_counts=(0, 0, 0),
    )


@pytest.fixture
def batch(vlm: DiscreteVlm, pixels: Tensor) -> VqaBatch:
    return make_batch(vlm, pixels)


def spliced(vlm: DiscreteVlm, tokens: Tensor, ids: list[int]) -> Tensor:
    """One row's inputs, piece by piece."""
    table = vlm.language_model.get_input_embeddings().weight
    at = ids.index(IMAGE_TOKEN_ID)
    visual = vlm.projector(tokens)
    if vlm.wrap_ids is not None:
        visual = torch.cat([table[[vlm.wrap_ids[0]]], visual, table[[vlm.wrap_ids[1]]]])
    return torch.cat([table[ids[:at]], visual, table[ids[at + 1 :]]])


def rows_of(batch: VqaBatch) -> list[list[int]]:
    return [ids[mask].tolist() for ids, mask in zip(batch.input_ids, batch.attention_mask, strict=True)]


def left_padded(embeds: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """As ``generate`` of transformers wants it."""
    order = mask.int().argsort(dim=1, stable=True)
    return embeds.gather(1, order.unsqueeze(-1).expand_as(embeds)), mask.gather(1, order)


@pytest.mark.parametrize("kept", [16, 5])
def test_embed_equals_piecewise_splicing(vlm: DiscreteVlm, batch: VqaBatch, kept: int) -> None:
    tokens = vlm.encode(batch.pixel_values).tokens[:, :kept]
    embeds, mask, positions = vlm.embed(tokens, batch.input_ids, batch.attention_mask)
    table = vlm.language_model.get_input_embeddings().weight
    for row, ids in enumerate(rows_of(batch)):
        expected = spliced(vlm, tokens[row], ids)
        torch.testing.assert_close(embeds[row, mask[row]], expected, atol=1e-6, rtol=0)
        assert mask[row].nonzero().flatten().tolist() == list(range(len(expected)))
        for old, token in enumerate(ids):
            if token != IMAGE_TOKEN_ID:
                assert torch.equal(embeds[row, positions[row, old]], table[token])
    assert not embeds[~mask].any()


def test_loss_equals_manual_cross_entropy(vlm: DiscreteVlm, batch: VqaBatch) -> None:
    visual = vlm.encode(batch.pixel_values)
    out = vlm(visual, batch)
    logits, targets = [], []
    for row, ids in enumerate(rows_of(batch)):
        inputs = spliced(vlm, visual.tokens[row], ids)
        full = vlm.language_model(inputs_embeds=inputs[None]).logits[0]
        reply = len(ids) - int(batch.prompt_lengths[row])
        logits.append(full[-reply - 1 : -1])
        targets += ids[-reply:]
    assert out.targets.tolist() == targets
    assert out.logits.shape == (len(targets), vlm.language_model.config.vocab_size)
    torch.testing.assert_close(out.logits, torch.cat(logits), atol=1e-4, rtol=1e-4)
    expected = F.cross_entropy(torch.cat(logits), torch.tensor(targets))
    torch.testing.assert_close(out.answer_loss, expected, atol=1e-5, rtol=1e-5)


def test_padding_and_other_rows_change_nothing(vlm: DiscreteVlm, batch: VqaBatch) -> None:
    visual = vlm.encode(batch.pixel_values)
    out = vlm(visual, batch)
    wider = replace(
        batch,
        input_ids=F.pad(batch.input_ids, (0, 7), value=5),
        attention_mask=F.pad(batch.attention_mask, (0, 7)),
        labels=F.pad(batch.labels, (0, 7), value=IGNORED_LABEL),
    )
    torch.testing.assert_close(vlm(visual, wider).logits, out.logits, atol=1e-5, rtol=1e-5)


def test_padding_side_is_equivalent(vlm: DiscreteVlm, batch: VqaBatch) -> None:
    """Last prompt logits from left-padded inputs, given their positions, equal those of right-padded ones."""
    visual = vlm.encode(batch.pixel_values)
    prompts = prompts_only(batch)
    embeds, mask, _ = vlm.embed(visual.tokens, prompts.input_ids, prompts.attention_mask)
    embeds, mask = left_padded(embeds, mask)
    where = (mask.cumsum(1) - 1).clamp_min(0)
    left = vlm.language_model(inputs_embeds=embeds, attention_mask=mask.long(), position_ids=where).logits[:, -1]
    torch.testing.assert_close(vlm.answer_logits(visual, batch), left, atol=1e-4, rtol=1e-4)


def test_gradient_reaches_visual_tokens_only_where_they_count(vlm: DiscreteVlm, batch: VqaBatch) -> None:
    visual = vlm.encode(batch.pixel_values)
    tokens = visual.tokens.detach().requires_grad_()
    labels = batch.labels.clone()
    labels[2] = IGNORED_LABEL
    vlm(replace(visual, tokens=tokens), replace(batch, labels=labels)).answer_loss.backward()
    assert bool((tokens.grad[:2].abs().sum(dim=-1) > 0).all())
    assert not tokens.grad[2].any()
    vlm.zero_grad()


def test_no_label_gives_a_zero_loss(vlm: DiscreteVlm, batch: VqaBatch) -> None:
    out = vlm(vlm.encode(batch.pixel_values), replace(batch, labels=torch.full_like(batch.labels, IGNORED_LABEL)))
    assert float(out.answer_loss.detach()) == 0.0
    assert len(out.logits) == 0


def test_generate_equals_transformers(vlm: DiscreteVlm, batch: VqaBatch) -> None:
    visual = vlm.encode(batch.pixel_values)
    prompts = prompts_only(batch)
    embeds, mask, _ = vlm.embed(visual.tokens, prompts.input_ids, prompts.attention_mask)
    embeds, mask = left_padded(embeds, mask)
    theirs = vlm.language_model.generate(
        inputs_embeds=embeds,
        attention_mask=mask.long(),
        max_new_tokens=8,
        do_sample=False,
        pad_token_id=vlm.tokenizer.pad_token_id,
    )
    texts = [text.strip() for text in vlm.tokenizer.batch_decode(theirs, skip_special_tokens=True)]
    assert vlm.generate(visual, batch, max_new_tokens=8) == texts
    assert all(len(row) <= 8 for row in vlm._greedy(visual, batch, 8)[0])


def test_generate_equals_one_row_at_a_time_without_cache(vlm: DiscreteVlm, batch: VqaBatch) -> None:
    visual = vlm.encode(batch.pixel_values)
    together = vlm._greedy(visual, batch, 6)[0]
    for row in range(3):
        ids = batch.input_ids[row, : batch.prompt_lengths[row]].tolist()
        found: list[int] = []
        while len(found) < 6 and (not found or found[-1] != vlm.tokenizer.eos_token_id):
            inputs = spliced(vlm, visual.tokens[row], ids + found)
            found.append(int(vlm.language_model(inputs_embeds=inputs[None]).logits[0, -1].argmax()))
        assert together[row] == found


def test_generation_stops_at_the_end_token(vlm: DiscreteVlm, batch: VqaBatch, monkeypatch: pytest.MonkeyPatch) -> None:
    visual = vlm.encode(batch.pixel_values)
    free = vlm._greedy(visual, batch, 6)[0]
    stop = free[0][1]
    monkeypatch.setattr(vlm.language_model.generation_config, "eos_token_id", [stop])
    stopped = vlm._greedy(visual, batch, 6)[0]
    for before, after in zip(free, stopped, strict=True):
        assert after == (before[: before.index(stop) + 1] if stop in before else before)
    assert len(stopped[0]) <= 2


def test_every_prompt_needs_one_picture(vlm: DiscreteVlm, batch: VqaBatch) -> None:
    ids = batch.input_ids.clone()
    ids[1, 0] = IMAGE_TOKEN_ID
    with pytest.raises(CraftError, match="exactly one image"):
        vlm(vlm.encode(batch.pixel_values), replace(batch, input_ids=ids))


def test_long_prompts_lose_text_of_the_question_only(
    vlm: DiscreteVlm, pixels: Tensor, monkeypatch: pytest.MonkeyPatch
) -> None:
    batch = make_batch(vlm, pixels, (PROMPTS[0] * 6, PROMPTS[1], PROMPTS[2]))
    visual = vlm.encode(batch.pixel_values)
    whole = vlm(visual, batch)
    monkeypatch.setattr(vlm, "context", vlm.num_visual + 60)
    seen = []
    handle = vlm.language_model.get_decoder().register_forward_hook(
        lambda module, args, kwargs, out: seen.append(kwargs["inputs_embeds"]), with_kwargs=True
    )
    cut = vlm(visual, batch)
    handle.remove()
    assert seen[0].shape[1] <= vlm.context
    assert torch.equal(cut.targets, whole.targets)
    first = int((batch.labels[0] != IGNORED_LABEL).sum())
    assert not torch.allclose(cut.logits[:first], whole.logits[:first])
    torch.testing.assert_close(cut.logits[first:], whole.logits[first:], atol=1e-5, rtol=1e-5)
    ids, room = rows_of(batch)[0], 61
    at, excess = ids.index(IMAGE_TOKEN_ID), len(ids) - room
    kept = ids[: at + 1] + ids[at + 1 + excess :]
    torch.testing.assert_close(seen[0][0, : vlm.context], spliced(vlm, visual.tokens[0], kept))
    short, lost = trim_prompts(batch, 8)
    assert lost == 3
    learnt = [labels[labels != IGNORED_LABEL].tolist() for labels in batch.labels]
    left = [labels[labels != IGNORED_LABEL].tolist() for labels in short.labels]
    assert left == [ids[:2] for ids in learnt], "its end is cut"
    assert short.prompt_lengths.tolist() == [6, 6, 6]
    assert short.input_ids[:, 6:].tolist() == [ids[:2] for ids in learnt]
    monkeypatch.setattr(vlm, "context", vlm.num_visual + 5)
    with pytest.raises(CraftError, match="image does not fit the context"):
        vlm(visual, batch)


def test_letters_are_single_tokens_as_the_reply_writes_them(vlm: DiscreteVlm) -> None:
    letters = vlm.letter_ids()
    assert list(letters) == list("ABCDEFGH")
    gap = " " if vlm.conversation == "vicuna_v1" else ""
    assert {vlm.tokenizer.decode([i]) for i in letters.values()} == {f"{gap}{letter}" for letter in "ABCDEFGH"}


def test_facts(vlm: DiscreteVlm) -> None:
    assert vlm.grid == (4, 4)
    assert vlm.image_size == 32
    assert vlm.context == 640
    assert vlm.num_visual == 16 + (2 if vlm.wrap_ids else 0)


def pruned_inputs(vlm: DiscreteVlm, visual: VisualTokens, row: int, ids: list[int]) -> tuple[Tensor, Tensor]:
    """One row's inputs, piece by piece, and the positions that these pieces had before pruning."""
    assert visual.selection is not None
    kept = visual.selection.mask(16)[row].nonzero().flatten()
    inputs = spliced(vlm, visual.tokens[row, : len(kept)], ids)
    whole = torch.arange(len(ids) - 1 + vlm.num_visual)
    first = ids.index(IMAGE_TOKEN_ID) + (vlm.num_visual - 16) // 2
    return inputs, torch.cat([whole[:first], whole[first : first + 16][kept], whole[first + 16 :]])


@pytest.mark.parametrize("budget", ["exact", "ceil_only"])
@pytest.mark.parametrize("position_ids", ["contiguous", "original"])
@pytest.mark.parametrize("wrap", [True, False])
def test_pruned_rows_are_read_as_one_by_one(
    checkpoints: Path, pixels: Tensor, budget: Any, position_ids: Any, wrap: bool
) -> None:
    """Logits, letters and replies of a batch equal those of each row alone, spliced by hand."""
    vlm = load_vlm(VlmSpec(str(checkpoints / ("llama" if wrap else "qwen2"))))
    batch = make_batch(vlm, pixels)
    visual = vlm.encode(pixels)
    assert visual.codes is not None
    counts = torch.bincount(visual.codes[..., 0].flatten(), minlength=64) * 40
    visual = prune(visual, 0.4, counts, PruneRule(budget=budget, position_ids=position_ids), batch.keys)
    assert visual.selection is not None
    assert (visual.selection.counts is None) == (budget == "exact")
    if budget == "ceil_only":
        assert len(set(visual.selection.counts.tolist())) > 1
    out, answers = vlm(visual, batch), vlm.answer_logits(visual, batch)
    replies = vlm._greedy(visual, batch, 4)[0]
    done = 0
    for row, ids in enumerate(rows_of(batch)):
        inputs, where = pruned_inputs(vlm, visual, row, ids)
        where = where if position_ids == "original" else torch.arange(len(inputs))
        whole = {"attention_mask": torch.ones(1, len(inputs)), "position_ids": where[None]}
        logits = vlm.language_model(inputs_embeds=inputs[None], **whole).logits[0]
        reply = len(ids) - int(batch.prompt_lengths[row])
        torch.testing.assert_close(out.logits[done : done + reply], logits[-reply - 1 : -1], atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(answers[row], logits[-reply - 1], atol=1e-4, rtol=1e-4)
        assert replies[row][0] == int(logits[-reply - 1].argmax())
        prompt, place = inputs[: len(inputs) - reply], where[: len(inputs) - reply]
        for token in replies[row]:
            whole = {"attention_mask": torch.ones(1, len(prompt)), "position_ids": place[None]}
            assert token == int(vlm.language_model(inputs_embeds=prompt[None], **whole).logits[0, -1].argmax())
            prompt = torch.cat([prompt, vlm.language_model.get_input_embeddings().weight[[token]]])
            place = torch.cat([place, place[-1:] + 1])
        done += reply


def test_gaps_matter(vlm: DiscreteVlm, batch: VqaBatch) -> None:
    visual = vlm.encode(batch.pixel_values)
    near, far = (
        prune(visual, 0.3, None, PruneRule("random", position_ids=ids), batch.keys)
        for ids in ("contiguous", "original")
    )
    assert torch.equal(near.tokens, far.tokens)
    assert not torch.allclose(vlm(near, batch).logits, vlm(far, batch).logits, atol=1e-3)


def test_the_output_layer_is_float32_under_autocast(vlm: DiscreteVlm) -> None:
    hidden = torch.randn(4, vlm.language_model.config.hidden_size, generator=torch.Generator().manual_seed(0))
    expected = vlm.language_model.get_output_embeddings()(hidden)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = vlm.language_model.get_output_embeddings()(hidden).float()
        found = vlm._logits(hidden)
    assert not torch.equal(rounded, expected), "the comparison can fail"
    assert torch.equal(found, expected)
