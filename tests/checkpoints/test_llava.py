"""VILA-7B: LLaVA's single folder and its later three, a CLIP tower, and the same forward path behind it."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from transformers import CLIPImageProcessor, CLIPVisionConfig, CLIPVisionModel, LlamaConfig, LlamaForCausalLM

from craft_lightning.checkpoints.encoder import write_encoder
from craft_lightning.checkpoints.load import load_tower, load_vlm, skeleton
from craft_lightning.cli.tokenize import main as tokenize
from craft_lightning.errors import CraftError
from craft_lightning.methods import METHODS
from craft_lightning.models.image_processing import CLIP_MEAN, CLIP_STD, preprocess
from craft_lightning.models.towers.continuous import ClipTower
from craft_lightning.models.vlm_spec import VlmSpec
from craft_lightning.strategies.memory import profile
from data_modules.backbone_reader import read_backbone
from tiny import tiny_tokenizer

SIDE, WIDTH, LLM_WIDTH = 28, 16, 24
EYES = {
    "hidden_size": WIDTH,
    "intermediate_size": 32,
    "num_hidden_layers": 3,
    "num_attention_heads": 2,
    "image_size": SIDE,
    "patch_size": 14,
    "projection_dim": 8,
}


def clip() -> CLIPVisionModel:
    torch.manual_seed(0)
    return CLIPVisionModel(CLIPVisionConfig(**EYES)).eval()


def write(folder: Path, *, inside: bool = True, shards: int = 2) -> Path:
    """A single folder with the tower ``inside``, or left to the CLIP repository ``clip`` beside it."""
    folder.mkdir()
    tokenizer = tiny_tokenizer("llama")
    tokenizer.save_pretrained(folder)
    torch.manual_seed(1)
    sizes = {"hidden_size": LLM_WIDTH, "intermediate_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
    config = LlamaConfig(vocab_size=len(tokenizer), **sizes, max_position_embeddings=256, initializer_range=0.2)
    state = LlamaForCausalLM(config).state_dict()
    layers = {0: (LLM_WIDTH, WIDTH), 2: (LLM_WIDTH, LLM_WIDTH)}
    state |= {f"model.mm_projector.{n}.weight": torch.randn(s) / 4 for n, s in layers.items()}
    state |= {f"model.mm_projector.{n}.bias": torch.randn(LLM_WIDTH) for n in layers}
    eyes = {f"vision_model.{k}": v for k, v in clip().state_dict().items()}
    if inside:
        state |= {f"model.vision_tower.vision_tower.{k}": v for k, v in eyes.items()}
    else:
        beside = folder / "clip"
        beside.mkdir()
        eyes |= {"logit_scale": torch.ones(()), "text_model.final_layer_norm.weight": torch.ones(8)}
        torch.save(eyes, beside / "pytorch_model.bin")
        (beside / "config.json").write_text(json.dumps({"model_type": "clip", "vision_config": EYES}))
    names = [f"pytorch_model-{i + 1:05}-of-{shards:05}.bin" for i in range(shards)]
    parts = [dict(list(state.items())[i::shards]) for i in range(shards)]
    for name, part in zip(names, parts, strict=True):
        torch.save(part, folder / name)
    where = {key: name for name, part in zip(names, parts, strict=True) for key in part}
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    facts = {
        **config.to_dict(),
        "model_type": "llava_llama",
        "architectures": ["LlavaLlamaForCausalLM"],
        "mm_vision_tower": "clip",
        "mm_projector_type": "mlp2x_gelu",
        "mm_hidden_size": WIDTH,
        "mm_vision_select_layer": -2,
        "mm_vision_select_feature": "patch",
        "mm_use_im_start_end": False,
        "image_aspect_ratio": "pad",
    }
    (folder / "config.json").write_text(json.dumps(facts))
    if inside:  # the shapes are still those of the repository's config
        (folder / "clip").mkdir()
        (folder / "clip" / "config.json").write_text(json.dumps({"model_type": "clip", "vision_config": EYES}))
    return folder


def three_folders(single: Path, folder: Path) -> Path:
    """The same model in the later layout."""
    index = json.loads((single / "pytorch_model.bin.index.json").read_text())["weight_map"]
    state: dict[str, Tensor] = {}
    for name in sorted(set(index.values())):
        state |= torch.load(single / name, weights_only=True)
    shutil.copytree(single, folder / "llm", ignore=shutil.ignore_patterns("*.bin", "*.index.json", "clip"))
    facts = json.loads((single / "config.json").read_text())
    own = {k: v for k, v in facts.items() if not k.startswith(("mm_", "image_"))}
    (folder / "llm" / "config.json").write_text(json.dumps(own | {"model_type": "llama"}))
    split: dict[str, dict[str, Tensor]] = {"llm": {}, "vision_tower": {}, "mm_projector": {}}
    for name, value in state.items():
        if name.startswith("model.mm_projector."):
            split["mm_projector"][name.replace("model.mm_projector.", "layers.")] = value
        elif name.startswith("model.vision_tower."):
            split["vision_tower"][name.removeprefix("model.vision_tower.vision_tower.")] = value
        else:
            split["llm"][name] = value
    for part, tensors in split.items():
        (folder / part).mkdir(exist_ok=True)
        save_file(tensors, folder / part / "model.safetensors", metadata={"format": "pt"})
    (folder / "vision_tower" / "config.json").write_text(json.dumps({"model_type": "clip_vision_model", **EYES}))
    (folder / "mm_projector" / "config.json").write_text(json.dumps({"mm_projector_type": "mlp2x_gelu"}))
    kept = {k: facts[k] for k in ("model_type", "mm_vision_select_layer", "image_aspect_ratio")}
    (folder / "config.json").write_text(json.dumps(kept))
    return folder


@pytest.fixture(scope="module")
def single(tmp_path_factory: pytest.TempPathFactory) -> Path:
    with torch.random.fork_rng(devices=[]):
        return write(tmp_path_factory.mktemp("llava") / "single")


def test_features_and_inputs_are_llava_s(single: Path) -> None:
    vlm = load_vlm(VlmSpec(str(single), attention="eager"))
    assert isinstance(vlm.tower, ClipTower)
    assert (vlm.codebook_hash, vlm.wrap_ids, vlm.conversation, vlm.context) == (None, None, "vicuna_v1", 256)
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (20, 44, 3), dtype=np.uint8))
    pixels = preprocess(image, vlm.image_size, vlm.aspect)[None]
    square = Image.new("RGB", (44, 44), tuple(int(255 * m) for m in CLIP_MEAN))
    square.paste(image, (0, 12))
    resized = np.asarray(square.resize((SIDE, SIDE), Image.Resampling.BICUBIC), dtype=np.float32) / 255
    expected = torch.from_numpy((resized - np.float32(CLIP_MEAN)) / np.float32(CLIP_STD)).permute(2, 0, 1)[None]
    eyes = CLIPVisionModel._from_config(CLIPVisionConfig(**EYES), attn_implementation="eager").eval()
    eyes.load_state_dict(clip().state_dict())
    with torch.no_grad():
        hidden = eyes(expected, output_hidden_states=True).hidden_states[-2][:, 1:]
        visual = vlm.encode(pixels)
    assert hidden.shape == (1, 4, WIDTH)
    torch.testing.assert_close(visual.features, hidden, atol=1e-5, rtol=1e-5)
    assert torch.equal(visual.tokens, visual.features)
    assert visual.codes is None
    first, last = vlm.tower.features_after((0, vlm.tower.depth), pixels)
    assert torch.equal(last, visual.features)
    assert not torch.equal(first, last)


def test_the_colours_are_those_of_clip_s_own_processor() -> None:
    processor = CLIPImageProcessor()
    assert tuple(processor.image_mean) == pytest.approx(CLIP_MEAN, abs=1e-8)
    assert tuple(processor.image_std) == pytest.approx(CLIP_STD, abs=1e-8)
    white = preprocess(Image.new("RGB", (40, 20), "white"), 40, "pad_clip")
    torch.testing.assert_close(white[:, 0, 0], torch.tensor([122, 116, 104]) / 255 * 2 - 1)


def test_every_form_is_the_same_model(single: Path, tmp_path: Path) -> None:
    wanted = load_vlm(VlmSpec(str(single))).state_dict()
    later = three_folders(single, tmp_path / "later")
    with torch.random.fork_rng(devices=[]):
        outside = write(tmp_path / "outside", inside=False, shards=1)
    for folder in (later, outside):
        found = load_vlm(VlmSpec(str(folder))).state_dict()
        assert found.keys() == wanted.keys()
        assert all(torch.equal(value, wanted[name]) for name, value in found.items())
        read = read_backbone(VlmSpec(str(folder)))
        assert (read.side, read.aspect, read.builder.conversation) == (SIDE, "pad_clip", "vicuna_v1")


def test_a_sketch_has_the_same_shapes(single: Path, tmp_path: Path) -> None:
    for folder in (single, three_folders(single, tmp_path / "later")):
        sketch, real = skeleton(VlmSpec(str(folder))), load_vlm(VlmSpec(str(folder)))
        shapes = [{n: p.shape for n, p in m.named_parameters()} for m in (sketch, real)]
        assert shapes[0] == shapes[1]
        assert profile(sketch, sketch) == profile(real, real)


@pytest.mark.parametrize(("name", "options"), [("vision_ft", {"lambda_contrastive": 0.0}), ("ldifs", {})])
def test_the_continuous_baselines_train_it(name: str, options: dict[str, Any], single: Path, tmp_path: Path) -> None:
    method = METHODS[name](backbone=VlmSpec(str(single)), **options)
    method.configure_model()
    moved = {n.removeprefix("vlm.tower.") for n, p in method.named_parameters() if p.requires_grad}
    used = dict(method.vlm.tower.used_parameters())
    assert moved == set(used)
    assert "vision.embeddings.class_embedding" in used
    assert "vision.pre_layrnorm.weight" in used
    assert not any("layers.2." in n or "post_layernorm" in n for n in used)
    method.visual_tokens(torch.rand(1, 3, SIDE, SIDE)).tokens.sum().backward()
    assert all(p.grad is not None for p in used.values()), "all that is trained is reached"
    state = {k: v.detach() + 1 for k, v in used.items()}
    write_encoder(tmp_path / "e", state, base="x", codebook_hash=None, method=name)
    plugged = load_tower(VlmSpec(str(single), encoder=str(tmp_path / "e")))
    assert all(torch.equal(v, state[k]) for k, v in plugged.used_parameters())


def edit(folder: Path, **values: object) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def test_what_does_not_fit_is_named(single: Path, tmp_path: Path, monkeypatch: Any) -> None:
    monkeypatch.setenv("CRAFT_MODELS", str(tmp_path / "none"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    spec = VlmSpec(str(tmp_path / "m"))
    for change, expected in (
        ({"mm_vision_select_layer": -1}, "mm_vision_select_layer is -1; only -2"),
        ({"mm_vision_select_feature": "cls_patch"}, "'cls_patch'; only 'patch'"),
        ({"mm_vision_tower": "some/thing"}, "'some/thing' is neither a known id"),
        ({"mm_vision_tower": "a" * 300}, "'aaa.*' is neither a known id"),
        ({"num_attention_heads": 7}, "m/config.json: cannot be read as the config of a language model"),
        ({"model_type": "llava_unheardof"}, "cannot be read as the config of a language model"),
    ):
        shutil.copytree(single, tmp_path / "m")
        edit(tmp_path / "m", **change)
        with pytest.raises(CraftError, match=expected):
            load_vlm(spec)
        shutil.rmtree(tmp_path / "m")
    with torch.random.fork_rng(devices=[]):
        folder = write(tmp_path / "m", inside=False)
    shutil.rmtree(folder / "clip")
    edit(folder, mm_vision_tower="openai/clip-vit-large-patch14-336")
    with pytest.raises(CraftError, match="hf download openai/clip-vit-large-patch14-336"):
        load_tower(folder)
    shutil.rmtree(folder)
    shutil.copytree(single, folder)
    file = folder / "pytorch_model-00001-of-00002.bin"
    state = torch.load(file, weights_only=True)
    torch.save(state | {"model.surprise": torch.ones(1)}, file)
    index = json.loads((folder / "pytorch_model.bin.index.json").read_text())["weight_map"]
    index["model.surprise"] = file.name
    (folder / "pytorch_model.bin.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    with pytest.raises(CraftError, match=r"unexpected model\.surprise"):
        load_vlm(spec)
    with pytest.raises(CraftError, match="continuous"):
        tokenize(["--backbone", str(single), "--images", str(tmp_path), "--output", str(tmp_path / "o.safetensors")])
