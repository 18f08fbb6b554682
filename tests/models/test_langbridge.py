"""LangBridge: visual tokens as combinations of word embeddings."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from craft_lightning.checkpoints.load import load_vlm
from craft_lightning.errors import CraftError
from craft_lightning.models.langbridge import Combination, LangBridge, token_texts
from craft_lightning.models.vlm_spec import VlmSpec
from craft_lightning.pretraining.tokenizers import train_tokenizer
from tiny import tiny_language_model, tiny_tokenizer, write_tiny

WORDS = (" river", " forest", "a", " yes", "What")
WIDTH, LLM_WIDTH = 8, 12
BOTH: Any = pytest.mark.parametrize("combination", ["softmax", "linear"])


def bridge(combination: Combination = "softmax", llm_width: int = LLM_WIDTH) -> LangBridge:
    """In front of random embeddings of the tiny tokenizer's tokens."""
    torch.manual_seed(0)
    made = LangBridge(WORDS, WIDTH, 16, combination)
    tokenizer = trained("llama")
    made.attach(tokenizer, torch.randn(len(tokenizer), llm_width))
    return made


def trained(style: Any) -> Any:
    texts = ["What is it? A river, yes. A forest."]
    return train_tokenizer(texts, ["river", "forest", "yes", "What"], 400, style)


def tokens() -> Tensor:
    return torch.randn(2, 3, WIDTH, generator=torch.Generator().manual_seed(1))


@BOTH
def test_the_output_lies_in_the_span_of_the_words(combination: Combination) -> None:
    """Solved for from the output alone: the words are fewer than the dimensions, so coordinates are unique."""
    made = bridge(combination)
    out = made(tokens()).flatten(0, 1).double().T
    found = torch.linalg.lstsq(made.matrix.double().T, out)
    assert torch.allclose(made.matrix.double().T @ found.solution, out, atol=1e-6)
    assert torch.allclose(found.solution.T, made.coefficients(tokens()).flatten(0, 1).double(), atol=1e-5)
    if combination == "softmax":  # the convex hull
        assert bool((found.solution > 0).all())
        assert torch.allclose(found.solution.sum(dim=0), torch.ones(6, dtype=torch.double), atol=1e-5)
    else:
        assert bool((found.solution < 0).any())


def test_another_matrix_changes_the_width_and_no_coefficient() -> None:
    made = bridge()
    before, coefficients = made(tokens()), made.coefficients(tokens())
    tokenizer = trained("qwen2")
    made.attach(tokenizer, torch.randn(len(tokenizer), 20))
    assert before.shape == (2, 3, LLM_WIDTH)
    assert made(tokens()).shape == (2, 3, 20)
    assert torch.equal(made.coefficients(tokens()), coefficients)


def test_a_word_is_the_same_word_in_every_tokenizer() -> None:
    """Space marks and bytes, merges and sentence pieces: one text, two ids, one order."""
    llama, qwen = trained("llama"), trained("qwen2")
    ids = [[token_texts(tokenizer)[word] for word in WORDS] for tokenizer in (llama, qwen)]
    assert ids[0] != ids[1]
    assert llama.convert_ids_to_tokens(ids[0]) == ["▁river", "▁forest", "a", "▁yes", "What"]
    assert qwen.convert_ids_to_tokens(ids[1]) == ["Ġriver", "Ġforest", "a", "Ġyes", "What"]
    for tokenizer, numbers in zip((llama, qwen), ids, strict=True):
        made = LangBridge(WORDS, WIDTH, 16)
        table = torch.randn(len(tokenizer), 4)
        made.attach(tokenizer, table)
        assert torch.equal(made.matrix, table[numbers])


@pytest.mark.parametrize("style", ["llama", "qwen2"])
def test_specials_and_bytes_are_no_words(style: Any) -> None:
    tokenizer = trained(style)
    found = token_texts(tokenizer)
    specials = {*tokenizer.all_special_tokens, "<im_start>", "<im_end>", "<0x0A>", "\ufffd", ""}
    assert not specials & found.keys()
    assert found["\n"] == tokenizer.encode("\n", add_special_tokens=False)[-1]
    text = "a river\n forest? yes"
    told = {i: word for word, i in found.items()}
    assert "".join(told[i] for i in tokenizer.encode(text, add_special_tokens=False)) == text


@BOTH
def test_the_words_get_no_gradient_and_are_not_saved(combination: Combination) -> None:
    made = bridge(combination)
    tokenizer = trained("llama")
    embedding = nn.Embedding(len(tokenizer), LLM_WIDTH)
    made.attach(tokenizer, embedding.weight)
    made(tokens()).square().sum().backward()
    assert embedding.weight.grad is None
    assert not made.matrix.requires_grad
    assert all(p.grad is not None and bool(p.grad.any()) for p in made.parameters())
    layers = {f"layers.{place}.{name}" for place in (0, 2, 3) for name in ("weight", "bias")}
    assert made.state_dict().keys() == layers | ({"log_temperature"} if combination == "softmax" else set())


@BOTH
def test_the_gradient_reaches_what_is_seen_through_a_frozen_adapter(combination: Combination) -> None:
    made, seen = bridge(combination).requires_grad_(False), tokens().requires_grad_()
    made(seen).square().sum().backward()
    assert seen.grad is not None
    assert bool((seen.grad.abs().sum(dim=-1) > 0).all())
    assert all(p.grad is None for p in made.parameters())


@pytest.mark.parametrize("word", range(len(WORDS)))
@BOTH
def test_one_word_alone_is_its_embedding(combination: Combination, word: int) -> None:
    made = bridge(combination)
    last = made.layers[3]
    with torch.no_grad():
        last.weight.zero_()
        last.bias.copy_(torch.eye(len(WORDS))[word] * (1e4 if combination == "softmax" else 1.0))
    assert torch.equal(made(tokens()), made.matrix[word].expand(2, 3, -1))


@BOTH
def test_the_order_of_the_words_does_not_matter(combination: Combination) -> None:
    made = bridge(combination)
    before, order = made(tokens()), torch.tensor([3, 0, 4, 1, 2])
    with torch.no_grad():
        made.layers[3].weight.copy_(made.layers[3].weight[order])
        made.layers[3].bias.copy_(made.layers[3].bias[order])
    made.matrix = made.matrix[order]
    assert torch.allclose(made(tokens()), before, atol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_linear_is_the_released_code(dtype: torch.dtype) -> None:
    """Theirs, as published: three linear layers with one activation, and a product in float32 that is cast back."""
    made = bridge("linear").to(dtype)
    made.matrix = made.matrix.float()
    theirs = nn.Sequential(nn.Linear(WIDTH, 16), nn.GELU(), nn.Linear(16, 16), nn.Linear(16, len(WORDS))).to(dtype)
    theirs.load_state_dict({name.removeprefix("layers."): value for name, value in made.state_dict().items()})
    seen = tokens().to(dtype)
    wanted = (theirs(seen).float() @ made.matrix).to(dtype)
    assert torch.equal(made(seen), wanted)


def test_its_size_at_paper_scale() -> None:
    """129.8 million parameters for 19,200 words, as published."""
    with torch.device("meta"):
        made = LangBridge([str(word) for word in range(19200)], 1024, 5120, "linear")
    assert sum(p.numel() for p in made.parameters()) == 129_790_720


def test_the_temperature_starts_at_one_and_sharpens() -> None:
    made = bridge()
    scores = made.layers(tokens())
    assert torch.equal(made.coefficients(tokens()), scores.softmax(-1))
    with torch.no_grad():
        made.log_temperature.fill_(0.1).log_()
    assert torch.allclose(made.coefficients(tokens()), (scores * 10).softmax(-1), atol=1e-6)


def test_the_sum_over_words_is_float32_under_autocast() -> None:
    made = bridge()
    with torch.autocast("cpu", torch.bfloat16):
        weights, out = made.coefficients(tokens()), made(tokens())
    assert weights.dtype == torch.float32
    assert torch.equal(out, weights @ made.matrix)


def test_every_model_has_its_own_words(tmp_path: Path) -> None:
    """A second model in one process leaves the first one's matrix alone."""
    first = load_vlm(VlmSpec(str(write_tiny(tmp_path / "a", words=40))))
    before = first.projector.matrix.clone()
    second = load_vlm(VlmSpec(str(write_tiny(tmp_path / "b", llm="qwen2", width=32, words=30, seed=5))))
    assert torch.equal(first.projector.matrix, before)
    for vlm in (first, second):
        table = vlm.language_model.get_input_embeddings().weight
        ids = [token_texts(vlm.tokenizer)[word] for word in vlm.projector.words]
        assert torch.equal(vlm.projector.matrix, table[ids])


@pytest.mark.parametrize(
    ("words", "rows", "message"),
    [
        ((), 400, "subset of 0 words"),
        (("a", "a"), 400, "subset of 2 words, 1 of them different"),
        ((" nowhere", "a", " river"), 400, "no token for 1 of the adapter's 3 words, such as ' nowhere': .*vocabulary"),
        ((" river",), 10, r"' river' is token \d+ of 10 rows"),
    ],
)
def test_what_does_not_fit_is_one_line(words: tuple[str, ...], rows: int, message: str) -> None:
    with pytest.raises(CraftError, match=message):
        LangBridge(words, WIDTH, 16).attach(trained("llama"), torch.randn(rows, 4))


def test_another_combination_is_refused() -> None:
    with pytest.raises(CraftError, match=r"no combination 'sigmoid' of words; known: softmax, linear"):
        LangBridge(WORDS, WIDTH, 16, "sigmoid")  # type: ignore[arg-type]


def test_the_tiny_tokenizers_have_words() -> None:
    tokenizer = tiny_tokenizer("llama")
    model = tiny_language_model("llama", tokenizer)
    made = LangBridge([*token_texts(tokenizer)][:7], WIDTH, 16)
    made.attach(tokenizer, model.get_input_embeddings().weight)  # type: ignore[union-attr]
    assert made.matrix.shape == (7, 48)
