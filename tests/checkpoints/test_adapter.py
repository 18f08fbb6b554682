"""The adapter of a checkpoint: written, read, put in front of another language model."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from craft_lightning.checkpoints.adapter import read_words, write_adapter, write_words
from craft_lightning.checkpoints.load import load_vlm, skeleton, tower_facts
from craft_lightning.errors import CraftError
from craft_lightning.models.langbridge import LangBridge
from craft_lightning.models.vlm import DiscreteVlm
from craft_lightning.models.vlm_spec import VlmSpec
from tiny import write_tiny


def load(name: Path, **more: str) -> DiscreteVlm:
    return load_vlm(VlmSpec(str(name), **more))


def test_a_checkpoint_holds_words_and_no_matrix(bridged: Path, pixels: Tensor) -> None:
    folder = bridged / "bridged" / "mm_projector"
    assert sorted(file.name for file in folder.iterdir()) == ["config.json", "model.safetensors", "words.json"]
    assert json.loads((folder / "config.json").read_text()) == {
        "model_type": "v2l_projector",
        "mm_projector_type": "langbridge",
        "mlp_hidden_size": 24,
        "combination": "softmax",
    }
    vlm = load(bridged / "bridged")
    assert isinstance(vlm.projector, LangBridge)
    assert list(vlm.projector.words) == json.loads((folder / "words.json").read_text())["words"]
    assert load_file(folder / "model.safetensors").keys() == {*vlm.projector.state_dict()}
    tokens = vlm.encode(pixels).tokens
    assert torch.equal(vlm.project(tokens), vlm.projector.coefficients(tokens) @ vlm.projector.matrix)


def test_the_adapter_goes_in_front_of_another_language_model(bridged: Path, pixels: Tensor) -> None:
    own, swapped = load(bridged / "bridged"), load(bridged / "receiver", adapter=str(bridged / "bridged"))
    receiver = load(bridged / "receiver")
    assert isinstance(own.projector, LangBridge)
    assert isinstance(swapped.projector, LangBridge)
    tokens = own.encode(pixels).tokens
    assert torch.equal(tokens, swapped.encode(pixels).tokens)
    assert torch.equal(own.projector.coefficients(tokens), swapped.projector.coefficients(tokens))
    assert (own.project(tokens).shape[-1], swapped.project(tokens).shape[-1]) == (48, 32)
    table = receiver.language_model.get_input_embeddings().weight  # type: ignore[operator]
    assert torch.equal(swapped.projector.matrix, table[swapped.projector.ids])
    state = receiver.language_model.state_dict()
    assert all(torch.equal(v, state[k]) for k, v in swapped.language_model.state_dict().items())


def test_an_adapter_alone_is_read_like_one_in_a_checkpoint(bridged: Path, tmp_path: Path, pixels: Tensor) -> None:
    own = load(bridged / "bridged")
    assert isinstance(own.projector, LangBridge)
    write_adapter(tmp_path / "adapter", own.projector, own.projector.state_dict(), **tower_facts(own.tower), method="x")
    swapped = load(bridged / "receiver", adapter=str(tmp_path / "adapter"))
    whole = load(bridged / "receiver", adapter=str(bridged / "bridged"))
    tokens = own.encode(pixels).tokens
    assert torch.equal(swapped.project(tokens), whole.project(tokens))
    assert swapped.adapter_facts is not None
    assert (own.adapter_facts, swapped.adapter_facts["method"]) == (None, "x")


def test_an_adapter_of_another_tower_is_refused(bridged: Path, tmp_path: Path) -> None:
    other = write_tiny(tmp_path / "other", continuous=True, words=5, seed=9)
    with pytest.raises(CraftError, match=r"the adapter of .*other reads another tower: base_hash \w{64}, here \w{64}$"):
        load(bridged / "receiver", adapter=str(other))
    discrete = write_tiny(bridged / "discrete", tower="../tower", words=5)
    with pytest.raises(CraftError, match=r"another tower: codebook_hash \w{64}, here None and base_hash None, here \w"):
        load(bridged / "receiver", adapter=str(discrete))
    with pytest.raises(CraftError, match=r"has no LangBridge: a projector 'mlp2x_gelu' knows one language model alone"):
        load(bridged / "bridged", adapter=str(bridged / "receiver"))


def test_words_that_the_language_model_lacks_are_named(bridged: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(bridged / "bridged", bridged / "strange"))
    file = folder / "mm_projector" / "words.json"
    words = read_words(file)
    write_words(file, [*words[:-1], " antidisestablishmentarianism"])
    with pytest.raises(CraftError, match=r"no token for 1 of the adapter's 50 words, such as ' antidis"):
        load(folder)
    write_words(file, words[:-1])
    with pytest.raises(CraftError, match=r"layers\.3\.bias is \[50\], expected \[49\]"):
        load(folder)
    file.write_text("[]")
    with pytest.raises(CraftError, match=r"words\.json: holds no JSON object"):
        load(folder)


def test_the_skeleton_has_the_same_parameters(bridged: Path) -> None:
    for spec in (
        VlmSpec(str(bridged / "bridged")),
        VlmSpec(str(bridged / "receiver"), adapter=str(bridged / "bridged")),
    ):
        shapes = {name: p.shape for name, p in load_vlm(spec).named_parameters()}
        assert {name: p.shape for name, p in skeleton(spec).named_parameters()} == shapes


def test_lists_of_the_authors_are_read(tmp_path: Path) -> None:
    """Theirs map byte-level tokens to ids, in order of frequency."""
    (tmp_path / "theirs.json").write_text(json.dumps({"Ġthe": 279, ",": 11, ".ĊĊ": 382, "ĠcafÃ©": 51950, "7": 22}))
    assert read_words(tmp_path / "theirs.json") == [" the", ",", ".\n\n", " café", "7"]
    write_words(tmp_path / "ours.json", [" the", ",", "\n"], tokenizers=["a", "b"])
    assert read_words(tmp_path / "ours.json") == [" the", ",", "\n"]
    for wrong in ({}, {"words": " the"}, {"words": [1]}, {"Ġthe": "279"}):
        (tmp_path / "wrong.json").write_text(json.dumps(wrong))
        with pytest.raises(CraftError, match=r"wrong\.json is no vocabulary subset"):
            read_words(tmp_path / "wrong.json")
