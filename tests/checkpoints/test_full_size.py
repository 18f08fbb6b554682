"""The paper's models at full size, on the meta device: every tensor of the public checkpoint is accounted for."""

import json
import re
import shutil
from collections import Counter
from pathlib import Path

import pytest
import torch
from transformers import SiglipTextModel

from craft_lightning.checkpoints.configs import BLUEPRINTS, write_blueprint
from craft_lightning.checkpoints.load import skeleton
from craft_lightning.checkpoints.tensors import mismatches
from craft_lightning.checkpoints.vila_u import CODEBOOKS, SCALARS, SIGLIP, siglip_half, text_width, unused
from craft_lightning.errors import CraftError
from craft_lightning.models.towers.continuous import ClipTower
from craft_lightning.models.vlm_spec import BACKBONES, VlmSpec

LISTED = Path(__file__).parent / "data" / "vila_u_7b_256.txt"


@pytest.fixture(autouse=True)
def _nothing_on_this_machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRAFT_MODELS", str(tmp_path / "models"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


def published() -> dict[str, dict[str, torch.Tensor]]:
    """The public checkpoint's tensors by folder and name, on the meta device."""
    found: dict[str, dict[str, torch.Tensor]] = {}
    for line in LISTED.read_text(encoding="utf-8").splitlines():
        if line.startswith("["):
            part = found[line.strip("[]")] = {}
        elif not line.startswith("#"):
            name, sides = line.split()
            shape = [int(side) for side in sides.split("x")]
            between = re.search(r"\{(\d+)\.\.(\d+)\}", name)
            numbers = [""] if between is None else range(int(between[1]), int(between[2]) + 1)
            for number in numbers:
                full = name if between is None else name.replace(between[0], str(number))
                assert full not in part
                part[full] = torch.empty(shape, device="meta")
    return found


def without(prefix: str, tensors: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name.removeprefix(prefix): value for name, value in tensors.items() if name.startswith(prefix)}


def test_every_tensor_of_vila_u_is_loaded_or_known_to_be_unused(tmp_path: Path) -> None:
    public = published()
    assert {part: len(names) for part, names in public.items()} == {"vision_tower": 1107, "mm_projector": 4, "llm": 291}
    vlm = skeleton(VlmSpec("vila-u-7b-256"))
    assert mismatches(vlm.language_model.state_dict(), public["llm"]) == []
    assert mismatches(vlm.projector.state_dict(), public["mm_projector"]) == []

    tower = public["vision_tower"]
    root = write_blueprint(tmp_path / "m", "vila-u-7b-256")
    with torch.device("meta"):
        text = siglip_half(SiglipTextModel, root)
    loaded: list[str] = []
    for prefix, module in ((f"{SIGLIP}vision_model.", vlm.tower.vision), (f"{SIGLIP}text_model.", text)):
        assert mismatches(module.state_dict(), without(prefix, tower)) == []
        loaded += [f"{prefix}{name}" for name in module.state_dict()]
    tables = {name for name in tower if name.startswith(CODEBOOKS) and name.endswith(".weight")}
    assert len(tables) == 4
    entries, width = vlm.tower.quantizer.codebooks.shape[1:]
    assert {tuple(tower[name].shape) for name in tables} == {(entries + 1, width)}
    scalars = {f"{prefix}{name}" for prefix in ("rqvaesiglip.", SIGLIP) for name in SCALARS}
    skipped, unknown = unused(tower)
    assert unknown == []
    assert skipped == Counter(
        {
            "rqtransformer.": 105,
            "rqvaesiglip.decoder.": 194,
            "rqvaesiglip.post_quant_conv.": 2,
            "EMA buffers of the codebook": 8,
        }
    )
    assert len(loaded) + len(tables) + len(scalars) + skipped.total() == len(tower)
    assert unused([*tower, "rqvaesiglip.surprise"])[1] == ["rqvaesiglip.surprise"]


QWEN_HALF = 494_032_768
SIGLIP_LARGE, SIGLIP_SO400M, CLIP_LARGE = 315_956_224, 428_225_600, 303_507_456
LLAMA = 6_738_415_616
MARKS = 4 * 4096 * 2
"""Rows of the four added tokens, in the embeddings and in the output layer."""

PUBLISHED = [
    # name, tower, projector's widths, language model; tokens, levels, context
    ("vila-u-7b-256", SIGLIP_LARGE, (1024, 4096), LLAMA + MARKS, 256, 4, 8192),
    ("vila-u-7b-384", SIGLIP_SO400M, (1152, 4096), LLAMA + MARKS, 729, 16, 8192),
    ("vila-7b", CLIP_LARGE, (1024, 4096), LLAMA, 576, None, 4096),
    ("qwen2-0.5b", SIGLIP_LARGE, (1024, 896), QWEN_HALF, 256, 4, 32768),
    ("qwen2-1.5b", SIGLIP_LARGE, (1024, 1536), 1_543_714_304, 256, 4, 32768),
    ("qwen2.5-0.5b", SIGLIP_LARGE, (1024, 896), QWEN_HALF, 256, 4, 32768),
    ("qwen2.5-3b", SIGLIP_LARGE, (1024, 2048), 3_085_938_688, 256, 4, 32768),
]


@pytest.mark.parametrize(("name", "tower", "widths", "llm", "tokens", "levels", "context"), PUBLISHED)
def test_the_models_have_their_published_sizes(
    name: str, tower: int, widths: tuple[int, int], llm: int, tokens: int, levels: int | None, context: int
) -> None:
    vlm = skeleton(VlmSpec(name))
    assert all(p.is_meta for p in vlm.parameters())
    counts = [sum(p.numel() for p in part.parameters()) for part in (vlm.tower, vlm.projector, vlm.language_model)]
    assert counts == [tower, (widths[0] + 1 + widths[1] + 1) * widths[1], llm]
    assert (vlm.num_visual, vlm.context) == (tokens, context)
    if levels is None:
        assert isinstance(vlm.tower, ClipTower)
        with pytest.raises(CraftError, match=r"no text tower .* --model.lambda_contrastive 0"):
            text_width(VlmSpec(name))
    else:
        quantizer = vlm.tower.quantizer
        assert (quantizer.levels, tuple(quantizer.codebooks.shape)) == (levels, (1, 16384, widths[0]))
        assert text_width(VlmSpec(name)) == widths[0]


def test_every_paper_model_has_a_blueprint_and_a_folder_wins_over_it(tmp_path: Path) -> None:
    assert {name for name, backbone in BACKBONES.items() if backbone.source != "pocket"} == set(BLUEPRINTS)
    assert {row[0] for row in PUBLISHED} == set(BLUEPRINTS)
    folder = write_blueprint(tmp_path / "models" / "qwen2-0.5b", "qwen2-0.5b")
    config = json.loads((folder / "llm" / "config.json").read_text())
    (folder / "llm" / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 2}))
    assert skeleton(VlmSpec("qwen2-0.5b")).language_model.config.num_hidden_layers == 2
    shutil.rmtree(folder)
    assert skeleton(VlmSpec("qwen2-0.5b")).language_model.config.num_hidden_layers == 24
