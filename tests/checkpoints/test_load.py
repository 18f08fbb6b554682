import json
import shutil
from collections.abc import Callable
from dataclasses import FrozenInstanceError
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from craft_lightning.checkpoints.encoder import apply_encoder, write_encoder
from craft_lightning.checkpoints.load import load_tower, load_vlm, skeleton
from craft_lightning.checkpoints.tokenizer import load_tokenizer
from craft_lightning.checkpoints.vila_u import load_text_tower, text_width
from craft_lightning.errors import CraftError
from craft_lightning.models.quantizer import subset
from craft_lightning.models.vlm_spec import VlmSpec, resolve
from tiny import tiny_tokenizer, write_tiny, write_tiny_tower

BOOK = "rqvaesiglip.quantizer.codebooks."
TEXT = "rqvaesiglip.siglip_model.text_model."


@pytest.fixture
def folder(checkpoints: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(checkpoints / "llama", tmp_path / "model"))


def change(file: Path, edit: Callable[[dict[str, Tensor]], object]) -> None:
    state = load_file(file)
    edit(state)
    save_file({k: v.clone() for k, v in state.items()}, file)


def change_json(file: Path, **values: object) -> None:
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def set_section(folder: Path, **values: object) -> None:
    path = folder / "vision_tower" / "config.json"
    change_json(path, rqvaesiglip=json.loads(path.read_text())["rqvaesiglip"] | values)


def test_whole_and_alone_agree(folder: Path, pixels: Tensor) -> None:
    vlm = load_vlm(VlmSpec(str(folder)))
    assert not vlm.training
    assert {p.dtype for p in vlm.parameters()} == {torch.float32}
    shutil.rmtree(folder / "llm")
    shutil.rmtree(folder / "mm_projector")
    for source in (folder, folder / "vision_tower", VlmSpec(str(folder))):
        tower = load_tower(source)
        assert torch.equal(tower.encode(pixels).codes, vlm.encode(pixels).codes)
        assert tower.quantizer.hash() == vlm.codebook_hash
    (folder / "config.json").unlink()
    assert load_tower(folder).quantizer.hash() == vlm.codebook_hash


def test_nested_under_model(checkpoints: Path, tmp_path: Path) -> None:
    shutil.copytree(checkpoints / "llama", tmp_path / "outer" / "model")
    assert load_vlm(VlmSpec(str(tmp_path / "outer"))).codebook_hash is not None


def test_padding_row_is_no_code(folder: Path, pixels: Tensor) -> None:
    """The padding row is zero; a table far from the origin makes it the nearest row of every vector."""
    file = folder / "vision_tower" / "model.safetensors"

    def push_away(state: dict[str, Tensor]) -> None:
        state[f"{BOOK}0.weight"][:-1] += 50
        assert not state[f"{BOOK}0.weight"][-1].any()

    change(file, push_away)
    tower = load_tower(folder)
    assert tower.quantizer.entries == 64
    codes = tower.encode(pixels).codes
    assert int(codes.max()) < 64
    table = load_file(file)[f"{BOOK}0.weight"]
    kept = torch.cdist(tower.features(pixels)[0], table).argmin(1)
    assert kept.tolist() == [64] * 16


def test_aliased_codebooks(folder: Path) -> None:
    file = folder / "vision_tower" / "model.safetensors"
    before = load_tower(folder).quantizer.hash()

    def alias(state: dict[str, Tensor]) -> None:
        for level in (1, 2, 3):
            state[f"{BOOK}{level}.weight"] = state[f"{BOOK}0.weight"]

    change(file, alias)
    tower = load_tower(folder)
    assert tower.quantizer.shared
    assert tower.quantizer.hash() == before

    change(file, lambda state: state.pop(f"{BOOK}0.weight"))  # one name of the four, whichever it is
    assert load_tower(folder).quantizer.hash() == before

    change(file, lambda state: state[f"{BOOK}2.weight"][3].add_(1))
    with pytest.raises(CraftError, match=r"codebooks\.2\.weight differs"):
        load_tower(folder)

    set_section(folder, shared_codebook=False)
    with pytest.raises(CraftError, match=r"missing .*codebooks.0.weight"):
        load_tower(folder)


def test_separate_codebooks(tmp_path: Path, pixels: Tensor) -> None:
    tower = load_tower(write_tiny(tmp_path / "m", shared=False, levels=3))
    assert tower.quantizer.codebooks.shape == (3, 64, 32)
    assert tower.encode(pixels).codes.shape == (3, 16, 3)


def test_torch_files_and_shards_read_alike(folder: Path, pixels: Tensor) -> None:
    reference = load_vlm(VlmSpec(str(folder)))
    wanted = {k: v.clone() for k, v in reference.state_dict().items()}
    for part in ("llm", "vision_tower", "mm_projector"):
        file = folder / part / "model.safetensors"
        torch.save(load_file(file), folder / part / "pytorch_model.bin")
        file.unlink()
    from_bin = load_vlm(VlmSpec(str(folder)))
    assert all(torch.equal(v, wanted[k]) for k, v in from_bin.state_dict().items())

    state = torch.load(folder / "llm" / "pytorch_model.bin", weights_only=True)
    (folder / "llm" / "pytorch_model.bin").unlink()
    shards: dict[str, dict[str, Tensor]] = {}
    for index, (name, value) in enumerate(state.items()):
        shards.setdefault(f"model-0000{index % 2 + 1}-of-00002.safetensors", {})[name] = value
    for name, part in shards.items():
        save_file(part, folder / "llm" / name, metadata={"format": "pt"})
    index = {"metadata": {}, "weight_map": {key: name for name, part in shards.items() for key in part}}
    (folder / "llm" / "model.safetensors.index.json").write_text(json.dumps(index))
    sharded = load_vlm(VlmSpec(str(folder)))
    assert all(torch.equal(v, wanted[k]) for k, v in sharded.state_dict().items())


def test_pickles_are_refused(folder: Path) -> None:
    class Payload:
        def __reduce__(self) -> tuple[object, tuple[str]]:
            return print, ("executed",)

    file = folder / "vision_tower" / "model.safetensors"
    torch.save({"x": Payload()}, file.with_name("pytorch_model.bin"))
    file.unlink()
    with pytest.raises(CraftError, match="will not be unpickled"):
        load_tower(folder)


def test_known_unused_tensors_are_reported(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    before = load_tower(folder).quantizer.hash()

    def add(state: dict[str, Tensor]) -> None:
        state["rqvaesiglip.decoder.conv_in.weight"] = torch.zeros(2)
        state["rqvaesiglip.post_quant_conv.bias"] = torch.zeros(2)
        state["rqtransformer.pos_emb_d"] = torch.zeros(2)
        state[f"{BOOK}0.cluster_size_ema"] = torch.zeros(64)
        state[f"{BOOK}0.embed_ema"] = torch.zeros(64, 32)
        for name in ("logit_scale", "logit_bias"):
            state[f"rqvaesiglip.siglip_model.{name}"] = state[f"rqvaesiglip.{name}"]

    change(folder / "vision_tower" / "model.safetensors", add)
    with caplog.at_level("INFO"):
        assert load_tower(folder).quantizer.hash() == before
    assert "rqvaesiglip.decoder. (1)" in caplog.text
    assert "EMA buffers of the codebook (2)" in caplog.text


@pytest.mark.parametrize(
    ("part", "name", "value", "message"),
    [
        ("vision_tower", "rqvaesiglip.surprise", torch.zeros(1), "unexpected rqvaesiglip.surprise"),
        (
            "vision_tower",
            "rqvaesiglip.siglip_model.vision_model.encoder.layers.9.mlp.fc1.bias",
            torch.zeros(1),
            "unexpected .*layers.9.mlp.fc1.bias",
        ),
        (
            "vision_tower",
            "rqvaesiglip.siglip_model.vision_model.embeddings.patch_embedding.bias",
            None,
            "missing .*vision_model.embeddings.patch_embedding.bias",
        ),
        (
            "vision_tower",
            "rqvaesiglip.siglip_model.vision_model.post_layernorm.bias",
            torch.zeros(3),
            r"post_layernorm.bias is \[3\], expected \[32\]",
        ),
        ("vision_tower", f"{BOOK}0.weight", None, "missing .*codebooks.0.weight"),
        ("vision_tower", f"{BOOK}0.weight", torch.zeros(64, 32), "64 codes and a padding row"),
        ("vision_tower", f"{BOOK}7.weight", torch.zeros(65, 32), "unexpected .*codebooks.7.weight"),
        ("vision_tower", f"{BOOK}0.weight", torch.zeros(65, 48), "vision_tower: .*words of width 48 .* of width 32"),
        ("vision_tower", f"{TEXT}encoder.layers.9.mlp.fc1.bias", torch.zeros(1), "unexpected .*text_.*9.mlp.fc1.bias"),
        ("vision_tower", f"{TEXT}head.bias", None, "missing rqvaesiglip.siglip_model.text_model.head.bias"),
        ("mm_projector", "layers.2.bias", None, "missing layers.2.bias"),
        ("llm", "model.norm.weight", None, "missing model.norm.weight"),
        ("llm", "model.extra.weight", torch.zeros(2), "unexpected model.extra.weight"),
        ("llm", "model.norm.weight", torch.zeros(2), "model.norm.weight"),
    ],
)
def test_every_tensor_is_used_or_known(folder: Path, part: str, name: str, value: Tensor | None, message: str) -> None:
    def edit(state: dict[str, Tensor]) -> None:
        state.pop(name, None)
        if value is not None:
            state[name] = value

    change(folder / part / "model.safetensors", edit)
    with pytest.raises(CraftError, match=message):
        load_vlm(VlmSpec(str(folder)))


def test_a_tower_needs_no_text_half(folder: Path) -> None:
    def leave_out(state: dict[str, Tensor]) -> None:
        for name in [name for name in state if name.startswith(TEXT)]:
            del state[name]

    change(folder / "vision_tower" / "model.safetensors", leave_out)
    load_vlm(VlmSpec(str(folder)))
    with pytest.raises(CraftError, match="no text tower"):
        load_text_tower(folder)


@pytest.mark.parametrize("read", [load_vlm, skeleton])
@pytest.mark.parametrize("shape", [None, [], 4, [4, 4, "four"], [4, 4, 0]])
def test_a_config_says_how_many_codes_a_token_has(folder: Path, read: Callable[[VlmSpec], object], shape: Any) -> None:
    set_section(folder, code_shape=shape)
    with pytest.raises(CraftError, match=r"rqvaesiglip.code_shape is .*, expected \[rows, columns, levels"):
        read(VlmSpec(str(folder)))


def test_a_codebook_that_the_config_does_not_describe_is_not_passed_over(folder: Path) -> None:
    path = folder / "vision_tower" / "config.json"
    section = json.loads(path.read_text())["rqvaesiglip"]
    for name in ("n_embed", "code_shape"):
        del section[name]
        change_json(path, rqvaesiglip=section)
        with pytest.raises(CraftError, match=f"n_embed, but the folder holds {BOOK}0.weight"):
            load_tower(folder)


@pytest.mark.parametrize("read", [load_vlm, skeleton])
def test_a_tower_of_one_block_is_refused(tmp_path: Path, read: Callable[[VlmSpec], object]) -> None:
    write_tiny(tmp_path / "model", layers=1)
    with pytest.raises(CraftError, match=r"vision_tower: .*\(a tower needs at least two blocks"):
        read(VlmSpec(str(tmp_path / "model")))


def test_rotary_buffers_of_old_files_are_ignored(folder: Path) -> None:
    name = "model.layers.0.self_attn.rotary_emb.inv_freq"
    change(folder / "llm" / "model.safetensors", lambda state: state.update({name: torch.zeros(8)}))
    load_vlm(VlmSpec(str(folder)))


def test_rope_scaling_is_read_from_the_file(folder: Path) -> None:
    plain = load_vlm(VlmSpec(str(folder)))
    file = folder / "llm" / "config.json"
    config = json.loads(file.read_text())
    config.pop("rope_parameters")
    config |= {"rope_scaling": {"type": "linear", "factor": 2.0}, "rope_theta": 10000.0}
    file.write_text(json.dumps(config))
    scaled = load_vlm(VlmSpec(str(folder)))
    frequencies = [m.language_model.model.rotary_emb.inv_freq for m in (plain, scaled)]
    torch.testing.assert_close(frequencies[1] * 2, frequencies[0])
    assert scaled.context == 2 * plain.context
    change_json(file, tokenizer_model_max_length=700)
    assert load_vlm(VlmSpec(str(folder))).context == 700


SIGLIP, LLM = "vision_tower/siglip/config.json", "llm/config.json"


@pytest.mark.parametrize("read", [load_vlm, skeleton])
@pytest.mark.parametrize(
    ("file", "section", "values", "reason"),
    [
        (SIGLIP, "vision_config", {"num_attention_heads": 7}, "embed_dim must be divisible by num_heads"),
        (SIGLIP, "vision_config", {"hidden_size": "x"}, "Field 'hidden_size' expected int, got str"),
        (SIGLIP, "vision_config", {"patch_size": 0}, "by zero"),
        (SIGLIP, "vision_config", {"hidden_act": "none"}, "'none'"),
        (SIGLIP, None, {"vision_config": [1]}, "no section vision_config"),
        (LLM, None, {"hidden_size": "x"}, "Field 'hidden_size' expected int, got str"),
        (LLM, None, {"num_attention_heads": 7}, "not a multiple of the number of attention heads"),
        (LLM, None, {"max_position_embeddings": None}, "Field 'max_position_embeddings' expected int"),
        (LLM, None, {"tokenizer_model_max_length": "x"}, "invalid literal .* 'x'"),
        (LLM, None, {"rope_scaling": {"type": "linear", "factor": "x"}}, "could not convert .* 'x'"),
        ("vision_tower/config.json", "rqvaesiglip", {"n_embed": "many"}, "n_embed is 'many', expected a number"),
        ("vision_tower/config.json", "rqvaesiglip", {"n_embed": None}, "n_embed is None, expected a number"),
        ("vision_tower/config.json", "rqvaesiglip", {"pretrained_model": "a" * 300}, "neither a known id"),
    ],
)
def test_values_that_make_no_model_are_one_line(
    folder: Path, read: Callable[[VlmSpec], object], file: str, section: str | None, values: dict[str, Any], reason: str
) -> None:
    if section is not None:
        values = {section: json.loads((folder / file).read_text())[section] | values}
    change_json(folder / file, **values)
    with pytest.raises(CraftError, match=f"^{folder / file}: .*{reason}") as caught:
        read(VlmSpec(str(folder)))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("read", [load_tower, load_text_tower, lambda path: text_width(VlmSpec(str(path)))])
@pytest.mark.parametrize(
    ("config", "reason"),
    [({"num_attention_heads": 7}, "divisible"), ({"hidden_size": "x"}, "hidden_size"), ("x", "no")],
)
def test_a_text_half_that_makes_no_model_is_one_line(
    folder: Path, read: Callable[[Path], object], config: Any, reason: str
) -> None:
    old = json.loads((folder / SIGLIP).read_text())["text_config"]
    change_json(folder / SIGLIP, text_config=config if isinstance(config, str) else old | config)
    with pytest.raises(CraftError, match=f"{SIGLIP}: .*{reason}.*"):
        read(folder)


def test_a_tower_is_where_a_file_can_be(folder: Path) -> None:
    change_json(folder / "config.json", vision_tower_cfg="a" * 300)
    with pytest.raises(CraftError, match=r"no vision tower in .*aaa"):
        load_tower(folder)


@pytest.mark.parametrize("places", [[], {"model.norm.weight": 1}])
def test_an_index_names_a_file_for_each_tensor(folder: Path, places: Any) -> None:
    (folder / "llm" / "model.safetensors").unlink()
    (folder / "llm" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    with pytest.raises(CraftError, match=r"model.safetensors.index.json: weight_map names no file for each tensor"):
        load_vlm(VlmSpec(str(folder)))


def test_a_damaged_tokenizer_is_one_line(folder: Path) -> None:
    change_json(folder / "llm" / "tokenizer.json", model=1)
    with pytest.raises(CraftError, match="llm: cannot be read as a tokenizer"):
        load_tokenizer(folder / "llm")


def test_unknown_siglip_shape(folder: Path) -> None:
    set_section(folder, pretrained_model="someone/else")
    with pytest.raises(CraftError, match=r"'someone/else' is neither a known id \(google/siglip-large"):
        load_tower(folder)
    set_section(folder, pretrained_model=str(folder / "vision_tower" / "siglip"))
    load_tower(folder)


def test_continuous_twin(folder: Path, pixels: Tensor) -> None:
    discrete = load_vlm(VlmSpec(str(folder)))
    change_json(folder / "config.json", continuous=True)
    twin = load_vlm(VlmSpec(str(folder)))
    assert twin.codebook_hash is None
    assert torch.equal(twin.encode(pixels).tokens, discrete.encode(pixels).features)


def test_backbones_share_one_tower(tmp_path: Path, pixels: Tensor) -> None:
    write_tiny_tower(tmp_path / "tower")
    first = load_vlm(VlmSpec(str(write_tiny(tmp_path / "a", tower="../tower", width=48))))
    second = load_vlm(VlmSpec(str(write_tiny(tmp_path / "b", tower="../tower", width=64, llm="qwen2"))))
    assert not (tmp_path / "a" / "vision_tower").exists()
    assert first.codebook_hash == second.codebook_hash
    assert torch.equal(first.encode(pixels).codes, second.encode(pixels).codes)
    assert load_text_tower(tmp_path / "a").embed_texts(["A River"]).shape == (1, 32)
    with pytest.raises(CraftError, match="absent"):
        write_tiny(tmp_path / "c", tower="../absent")


def test_text_tower(folder: Path) -> None:
    tower = load_text_tower(folder)
    assert tower.logit_scale == pytest.approx(2.3)
    assert tower.logit_bias == -10.0
    assert not any(p.requires_grad for p in tower.parameters())
    rows = tower.embed_texts(["A River", "a river", "sea"])
    assert torch.equal(rows[0], rows[1])
    assert not torch.allclose(rows[0], rows[2])
    ids = tower.token_ids("a river")
    padded = torch.tensor([ids + [tower.tokenizer.pad_token_id] * (64 - len(ids))])
    torch.testing.assert_close(tower.model(padded).pooler_output[0], rows[0])
    assert tower.embed_texts([]).shape == (0, 32)
    with pytest.raises(CraftError, match="64 fit"):
        tower.embed_texts(["far too long " * 30])


def test_general_tokenizers_keep_their_own_word_splitting(tmp_path: Path) -> None:
    """AutoTokenizer would put Qwen2's splitting in its place, because of the language model's type."""
    write_tiny(tmp_path / "m", llm="qwen2")
    own, text = tiny_tokenizer("qwen2", 360), "it is 12345 km, I'LL say\n\n  three"
    read = load_tokenizer(tmp_path / "m/llm")
    assert read.encode(text) == own.encode(text)
    assert read.decode(read.encode(text)) == text
    assert read.chat_template == own.chat_template


def encoder_state(folder: Path) -> dict[str, Tensor]:
    return {k: v.detach() + 0.1 for k, v in load_tower(folder).used_parameters()}


def test_encoder_round_trip_and_transfer(checkpoints: Path, tmp_path: Path, pixels: Tensor) -> None:
    source, target = checkpoints / "llama", checkpoints / "qwen2"
    base = load_vlm(VlmSpec(str(source)))
    prior = torch.arange(64)
    state = encoder_state(source)
    write_encoder(
        tmp_path / "e", state, base=str(source), codebook_hash=base.codebook_hash, method="craft", token_prior=prior
    )
    adapted = load_vlm(VlmSpec(str(target), encoder=str(tmp_path / "e")))
    assert all(torch.equal(v, state[k]) for k, v in adapted.tower.used_parameters())
    assert torch.equal(adapted.token_prior, prior)
    assert adapted.encoder_facts["method"] == "craft"
    assert adapted.encoder_facts["codebook_hash"] == base.codebook_hash
    assert not torch.equal(adapted.encode(pixels).features, base.encode(pixels).features)
    last = base.tower.vision.encoder.layers[-1].state_dict()
    assert all(torch.equal(v, last[k]) for k, v in adapted.tower.vision.encoder.layers[-1].state_dict().items())
    alone = load_tower(VlmSpec(str(target), encoder=str(tmp_path / "e")))
    assert torch.equal(alone.features(pixels), adapted.tower.features(pixels))


def test_an_encoder_keeps_its_precision_in_a_coarser_model(checkpoints: Path, tmp_path: Path, pixels: Tensor) -> None:
    source, state = checkpoints / "llama", encoder_state(checkpoints / "llama")
    digest = load_tower(source).quantizer.hash()
    write_encoder(tmp_path / "e", state, base="x", codebook_hash=digest, method="craft")
    adapted = load_vlm(VlmSpec(str(source), encoder=str(tmp_path / "e"), dtype="bfloat16"))
    assert all(torch.equal(v, state[k]) for k, v in adapted.tower.used_parameters())
    assert {p.dtype for p in adapted.language_model.parameters()} == {torch.bfloat16}
    assert adapted.encode(pixels).features.dtype == torch.float32


def test_encoder_of_another_codebook_is_refused(checkpoints: Path, tmp_path: Path) -> None:
    other = write_tiny(tmp_path / "other", seed=9)
    foreign, own = load_tower(other).quantizer.hash(), load_tower(checkpoints / "llama").quantizer.hash()
    write_encoder(tmp_path / "e", encoder_state(other), base="other", codebook_hash=foreign, method="craft")
    with pytest.raises(CraftError, match=f"{foreign}.*{own}"):
        load_vlm(VlmSpec(str(checkpoints / "llama"), encoder=str(tmp_path / "e")))


def test_a_share_of_the_codebook_belongs_to_an_encoder(checkpoints: Path, tmp_path: Path, pixels: Tensor) -> None:
    """One that searched a part of it is refused where another part is searched; its hash is that of the whole."""
    source = checkpoints / "llama"
    whole, half = (load_vlm(VlmSpec(str(source), codebook_share=share)) for share in (1.0, 0.5))
    assert half.codebook_hash == whole.codebook_hash
    codes = half.encode(pixels).codes
    assert set(codes.flatten().tolist()) <= set(subset(64, 0.5).tolist())
    assert torch.equal(half.encode(pixels).features, whole.encode(pixels).features)
    for name, share in (("e", 0.5), ("w", 1.0)):
        facts = {"base": "x", "codebook_hash": whole.codebook_hash, "method": "craft", "codebook_share": share}
        write_encoder(tmp_path / name, encoder_state(source), **facts)
    assert "codebook_share" not in json.loads((tmp_path / "w/config.json").read_text())
    load_vlm(VlmSpec(str(source), encoder=str(tmp_path / "e"), codebook_share=0.5))
    told = "adapted to 0.5 of the codebook, this model searches 1 of it; take --model.backbone.codebook_share 0.5"
    with pytest.raises(CraftError, match=told):
        load_vlm(VlmSpec(str(source), encoder=str(tmp_path / "e")))
    with pytest.raises(CraftError, match=r"adapted to 1 of the codebook, this model searches 0.25 of it"):
        load_tower(VlmSpec(str(source), encoder=str(tmp_path / "w"), codebook_share=0.25))


def test_a_share_of_no_codebook_is_refused(folder: Path) -> None:
    change_json(folder / "config.json", continuous=True)
    with pytest.raises(CraftError, match=r"has no codebook: --model.backbone.codebook_share 0.5 is of none"):
        load_vlm(VlmSpec(str(folder), codebook_share=0.5))
    for share in (0.0, 1.5):
        with pytest.raises(CraftError, match=f"codebook_share {share:g} is no part of the codebook"):
            VlmSpec(codebook_share=share)


@pytest.mark.parametrize("change_state", ["missing", "unexpected", "shape"])
def test_encoders_are_read_strictly(checkpoints: Path, tmp_path: Path, change_state: str) -> None:
    tower = load_tower(checkpoints / "llama")
    state = encoder_state(checkpoints / "llama")
    name = "vision.embeddings.patch_embedding.bias"
    if change_state == "missing":
        del state[name]
    elif change_state == "unexpected":
        name = "vision.encoder.layers.2.layer_norm1.bias"
        state[name] = torch.zeros(32)
    else:
        state[name] = torch.zeros(5)
    write_encoder(tmp_path / "e", state, base="x", codebook_hash=tower.quantizer.hash(), method="craft")
    before = {k: v.clone() for k, v in tower.state_dict().items()}
    with pytest.raises(CraftError, match=name):
        apply_encoder(tower, tmp_path / "e")
    assert all(torch.equal(v, before[k]) for k, v in tower.state_dict().items())
    with pytest.raises(CraftError, match="nothing: no such folder"):
        apply_encoder(tower, tmp_path / "nothing")


def test_dtypes(folder: Path) -> None:
    vlm = load_vlm(VlmSpec(str(folder), dtype="bfloat16", quantizer_dtype="bfloat16"))
    assert {p.dtype for p in vlm.parameters()} == {torch.bfloat16}
    assert vlm.tower.quantizer.codebooks.dtype == torch.float32
    assert vlm.tower.quantizer.dtype == torch.bfloat16
    assert vlm.codebook_hash == load_tower(folder).quantizer.hash()
    with pytest.raises(CraftError, match="float32, bfloat16, float16"):
        load_tower(folder, dtype="int8")
    with pytest.raises(CraftError, match=r"vision_tower: .*\(distances are computed in float32 or bfloat16"):
        load_tower(folder, quantizer_dtype="float16")


@pytest.mark.parametrize(
    ("setting", "value", "expected"),
    [
        ("quantizer_dtype", "float16", "'float16'; did you mean 'bfloat16'? Known: float32, bfloat16"),
        ("quantizer_dtype", "nonsense", "'nonsense'. Known: float32, bfloat16"),
        ("dtype", "float23", "did you mean 'float32'? Known: float32, bfloat16, float16"),
        ("attention", "flash", "'flash'. Known: sdpa, eager"),
    ],
)
def test_a_spec_says_what_it_takes(setting: str, value: str, expected: str) -> None:
    with pytest.raises(CraftError) as caught:
        VlmSpec(**{setting: value})
    assert str(caught.value).startswith(f"no backbone.{setting} ")
    assert expected in str(caught.value)


def test_a_spec_is_shared_and_so_never_changed() -> None:
    with pytest.raises(FrozenInstanceError):
        VlmSpec().name = "pocket-vila"  # type: ignore[misc]


def test_names_resolve_or_say_what_to_do(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRAFT_MODELS", str(tmp_path))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(CraftError, match="did you mean 'pocket-vila-u'"):
        resolve(VlmSpec("pocket-vilau"))
    with pytest.raises(CraftError, match="no checkpoint folder"):
        resolve(VlmSpec(str(tmp_path / "absent")))
    with pytest.raises(CraftError, match="hf download mit-han-lab/vila-u-7b-256"):
        resolve(VlmSpec("vila-u-7b-256"))
    with pytest.raises(CraftError, match="CRAFT_MODELS"):
        resolve(VlmSpec("qwen2-0.5b"))
    (tmp_path / "qwen2-0.5b").mkdir()
    assert resolve(VlmSpec("qwen2-0.5b")) == tmp_path / "qwen2-0.5b"
    assert resolve(VlmSpec(str(tmp_path))) == tmp_path
    with pytest.raises(CraftError, match="is no checkpoint"):
        load_vlm(VlmSpec(str(tmp_path)))


@pytest.mark.parametrize("said", [b"Repository not found", b"hello", b"", b"\x80\x02}q\x00."])
def test_what_is_no_torch_file_is_one_line(folder: Path, said: bytes) -> None:
    """An error page that a download left behind, say: the restricted reader raises what its letters lead it to."""
    file = folder / "llm" / "model.safetensors"
    file.with_name("pytorch_model.bin").write_bytes(said)
    file.unlink()
    with pytest.raises(CraftError, match=r"pytorch_model\.bin: not a torch file of plain tensors|missing"):
        load_vlm(VlmSpec(str(folder)))
