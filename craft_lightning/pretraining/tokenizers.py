"""Small byte-complete BPE tokenizers in the manner of Llama, Qwen2 and SigLIP, trained from text.

They cover any text (unknown characters fall back to bytes) and keep the words given as ``whole`` in one token.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from tokenizers import Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from craft_lightning.models.vlm import WRAP_TOKENS

Style = Literal["llama", "qwen2", "siglip"]

LLAMA_TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}{% if message['role'] == 'user' %}USER: {{ message['content'] }}\n"
    "ASSISTANT:\n{% else %}{{ message['content'] }}{{ eos_token }}{% endif %}{% endfor %}"
)
"""Short Vicuna-like messages. The reply starts a line, so that its letter is the token that starts an option's line."""

QWEN2_TEMPLATE = (
    "{% for message in messages %}<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
"""ChatML, as Qwen2 has it, without a system message."""

_ROLES: dict[Style, tuple[str, ...]] = {
    "llama": ("USER:", "ASSISTANT:"),
    "qwen2": ("user", "assistant"),
    "siglip": (),
}
"""What the chat templates write around messages."""

_REPEATS = 200
"""How often each whole word is shown to the trainer: more than any merge that could rob it of its last merge."""


def train_tokenizer(texts: Iterable[str], whole: Sequence[str], size: int, style: Style) -> PreTrainedTokenizerFast:
    """Train a tokenizer of about ``size`` entries.

    Args:
        texts: any text; sets the merges. whole: words (no spaces) that must be one token after a space.
        size: entries, special tokens and the 256 bytes included.
        style: ``llama`` (spaces as word marks, byte fallback, ``</s>``), ``qwen2`` (byte level, ChatML) or
            ``siglip`` (lower-cased, padded to 64 positions by its caller).
    """
    tokenizer, special = _skeleton(style)
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet() if style == "qwen2" else ["\n"],
        show_progress=False,
    )
    words = [word for word in (*_ROLES[style], *(f" {w}" for w in whole)) for _ in range(_REPEATS)]
    tokenizer.train_from_iterator([*texts, *words], trainer)
    names = {
        "llama": {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>", "pad_token": "<unk>"},
        "qwen2": {"eos_token": "<|im_end|>", "pad_token": "<|endoftext|>"},
        "siglip": {"eos_token": "</s>", "unk_token": "<unk>", "pad_token": "</s>"},
    }[style]
    fast = PreTrainedTokenizerFast(tokenizer_object=tokenizer, clean_up_tokenization_spaces=False, **names)
    if style == "siglip":
        fast.model_max_length = 64
    else:
        fast.chat_template = LLAMA_TEMPLATE if style == "llama" else QWEN2_TEMPLATE
    return fast


def _skeleton(style: Style) -> tuple[Tokenizer, list[str]]:
    """An untrained tokenizer and its special tokens."""
    if style == "qwen2":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
        tokenizer.decoder = decoders.ByteLevel()
        return tokenizer, ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *WRAP_TOKENS]
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    if style == "siglip":
        tokenizer.normalizer = normalizers.Sequence([normalizers.NFKC(), normalizers.Lowercase()])
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r"\n|[^\w\s]"), behavior="isolated"),
            pre_tokenizers.Metaspace(prepend_scheme="never", split=True),
        ]
    )
    tokenizer.decoder = decoders.Sequence([decoders.Replace("\u2581", " "), decoders.ByteFallback(), decoders.Fuse()])
    return tokenizer, ["<unk>", "<s>", "</s>", *WRAP_TOKENS, *(f"<0x{byte:02X}>" for byte in range(256))]
