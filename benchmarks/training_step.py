"""CRAFT's training step through Lightning, beside a bare PyTorch loop of the same modules and the sum of its parts; and
what Projector FT and LLM-LoRA save by showing an image to their frozen encoder once.

    python benchmarks/training_step.py [--quick]

Ours is a whole ``fit``, with logging, curves, progress and every callback of Table 1's runs: what lies between two of
its batch ends. In each of them the bare loop (a copy of the method, the same batches, optimiser and schedule, nothing
else) takes the same step, then the parts that no implementation avoids are run apart: tower forwards and backwards,
quantiser, projector and language model forwards and backwards to the visual tokens. Both loops must end in the same
weights. Beside them stand the bare matrix products of a step, with the factors that it has.
Peaks of memory are of tensors in one step, weights and images not counted, the optimiser's state counted.
What a frozen encoder saw is forgotten in every other step of the second epoch.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, nullcontext
from copy import deepcopy
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch import Callback
from torch import Tensor
from torch.optim import Optimizer
from torch.utils._python_dispatch import TorchDispatchMode

from craft_lightning.cli.run import build_cli
from craft_lightning.methods._support.contrastive import CaptionTable
from craft_lightning.methods.craft import Craft
from craft_lightning.optim import build_optimizer
from craft_lightning.types import VqaBatch
from timing import Peak, Row, memory, program, synchronise
from tiny import write_middle

EXPERIMENTS = Path(__file__).resolve().parents[1] / "experiments"
WARM_UP = 2
MIB = 2**20


class Bare:
    """A hand-written loop: a copy of a method's modules, a loader and an optimiser.

    Args:
        method: whose modules are copied, as they are. data: the data module. steps: of the schedule.
        everything: train the whole model, not only what the method trains.
    """

    def __init__(self, method: Craft, data: Any, steps: int, everything: bool = False) -> None:
        trainer, method._trainer = method._trainer, None
        self.method = deepcopy(method)
        method._trainer = trainer
        precision = nullcontext if trainer is None else trainer.precision_plugin.forward_context
        self.context: Callable[[], AbstractContextManager[Any]] = precision
        self.method.captions = CaptionTable.embed(data.captions, method.backbone, method.device, data.statements)
        groups = self.method.param_groups()
        if everything:
            groups = [{"params": list(self.method.requires_grad_(True).parameters())}]
        made = build_optimizer(groups, method.optim, steps)
        self.optimizer: Optimizer = made["optimizer"]
        self.schedule = made["lr_scheduler"]["scheduler"]
        self.parameters = [parameter for group in groups for parameter in group["params"]]
        self.batches: Iterator[VqaBatch] = iter(data.train_dataloader())

    def step(self) -> None:
        """Fetch a batch and learn from it."""
        self.learn(next(self.batches).to(self.method.device))

    def learn(self, batch: VqaBatch) -> None:
        """One step."""
        with self.context():
            visual = self.method.visual_tokens(batch.pixel_values)
            loss = sum(self.method.losses(batch, self.method.vlm(visual, batch)).values())
        self.optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.parameters, self.method.optim.clip)
        self.optimizer.step()
        self.schedule.step()

    def state_bytes(self) -> int:
        """Of the optimiser."""
        return sum(t.nbytes for state in self.optimizer.state.values() for t in state.values())


class Products(TorchDispatchMode):
    """Notes the factors of every matrix product; those within attention kernels and the convolution are not seen."""

    def __init__(self) -> None:
        super().__init__()
        self.factors: list[tuple[Tensor, Tensor]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        """Run it."""
        if func.overloadpacket in (torch.ops.aten.mm, torch.ops.aten.addmm, torch.ops.aten.addmm_):
            self.factors.append((args[-2].detach(), args[-1].detach()))
        return func(*args, **(kwargs or {}))

    def products(self) -> None:
        """Multiply them again."""
        for left, right in self.factors:
            torch.mm(left, right)


class Parts:
    """What every implementation computes, with gradients of ones."""

    def __init__(self, bare: Bare, batch: VqaBatch) -> None:
        self.method, self.context, self.batch, self.vlm = bare.method, bare.context, batch, bare.method.vlm
        with torch.no_grad(), self.context():
            self.visual = self.method.visual_tokens(batch.pixel_values)

    def tower(self) -> None:
        """Forwards and backwards, [CLS] with it."""
        with self.context():
            found = self.vlm.tower.features_and_cls(self.batch.pixel_values, self.method.cls)
        torch.autograd.backward(found, [torch.ones_like(each) for each in found])
        self.method.zero_grad()

    def quantizer(self) -> None:
        """Forwards."""
        assert self.vlm.tower.quantizer is not None
        self.vlm.tower.quantizer.encode(self.visual.features)

    def language(self) -> None:
        """Projector and language model, forwards, and backwards to the visual tokens."""
        tokens = self.visual.tokens.detach().requires_grad_()
        with self.context():
            loss = self.vlm(replace(self.visual, tokens=tokens), self.batch).answer_loss
        loss.backward()


class Turns(Callback):
    """Lets the bare loop and the parts take their turn after each of our steps.

    Attributes:
        seconds: of ours, the bare loop and the parts, step by step. peaks: of the same, and of training everything.
    """

    def __init__(self, steps: int) -> None:
        self.steps = steps
        self.seconds: dict[str, list[float]] = {}
        self.peaks: dict[str, int] = {}
        self._seen = Products()
        self._began = 0.0
        self._watch = ExitStack()
        self._peak = Peak()

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        """Copy what is to be trained."""
        self.data = trainer.datamodule
        self.bare = Bare(pl_module, self.data, self.steps)
        self._began = time.perf_counter()

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: VqaBatch, batch_idx: int) -> None:
        """In the last step memory is counted, of which the batch is there already."""
        if batch_idx == self.steps - 1:
            self._peak = self._watch.enter_context(memory())

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: VqaBatch, batch_idx: int) -> None:
        """The others' turn."""
        if batch_idx == self.steps - 1:
            self._watch.close()
            self._count_memory(pl_module)
            return
        self.others(batch, batch_idx)

    def others(self, batch: VqaBatch, batch_idx: int) -> None:
        """Note our step, then run the bare loop and the parts, each alone on the device."""
        synchronise()
        self._note("ours", self._began)
        if not self._seen.factors:
            with self._seen:
                self.bare.step()
            self._began = time.perf_counter()
            return
        parts = Parts(self.bare, batch)
        runs = [
            ("bare", self.bare.step),
            *((run.__name__, run) for run in (parts.tower, parts.quantizer, parts.language, self._seen.products)),
        ]
        for name, run in runs if batch_idx % 2 else runs[::-1]:  # whoever comes first finds other things in the cache
            self._timed(name, run)
        self._began = time.perf_counter()

    def _note(self, name: str, began: float) -> None:
        self.seconds.setdefault(name, []).append(time.perf_counter() - began)

    def _timed(self, name: str, run: Callable[[], object]) -> None:
        synchronise()
        began = time.perf_counter()
        run()
        synchronise()
        self._note(name, began)

    def _count_memory(self, method: Craft) -> None:
        batch = next(self.bare.batches)
        with memory() as bare:
            self.bare.learn(batch)
        state = self.bare.state_bytes()
        self.peaks |= {"ours": self._peak.bytes + state, "bare": bare.bytes + state}
        mine = dict(method.named_parameters())
        for name, theirs in self.bare.method.named_parameters():
            torch.testing.assert_close(mine[name], theirs, atol=1e-5, rtol=1e-3, msg=f"{name} differs")
        whole = Bare(self.bare.method, self.data, self.steps, everything=True)
        whole.step()
        batch = next(whole.batches)
        with memory() as peak:
            whole.learn(batch)
        self.peaks["everything"] = peak.bytes + whole.state_bytes()

    def median(self, *names: str) -> float:
        """Milliseconds of these runs together."""
        return 1000 * sum(statistics.median(self.seconds[name][-self.steps + WARM_UP + 1 :]) for name in names)


class Forgetful(Callback):
    """From the second epoch on every other step encodes its images.

    Attributes:
        seconds: of steps that do, and of those that do not.
    """

    def __init__(self) -> None:
        self.seconds: dict[bool, list[float]] = {True: [], False: []}

    def on_train_batch_start(self, trainer: Any, pl_module: Any, batch: VqaBatch, batch_idx: int) -> None:
        """Forget, or not."""
        self._known, self._anew = pl_module.seen, batch_idx % 2 == 0
        if self._anew and trainer.current_epoch:
            pl_module.seen = None
        self._began = time.perf_counter()

    def on_train_batch_end(self, trainer: Any, pl_module: Any, outputs: Any, batch: VqaBatch, batch_idx: int) -> None:
        """Remember."""
        if trainer.current_epoch:
            self.seconds[self._anew].append(time.perf_counter() - self._began)
        pl_module.seen = self._known


def fit(
    folder: Path, watch: Callback, method: str, backbone: str, batch: int, steps: int, epochs: int = 1, *flags: str
) -> None:
    """A ``fit`` on drawn satellite tiles, with the callbacks of Table 1's runs; ``flags`` win over its own."""
    files = ["base.yaml", *(f"callbacks/{name}.yaml" for name in ("prune", "ste_check", "token_map"))]
    files += [f"methods/{method}.yaml"]
    argv = ["fit", *(f"--config={EXPERIMENTS / file}" for file in files), f"--model.backbone.name={backbone}"]
    argv += [f"--trainer.max_steps={steps * epochs}", "--trainer.limit_val_batches=0", "--trainer.accelerator=cpu"]
    argv += [f"--data.batch_size={batch}", f"--data.train_size={batch * (steps + 1)}", "--data.val_size=1"]
    build_cli([*argv, "--overwrite=true", f"--trainer.default_root_dir={folder}", *flags], callbacks=[watch])


def reused(method: str, name: str, batch: int, steps: int) -> Row:
    """A step that shows its images to the encoder against one that does not."""
    watch = Forgetful()
    with tempfile.TemporaryDirectory() as folder:
        fit(Path(folder), watch, method, "pocket-vila", batch, steps, epochs=2)
    anew, known = (1000 * statistics.median(watch.seconds[each]) for each in (True, False))
    return Row(
        2, f"{name}'s step, pocket-vila, batch {batch}, from the second epoch on", "encoding anew", anew, known, "ms"
    )


def measured(name: str, backbone: str, batch: int, steps: int) -> list[Row]:
    """Time and memory of a step."""
    found = Turns(steps)
    with tempfile.TemporaryDirectory() as folder:
        fit(Path(folder), found, "craft", backbone, batch, steps)
    figure = f"CRAFT's step, {name}, batch {batch}"
    parts = ("tower", "quantizer", "language")
    print(
        f"{figure}: "
        + ", ".join(f"{part} {found.median(part):.0f} ms" for part in (*parts, "products", "bare", "ours"))
    )
    ours, peaks = found.median("ours"), {name: peak / MIB for name, peak in found.peaks.items()}
    return [
        Row(2, figure, "bare loop", found.median("bare"), ours, "ms", most=1.03),
        Row(2, figure, "tower, quantiser, language model", found.median(*parts), ours, "ms", bound=True),
        Row(2, figure, "matrix products", found.median("products"), ours, "ms", bound=True),
        Row(2, f"{figure}: peak memory", "bare loop", peaks["bare"], peaks["ours"], "MiB", most=1.03),
        Row(2, f"{figure}: peak memory", "training the whole model", peaks["everything"], peaks["ours"], "MiB"),
    ]


def rows(quick: bool) -> list[Row]:
    """The pocket model, and one in between."""
    batch, steps = (4, 3) if quick else (24, 10)
    found = measured("pocket-vila-u", "pocket-vila-u", batch, WARM_UP + steps)
    found += [reused(*method, batch, steps) for method in (("projector_ft", "Projector FT"), ("llm_lora", "LLM-LoRA"))]
    if quick:
        return found
    with tempfile.TemporaryDirectory() as folder:
        middle = write_middle(Path(folder))
        return found + measured("ViT-B tower and 135M language model", str(middle), 2, WARM_UP + 8)


if __name__ == "__main__":
    raise SystemExit(program(__doc__, rows))
