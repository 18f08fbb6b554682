"""Tokenizers that exist as a sentencepiece model: ids are those of sentencepiece itself."""

from __future__ import annotations

import json
import pickle
from pathlib import Path
from random import Random

import pytest
from sentencepiece import SentencePieceProcessor
from sentencepiece.sentencepiece_model_pb2 import ModelProto
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from craft_lightning.checkpoints.tokenizer import load_tokenizer, tokenizer_bytes
from craft_lightning.errors import CraftError
from craft_lightning.text.prompts import PromptBuilder
from tests.checkpoints import original_kit as kit
from tiny import tiny_tokenizer

TEXTS = [
    "an  assistant",
    " leading",
    "   three leading",
    "trailing  ",
    " ",
    "a\ttab\t\tand\r\nlines\n\n\n",
    "def f(x):\n    if x:\n        return  [x]\n",
    "A.  an option with outer blanks  \nB.\tanother ",
    "na\u00efve \u65e5\u672c\u8a9e \U0001f642 \u0394\u00a0\u2003 \u2581\u2581x",
    "\n What is it? ASSISTANT:",
    " ASSISTANT:",
    "",
]
_PARTS = ["river", " sea", "What is", "A. ", ".", "\n", "\t", "\u00e9", "\u6c34", "\u2581", "user's", "7", "<0x0A>"]


def drawn(count: int) -> list[str]:
    """Texts of words, blanks and signs in any order; runs of blanks are up to forty long."""
    rng = Random(0)
    return [
        "".join(rng.choice([*_PARTS, " " * rng.randint(1, 40)]) for _ in range(rng.randint(1, 9))) for _ in range(count)
    ]


def ids_of(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    return list(tokenizer.encode(text, add_special_tokens=False))


@pytest.fixture(scope="module", params=[True, False], ids=["legacy", "not legacy"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tokenizer") / "llm"
    kit.write_tokenizer(folder, legacy=request.param)
    return folder


@pytest.fixture(scope="module")
def pieces(folder: Path) -> SentencePieceProcessor:
    return SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))


def test_ids_are_sentencepiece_s_own_and_come_back_as_the_text(folder: Path, pieces: SentencePieceProcessor) -> None:
    tokenizer = load_tokenizer(folder)
    texts = [*TEXTS, *drawn(400)]
    assert {text: ids_of(tokenizer, text) for text in texts} == {text: pieces.encode(text) for text in texts}
    for text in texts:
        assert tokenizer.decode(ids_of(tokenizer, text)) == text.replace("\u2581", " ")
    merged = AutoTokenizer.from_pretrained(folder)
    assert ids_of(merged, "an  assistant") != pieces.encode("an  assistant"), "else this model cannot tell them apart"


def test_the_pieces_of_a_prompt_are_sentencepiece_s_too(folder: Path, pieces: SentencePieceProcessor) -> None:
    """A text without an image, and one whose image does not come first, begin with a blank of their own."""
    builder = PromptBuilder(load_tokenizer(folder), "vicuna_v1", lettered=False)
    assert builder.pieces("  text alone") == [1, *pieces.encode("  text alone")]
    before, after = pieces.encode(" What"), pieces.encode(" ASSISTANT:")
    assert builder.pieces(" What<image> ASSISTANT:") == [1, *before, -200, *after]


def test_special_and_added_tokens_are_one_id_and_no_start_mark_follows_them(folder: Path) -> None:
    tokenizer = load_tokenizer(folder)
    known = tokenizer.get_vocab()
    end, start, of = known["</s>"], known["<im_start>"], tokenizer.convert_tokens_to_ids
    mark = of("\u2581")
    assert ids_of(tokenizer, "A</s>A") == [of("\u2581A"), end, of("A")], "legacy would write a second start mark"
    assert ids_of(tokenizer, "</s>A") == [end, of("A")]
    assert ids_of(tokenizer, "A </s> A") == [of("\u2581A"), mark, end, of("\u2581A")]
    assert ids_of(tokenizer, "A<im_start>A") == [of("\u2581A"), start, of("A")]
    assert tokenizer.encode("A") == [1, of("\u2581A")]
    assert tokenizer.decode([1, of("\u2581A"), end], skip_special_tokens=True) == "A"
    assert tokenizer.decode([1, of("\u2581A"), end]) == "<s> A</s>"
    assert (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id) == (1, 2, 0)
    assert len(tokenizer) == start + len(kit.MARKS)
    assert tokenizer.decode([of("\u2581A"), len(tokenizer) + 5]) == "A", "an embedding may have more rows"


def test_a_copy_and_what_is_saved_are_the_same_tokenizer(folder: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(folder)
    tokenizer.add_tokens(["<mark>"], special_tokens=True)
    tokenizer.save_pretrained(tmp_path / "saved")
    config = json.loads((tmp_path / "saved" / "tokenizer_config.json").read_text())
    assert config["tokenizer_class"] == "LlamaTokenizer", "the name by which the original's transformers knows it"
    for other in (load_tokenizer(tmp_path / "saved"), pickle.loads(pickle.dumps(tokenizer))):
        assert tokenizer_bytes(other) == tokenizer_bytes(tokenizer)
        for text in [*TEXTS, "a <mark> b"]:
            assert ids_of(other, text) == ids_of(tokenizer, text)
    assert tokenizer_bytes(load_tokenizer(folder)) != tokenizer_bytes(tokenizer), "a token more is another tokenizer"


def test_a_converted_copy_beside_the_model_is_not_read(
    folder: Path, tmp_path: Path, pieces: SentencePieceProcessor
) -> None:
    """The original takes the slow tokenizer, ``use_fast=False``, whatever else is there."""
    both = kit.copy_of(folder, tmp_path / "both")
    AutoTokenizer.from_pretrained(folder).backend_tokenizer.save(str(both / "tokenizer.json"))
    assert ids_of(load_tokenizer(both), "an  assistant") == pieces.encode("an  assistant")


def test_a_model_without_start_marks_gets_none(folder: Path, tmp_path: Path) -> None:
    plain = kit.copy_of(folder, tmp_path / "plain")
    proto = ModelProto.FromString((plain / "tokenizer.model").read_bytes())
    proto.normalizer_spec.add_dummy_prefix = False
    (plain / "tokenizer.model").write_bytes(proto.SerializeToString())
    (plain / "tokenizer_config.json").unlink()
    pieces, tokenizer = SentencePieceProcessor(model_proto=proto.SerializeToString()), load_tokenizer(plain)
    for text in TEXTS:
        assert ids_of(tokenizer, text) == pieces.encode(text)
        assert tokenizer.decode(ids_of(tokenizer, text)) == text.replace("\u2581", " ")


def test_a_file_that_is_no_model_is_one_line(folder: Path, tmp_path: Path) -> None:
    broken = kit.copy_of(folder, tmp_path / "broken")
    (broken / "tokenizer.model").write_bytes(b"IQ== 0\n")
    with pytest.raises(CraftError, match="broken: cannot be read as a tokenizer"):
        load_tokenizer(broken)


def test_a_tokenizer_of_merges_has_bytes_of_its_own() -> None:
    one, other = tiny_tokenizer("llama"), tiny_tokenizer("llama", 350)
    assert tokenizer_bytes(one) == tokenizer_bytes(tiny_tokenizer("llama")) != tokenizer_bytes(other)
