import json
import os
from pathlib import Path

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from transformers import SiglipTextConfig, SiglipTextModel, SiglipVisionConfig, SiglipVisionModel

from craft_lightning.checkpoints.configs import KNOWN_SIGLIP
from craft_lightning.checkpoints.load import load_vlm
from craft_lightning.checkpoints.tensors import fresh_folder, save_tensors
from craft_lightning.checkpoints.vila_u_writer import TowerParts, tower_config, tower_tensors
from craft_lightning.errors import CraftError
from craft_lightning.models.vlm import Projector
from craft_lightning.models.vlm_spec import VlmSpec
from tiny import write_tiny

LINEARS = ("self_attn.k_proj", "self_attn.v_proj", "self_attn.q_proj", "self_attn.out_proj")


def block_shapes(prefix: str, width: int, mlp: int) -> dict[str, tuple[int, ...]]:
    shapes: dict[str, tuple[int, ...]] = {}
    for norm in ("layer_norm1", "layer_norm2"):
        shapes |= {f"{prefix}{norm}.{part}": (width,) for part in ("weight", "bias")}
    for name, rows, columns in [
        *((n, width, width) for n in LINEARS),
        ("mlp.fc1", mlp, width),
        ("mlp.fc2", width, mlp),
    ]:
        shapes |= {f"{prefix}{name}.weight": (rows, columns), f"{prefix}{name}.bias": (rows,)}
    return shapes


def vila_u_256_shapes() -> dict[str, tuple[int, ...]]:
    """Keys and shapes of the 7B-256 checkpoint's tower, without pixel decoder, generation head and EMA buffers."""
    vision, text = "rqvaesiglip.siglip_model.vision_model.", "rqvaesiglip.siglip_model.text_model."
    shapes: dict[str, tuple[int, ...]] = {
        f"{vision}embeddings.patch_embedding.weight": (1024, 3, 16, 16),
        f"{vision}embeddings.patch_embedding.bias": (1024,),
        f"{vision}embeddings.position_embedding.weight": (256, 1024),
        f"{vision}head.probe": (1, 1, 1024),
        f"{vision}head.attention.in_proj_weight": (3072, 1024),
        f"{vision}head.attention.in_proj_bias": (3072,),
        f"{vision}head.attention.out_proj.weight": (1024, 1024),
        f"{vision}head.attention.out_proj.bias": (1024,),
        f"{vision}head.mlp.fc1.weight": (4096, 1024),
        f"{vision}head.mlp.fc1.bias": (4096,),
        f"{vision}head.mlp.fc2.weight": (1024, 4096),
        f"{vision}head.mlp.fc2.bias": (1024,),
        f"{text}embeddings.token_embedding.weight": (32000, 1024),
        f"{text}embeddings.position_embedding.weight": (64, 1024),
        f"{text}head.weight": (1024, 1024),
        f"{text}head.bias": (1024,),
        "rqvaesiglip.quantizer.codebooks.0.weight": (16385, 1024),
        "rqvaesiglip.logit_scale": (1,),
        "rqvaesiglip.logit_bias": (1,),
    }
    for norm in (f"{vision}post_layernorm", f"{vision}head.layernorm", f"{text}final_layer_norm"):
        shapes |= {f"{norm}.weight": (1024,), f"{norm}.bias": (1024,)}
    for block in range(24):
        shapes |= block_shapes(f"{vision}encoder.layers.{block}.", 1024, 4096)
        shapes |= block_shapes(f"{text}encoder.layers.{block}.", 1024, 4096)
    return shapes


def test_keys_and_shapes_at_full_size() -> None:
    known = KNOWN_SIGLIP["google/siglip-large-patch16-256"]
    sizes = {k: v for k, v in known.items() if k not in ("patch_size", "image_size")}
    with torch.device("meta"):
        parts = TowerParts(
            SiglipVisionModel(SiglipVisionConfig(**known)),
            torch.empty(1, 16384, 1024),
            4,
            SiglipTextModel(SiglipTextConfig(**sizes, vocab_size=32000, max_position_embeddings=64)),
        )
        found = {name: tuple(value.shape) for name, value in tower_tensors(parts).items()}
    assert found == vila_u_256_shapes()
    section = tower_config(parts, "google/siglip-large-patch16-256", torch.bfloat16)["rqvaesiglip"]
    assert section["latent_shape"] == [16, 16, 1024]
    assert section["code_shape"] == [16, 16, 4]
    assert (section["n_embed"], section["shared_codebook"]) == (16384, True)
    projector = Projector("mlp2x_gelu", 1024, 4096)
    assert {k: tuple(v.shape) for k, v in projector.state_dict().items()} == {
        "layers.0.weight": (4096, 1024),
        "layers.0.bias": (4096,),
        "layers.2.weight": (4096, 4096),
        "layers.2.bias": (4096,),
    }


def test_projector_kinds() -> None:
    tokens = torch.randn(2, 5, 8)
    two = Projector("mlp2x_gelu", 8, 6)
    hidden = two.layers[0](tokens)
    exact = hidden * 0.5 * (1 + torch.erf(hidden / 2**0.5))
    torch.testing.assert_close(two(tokens), two.layers[2](exact))
    assert list(Projector("linear", 8, 6).state_dict()) == ["layers.weight", "layers.bias"]
    assert len(Projector("mlp3x_gelu", 8, 6).state_dict()) == 6
    assert torch.equal(Projector("identity", 8, 8)(tokens), tokens)
    for kind, width in (("identity", 6), ("mlpx_gelu", 6), ("mlp0x_gelu", 6), ("conv", 6)):
        with pytest.raises(CraftError, match="mlpNx_gelu"):
            Projector(kind, 8, width)


def test_folder_has_every_part(checkpoints: Path) -> None:
    folder = checkpoints / "llama"
    files = {str(p.relative_to(folder)) for p in folder.rglob("*") if p.is_file()}
    assert files >= {
        "config.json",
        "llm/config.json",
        "llm/generation_config.json",
        "llm/model.safetensors",
        "llm/tokenizer.json",
        "llm/tokenizer_config.json",
        "vision_tower/config.json",
        "vision_tower/preprocessor_config.json",
        "vision_tower/model.safetensors",
        "mm_projector/config.json",
        "mm_projector/model.safetensors",
    }
    top = json.loads((folder / "config.json").read_text())
    assert (top["model_type"], top["architectures"]) == ("vila_u_llama", ["VILAULlamaModel"])
    assert (top["hidden_size"], top["mm_hidden_size"]) == (48, 32)
    assert top["image_wrap"] is True
    assert top["conversation"] == "vicuna_v1"
    tower = json.loads((folder / "vision_tower" / "config.json").read_text())
    assert tower["model_type"] == "rqvaesigliptransformer_model"
    assert tower["rqvaesiglip"]["pretrained_model"] == "vision_tower/siglip"
    with safe_open(folder / "vision_tower" / "model.safetensors", "pt") as file:
        table = file.get_tensor("rqvaesiglip.quantizer.codebooks.0.weight")
    assert table.shape == (65, 32)
    assert not table[64].any()


def test_half_precision_files_load_as_float32(tmp_path: Path) -> None:
    exact = load_vlm(VlmSpec(str(write_tiny(tmp_path / "exact"))))
    write_tiny(tmp_path / "half", dtype=torch.float16)
    for file in (tmp_path / "half").rglob("*.safetensors"):
        assert {v.dtype for v in load_file(file).values()} == {torch.float16}
    assert json.loads((tmp_path / "half" / "llm" / "config.json").read_text())["dtype"] == "float16"
    half = load_vlm(VlmSpec(str(tmp_path / "half")))
    for (name, value), rounded in zip(exact.state_dict().items(), half.state_dict().values(), strict=True):
        assert torch.equal(value.half().float(), rounded), name


def test_same_seed_same_weights_and_global_seed_untouched(tmp_path: Path) -> None:
    torch.manual_seed(3)
    expected = torch.rand(4)
    torch.manual_seed(3)
    first = load_vlm(VlmSpec(str(write_tiny(tmp_path / "a"))))
    assert torch.equal(torch.rand(4), expected)
    second = load_vlm(VlmSpec(str(write_tiny(tmp_path / "b"))))
    assert all(torch.equal(v, second.state_dict()[k]) for k, v in first.state_dict().items())


@pytest.mark.parametrize("umask", [0o022, 0o007, 0o077])
def test_who_may_read_weights_is_said_by_the_umask(umask: int, tmp_path: Path) -> None:
    before = os.umask(umask)
    try:
        write_tiny(tmp_path / "model")  # its language model is written by transformers
        save_tensors(tmp_path / "one.safetensors", {"codes": torch.zeros(2)})
    finally:
        os.umask(before)
    files = [file for file in tmp_path.rglob("*") if file.is_file()]
    assert len([file for file in files if file.suffix == ".safetensors"]) > 3
    assert {oct(file.stat().st_mode & 0o777) for file in files} == {oct(0o666 & ~umask)}


def test_folders_are_replaced_whole_or_not_at_all(tmp_path: Path) -> None:
    target = tmp_path / "m"
    write_tiny(target)
    before = (target / "config.json").read_bytes()
    with pytest.raises(ZeroDivisionError), fresh_folder(target) as fresh:
        (fresh / "config.json").write_text(str(1 / 0))
    assert (target / "config.json").read_bytes() == before
    (target / "stray").write_text("x")
    write_tiny(target, seed=1)
    assert not (target / "stray").exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["m"]
    (tmp_path / "precious").mkdir()
    (tmp_path / "precious" / "thesis.txt").write_text("x")
    with pytest.raises(CraftError, match="will not be replaced"):
        write_tiny(tmp_path / "precious")
