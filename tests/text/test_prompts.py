"""Prompts, replies, directives and their token spans."""

import pytest
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from craft_lightning.errors import CraftError
from craft_lightning.pretraining.tokenizers import train_tokenizer
from craft_lightning.text import prompts
from craft_lightning.text.prompts import PromptBuilder, collate_text, justify, message
from craft_lightning.types import IGNORED_LABEL, IMAGE_TOKEN_ID, VqaExample

TEXT = ["Which flower is shown? A. rose B. lily C. iris D. tulip Answer in one letter only. ASSISTANT: USER:"] * 20
PICTURE = Image.new("RGB", (4, 4))
CHOICE = VqaExample("k", PICTURE, "Which flower?", "B", options=("rose", "lily", "iris", "tulip"))
OPEN = VqaExample("k", PICTURE, "What colour is it?", "dark red")


def sentencepiece_like():
    """A tokenizer that marks word starts and puts a mark before a text, as Llama's."""
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme="always", split=True)
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    special = ["<unk>", "<s>", "</s>", *(f"<0x{b:02X}>" for b in range(256))]
    trainer = trainers.BpeTrainer(vocab_size=600, special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator([*TEXT, prompts.VICUNA_SYSTEM, " A B C D E F G H"] * 5, trainer)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", unk_token="<unk>", pad_token="<unk>"
    )


@pytest.fixture(scope="module")
def builders():
    llama = train_tokenizer(TEXT, [], 400, "llama")
    qwen = train_tokenizer(TEXT, [], 400, "qwen2")
    return {
        "vicuna": PromptBuilder(sentencepiece_like(), "vicuna_v1"),
        "llama": PromptBuilder(llama, "chat_template"),
        "qwen": PromptBuilder(qwen, "chat_template"),
    }


def test_message_of_choice_and_open_questions():
    assert message(CHOICE) == "Which flower?\nA. rose\nB. lily\nC. iris\nD. tulip\nAnswer in one letter only."
    assert message(OPEN) == "What colour is it?\nAnswer as succinctly as possible."


@pytest.mark.parametrize("example", [CHOICE, OPEN])
def test_justify_replaces_every_directive_and_keeps_the_options(example):
    asked = message(justify(example)).split("\n")
    assert asked[-1] == "Justify your answer."
    assert not any(d in "\n".join(asked) for d in (prompts.LETTER_DIRECTIVE, prompts.SHORT_DIRECTIVE))
    assert asked[:-1] == message(example).split("\n")[:-1]


def test_justify_removes_directives_that_the_question_brings():
    example = VqaExample("k", PICTURE, "What is it? Answer as succinctly as possible.", "a cat")
    assert message(justify(example)) == "What is it?\nJustify your answer."


@pytest.mark.parametrize("name", ["vicuna", "llama", "qwen"])
def test_one_placeholder_and_the_reply_follows_the_prompt(builders, name):
    builder = builders[name]
    for example in (CHOICE, OPEN):
        encoded = builder.encode(example)
        assert encoded.prompt.count(IMAGE_TOKEN_ID) == 1
        assert IMAGE_TOKEN_ID not in encoded.reply
        assert encoded.reply[-1] == builder.end_id
        assert encoded.reply.count(builder.end_id) == 1
        assert builder.tokenizer.decode(encoded.reply[:-1]).strip() == example.answer


@pytest.mark.parametrize("name", ["vicuna", "llama", "qwen"])
def test_letters_are_single_distinct_tokens(builders, name):
    builder = builders[name]
    assert builder.letters.startswith("ABCD")
    assert len(set(builder.letter_ids)) == len(builder.letters)
    assert builder.encode(CHOICE).reply == (builder.letter_ids[1], builder.end_id)


def test_vicuna_text_is_the_hosts(builders):
    builder = builders["vicuna"]
    ids = builder.encode(OPEN).prompt
    image = ids.index(IMAGE_TOKEN_ID)
    assert ids[0] == builder.tokenizer.bos_token_id
    assert builder.tokenizer.decode(ids[1:image]) == f" {prompts.VICUNA_SYSTEM} USER: "
    after = builder.tokenizer.decode(ids[image + 1 :])
    assert after == f" \n{message(OPEN)} ASSISTANT:"


def test_a_piece_that_begins_with_a_space_gets_its_start_mark(builders):
    builder = builders["vicuna"]
    mark = builder.tokenizer.convert_tokens_to_ids("\u2581")
    plain = builder.tokenizer.encode("ASSISTANT:", add_special_tokens=False)
    assert builder.pieces("<image> ASSISTANT:")[-len(plain) - 1 :] == [mark, *plain]


def test_spans_equal_the_chat_template_written_at_once(builders):
    builder = builders["qwen"]
    turns = [{"role": "user", "content": "<image>\n" + message(OPEN)}, {"role": "assistant", "content": OPEN.answer}]
    text = builder.tokenizer.apply_chat_template(turns, tokenize=False)
    before, after = text.split("<image>")
    whole = [
        *builder.tokenizer.encode(before, add_special_tokens=False),
        IMAGE_TOKEN_ID,
        *builder.tokenizer.encode(after, add_special_tokens=False),
    ]
    encoded = builder.encode(OPEN)
    here = [*encoded.prompt, *encoded.reply]
    assert whole[: len(here)] == here
    assert builder.tokenizer.decode(whole[len(here) :]) == "\n"


def test_a_question_that_quotes_the_placeholder_stays_one_picture(builders):
    example = VqaExample("k", PICTURE, "What does <image> mean?", "<image>")
    for builder in builders.values():
        encoded = builder.encode(example)
        assert encoded.prompt.count(IMAGE_TOKEN_ID) == 1
        assert IMAGE_TOKEN_ID not in encoded.reply


def test_letters_of_two_tokens_are_refused():
    tokenizer = train_tokenizer(TEXT, [], 400, "llama")
    told = "{{ message['content'] }}{{ eos_token"
    assert told in tokenizer.chat_template
    tokenizer.chat_template = tokenizer.chat_template.replace(told, "#" + told)
    with pytest.raises(CraftError, match="'A' is not a single token"):
        PromptBuilder(tokenizer, "chat_template")
    assert PromptBuilder(tokenizer, "chat_template", lettered=False).prompt_ids("Which?").count(IMAGE_TOKEN_ID) == 1


def test_a_missing_chat_template_is_named():
    tokenizer = train_tokenizer(TEXT, [], 400, "llama")
    tokenizer.chat_template = None
    with pytest.raises(CraftError, match="no chat template"):
        PromptBuilder(tokenizer, "chat_template")


def test_collate_pads_on_the_right_and_labels_the_reply_only(builders):
    builder = builders["llama"]
    rows = [builder.encode(CHOICE), builder.encode(OPEN)]
    batch = collate_text(rows, builder.pad_id, with_reply=True)
    for i, row in enumerate(rows):
        n = len(row.prompt) + len(row.reply)
        assert batch["attention_mask"][i].sum() == n
        assert bool(batch["attention_mask"][i, :n].all())
        assert batch["prompt_lengths"][i] == len(row.prompt)
        labels = batch["labels"][i]
        assert tuple(labels[labels != IGNORED_LABEL].tolist()) == row.reply
        assert torch.equal(labels[labels != IGNORED_LABEL], batch["input_ids"][i, len(row.prompt) : n])
    asked = collate_text(rows, builder.pad_id, with_reply=False)
    assert asked["input_ids"].shape[1] == max(len(row.prompt) for row in rows)
    assert bool((asked["labels"] == IGNORED_LABEL).all())


@pytest.mark.parametrize("name", ["llama", "qwen"])
def test_an_answer_that_would_end_the_reply_is_refused(builders, name):
    builder = builders[name]
    end = builder.tokenizer.decode([builder.end_id])
    for answer in (end, f"a{end}b"):
        with pytest.raises(CraftError, match="holds what ends a reply, and would end there"):
            builder.encode_text("Which?", answer)
