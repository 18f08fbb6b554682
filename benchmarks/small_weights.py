"""What a frozen language model in 8 or 4 bits takes of memory and time: its matrices, and CRAFT's whole step.

    python benchmarks/small_weights.py [--quick]

The step is a bare loop's, of random weights (a ViT-B tower, 135M parameters of language model) in float32. Its peak
counts every tensor: weights, gradients, optimiser, activations and images. That of a 7B surrogate is
``strategy: auto``'s estimate for a card of 12 GB.
"""

from __future__ import annotations

import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from craft_lightning.checkpoints.load import load_vlm
from craft_lightning.methods.craft import Craft
from craft_lightning.models.vlm_spec import VlmSpec
from craft_lightning.strategies.choose import GIB, choose
from data_modules.datamodule import VqaDataModule
from strategies import gpus, numbers
from timing import Row, memory, program
from tiny import write_middle
from training_step import MIB, Bare

GOAL = 10
MOST = {"int8": 0.55, "nf4": 0.3}


def tensors(module: nn.Module) -> dict[int, int]:
    """Bytes of every storage that a module holds, scales of quantised matrices included."""
    found: list[Tensor] = [*module.parameters(), *module.buffers()]
    for layer in module.modules():
        weight: Any = getattr(layer, "weight", None)
        for owner in (getattr(weight, "quant_state", None), getattr(layer, "state", None)):
            for part in (owner, getattr(owner, "state2", None)):
                found += [t for t in vars(part).values() if isinstance(t, Tensor)] if part is not None else []
    return {t.untyped_storage().data_ptr(): t.untyped_storage().nbytes() for t in found}


def matrices(folder: str) -> list[Row]:
    """Of the language model: all of it, and its matrices alone."""
    found, rows = {}, []
    for kind in ("same", *MOST):
        model = load_vlm(VlmSpec(folder, dtype="bfloat16", language_dtype=kind)).language_model
        table: Any = model.get_input_embeddings()
        whole = sum(tensors(model).values()) / MIB
        found[kind] = (whole, whole - table.weight.nbytes / MIB)
    for kind, most in MOST.items():
        for place, what in enumerate(("language model of 135M, embeddings included", "its matrices")):
            row = partial(Row, GOAL, f"Weights, {what}, {kind}", "bfloat16", unit="MiB")
            rows.append(row(theirs=found["same"][place], ours=found[kind][place], most=most if place else None))
    return rows


def step(folder: str, batch: int, **settings: Any) -> tuple[float, float]:
    """Peak in MiB and seconds of CRAFT's third step."""
    spec = VlmSpec(folder, **settings)
    method = Craft(backbone=spec)
    method.configure_model()
    data = VqaDataModule(spec, "eurosat", train_size=4 * batch, val_size=1, test_size=1, batch_size=batch)
    data.setup("fit")
    bare = Bare(method, data, 4)
    del method
    bare.step()
    rows = next(bare.batches)
    with memory() as peak:
        bare.learn(rows)
    held = sum(tensors(bare.method).values()) + bare.state_bytes() + rows.pixel_values.nbytes
    rows, began = next(bare.batches), time.perf_counter()
    bare.learn(rows)
    return (held + peak.bytes) / MIB, time.perf_counter() - began


def steps(folder: str, batch: int) -> list[Row]:
    """The whole step, beside the least that training the tower takes."""
    torch.manual_seed(0)
    sketch = Craft(backbone=VlmSpec(folder)).sketch()
    bound = 16 * sum(p.numel() for _, p in sketch.trainable()) / MIB
    whole, seconds = step(folder, batch)
    figure, rows = f"CRAFT's step, ViT-B tower and 135M language model, batch {batch}", []
    for told, settings in {
        "int8": {"language_dtype": "int8"},
        "nf4": {"language_dtype": "nf4"},
        "nf4, recomputed": {"language_dtype": "nf4", "gradient_checkpointing": True},
    }.items():
        peak, spent = step(folder, batch, **settings)
        rows += [
            Row(GOAL, f"{figure}, {told}: whole peak", "float32", whole, peak, "MiB", most=0.5),
            Row(GOAL, f"{figure}, {told}", "float32", 1000 * seconds, 1000 * spent, "ms"),
        ]
    return [*rows, Row(GOAL, f"{figure}, {told}: whole peak", "the tower's AdamW", bound, peak, "MiB", bound=True)]


def rows(quick: bool) -> list[Row]:
    """All of them."""
    with tempfile.TemporaryDirectory() as folder:
        middle = str(write_middle(Path(folder), (2, 3), 64) if quick else write_middle(Path(folder)))
        found = matrices(middle) + steps(middle, 2)
    card = gpus(12)
    for kind in ("same", *MOST):
        choice = choose(numbers("vila-u-7b-256", kind), card, 24)
        peak, room = choice.estimate.peak / GIB, card.room / GIB
        figure = f"CRAFT on VILA-U-7B, language model in {kind}, by the accounting"
        found.append(
            Row(GOAL, figure, "room on a card of 12 GB", room, peak, "GiB", most=1.0 if kind == "nf4" else None)
        )
    return found


if __name__ == "__main__":
    raise SystemExit(program(__doc__, rows))
