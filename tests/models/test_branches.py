"""Questions that share an image are read as branches, and read the same as one by one."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from craft_lightning.checkpoints.load import load_vlm
from craft_lightning.models.branches import find_branches
from craft_lightning.models.pruning import PruneRule, prune
from craft_lightning.models.vlm import PROMPT_TAIL, DiscreteVlm
from craft_lightning.models.vlm_spec import VlmSpec
from craft_lightning.text.prompts import PromptBuilder, collate_text
from craft_lightning.types import IMAGE_TOKEN_ID, VisualTokens, VqaBatch

OF = (0, 1, 0, 0, 2, 1, 0)
ASKED = ("Which?", "Is it a river or a lake?", "A", "What is shown in this picture?", "Two", "No", "Is it a sea?")
REPLIES = ("B", "yes", "A river", "no", "three", "A", "a blue sea")


def made(vlm: DiscreteVlm, pixels: Tensor) -> VqaBatch:
    """Seven questions about three images."""
    builder = PromptBuilder(vlm.tokenizer, vlm.conversation, lettered=False)
    text = [builder.encode_text(*pair) for pair in zip(ASKED, REPLIES, strict=True)]
    whole: dict[str, Any] = collate_text(text, builder.pad_id, with_reply=True)
    numbers, seen, keys = torch.arange(len(OF)), torch.ones(len(OF), dtype=torch.bool), tuple("abcdefg")
    return VqaBatch(
        pixels, **whole, label_ids=numbers, caption_ids=numbers, seen=seen, answers=REPLIES, keys=keys,
        option_counts=(0,) * len(OF), image_of=torch.tensor(OF),
    )  # fmt: skip


@pytest.fixture(scope="module", params=["sdpa", "eager"])
def model(request: pytest.FixtureRequest, checkpoints: Path) -> DiscreteVlm:
    """The wrapped Llama by the fast kernel, and Qwen2 by the eager one, its activations computed again."""
    name = {"sdpa": "llama", "eager": "qwen2"}[request.param]
    again = request.param == "eager"
    return load_vlm(VlmSpec(str(checkpoints / name), attention=request.param, gradient_checkpointing=again))


@pytest.fixture
def batch(model: DiscreteVlm, pixels: Tensor) -> VqaBatch:
    return made(model, pixels)


@contextmanager
def positions(model: DiscreteVlm) -> Iterator[list[int]]:
    """How many positions the language model reads in each pass."""
    seen: list[int] = []

    def note(module: Any, args: Any, kwargs: Any, out: Any) -> None:
        given = kwargs["inputs_embeds"] if "inputs_embeds" in kwargs else kwargs["input_ids"]
        seen.append(given.shape[:2].numel())

    handle = model.language_model.get_decoder().register_forward_hook(note, with_kwargs=True)
    yield seen
    handle.remove()


def one_by_one(batch: VqaBatch) -> VqaBatch:
    """The same rows, each with an image of its own."""
    return replace(batch, pixel_values=batch.by_row(batch.pixel_values), image_of=None)


def see(model: DiscreteVlm, batch: VqaBatch, rule: PruneRule | None = None) -> VisualTokens:
    visual = model.encode(batch.pixel_values)
    visual = visual if batch.image_of is None else visual.rows(batch.image_of)
    prior = torch.arange(64) if rule is not None and rule.by_quota else None
    return visual if rule is None else prune(visual, 0.5, prior, rule, batch.keys)


def test_loss_and_gradients_are_those_of_rows_one_by_one(model: DiscreteVlm, batch: VqaBatch) -> None:
    found = []
    for asked in (batch, one_by_one(batch)):
        with positions(model) as seen:
            out = model(see(model, asked), asked)
        out.answer_loss.backward()
        gradients = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
        model.zero_grad()
        found.append((out, gradients, sum(seen)))
    (shared, mine, few), (alone, theirs, many) = found
    assert few < many
    torch.testing.assert_close(shared.answer_loss, alone.answer_loss, rtol=1e-5, atol=0)
    torch.testing.assert_close(shared.logits, alone.logits, rtol=1e-5, atol=1e-5)
    assert mine.keys() == theirs.keys()
    assert any(name.startswith("tower.") for name in mine)
    for name, gradient in theirs.items():
        if not name.endswith("k_proj.bias"):  # which no output depends on: its gradient is rounding
            assert float((mine[name] - gradient).norm()) <= 1e-5 * float(gradient.norm()), name


@pytest.mark.parametrize(
    "rule",
    [
        None,
        PruneRule(),
        PruneRule(budget="ceil_only"),
        PruneRule(budget="ceil_only", position_ids="original"),
        PruneRule("random", position_ids="original"),
        PruneRule("quota"),
    ],
    ids=str,
)
@torch.no_grad()
def test_replies_are_those_of_rows_one_by_one(model: DiscreteVlm, batch: VqaBatch, rule: PruneRule | None) -> None:
    replies = []
    for asked in (batch, one_by_one(batch)):
        with positions(model) as seen:
            replies.append((*model.reply(see(model, asked, rule), asked, 6), seen[0]))
    (texts, logits, few), (expected, theirs, many) = replies
    assert texts == expected
    torch.testing.assert_close(logits, theirs, rtol=1e-5, atol=1e-5)
    at_random = rule is not None and rule.variant in ("random", "quota")  # by the row's key: nothing is alike
    assert few == many if at_random else few < many or rule is not None


@torch.no_grad()
def test_rows_whose_heads_were_cut_apart_share_nothing(
    model: DiscreteVlm, batch: VqaBatch, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A context in which the longest reply leaves no room for its question, and for two tokens before the image."""
    head = batch.input_ids[0].tolist().index(IMAGE_TOKEN_ID)
    longest = int((batch.attention_mask.sum(dim=1) - batch.prompt_lengths).max())
    monkeypatch.setattr(model, "context", model.num_visual + head + PROMPT_TAIL + longest - 2)
    alone = one_by_one(batch)
    torch.testing.assert_close(
        model(see(model, batch), batch).logits, model(see(model, alone), alone).logits, rtol=1e-5, atol=1e-5
    )


@torch.no_grad()
def test_the_last_block_runs_where_rows_are_read(model: DiscreteVlm, batch: VqaBatch) -> None:
    seen: list[int] = []
    mlp = [*model.language_model.get_decoder().layers][-1].mlp
    with mlp.register_forward_hook(lambda _module, args, _out: seen.append(args[0].shape[:2].numel())):
        model.answer_logits(see(model, batch), batch)
    assert seen[0] < 2 * len(batch), "one position a row, and what fills up sequences of fewer rows"


@torch.no_grad()
def test_models_with_a_sliding_window_read_rows_one_by_one(checkpoints: Path, pixels: Tensor) -> None:
    """A window counts what stands between two positions, so that branches would hide the image from one another."""
    model = load_vlm(VlmSpec(str(checkpoints / "qwen2")))
    config, weights = model.language_model.config, model.language_model.state_dict()
    config.use_sliding_window, config.sliding_window = True, 24
    config.layer_types = ["sliding_attention"] * config.num_hidden_layers
    model.language_model = type(model.language_model)._from_config(config).eval()
    model.language_model.load_state_dict(weights)
    batch = made(model, pixels)
    found = [model.reply(see(model, asked), asked, 6) for asked in (batch, one_by_one(batch))]
    assert found[0][0] == found[1][0]
    assert torch.equal(found[0][1], found[1][1])


def test_an_image_of_its_own_for_every_row_is_read_as_ever(model: DiscreteVlm, batch: VqaBatch) -> None:
    """Bit for bit: what was published before sharing stays."""
    alone = one_by_one(batch)
    visual = see(model, alone)
    asked = replace(alone, image_of=torch.arange(len(OF)))
    assert torch.equal(model(visual, asked).logits, model(visual, alone).logits)


def test_how_many_branches_a_sequence_has() -> None:
    """As many as cost least: few where the others would be padded, or where a question is longer than its image."""

    def sequences(counts: list[int], prefix: int, branch: int) -> list[int]:
        alike = [number for number, count in enumerate(counts) for _ in range(count)]
        mask = torch.ones(len(alike), prefix + branch, dtype=torch.bool)
        found = find_branches(alike, torch.full((len(alike),), prefix), mask, 576)
        return [] if found is None else [int(owner.max()) + 1 for owner in found.owner]

    assert sequences([5, 5, 5], 300, 24) == [5, 5, 5]
    assert sequences([1, 1, 1], 300, 24) == []
    assert sequences([2, 1, 1], 10, 400) == []
    assert sequences([5, *[1] * 40], 300, 24) == [], "one image with five questions would lengthen forty others"
    assert max(sequences([9, *[2] * 10], 300, 24)) == 3
    many = sequences([64], 300, 300)
    assert 1 < max(many) < 16, "attention grows with the square of a sequence's length"
