"""Writes small checkpoints as VILA-U's own code saves them, whatever our writer does."""

from __future__ import annotations

import io
import json
import shutil
from pathlib import Path
from typing import Any, Literal

import sentencepiece
import torch
from safetensors.torch import save_file
from sentencepiece.sentencepiece_model_pb2 import ModelProto
from torch import Tensor
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    SiglipTextConfig,
    SiglipTextModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)

BOOKS = "rqvaesiglip.quantizer.codebooks."
VISION = "rqvaesiglip.siglip_model.vision_model."
MARKS = ("<im_start>", "<im_end>", "<vi_start>", "<vi_end>")
LEVELS, CODES, WIDTH, LLM_WIDTH = 4, 32, 16, 24

Form = Literal["safetensors", "bin"]
Books = Literal["aliased", "copied", "one"]

_TEXT = [
    "A chat between a curious user and an artificial intelligence assistant. USER: ASSISTANT: What is it?",
    "The assistant gives helpful, detailed, and polite answers to the user's questions. A B C D E river sea",
]


def write_original(
    folder: Path, *, form: Form = "safetensors", books: Books = "aliased", shards: int = 2, tower_shards: int = 1
) -> Path:
    """The folders ``llm`` (sharded), ``vision_tower`` and ``mm_projector``, all in bfloat16; returns ``folder``.

    Args:
        form: of the weight files. books: the shared table under four names of one tensor, as four copies, or once.
        shards: files of the language model. tower_shards: of the tower.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(7)
        _write_llm(folder / "llm", form, shards)
        _write_tower(folder, form, books, tower_shards)
        layers = {"layers.0": (LLM_WIDTH, WIDTH), "layers.2": (LLM_WIDTH, LLM_WIDTH)}
        state = {f"{n}.weight": torch.randn(s) / s[1] ** 0.5 for n, s in layers.items()}
        state |= {f"{n}.bias": torch.randn(s[0]) for n, s in layers.items()}
    _write_tensors(folder / "mm_projector", state, form)
    _json(folder / "mm_projector", "config.json", model_type="v2l_projector", mm_projector_type="mlp2x_gelu")
    _json(
        folder,
        "config.json",
        architectures=["VILAULlamaModel"],
        model_type="vila_u_llama",
        hidden_size=LLM_WIDTH,
        mm_hidden_size=WIDTH,
        image_aspect_ratio="resize",
        mm_use_im_start_end=True,
        mm_vision_select_layer=-2,
        model_dtype="torch.bfloat16",
        llm_cfg={"model_type": "llama"},
        vision_tower_cfg={"model_type": "rqvaesigliptransformer_model"},
        mm_projector_cfg={"model_type": "v2l_projector"},
    )
    return folder


def _json(folder: Path, name: str, **values: Any) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(json.dumps(values, indent=2))


def llama_pieces() -> bytes:
    """A small sentencepiece model as Llama's: pieces of 2 to 16 blanks have low ids and one score, the lowest."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(_TEXT * 20),
        model_writer=model,
        vocab_size=330,
        model_type="bpe",
        byte_fallback=True,
        minloglevel=2,
        hard_vocab_limit=False,
        normalization_rule_name="identity",  # as Llama's: spaces and newlines stay what they are
        remove_extra_whitespaces=False,
    )
    proto = ModelProto.FromString(model.getvalue())
    first = 3 + 256  # after the special pieces and the bytes
    blanks = [proto.SentencePiece(piece="\u2581" * n, score=-1e9) for n in (2, 4, 8, 3, *range(5, 8), *range(9, 17))]
    pieces = [*proto.pieces[:first], *blanks, *proto.pieces[first:]]
    del proto.pieces[:]
    proto.pieces.extend(pieces)
    return proto.SerializeToString()


def write_tokenizer(folder: Path, legacy: bool = True) -> int:
    """The tokenizer's files, without ``tokenizer.json``; returns the number of entries."""
    folder.mkdir(parents=True)
    model = llama_pieces()
    (folder / "tokenizer.model").write_bytes(model)
    words = sentencepiece.SentencePieceProcessor(model_proto=model).vocab_size()
    special = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<unk>"}
    _json(
        folder, "tokenizer_config.json", tokenizer_class="LlamaTokenizer", legacy=legacy, add_bos_token=True, **special
    )
    _json(folder, "special_tokens_map.json", **special)
    _json(folder, "added_tokens.json", **{mark: words + i for i, mark in enumerate(MARKS)})
    return words + len(MARKS)


def _write_llm(folder: Path, form: Form, shards: int) -> None:
    sizes = {
        "vocab_size": write_tokenizer(folder),
        "hidden_size": LLM_WIDTH,
        "intermediate_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 2,
        "max_position_embeddings": 256,
        "rms_norm_eps": 1e-5,
        "tie_word_embeddings": False,
    }
    state = LlamaForCausalLM(LlamaConfig(**sizes, initializer_range=0.2)).state_dict()
    _write_tensors(folder, state, form, shards)
    rope = {"rope_scaling": {"type": "linear", "factor": 2.0}, "tokenizer_model_max_length": 512}
    _json(folder, "config.json", model_type="llama", torch_dtype="bfloat16", **sizes, **rope)
    _json(folder, "generation_config.json", bos_token_id=1, eos_token_id=2, pad_token_id=0)


def _write_tower(root: Path, form: Form, books: Books, shards: int) -> None:
    sizes = {"hidden_size": WIDTH, "intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2}
    look = {**sizes, "image_size": 16, "patch_size": 4}
    text = {**sizes, "vocab_size": 20, "max_position_embeddings": 64}
    _json(root / "siglip", "config.json", model_type="siglip", vision_config=look, text_config=text)
    state = {f"{VISION}{k}": v for k, v in SiglipVisionModel(SiglipVisionConfig(**look)).state_dict().items()}
    half = SiglipTextModel(SiglipTextConfig(**text, bos_token_id=1, eos_token_id=2, pad_token_id=1)).state_dict()
    state |= {f"rqvaesiglip.siglip_model.text_model.{k}": v for k, v in half.items()}
    for name in ("logit_scale", "logit_bias"):
        state |= {f"rqvaesiglip.{name}": torch.ones(1), f"rqvaesiglip.siglip_model.{name}": torch.ones(1)}
    table = torch.cat([torch.randn(CODES, WIDTH) * torch.logspace(0, -1, CODES)[:, None], torch.zeros(1, WIDTH)])
    table[CODES // 2 : CODES] = table[: CODES // 2]  # of two equal codewords, the lower index has to win
    unused = {"cluster_size_ema": torch.rand(CODES), "embed_ema": torch.rand(CODES, WIDTH)}
    held = {k: v.bfloat16() for k, v in {"weight": table, **unused}.items()}
    for level in range(1 if books == "one" else LEVELS):
        state |= {f"{BOOKS}{level}.{k}": v if books == "aliased" else v.clone() for k, v in held.items()}
    for name in ("post_quant_conv.bias", "decoder.conv_in.weight", "decoder.mid.attn_1.q.weight"):
        state[f"rqvaesiglip.{name}"] = torch.rand(2, 3)
    state["rqtransformer.head_transformer.blocks.0.attn.key.weight"] = torch.rand(3, 3)
    _write_tensors(root / "vision_tower", state, form, shards)
    section = {
        "pretrained_model": "siglip",
        "latent_shape": [4, 4, WIDTH],
        "code_shape": [4, 4, LEVELS],
        "n_embed": CODES,
        "shared_codebook": True,
        "embed_dim": WIDTH,
    }
    kind = {"architectures": ["RQVAESIGLIPTransformer"], "model_type": "rqvaesigliptransformer_model"}
    _json(root / "vision_tower", "config.json", **kind, hidden_size=WIDTH, rqvaesiglip=section, rqtransformer={})
    size = {"height": 16, "width": 16}
    _json(root / "vision_tower", "preprocessor_config.json", image_processor_type="CLIPImageProcessor", size=size)


def _write_tensors(folder: Path, state: dict[str, Tensor], form: Form, shards: int = 1) -> None:
    """Weight files in bfloat16; torch files keep what shares memory shared, safetensors cannot."""
    folder.mkdir(parents=True, exist_ok=True)
    cast = {k: v if v.dtype == torch.bfloat16 else v.bfloat16() for k, v in state.items()}
    stem, end = ("model", "safetensors") if form == "safetensors" else ("pytorch_model", "bin")
    parts = [dict(list(cast.items())[i::shards]) for i in range(shards)]
    names = [f"{stem}-{i + 1:05}-of-{shards:05}.{end}" if shards > 1 else f"{stem}.{end}" for i in range(shards)]
    for name, part in zip(names, parts, strict=True):
        if form == "bin":
            torch.save(part, folder / name)
        else:
            save_file({k: v.clone() for k, v in part.items()}, folder / name, metadata={"format": "pt"})
    if shards > 1:
        where = {key: name for name, part in zip(names, parts, strict=True) for key in part}
        _json(folder, f"{stem}.{end}.index.json", metadata={"total_size": 0}, weight_map=where)


def copy_of(folder: Path, target: Path) -> Path:
    """A copy to change."""
    return Path(shutil.copytree(folder, target))
