"""What only a GPU shows, in at most eight minutes: equal codes and losses, a CRAFT step of the paper's shapes with its
time and memory, going on from a checkpoint, FSDP2, and what pruning saves.

    python benchmarks/gpu.py [--output gpu.json] [--device cpu --quick]

Nothing is downloaded: VILA-U's tower (ViT-L/16 at 256 pixels, 16,384 codes) in front of Qwen2-0.5B has random weights,
the pocket model is the shipped one, images are drawn. Each part is a process of its own, with a share of the time: what
takes longer is cut off, what does not fit is left out, and both are told. What a part has found until then counts. With
``--quick`` all shapes are small, and with ``--device cpu`` everything but the memory of a GPU is rehearsed without one.
"""

from __future__ import annotations

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback
from torch import Tensor
from transformers import Qwen2Config

import in_time
from craft_lightning.checkpoints.configs import BLUEPRINTS, KNOWN_SIGLIP
from craft_lightning.checkpoints.load import load_tower
from craft_lightning.errors import CraftError
from craft_lightning.methods.craft import Craft
from craft_lightning.models.vlm_spec import VlmSpec
from craft_lightning.run_facts import forget_peak, peak_memory, size
from craft_lightning.strategies.choose import GIB, Choice, Given, choose, this_machine
from craft_lightning.strategies.flops import card_of, seconds, training_work
from craft_lightning.strategies.memory import TEXT_TOKENS, Profile, profile
from craft_lightning.types import VisualTokens
from data_modules.datamodule import VqaDataModule
from pruning import KEEPS, LLAMA_2_7B, Shape, paper_shape
from quantizer import agreement
from timing import Row, synchronise
from tiny import write_random, write_tiny
from training_step import MIB, WARM_UP, Bare, Turns, fit

BUDGET = 470.0
"""Seconds of all parts together; the rest of the eight minutes is for starting and ending."""
GOAL = 8
IMAGES = 8
BATCHES = (24, 12, 6, 3)
ALONE, ROUNDS, STEPS = 3, 8, 4
"""Steps of ours whose memory is counted, steps in turn with the bare loop, and steps of the short trainings."""
PRUNED_LAYERS = 8
"""Layers of Llama-2-7B's 32 whose prefill is timed: float32 weights of that many are made first."""


@dataclass(frozen=True)
class Place:
    """Where a part computes (``cuda`` or ``cpu``), the folder that all parts share, and whether shapes are small."""

    device: str
    folder: Path
    quick: bool = False

    @property
    def model(self) -> str:
        """The checkpoint that the first part writes."""
        return str(self.folder / "model")

    def train(self, watch: Callback, batch: int, steps: int, *flags: str, backbone: str = "") -> list[str]:
        """A ``fit`` of CRAFT; returns the replies to validation items. ``flags`` win over what is usual here."""
        usual = (f"--trainer.accelerator={self.device}", "--trainer.enable_checkpointing=false")
        with tempfile.TemporaryDirectory(dir=self.folder) as run:
            fit(Path(run), watch, "craft", backbone or self.model, batch, steps, 1, *usual, *flags)
            replies = Path(run) / "predictions.jsonl"
            lines = replies.read_text(encoding="utf-8").splitlines() if replies.is_file() else []
        return [json.loads(line)["prediction"] for line in lines]


def model(place: Place) -> Iterator[Row]:
    """Write the checkpoint that the other parts read, in bfloat16; nothing is measured."""
    if place.quick:
        write_tiny(place.model)
        return
    shape = {k: v for k, v in BLUEPRINTS["qwen2-0.5b"]["llm/config.json"].items() if k != "model_type"}
    write_random(
        Path(place.model), KNOWN_SIGLIP["google/siglip-large-patch16-256"], Qwen2Config(**shape), torch.bfloat16
    )
    yield from ()


@torch.no_grad()
def codes(place: Place) -> Iterator[Row]:
    """First-level codes of drawn images on both devices, and those of a quantiser that is shown the same features."""
    for name, backbone in (("random tower", place.model), ("pocket tower", "pocket-vila-u")):
        data = VqaDataModule(VlmSpec(backbone), "eurosat", test_size=IMAGES, eval_batch_size=IMAGES)
        data.setup("test")
        pixels = next(iter(data.test_dataloader())).pixel_values
        tower = load_tower(VlmSpec(backbone))
        wanted, quantizer = tower.encode(pixels), tower.quantizer
        assert quantizer is not None
        features, first = wanted.features.flatten(0, 1), _first(wanted)
        here = quantizer.to(place.device).encode(features.to(place.device)).codes.cpu()
        equal = agreement(features, quantizer.cpu(), here)  # ends the part where codes differ and are no ties
        row = partial(Row, GOAL, theirs=float(first.numel()), against="all codes", unit="")
        figure = f"Codes of {IMAGES} images, {name}"
        yield row(f"{figure}, same features: ties that differ", ours=first.numel() * (1 - equal), most=0.01)
        tower.to(place.device)
        kinds = {
            "float32": ("highest", False),
            "float32, products in TF32": ("high", False),
            "bfloat16": ("highest", True),
        }
        for kind, (products, half) in kinds.items():
            torch.set_float32_matmul_precision(products)
            with torch.autocast(place.device, torch.bfloat16, enabled=half):
                differ = _first(tower.encode(pixels.to(place.device))) != first
            goal = 0.001 if kind == "float32" else None
            yield row(f"{figure}, {kind}: differ", ours=float(differ.sum()), most=goal)
        torch.set_float32_matmul_precision("highest")


def _first(visual: VisualTokens) -> Tensor:
    """First-level codes ``[B, N]``, on the CPU."""
    assert visual.codes is not None
    return visual.codes[..., 0].cpu()


class Steps(Callback):
    """Notes each step's loss and seconds.

    Attributes:
        save: where a checkpoint is written after half of the steps, if anywhere. start, end: trained weights.
    """

    def __init__(self, save: Path | None = None) -> None:
        self.save, self.losses, self.seconds = save, list[float](), list[float]()
        self.start: dict[str, Tensor] = {}
        self.end: dict[str, Tensor] = {}

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        self.start = _trained(pl_module)
        self._began = time.perf_counter()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, *args: Any) -> None:
        self.losses.append(float(outputs["loss"]))
        synchronise()
        self.seconds.append(time.perf_counter() - self._began)
        if self.save is not None and trainer.global_step == STEPS // 2:
            trainer.save_checkpoint(self.save)
        self._began = time.perf_counter()

    def on_train_end(self, trainer: Any, pl_module: Any) -> None:
        self.end = _trained(pl_module)


def _trained(module: Any) -> dict[str, Tensor]:
    return {name: tensor.detach().cpu().clone() for name, tensor in module.stored().items()}


def pocket(place: Place) -> Iterator[Row]:
    """A short training of the shipped model in float32 with validation, pruning and every file that a run writes."""
    losses, replies, batch = {}, {}, 4 if place.quick else 24
    for device in ("cpu", place.device):
        steps, here = Steps(), replace(place, device=device)
        flags = ("--trainer.limit_val_batches=1.0", f"--data.val_size={2 * batch}", "--trainer.precision=32-true")
        replies[device] = here.train(steps, batch, STEPS, *flags, backbone="pocket-vila-u")
        losses[device] = steps.losses
    mean, apart = _apart(losses["cpu"], losses[place.device])
    yield Row(
        GOAL, f"pocket-vila-u: loss of {STEPS} steps, largest difference", "the CPU's", mean, apart, "", most=1e-3
    )
    other = sum(a != b for a, b in zip(replies["cpu"], replies[place.device], strict=True))
    count = float(len(replies["cpu"]))
    yield Row(GOAL, "pocket-vila-u: replies after it that differ", "the CPU's", count, float(other), "", most=0.05)


def _apart(theirs: Sequence[float], ours: Sequence[float]) -> tuple[float, float]:
    """Mean of losses, and the largest difference of two trainings' in the same step."""
    return sum(theirs) / len(theirs), max(abs(a - b) for a, b in zip(theirs, ours, strict=True))


def layout(place: Place, copies: int) -> tuple[Profile, Choice, int]:
    """The numbers of CRAFT on the model, what ``strategy: auto`` makes of this device, and the largest batch that fits
    in one pass, with so many models and what they keep in memory. Raises CraftError: none does."""
    sketch = Craft(backbone=VlmSpec(place.model)).sketch()
    numbers, machine = profile(sketch, sketch.vlm), this_machine(place.device, 1, 1)
    assert machine is not None
    for batch in BATCHES[-1:] if place.quick else BATCHES:
        choice = choose(numbers, machine, batch, given=Given(parts=1, recompute=False))
        found = choice.estimate
        need = found.peak + (copies - 1) * (found.weights + found.states + found.activations)
        if need <= machine.room:
            return numbers, choice, batch
    raise CraftError(f"does not fit: {size(need)} for {batch} rows, {size(max(machine.room, 0))} may be planned for")


ONE_PASS = ("--trainer.accumulate_grad_batches=1", "--model.backbone.gradient_checkpointing=false")


class Watch(Turns):
    """Ours alone first, for its memory, then in turn with the bare loop and the parts of a step.

    Attributes:
        peak: bytes of tensors on a GPU, of a process without one. positions: of a row in the language model.
    """

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Forget what loading took."""
        self.data = trainer.datamodule
        forget_peak()

    def on_train_batch_start(self, *args: Any) -> None:
        """Nothing: the profiler of CPU memory stays away."""

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        """The others' turn, once ours has been alone."""
        if batch_idx >= ALONE:
            self.others(batch, batch_idx)
        elif batch_idx == ALONE - 1:
            self.peak, self.precision = peak_memory(trainer), str(trainer.precision)
            self.positions = pl_module.vlm.num_visual + batch.input_ids.shape[1] - 1
            self.bare = Bare(pl_module, self.data, self.steps)
            synchronise()
            self._began = time.perf_counter()


def step(place: Place) -> Iterator[Row]:
    """Time and memory of a CRAFT step as ``strategy: auto`` lays it out on one device."""
    numbers, choice, batch = layout(place, copies=2)
    watch = Watch(1 + WARM_UP + ROUNDS)  # the first one of these notes the products
    place.train(watch, batch, ALONE + watch.steps - 1, *ONE_PASS)
    assert watch.precision == choice.precision, f"auto took {watch.precision}, the accounting is of {choice.precision}"
    figure = f"CRAFT's step, {choice.precision}, batch {batch}, {watch.positions} positions"
    ours, parts = watch.median("ours"), ("tower", "quantizer", "language")
    yield Row(GOAL, figure, "bare loop", watch.median("bare"), ours, "ms", most=1.03)
    for part in parts:
        yield Row(GOAL, f"{figure}: {part}", "our step", ours, watch.median(part), "ms")
    yield Row(GOAL, figure, "tower, quantiser, language model", watch.median(*parts), ours, "ms", bound=True)
    yield Row(GOAL, figure, "matrix products", watch.median("products"), ours, "ms", bound=True)
    machine = this_machine(place.device, 1, 1)
    assert machine is not None
    card = card_of(machine.memory / GIB)
    told = 1000 * seconds(training_work(numbers, choice.recompute), card, batch, 1)
    yield Row(GOAL, figure, f"the accounting of docs/scale.md for {card.name}", told, ours, "ms")
    if place.device == "cpu":
        raise CraftError("memory: only a GPU counts what tensors take of it")
    planned = choice.estimate.weights + choice.estimate.states + choice.estimate.activations
    against = f"the accounting, {numbers.tokens + TEXT_TOKENS} positions"
    yield Row(GOAL, f"{figure}: peak memory", against, planned / MIB, watch.peak / MIB, "MiB", most=1.0)


def _chosen(choice: Choice) -> tuple[str, ...]:
    """What ``auto`` chose, for trainings whose strategy is named."""
    return (*ONE_PASS, f"--trainer.precision={choice.precision}", f"--model.backbone.dtype={choice.dtype}")


def resume(place: Place) -> Iterator[Row]:
    """A training, and one that goes on from the middle of it, with deterministic kernels where there are some."""
    _, choice, batch = layout(place, copies=1)
    # With Adam's usual eps, rounding alone moves what has no gradient (an attention's key bias) by whole steps.
    flags = (*_chosen(choice), "--trainer.deterministic=warn", "--model.optim.eps=1e-4")
    middle = place.folder / "middle.ckpt"
    whole, rest = Steps(save=middle), Steps()
    place.train(whole, batch, STEPS, *flags)
    place.train(rest, batch, STEPS, *flags, f"--ckpt_path={middle}")
    pairs = [(whole.start[name], end, rest.end[name]) for name, end in whole.end.items()]
    moved = sum(float((end - start).double().square().sum()) for start, end, _ in pairs) ** 0.5
    apart = sum(float((end - again).double().square().sum()) for _, end, again in pairs) ** 0.5
    count = float(sum(end.numel() for _, end, _ in pairs))
    bits = float(sum(int((end != again).sum()) for _, end, again in pairs))
    figure = f"Going on from step {STEPS // 2} of {STEPS}"
    yield Row(GOAL, f"{figure}: distance of the weights", "how far training moved them", moved, apart, "", most=0.01)
    yield Row(GOAL, f"{figure}: weights that differ in a bit", "all of them", count, bits, "")


def sharded(place: Place) -> Iterator[Row]:
    """The same steps on one device, and with weights sharded over one process."""
    _, choice, batch = layout(place, copies=1)
    alone, fsdp2 = Steps(), Steps()
    place.train(alone, batch, STEPS, *_chosen(choice), "--trainer.strategy=auto")
    place.train(fsdp2, batch, STEPS, *_chosen(choice), "--trainer.strategy=fsdp2")
    mean, apart = _apart(alone.losses, fsdp2.losses)
    figure = f"FSDP2 on one process, {choice.precision}, batch {batch}"
    yield Row(GOAL, f"{figure}: loss of {STEPS} steps, largest difference", "one device", mean, apart, "", most=0.01)
    yield Row(GOAL, f"{figure}: a step", "one device", 1000 * min(alone.seconds), 1000 * min(fsdp2.seconds), "ms")


def pruning(place: Place) -> Iterator[Row]:
    """Prefill of one image and a question at both keep ratios."""
    shape, layers = LLAMA_2_7B, PRUNED_LAYERS
    if place.quick:
        shape, layers = Shape(layers=8, width=64, mlp=128, heads=4, kv_heads=4, vocabulary=512), 1
    machine = this_machine(place.device, 1, 1)
    need = 6 * shape.parameters * layers // shape.layers  # in float32, and while it is made bfloat16
    if machine is None or need > machine.room:
        raise CraftError(f"does not fit: {size(need)}")
    found = paper_shape(shape, layers, 64, 3 if place.quick else 20, 3, place.device, torch.bfloat16)
    whole, pruned = (1000 * s for s in found.seconds)
    told = f"{layers} of {shape.layers} layers timed, {found.positions[0]:.0f} positions"
    figure = f"Prefill of {'a small shape' if place.quick else 'Llama-2-7B'} at keep {KEEPS[1]}, {told}"
    yield Row(GOAL, figure, f"keep {KEEPS[0]}", whole, pruned, "ms")
    all_flops, flops = (f / 1e12 for f in found.flops)
    yield Row(GOAL, f"{figure}: arithmetic", f"keep {KEEPS[0]}", all_flops, flops, "TFLOP")


PARTS: Mapping[str, tuple[float, Callable[[Place], Iterator[Row]]]] = {
    "model": (80, model),
    "codes": (80, codes),
    "step": (90, step),
    "pruning": (40, pruning),
    "pocket": (60, pocket),
    "resume": (100, resume),
    "sharded": (80, sharded),
}
"""Share of the time in seconds, and what is measured; the first one makes what the others read."""
ABSENT = {"VILA-U-7B in 4 bits": "no part of this program tries it yet"}


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, write and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output", type=Path, help="JSON file to write")
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda", help="cpu: a rehearsal")
    parser.add_argument("--quick", action="store_true", help="small sizes and few rounds: to see that it works")
    parser.add_argument("--only", nargs="+", choices=[name for name in PARTS if name != "model"], help="parts")
    parser.add_argument("--part", choices=PARTS, help=argparse.SUPPRESS)
    parser.add_argument("--folder", type=Path, help=argparse.SUPPRESS)
    args = parser.parse_args(argv)
    if args.device == "cuda" and not torch.cuda.is_available():
        print("no CUDA device here; --device cpu --quick rehearses without one", file=sys.stderr)
        return 1
    if args.part:
        in_time.run(PARTS[args.part][1](Place(args.device, args.folder, args.quick)), args.output)
        return 0
    shares = {n: share for n, (share, _) in PARTS.items() if n == "model" or args.only is None or n in args.only}
    flags = ["--device", args.device, *(["--quick"] if args.quick else [])]
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, __file__, *flags, "--folder", folder]
        print(in_time.measure(shares, BUDGET, partial(in_time.start, command, Path(folder)), ABSENT, args.output))
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
