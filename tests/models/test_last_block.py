from typing import Any

import pytest
import torch
from peft import LoraConfig, inject_adapter_in_model
from torch import Tensor
from transformers import (
    DynamicCache,
    LlamaConfig,
    LlamaModel,
    MistralConfig,
    MistralModel,
    Qwen2Config,
    Qwen2Model,
)

from craft_lightning.models.last_block import hidden_at
from craft_lightning.models.sharding import recompute

SHAPE = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 4, "vocab_size": 16}
SHAPE |= {"num_key_value_heads": 2}
AT = torch.tensor([[8, 3], [5, 5]])
GAPS = torch.tensor([[0, 1, 2, 5, 6, 7, 8, 9, 10], [0, 1, 2, 3, 4, 7, 8, 9, 9]])
MODELS = {
    "llama": lambda **more: LlamaModel(LlamaConfig(**SHAPE, **more)),
    "qwen2": lambda **more: Qwen2Model(Qwen2Config(**SHAPE, **more)),
    "qwen2, sliding window": lambda **more: Qwen2Model(
        Qwen2Config(**SHAPE, use_sliding_window=True, sliding_window=4, max_window_layers=1, **more)
    ),
    "another family": lambda **more: MistralModel(MistralConfig(**SHAPE, **more)),
}


def made(name: str, **more: Any) -> Any:
    torch.manual_seed(0)
    return MODELS[name](**more).eval().requires_grad_(False)


def read(hidden: Tensor, embeds: Tensor) -> tuple[Tensor, Tensor]:
    """Hidden states, and the gradient of something made of them."""
    (gradient,) = torch.autograd.grad((hidden * torch.linspace(-1, 1, 32)).square().sum(), embeds)
    return hidden, gradient


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("name", MODELS)
def test_positions_that_are_read_are_those_of_the_whole_model(name: str, masked: bool, attention: str) -> None:
    model = made(name, attn_implementation=attention)
    embeds = torch.randn(2, 9, 32, requires_grad=True)
    inputs: dict[str, Any] = {"inputs_embeds": embeds, "use_cache": False, "cache": None}
    if masked:
        mask = torch.ones(2, 9, dtype=torch.long)
        mask[1, 8:] = 0
        inputs |= {"attention_mask": mask, "position_ids": GAPS}
    whole = read(model(**inputs).last_hidden_state[torch.arange(2)[:, None], AT], embeds)
    few = read(hidden_at(model, AT, **inputs), embeds)
    torch.testing.assert_close(few, whole, atol=1e-6, rtol=1e-5)


def test_the_last_block_multiplies_what_is_read_alone() -> None:
    model, seen = made("qwen2"), {}
    for block in (0, -1):
        for part in ("self_attn.q_proj", "self_attn.k_proj", "mlp"):
            model.layers[block].get_submodule(part).register_forward_hook(
                lambda _module, args, _out, key=(block, part): seen.setdefault(key, []).append(args[0].shape[1])
            )
    embeds = torch.randn(2, 9, 32)
    hidden_at(model, AT, inputs_embeds=embeds, use_cache=False, cache=None)
    assert seen.pop((-1, "self_attn.k_proj")) == [9, 2]
    assert seen.pop((-1, "mlp")) == seen.pop((-1, "self_attn.q_proj")) == [2]
    assert set(map(tuple, seen.values())) == {(9,)}
    seen.clear()
    model(inputs_embeds=embeds, use_cache=False)
    assert set(map(tuple, seen.values())) == {(9,)}  # the model is left as it was


def test_a_cache_holds_all_positions_and_goes_on() -> None:
    model, embeds = made("qwen2"), torch.randn(2, 10, 32)
    cache = DynamicCache(config=model.config)
    hidden_at(model, AT, inputs_embeds=embeds[:, :9], use_cache=True, cache=cache)
    assert [cache.get_seq_length(layer) for layer in range(3)] == [9, 9, 9]
    then = model(inputs_embeds=embeds[:, 9:], use_cache=True, cache=cache).last_hidden_state[:, 0]
    whole = model(inputs_embeds=embeds, use_cache=False).last_hidden_state[:, 9]
    torch.testing.assert_close(then, whole, atol=1e-6, rtol=1e-5)


def test_gradients_of_lora_and_of_recomputed_blocks_are_those_of_the_whole_model() -> None:
    model = made("llama")
    inject_adapter_in_model(LoraConfig(r=2, target_modules=["q_proj", "v_proj"], init_lora_weights=False), model)
    embeds, found = torch.randn(2, 9, 32, requires_grad=True), []
    trained = [embeds, *(p for p in model.parameters() if p.requires_grad)]
    for few in (False, True, True):
        inputs = {"inputs_embeds": embeds, "use_cache": False, "cache": None}
        if few:
            hidden = hidden_at(model, AT, **inputs)
        else:
            hidden = model(**inputs).last_hidden_state[torch.arange(2)[:, None], AT]
        found.append(torch.autograd.grad(hidden.square().sum(), trained))
        if few:
            recompute(model)
    torch.testing.assert_close(found[1], found[0], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(found[2], found[0], atol=1e-6, rtol=1e-5)
