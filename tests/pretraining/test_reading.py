"""Tokenizers, conversations and the initial weights of small language models."""

from random import Random
from typing import Any

import pytest
import torch

from craft_lightning.pretraining.language_stage import (
    ConversationEncoder,
    TextStage,
    TokenizedConversation,
    collate,
    length_grouped,
    lookup_primer,
    new_language_model,
)
from craft_lightning.pretraining.plans import LanguageSpec
from craft_lightning.pretraining.tokenizers import Style, train_tokenizer
from craft_lightning.text.prompts import PromptBuilder
from craft_lightning.types import IGNORED_LABEL, IMAGE_TOKEN_ID

WORDS = ("forest", "river", "highway", "pasture", "industrial", "residential")
TEXTS = [f"Which is it?\nA. {a}\nB. {b}\nAnswer in one letter only.\nC D E" for a in WORDS for b in WORDS]


def tokenizer(style: Style) -> Any:
    return train_tokenizer(TEXTS, WORDS, 450, style)


@pytest.mark.parametrize("style", ["llama", "qwen2", "siglip"])
def test_whole_words_are_one_token_and_any_text_is_covered(style: Style) -> None:
    made = tokenizer(style)
    assert all(len(made.tokenize(f" {word}")) == 1 for word in WORDS)
    text = "It shows naïve 猫 🙂, 3.5 %!"
    decoded = made.decode(made.encode(text, add_special_tokens=False))
    assert decoded == (text.lower() if style == "siglip" else text)


@pytest.mark.parametrize("style", ["llama", "qwen2"])
def test_messages_are_written_as_the_chat_template_writes_them(style: Style) -> None:
    made = tokenizer(style)
    pairs = [("Which is it?\nA. river\nB. forest", "A"), ("It shows forest.", "B. forest")]
    messages = [
        {"role": role, "content": text}
        for pair in pairs
        for role, text in zip(("user", "assistant"), pair, strict=True)
    ]
    whole = made.apply_chat_template(messages, tokenize=False)
    row = ConversationEncoder(made)(pairs, image=False)
    assert made.decode(row.ids, skip_special_tokens=False) == whole.rstrip("\n")
    learnt = made.decode([label for label in row.labels if label != IGNORED_LABEL], skip_special_tokens=False)
    assert learnt == f"A{made.eos_token}B. forest{made.eos_token}"


@pytest.mark.parametrize("style", ["llama", "qwen2"])
def test_prompts_are_those_of_evaluation(style: Style) -> None:
    made = tokenizer(style)
    row = ConversationEncoder(made)([("Which is it?\nA. river\nB. forest", "B")], image=True)
    asked = PromptBuilder(made, "chat_template").encode_text("Which is it?\nA. river\nB. forest", "B")
    assert row.ids == [*asked.prompt, *asked.reply]
    assert row.ids.count(IMAGE_TOKEN_ID) == 1


@pytest.mark.parametrize("asked_first", [False, True])
def test_the_primer_asks_for_the_letter_of_a_listed_word(asked_first: bool) -> None:
    made = tokenizer("llama")
    for seed in range(20):
        row = lookup_primer(made, WORDS, Random(seed), asked_first)
        tokens = made.convert_ids_to_tokens(row.ids)
        for i in (i for i, label in enumerate(row.labels) if label != IGNORED_LABEL):
            assert row.labels[i] == row.ids[i]
            start = max((j for j in range(i) if tokens[j] == "A" and tokens[j + 1] == "."), default=0)
            told = tokens[start - 2] if asked_first else tokens[i - 1]
            letter = next(tokens[j] for j in range(start, i) if tokens[j + 1] == "." and tokens[j + 2] == told)
            assert tokens[i] == letter


def test_batches_of_one_length_use_every_row_once() -> None:
    rows = [TokenizedConversation([0] * n, [IGNORED_LABEL] * n) for n in range(1, 41)]
    batches = [length_grouped(rows, 10, place, lambda row: len(row.ids)) for place in range(4)]
    assert sorted(len(row.ids) for batch in batches for row in batch) == list(range(1, 41))
    assert all(max(len(r.ids) for r in b) - min(len(r.ids) for r in b) == 9 for b in batches)
    assert collate(batches[0], 0).input_ids.shape[1] % 32 == 0


@pytest.mark.parametrize(("style", "groups"), [("llama", 4), ("qwen2", 2)])
def test_the_heads_of_the_first_block_look_back_by_their_number(style: Any, groups: int) -> None:
    spec = LanguageSpec(style=style, width=128, layers=2, heads=4, kv_heads=groups, mlp=64)
    made = tokenizer("qwen2")
    model: Any = new_language_model(spec, made, seed=0).eval()
    model.set_attn_implementation("eager")
    with torch.no_grad():
        out = model(input_ids=torch.randint(5, len(made), (2, 40)), output_attentions=True)
    where = out.attentions[0].argmax(-1)[..., 10:]
    offset = torch.arange(10, 40) - where
    for head in range(4):
        assert (offset[:, head] == head + 1).float().mean() > 0.7
    second = model.model.layers[1].self_attn
    size = 128 // 4
    assert torch.equal(second.q_proj.weight[:size], second.k_proj.weight[:size])


def test_pre_training_attention_equals_the_usual_one() -> None:
    made = tokenizer("llama")
    model: Any = new_language_model(LanguageSpec(width=32, heads=2, kv_heads=2, mlp=64), made, seed=0)
    rows = [ConversationEncoder(made)([("It shows river.", "A")] * n, False) for n in (1, 3)]
    batch = collate(rows, made.pad_token_id)
    stage = TextStage(model)
    ours = stage(batch)["text"]
    model.set_attn_implementation("sdpa")
    labels = batch.labels
    usual = model(input_ids=batch.input_ids, attention_mask=batch.attention_mask.long(), labels=labels).loss
    assert ours.item() == pytest.approx(usual.item(), abs=1e-5)
