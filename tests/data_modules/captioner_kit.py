"""Random captioners as BLIP and BLIP-2 are published: config, weights, processor and tokenizer in one folder."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import (
    BertTokenizer,
    Blip2Config,
    Blip2ForConditionalGeneration,
    Blip2Processor,
    BlipConfig,
    BlipForConditionalGeneration,
    BlipImageProcessor,
    BlipProcessor,
    GPT2Tokenizer,
)

WORDS = ("dog", "field", "grass", "green", "house", "red", "river", "road", "sky", "small", "tree", "two")
SIZE = {"image_size": 16, "patch_size": 8}


def _shape(layers: int = 1) -> dict[str, int]:
    return {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": layers, "num_attention_heads": 2}


def _pictures() -> BlipImageProcessor:
    return BlipImageProcessor(size={"height": 16, "width": 16})


def write_blip2(folder: Path, seed: int = 1) -> Path:
    """Behind its query tokens an OPT that ends with a line feed, as that of Salesforce/blip2-opt-2.7b does."""
    texts = ["<unk>", "<pad>", "</s>", "\u010a", *(f"\u0120{word}" for word in WORDS), "<image>"]
    ids = {text: number for number, text in enumerate(texts)}
    special = {"bos_token": "</s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    tokenizer = GPT2Tokenizer(ids, [], **special, additional_special_tokens=["<image>"])
    opt = {
        "model_type": "opt", "vocab_size": len(texts), "hidden_size": 16, "word_embed_proj_dim": 16, "ffn_dim": 16,
        "num_hidden_layers": 1, "num_attention_heads": 2, "max_position_embeddings": 64, "init_std": 1.0,
        "bos_token_id": 2, "eos_token_id": ids["\u010a"], "pad_token_id": 1,
    }  # fmt: skip
    config = Blip2Config(
        vision_config={**_shape(), **SIZE, "initializer_range": 0.5},
        qformer_config={**_shape(2), "encoder_hidden_size": 16, "initializer_range": 0.5},
        text_config=opt,
        num_query_tokens=2,
        image_token_index=ids["<image>"],
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = Blip2ForConditionalGeneration(config)
        # Large enough that the sentences are of the image.
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1 and not name.startswith("language_model"):
                torch.nn.init.normal_(parameter)
    model.save_pretrained(folder)
    Blip2Processor(_pictures(), tokenizer, num_query_tokens=2).save_pretrained(folder)
    return folder


def write_blip(folder: Path, seed: int = 0) -> Path:
    """Its text decoder is a BERT whose sentences begin with [DEC], as that of Salesforce/blip-image-captioning-base."""
    texts = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *WORDS, "[DEC]"]
    ids = {text: number for number, text in enumerate(texts)}
    tokenizer = BertTokenizer(ids, bos_token="[DEC]")
    text = {
        **_shape(), "vocab_size": len(texts), "encoder_hidden_size": 16, "max_position_embeddings": 64,
        "bos_token_id": ids["[DEC]"], "eos_token_id": 2, "sep_token_id": 3, "pad_token_id": 0,
        "initializer_range": 1.0,
    }  # fmt: skip
    config = BlipConfig(text_config=text, vision_config={**_shape(), **SIZE}, projection_dim=16)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = BlipForConditionalGeneration(config)
        for parameter in model.parameters():
            torch.nn.init.normal_(parameter) if parameter.dim() > 1 else None
    model.save_pretrained(folder)
    BlipProcessor(_pictures(), tokenizer).save_pretrained(folder)
    return folder
