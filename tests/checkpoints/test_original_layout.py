"""Checkpoints as VILA-U's own code saves them, read and run beside an independent account of its forward path."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
import torch
from PIL import Image
from safetensors.torch import load_file
from torch import Tensor
from torch.nn import functional as F
from transformers import AutoConfig, LlamaForCausalLM, SiglipVisionConfig, SiglipVisionModel

from craft_lightning.checkpoints.load import load_tower, load_vlm
from craft_lightning.checkpoints.vila_u import load_text_tower
from craft_lightning.errors import CraftError
from craft_lightning.models.image_processing import preprocess
from craft_lightning.models.vlm_spec import VlmSpec
from craft_lightning.text.prompts import VICUNA_SYSTEM, PromptBuilder
from craft_lightning.types import VqaBatch
from tests.checkpoints import original_kit as kit

FORMS: list[tuple[kit.Form, kit.Books, int]] = [
    ("safetensors", "copied", 1),
    ("safetensors", "one", 2),
    ("bin", "aliased", 1),
    ("bin", "copied", 2),
]


@pytest.fixture(scope="module")
def original(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return kit.write_original(tmp_path_factory.mktemp("original") / "safetensors", books="copied")


def stored(folder: Path) -> dict[str, Tensor]:
    """All tensors of a part's safetensors files, in float32."""
    found = {k: v for file in folder.glob("*.safetensors") for k, v in load_file(file).items()}
    return {k: v.float() for k, v in found.items()}


def hidden(folder: Path, pixels: Tensor, dtype: torch.dtype) -> Tensor:
    """What the original quantises: ``hidden_states[-2]`` of SigLIP, its own eager attention."""
    config = json.loads((folder / "siglip" / "config.json").read_text())["vision_config"]
    vision = SiglipVisionModel._from_config(SiglipVisionConfig(**config), attn_implementation="eager").to(dtype)
    tower = stored(folder / "vision_tower")
    vision.load_state_dict({k.removeprefix(kit.VISION): v for k, v in tower.items() if k.startswith(kit.VISION)})
    with torch.no_grad():
        return vision.eval()(pixels.to(dtype), output_hidden_states=True).hidden_states[-2]


def quantised(folder: Path, h: Tensor) -> tuple[Tensor, Tensor]:
    """Codes and straight-through sums as the original computes them, in the precision of ``h``."""
    table = stored(folder / "vision_tower")[f"{kit.BOOKS}0.weight"][:-1].to(h.dtype)
    rows = h.reshape(-1, h.shape[-1])
    residual, total, codes = rows.clone(), torch.zeros_like(rows), []
    for _ in range(kit.LEVELS):
        squares = residual.pow(2.0).sum(1, keepdim=True) + table.t().pow(2.0).sum(0, keepdim=True)
        code = torch.addmm(squares, residual, table.t(), alpha=-2.0).argmin(-1)
        residual, total = residual - table[code], total + table[code]
        codes.append(code)
    shape = h.shape[:-1]
    return torch.stack(codes, -1).view(*shape, kit.LEVELS), (rows + (total - rows)).view(h.shape)


@pytest.fixture(scope="module")
def picture() -> Image.Image:
    values = np.random.default_rng(3).integers(0, 256, (31, 23, 3), dtype=np.uint8)
    return Image.fromarray(values)


def test_codes_features_and_logits_are_the_original_s(original: Path, picture: Image.Image) -> None:
    vlm = load_vlm(VlmSpec(str(original), attention="eager"))
    pixels = preprocess(picture, vlm.image_size, vlm.aspect)[None]
    by_hand = np.asarray(picture.resize((16, 16), Image.Resampling.BICUBIC), dtype=np.float32) / 255
    torch.testing.assert_close(pixels[0], torch.from_numpy((by_hand - 0.5) / 0.5).permute(2, 0, 1), atol=1e-6, rtol=0)
    h = hidden(original, pixels, torch.float32)
    codes, tokens = quantised(original, h)
    with torch.no_grad():
        visual = vlm.encode(pixels)
    assert torch.equal(visual.features, h)
    assert torch.equal(visual.codes, codes)
    assert torch.equal(visual.tokens, tokens)
    assert len(visual.codes.unique()) > 4

    words = sentencepiece.SentencePieceProcessor(model_file=str(original / "llm" / "tokenizer.model"))
    text = "What is  an  assistant?\nA.  an  assistant "  # the original strips a message, as we do
    before, after = f"{VICUNA_SYSTEM} USER: ", f"\n{text.strip()} ASSISTANT:"
    expected = [1, *words.encode(before), -200, *words.encode(after)]
    ids = PromptBuilder(vlm.tokenizer, vlm.conversation, lettered=False).prompt_ids(text)
    assert list(ids) == expected

    state = stored(original / "mm_projector")
    seen = F.gelu(F.linear(tokens, state["layers.0.weight"], state["layers.0.bias"]))
    seen = F.linear(seen, state["layers.2.weight"], state["layers.2.bias"])[0]
    language: Any = LlamaForCausalLM(AutoConfig.from_pretrained(original / "llm")).eval()
    language.load_state_dict(stored(original / "llm"))
    embedding, at = language.get_input_embeddings(), expected.index(-200)
    with torch.no_grad():
        merged = torch.cat([embedding(torch.tensor(expected[:at])), seen, embedding(torch.tensor(expected[at + 1 :]))])
        logits = language(inputs_embeds=merged[None]).logits
        found, read = vlm.prompt_logits(visual, one_prompt(pixels, ids))
    assert read.tolist() == [expected]
    assert found.shape == (1, len(expected) - 1 + 16, language.config.vocab_size)
    torch.testing.assert_close(found, logits, atol=1e-4, rtol=1e-4)
    assert vlm.context == 512
    assert language.config.rope_parameters["factor"] == 2.0
    assert vlm.wrap_ids is None, "the public code puts no marks around an image"


def one_prompt(pixels: Tensor, ids: tuple[int, ...]) -> VqaBatch:
    return VqaBatch(
        pixel_values=pixels,
        input_ids=torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids), dtype=torch.bool),
        labels=torch.full((1, len(ids)), -100),
        prompt_lengths=torch.tensor([len(ids)]),
        label_ids=torch.tensor([0]),
        caption_ids=torch.tensor([-1]),
        seen=torch.tensor([True]),
        answers=("",),
        keys=("k",),
        option_counts=(0,),
    )


def test_bfloat16_is_the_original_s_arithmetic(original: Path, picture: Image.Image) -> None:
    pixels = torch.stack([preprocess(picture.rotate(angle), 16) for angle in (0, 90, 180, 270)])
    tower = load_tower(original, dtype="bfloat16", quantizer_dtype="bfloat16", attention="eager")
    h = hidden(original, pixels, torch.bfloat16)
    codes, tokens = quantised(original, h)
    with torch.no_grad():
        visual = tower.encode(pixels)
    assert torch.equal(visual.features, h)
    assert torch.equal(visual.codes, codes)
    assert torch.equal(visual.tokens, tokens)
    mixed = load_tower(original, dtype="bfloat16", attention="eager")
    assert not torch.equal(mixed.encode(pixels).codes, codes), "float32 distances decide otherwise"


@pytest.mark.parametrize(("form", "books", "tower_shards"), FORMS, ids=lambda v: str(v))
def test_every_form_of_the_files_is_read_alike(
    form: kit.Form, books: kit.Books, tower_shards: int, original: Path, tmp_path: Path
) -> None:
    folder = kit.write_original(tmp_path / "m", form=form, books=books, tower_shards=tower_shards, shards=3)
    wanted, found = (load_vlm(VlmSpec(str(f))) for f in (original, folder))
    assert found.codebook_hash == wanted.codebook_hash
    for (name, value), other in zip(found.state_dict().items(), wanted.state_dict().values(), strict=True):
        assert torch.equal(value, other), name


def test_a_copy_that_differs_is_named(original: Path, tmp_path: Path) -> None:
    folder = kit.copy_of(original, tmp_path / "m")
    file = folder / "vision_tower" / "model.safetensors"
    state = load_file(file)
    state[f"{kit.BOOKS}3.weight"][2] += 1
    kit._write_tensors(folder / "vision_tower", state, "safetensors")
    with pytest.raises(CraftError, match=r"codebooks\.3\.weight differs"):
        load_tower(folder)


def test_the_text_tower_names_what_it_lacks(original: Path) -> None:
    with pytest.raises(CraftError, match="cannot be read as a tokenizer"):
        load_text_tower(original)
