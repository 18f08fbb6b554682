"""A random language model as Qwen publishes its base models, and a few rows of the three published sets."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast, Qwen2Config, Qwen2ForCausalLM

from data_modules.sources.llava_conversations import PUBLISHED

COLOURS = {"red": (220, 20, 20), "green": (20, 200, 20), "blue": (20, 20, 220), "white": (240, 240, 240)}
QWEN2_TEMPLATE = (
    "{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}"
    "{{ '<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n' }}{% endif %}"
    "{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
"""As in the tokenizer of Qwen2-0.5B, whose end token is nonetheless <|endoftext|>."""


def write_language_model(folder: Path) -> Path:
    """Tied embeddings, safetensors, tokenizer without the marks of a picture."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    shape = {"vocab_size": 300, "special_tokens": special, "initial_alphabet": alphabet}
    trainer = trainers.BpeTrainer(**shape, show_progress=False)
    core.train_from_iterator([f"a picture that is {colour}" for colour in COLOURS], trainer)
    ends = {"eos_token": "<|endoftext|>", "pad_token": "<|endoftext|>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=core, clean_up_tokenization_spaces=False, **ends)
    tokenizer.chat_template = QWEN2_TEMPLATE
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        config = Qwen2Config(
            vocab_size=len(tokenizer),
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=512,
            tie_word_embeddings=True,
            initializer_range=0.1,
            eos_token_id=tokenizer.eos_token_id,
            bos_token_id=None,
            pad_token_id=tokenizer.pad_token_id,
        )
        Qwen2ForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def write_picture(path: Path, colour: str, seed: int) -> None:
    noise = np.random.default_rng(seed).integers(-15, 15, (20, 24, 3))
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray((np.array(COLOURS[colour]) + noise).clip(0, 255).astype(np.uint8)).save(path)


def write_rows(file: Path, rows: list[dict[str, object]]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps(rows), encoding="utf-8")


def talk(key: object, image: str, *texts: str) -> dict[str, object]:
    said = [{"from": ("human", "gpt")[k % 2], "value": text} for k, text in enumerate(texts)]
    return {"id": key, "image": image, "conversations": said}


def write_sets(root: Path, count: int = 12) -> Path:
    """The three sets, with their own names of files, ways of marking the picture and kinds of ids."""
    colours = [list(COLOURS)[k % len(COLOURS)] for k in range(count)]
    rows = []
    for k, colour in enumerate(colours):
        name = f"GCC_train_{k:09d}.jpg"
        write_picture(root / PUBLISHED["cc3m"].images[0] / name, colour, k)
        ask = "Provide a brief description of the given image.\n<image>"
        rows.append(talk(f"GCC_train_{k:09d}", name, ask, f"a picture that is {colour}"))
    write_rows(root / PUBLISHED["cc3m"].file, rows)
    rows = []
    for k, colour in enumerate(colours):
        name = ("sam/images/sa_{}.jpg", "coco/train2017/{:012d}.jpg")[k % 2].format(k)
        write_picture(root / PUBLISHED["sharegpt4v"].images[0] / name, colour, 100 + k)
        rows.append(talk(k, name, "<image>\nWhat do you see?", f"It is {colour}."))
    write_rows(root / PUBLISHED["sharegpt4v"].file, rows)
    rows = []
    for k in range(count):
        name = f"{k // 2:012d}.jpg"  # several conversations about one picture, as in the published file
        write_picture(root / PUBLISHED["llava150k"].images[0] / name, colours[k // 2], 200 + k // 2)
        said = ("Which colour is it?\n<image>", f"{colours[k // 2]}", "Explain why.", "Because it looks so.")
        rows.append(talk(f"{k // 2:012d}", name, *said[: 2 if k % 2 else 4]))
    write_rows(root / PUBLISHED["llava150k"].file, rows)
    return root
