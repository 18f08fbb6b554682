"""What token pruning saves: FLOPs and milliseconds of the prefill at keep 1.0 and 0.8 (for ``table4.py``).

Two models: the largest pocket backbone on test items of the ten twins, in batches as ``test`` makes them and one at a
time, and a random-weight model of the paper's shapes at batch 1, of which a few layers are timed and the rest scaled.
What is timed begins with the codes of an image and ends with the logits of the first reply token: choosing tokens,
projector, prefill. Both ratios take turns; medians.
"""

from __future__ import annotations

import statistics
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM, SiglipVisionConfig

from craft_lightning.checkpoints.configs import top_config_of
from craft_lightning.checkpoints.load import load_vlm
from craft_lightning.models.pruning import PruneRule, count_codes, prune
from craft_lightning.models.quantizer import ResidualQuantizer
from craft_lightning.models.towers.siglip import SiglipTower
from craft_lightning.models.vlm import DiscreteVlm, Projector
from craft_lightning.models.vlm_spec import BACKBONES, POCKET, VlmSpec
from craft_lightning.types import IMAGE_TOKEN_ID, VisualTokens, VqaBatch
from data_modules.datamodule import VqaDataModule
from data_modules.datasets import DATASETS
from timing import alternate
from tiny import tiny_tokenizer

KEEPS = (1.0, 0.8)
PAPER_LAYERS = 32


@dataclass(frozen=True)
class Shape:
    """Of a language model: the sizes that the FLOPs of a prefill depend on."""

    layers: int
    width: int
    mlp: int
    heads: int
    kv_heads: int
    vocabulary: int

    @property
    def parameters(self) -> int:
        """P, without the input embedding: matrices of the layers and the output layer."""
        attention = 2 * self.width**2 + 2 * self.width * self.width // self.heads * self.kv_heads
        return self.layers * (attention + 3 * self.width * self.mlp) + self.width * self.vocabulary

    def prefill_flops(self, positions: int) -> int:
        """``2 P S + 4 n_layer S^2 D``, one multiply-add being two."""
        return 2 * self.parameters * positions + 4 * self.layers * positions**2 * self.width


LLAMA_2_7B = Shape(layers=PAPER_LAYERS, width=4096, mlp=11008, heads=32, kv_heads=32, vocabulary=32000)


def shape_of(config: Any) -> Shape:
    """From a transformers config."""
    return Shape(
        config.num_hidden_layers,
        config.hidden_size,
        config.intermediate_size,
        config.num_attention_heads,
        config.num_key_value_heads,
        config.vocab_size,
    )


@dataclass(frozen=True)
class Measured:
    """Medians at each of :data:`KEEPS`: language-model positions, FLOPs, seconds."""

    name: str
    positions: tuple[float, ...]
    flops: tuple[float, ...]
    seconds: tuple[float, ...]

    def cells(self) -> tuple[str, ...]:
        """Positions, FLOPs and milliseconds at both, with their ratios."""
        unit, name = (1e12, "TFLOP") if self.flops[0] > 1e11 else (1e9, "GFLOP")
        flops = " → ".join(f"{f / unit:.3g}" for f in self.flops)
        times = " → ".join(f"{1000 * s:,.0f}" if s > 1.0 else f"{1000 * s:.3g}" for s in self.seconds)
        positions = " → ".join(f"{p:.0f}" for p in self.positions)
        ratios = [f"{pair[1] / pair[0]:.3f}" for pair in (self.flops, self.seconds)]
        return positions, f"{flops} {name}", ratios[0], f"{times} ms", ratios[1]


def largest() -> str:
    """The discrete pocket backbone with the largest language model, of those that are there."""
    folders = [POCKET / name for name, backbone in BACKBONES.items() if backbone.source == "pocket"]
    discrete = [f for f in folders if f.is_dir() and not top_config_of(f).get("continuous", False)]
    return max(discrete, key=lambda folder: (folder / "llm" / "model.safetensors").stat().st_size).name


@torch.no_grad()
def pocket(name: str, items: int, batch_size: int, rounds: int, warm_up: int) -> Measured:
    """A backbone on the first test items of the ten twins; time per item. Training images are the prior."""
    vlm = load_vlm(VlmSpec(name))
    assert vlm.tower.quantizer is not None
    shape = shape_of(vlm.language_model.config)
    asked: list[tuple[VisualTokens, VqaBatch, Tensor]] = []
    for dataset in DATASETS:
        data = VqaDataModule(VlmSpec(name), dataset, test_size=items, train_size=64, eval_batch_size=batch_size)
        data.setup("test")
        codes = (vlm.encode(pixels).codes for pixels in data.training_images())
        prior = count_codes(codes, vlm.tower.quantizer.entries)
        asked += [(vlm.encode(batch.pixel_values), batch, prior) for batch in data.test_dataloader()]

    def read(keep: float) -> Iterator[tuple[VisualTokens, VqaBatch]]:
        return ((prune(visual, keep, prior, PruneRule(), batch.keys), batch) for visual, batch, prior in asked)

    def reply(keep: float) -> None:
        for visual, batch in read(keep):
            vlm.answer_logits(visual, batch)

    lengths = [[n for visual, batch in read(keep) for n in positions(vlm, visual, batch)] for keep in KEEPS]
    seconds = alternate([partial(reply, keep) for keep in KEEPS], rounds, warm_up)
    count = len(lengths[0])
    return Measured(
        f"{name}, {count} items of ten twins, " + (f"batches of {batch_size}" if batch_size > 1 else "one at a time"),
        tuple(map(statistics.fmean, lengths)),
        tuple(statistics.fmean(map(shape.prefill_flops, each)) for each in lengths),
        tuple(s / count for s in seconds),
    )


@torch.no_grad()
def paper_shape(
    shape: Shape,
    layers: int,
    text: int,
    rounds: int,
    warm_up: int,
    device: str = "cpu",
    dtype: torch.dtype = torch.float32,
) -> Measured:
    """A random model of a shape, 256 visual tokens and some text; ``layers`` are timed, the others scaled."""
    with torch.device(device):
        vlm, visual, batch, prior = random_model(shape, layers, text)
    vlm.to(dtype)

    def read(keep: float) -> VisualTokens:
        return prune(visual, keep, prior, PruneRule(), batch.keys)

    def start(keep: float) -> object:
        return vlm.embed(read(keep).tokens, batch.input_ids, batch.attention_mask)

    def reply(keep: float) -> object:
        return vlm.answer_logits(read(keep), batch)

    # What does not grow with the depth, and all of it.
    runs = [partial(run, keep) for run in (start, reply) for keep in KEEPS]
    times = alternate(runs, rounds, warm_up)
    pairs = zip(times[:2], times[2:], strict=True)
    seconds = [fixed + (whole - fixed) / layers * shape.layers for fixed, whole in pairs]
    lengths = [positions(vlm, read(keep), batch)[0] for keep in KEEPS]
    return Measured(
        f"random weights of Llama-2-7B's shape, {layers} of {shape.layers} layers timed, {text} text tokens",
        tuple(map(float, lengths)),
        tuple(map(shape.prefill_flops, lengths)),
        tuple(seconds),
    )


def random_model(shape: Shape, layers: int, text: int) -> tuple[DiscreteVlm, VisualTokens, VqaBatch, Tensor]:
    """The model with a few layers, an image of Zipf-distributed codes, a prompt, and the prior of such images."""
    torch.manual_seed(0)
    entries, side, tower_width = 16384, 16, 1024
    sizes: dict[str, Any] = {"hidden_size": tower_width, "intermediate_size": 4096, "num_attention_heads": 16}
    config = SiglipVisionConfig(**sizes, num_hidden_layers=2, image_size=side * 16, patch_size=16)
    tower = SiglipTower.from_config(config, ResidualQuantizer(torch.randn(1, entries, tower_width), 4))
    tokenizer = tiny_tokenizer("llama")
    llama = LlamaConfig(
        vocab_size=max(len(tokenizer), 512),  # the output layer reads one position: its time is not the prefill's
        hidden_size=shape.width,
        intermediate_size=shape.mlp,
        num_hidden_layers=layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        max_position_embeddings=4096,
    )
    vlm = DiscreteVlm(
        tower, Projector("mlp2x_gelu", tower_width, shape.width), LlamaForCausalLM(llama).eval(), tokenizer
    ).eval()
    share = 1.0 / torch.arange(1, entries + 1, dtype=torch.float64)
    codes = torch.multinomial(share, side * side, replacement=True).view(1, -1, 1).expand(-1, -1, 4)
    features = torch.randn(1, side * side, tower_width)
    visual = VisualTokens(features, features, codes, None, (side, side), torch.rand(1, side * side))
    ids = torch.randint(5, 400, (1, text + 1))
    ids[0, 1] = IMAGE_TOKEN_ID
    one = torch.zeros(1, dtype=torch.long)
    whole = torch.ones_like(ids)
    seen, length = one.bool(), torch.tensor([text + 1])
    batch = VqaBatch(features, ids, whole.bool(), -100 * whole, length, one, one, seen, ("A",), ("a",), (0,))
    return vlm, visual, batch, (share * 1e6).long()


def positions(vlm: DiscreteVlm, visual: VisualTokens, batch: VqaBatch) -> list[int]:
    """Language-model positions of each prompt: text, visual tokens and their wrapping."""
    extra = visual.tokens.shape[1] - 1 + (0 if vlm.wrap_ids is None else 2)
    return [length + extra for length in batch.prompt_lengths.tolist()]
