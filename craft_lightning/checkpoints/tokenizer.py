"""The tokenizer of a checkpoint, with the ids that the original's has."""

from __future__ import annotations

from itertools import groupby
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerBase, PreTrainedTokenizerFast
from transformers.convert_slow_tokenizer import SentencePieceExtractor
from transformers.tokenization_utils_sentencepiece import SPIECE_UNDERLINE, SentencePieceBackend

from craft_lightning.checkpoints.pretrained import base_folder, lora_of
from craft_lightning.checkpoints.tensors import read_as, read_json


class LlamaTokenizer(SentencePieceBackend):
    """A ``tokenizer.model`` read by sentencepiece itself, as transformers did it up to 4.57 (``legacy=False``).

    Since version 5 the file becomes a table of merges, ordered by id or, in the general class, by score. Scores of
    Llama's pieces of blanks are all equal and the lowest, and sentencepiece takes the leftmost of equal ones, which no
    table expresses: runs of blanks would get other ids. ``encode`` without special tokens is ``encode`` of
    sentencepiece; after an added token no start mark is put before the text. Saved under transformers' own name.
    """

    def __init__(self, **kwargs: Any) -> None:
        ends = [end for end, usual in (("bos", True), ("eos", False)) if kwargs.get(f"add_{end}_token", usual)]
        kwargs |= {"legacy": False, "special_tokens_pattern": "_".join(ends) or "none"}
        spec = SentencePieceExtractor(kwargs["vocab_file"]).proto.normalizer_spec
        self._mark = SPIECE_UNDERLINE if spec.add_dummy_prefix else ""
        super().__init__(**kwargs)

    def tokenize(self, text: str, **kwargs: Any) -> list[str]:  # type: ignore[override]  # as transformers' slow ones
        tokens = super().tokenize(self._mark + text, **kwargs) if text else []
        alone = tokens[:1] == [self._mark] and tokens[1:2] and tokens[1] in self.all_special_tokens
        return tokens[1:] if alone else tokens

    def convert_tokens_to_string(self, tokens: list[str]) -> str:
        runs = groupby(tokens, self._added_tokens_encoder.__contains__)
        text = "".join("".join(run) if added else self.sp_model.decode([*filter(None, run)]) for added, run in runs)
        return text.removeprefix(" ") if self._mark else text

    def _convert_id_to_token(self, index: int) -> str:
        """A piece; nothing for a row by which an embedding is longer than its tokenizer."""
        return self.sp_model.id_to_piece(index) if index < self.vocab_size else ""


def tokenizer_bytes(tokenizer: Any) -> bytes:
    """All that decides the ids of a text, for a digest."""
    if tokenizer.is_fast:
        return tokenizer.backend_tokenizer.to_str().encode()
    return tokenizer.sp_model.serialized_model_proto() + repr(sorted(tokenizer.get_added_vocab().items())).encode()


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """The tokenizer in a folder (a checkpoint's ``llm/``); always has a pad token. A folder with Llama's own
    ``tokenizer.model`` is read by :class:`LlamaTokenizer`, as the original reads it; that of low-rank updates is the
    base's. Raises CraftError: no readable tokenizer there."""
    if lora := lora_of(folder):
        return load_tokenizer(base_folder(str(lora.base_model_name_or_path)))
    # A tokenizer that was saved in its general form is read in that form: AutoTokenizer would look at the language
    # model's type and put that family's own word splitting in place of the one in the file.
    config = folder / "tokenizer_config.json"
    saved_as = read_json(config).get("tokenizer_class") if config.is_file() else None
    converted, pieces = ((folder / f"tokenizer.{ending}").is_file() for ending in ("json", "model"))
    reader: Any = AutoTokenizer
    if converted and saved_as in ("TokenizersBackend", "PreTrainedTokenizerFast"):
        reader = PreTrainedTokenizerFast
    elif pieces and (not converted or saved_as in ("LlamaTokenizer", "LlamaTokenizerFast")):
        reader = LlamaTokenizer
    with read_as(folder, "a tokenizer"):
        tokenizer = reader.from_pretrained(str(folder), local_files_only=True, trust_remote_code=False)
    if tokenizer.pad_token is None:
        tokenizer.pad_token = tokenizer.unk_token or tokenizer.eos_token
    return tokenizer
