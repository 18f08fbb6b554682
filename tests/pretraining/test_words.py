"""LangBridge in pre-training: vocabulary subsets, stages 1 and 2, a language model that takes an adapter over."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from craft_lightning.__main__ import dispatch
from craft_lightning.checkpoints.adapter import read_words
from craft_lightning.checkpoints.load import load_tower, load_vlm
from craft_lightning.checkpoints.tokenizer import load_tokenizer
from craft_lightning.errors import CraftError
from craft_lightning.models.langbridge import LangBridge, token_texts
from craft_lightning.models.vlm import Projector
from craft_lightning.models.vlm_spec import POCKET, VlmSpec
from craft_lightning.pretraining.family import TOWER, FamilyBuilder
from craft_lightning.pretraining.language_stage import ConversationEncoder, Shown, VisionLanguageStage, store_tokens
from craft_lightning.pretraining.plans import LangBridgeSpec
from craft_lightning.pretraining.shards import tensors_digest
from craft_lightning.pretraining.tokenizers import train_tokenizer
from craft_lightning.pretraining.words import adapter_digest, common_words, file_texts, first_projector, tokenizer_of
from tests.pretraining.surrogate_kit import talk, write_rows
from tests.pretraining.test_family import PLAN, plan_of, write_plan

TEXTS = ["a river and a forest", "a river, a lake", "a river\n"]
BRIDGES = """
  - name: bridged
    like: small
    continuous: true
    langbridge: {{words: 40, hidden: 24}}
  - name: receiver
    shape: {{style: llama, width: 48, layers: 2, heads: 2, kv_heads: 1, mlp: 64}}
    continuous: true
    adapter_of: bridged
"""
LATER = """
  - name: later
    start_from: receiver
    continuous: true
    langbridge: {{words: 40, hidden: 24}}
    joint: {{steps: 2, batch_size: 2, lr: 0.0}}
    questions: {{steps: 2, batch_size: 2, lr: 0.0}}
"""


def trained(style: Any) -> Any:
    return train_tokenizer(TEXTS, ["river", "forest", "lake", "and"], 330, style)


@pytest.fixture(scope="module")
def family(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tower, ``bridged`` (Qwen2-shaped), ``receiver`` (Llama-shaped) and ``later``: ``family/`` and ``work/``."""
    root = tmp_path_factory.mktemp("bridges")
    config = write_plan(root, PLAN + BRIDGES + LATER)
    assert dispatch(["surrogate", "--config", str(config), "--only", TOWER, "bridged", "receiver"]) == 0
    shutil.rmtree(root / "work" / "receiver" / "tokenizer")  # what goes on from finished models needs no work folder
    assert dispatch(["surrogate", "--config", str(config), "--only", "later"]) == 0
    return root


def stage(family: Path, name: str) -> dict[str, Any]:
    found: dict[str, Any] = torch.load(family / "work" / f"{name}.ckpt", weights_only=True)
    return found


@pytest.mark.parametrize("order", [("llama", "qwen2"), ("qwen2", "llama")])
def test_common_words_stand_in_the_order_of_their_frequency(order: tuple[str, str]) -> None:
    tokenizers = [trained(style) for style in order]
    found = common_words(tokenizers, TEXTS)
    counts = dict.fromkeys(found, 0)
    for tokenizer in tokenizers:
        names = {i: word for word, i in token_texts(tokenizer).items()}
        for word in (names.get(i) for row in tokenizer(TEXTS, add_special_tokens=False).input_ids for i in row):
            if word in counts:
                counts[word] += 1
    assert found == sorted(found, key=lambda word: (-counts[word], word))
    assert all(counts.values())
    assert found[0] == " river"  # three times with either
    assert {" forest", " lake", ",", "\n"} <= {*found}
    assert not {"q", " nowhere", "</s>"} & {*found}


def test_the_verb_reads_conversations_and_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for style in ("llama", "qwen2"):
        trained(style).save_pretrained(tmp_path / style)
    (tmp_path / "lines.txt").write_text("\n".join(TEXTS[:2]), encoding="utf-8")
    write_rows(tmp_path / "talks.json", [talk(1, "a.jpg", "<image>\na river", "a lake lake lake lake")])
    assert [*file_texts(tmp_path / "talks.json")] == ["a river", "a lake lake lake lake"]
    files = [str(tmp_path / name) for name in ("lines.txt", "talks.json")]
    tokenizers = [str(tmp_path / style) for style in ("llama", "qwen2")]
    output = tmp_path / "words.json"
    flags = ["vocabulary", "--tokenizers", *tokenizers, "--text", *files, "--output", str(output)]
    assert dispatch([*flags, "--size", "3"]) == 0
    words = read_words(output)
    assert words == [" lake", "a", " river"]
    assert "3 of " in capsys.readouterr().out
    told = json.loads(output.read_text())
    assert (told["tokenizers"], told["text"]) == (tokenizers, ["lines.txt", "talks.json"])
    for name in ("pocket-vila-u", str(POCKET / "pocket-vila-u")):  # its tokenizer is its language model's
        assert tokenizer_of(name).get_vocab() == load_tokenizer(POCKET / "pocket-vila-u/llm").get_vocab()
    mistakes = {
        ("--size", "900"): r"--size 900: the tokenizers share \d+ words",
        ("--text", str(tmp_path / "no.txt")): r"no file .*no\.txt",
        ("--tokenizers", "pocket-vila-v"): "no tokenizer 'pocket-vila-v'; did you mean 'pocket-vila-u'",
        ("--tokenizers", "Nobody/Nothing"): "Nobody/Nothing is not on this machine: `hf download Nobody/Nothing`",
        ("--output", str(tmp_path)): "is a folder",
    }
    for more, message in mistakes.items():
        with pytest.raises(CraftError, match=message):
            dispatch([*flags, *more])


def test_both_models_of_a_family_know_the_same_words(family: Path) -> None:
    """The tokenizers of all of its models share them, those that are not built included."""
    lists = [read_words(family / "family" / name / "mm_projector" / "words.json") for name in ("bridged", "receiver")]
    assert lists[0] == lists[1] == read_words(family / "work" / "words.json")[:40]
    bridged, receiver = (load_vlm(VlmSpec(str(family / "family" / name))) for name in ("bridged", "receiver"))
    texts = []
    for vlm in (bridged, receiver):
        names = {i: word for word, i in token_texts(vlm.tokenizer).items()}
        texts.append([names[i] for i in vlm.projector.ids.tolist()])
    assert texts[0] == texts[1] == lists[0]
    assert bridged.projector.ids.tolist() != receiver.projector.ids.tolist()


def test_stage_1_moves_the_adapter_and_stage_2_both(family: Path) -> None:
    text = stage(family, "small/match")["model"]
    first, second = (stage(family, f"bridged/{name}")["model"] for name in ("projector", "questions"))
    language = [name for name in text if name.startswith("model.language_model.")]
    assert language
    assert all(torch.equal(first[name], text[name]) for name in language)
    assert not torch.equal(second[language[0]], text[language[0]])
    names = {name.removeprefix("model.projector.") for name in first if name.startswith("model.projector.")}
    layers = {f"layers.{place}.{part}" for place in (0, 2, 3) for part in ("weight", "bias")}
    assert names == layers | {"log_temperature"}
    assert not torch.equal(second["model.projector.log_temperature"], torch.zeros(1))


def test_the_receiver_begins_with_the_adapter_as_it_ended(family: Path) -> None:
    assert not (family / "work" / "receiver" / "projector.ckpt").exists()
    recipe = stage(family, "receiver/joint")["recipe"]
    weights = {k: v.float() for k, v in load_file(family / "family/bridged/mm_projector/model.safetensors").items()}
    taken = first_projector(
        plan_of(family / "family.yaml").language[-2], load_tower(VlmSpec(str(family / "family/bridged"))), 48, (),
        family / "family",
    )  # fmt: skip
    assert all(torch.equal(value, weights[name]) for name, value in taken.state_dict().items())
    assert recipe["data"] == "seed 0, 40 pictures a twin, 5 exchanges" + adapter_digest(taken, taken=True)


def test_a_finished_language_model_goes_on(family: Path) -> None:
    """With its tokenizer and weights, behind a new adapter; at a rate of 0 it ends as it was."""
    before, after = (load_vlm(VlmSpec(str(family / "family" / name))) for name in ("receiver", "later"))
    assert after.tokenizer.get_vocab() == before.tokenizer.get_vocab()
    wanted = before.language_model.state_dict()
    found = after.language_model.state_dict()
    assert all(torch.equal(found[name], value) for name, value in wanted.items())
    assert not torch.equal(after.projector.layers[0].weight, before.projector.layers[0].weight)
    assert not (family / "work/receiver/tokenizer").exists()
    said = stage(family, "later/joint")["recipe"]["data"]
    assert said.endswith(f"receiver with {tensors_digest(wanted)[:12]}")
    with pytest.raises(CraftError, match=r"later: give a shape \(of a new language model\), start_from, or pretrained"):
        replace(plan_of(family / "family.yaml").language[-1], start_from=None)


def test_the_usual_recipes_are_what_they_were(family: Path) -> None:
    """Stages that were trained before an adapter could be chosen go on."""
    plan, tower = plan_of(family / "family.yaml").language[0], load_tower(family / "family" / TOWER)
    usual = first_projector(plan, tower, 32)
    assert isinstance(usual, Projector)
    assert adapter_digest(usual, taken=False) == ""
    torch.manual_seed(3)
    wanted = Projector("mlp2x_gelu", tower.width, 32).state_dict()
    torch.manual_seed(3)
    found = first_projector(plan, tower, 32).state_dict()
    assert all(torch.equal(value, wanted[name]) for name, value in found.items())


def test_a_loaded_model_finds_the_words_where_training_left_them(family: Path) -> None:
    """Stage 2 moves the embeddings; the word matrix moves with them, without a gradient of its own."""
    vlm = load_vlm(VlmSpec(str(family / "family" / "bridged")))
    images = torch.rand(2, 3, 64, 64) * 2 - 1
    stored = store_tokens(vlm.tower, lambda rows: images[list(rows)], 2)
    row = ConversationEncoder(vlm.tokenizer)([("What is shown?", "a river")], True)
    table: Tensor = vlm.language_model.get_input_embeddings().weight  # type: ignore[union-attr,assignment]
    for trains in (False, True):
        model = VisionLanguageStage(vlm, stored, train_language=trains)
        with torch.no_grad():
            table += 0.25 * trains
        model(Shown([0], [row]))["reply"].backward()
        assert torch.equal(vlm.projector.matrix, table.detach()[vlm.projector.ids])
        assert not vlm.projector.matrix.requires_grad
        assert "projector.matrix" not in model.state_dict()
    # A word of the adapter that the text does not hold gets no gradient through the adapter.
    said = {*row.ids}
    grad = table.grad
    assert grad is not None
    unsaid = [i for i in vlm.projector.ids.tolist() if i not in said]
    assert unsaid
    assert not grad[unsaid].any()


def test_a_family_swaps_without_any_training(family: Path) -> None:
    adapter = str(family / "family" / "bridged")
    own = load_vlm(VlmSpec(adapter))
    swapped = load_vlm(VlmSpec(str(family / "family" / "receiver"), adapter=adapter))
    tokens = torch.randn(1, 16, 32)
    assert isinstance(own.projector, LangBridge)
    assert torch.equal(own.projector.coefficients(tokens), swapped.projector.coefficients(tokens))
    assert swapped.project(tokens).shape == (1, 16, 48)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("hidden: 24", "hiden: 24"), "no setting of language.3.langbridge 'hiden'; did you mean 'hidden'"),
        (("hidden: 24", "hidden: 24, combination: sum"), "language.3.langbridge.combination: .*'softmax' or 'linear'"),
    ],
)
def test_a_wrong_setting_is_one_line(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    with pytest.raises(CraftError, match=message):
        plan_of(write_plan(tmp_path, (PLAN + BRIDGES).replace(*change)))


def test_an_adapter_that_cannot_begin_is_refused(family: Path, tmp_path: Path) -> None:
    tower = load_tower(VlmSpec(str(family / "family" / "bridged")))
    plan = plan_of(write_plan(tmp_path, PLAN + BRIDGES.replace("adapter_of: bridged", "adapter_of: small")))
    *_, bridged, receiver = plan.language
    with pytest.raises(CraftError, match=r"bridged: langbridge.words is 40, what is known holds 3; .*vocabulary"):
        first_projector(bridged, tower, 32, ["a", "b", "c"])
    with pytest.raises(CraftError, match="receiver: langbridge makes a new adapter, adapter_of takes one"):
        replace(receiver, langbridge=LangBridgeSpec(words=2, hidden=4))
    with pytest.raises(CraftError, match=r"no backbone 'small'"):
        first_projector(receiver, tower, 32, (), family / "family")
    assert FamilyBuilder(plan).plan.language[-1].adapter_of == "small"
