"""Short runs that one process, and several, should make alike; run as a script, this is one of several.

``python tests/distributed/scenarios.py CHECKPOINTS SCENARIO...`` (as JSON) runs them one after the other in one process
group, so that the imports and the group are paid for once.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
STEPS, MIDDLE = 6, 3
"""Steps of a run, whose epochs have four. Whoever goes on does so from the middle of the first."""


@dataclass(frozen=True)
class Scenario:
    """A run into ``folder``, by default CRAFT from the start; ``start`` is the checkpoint that it goes on from.

    With ``cut`` it is one that has to end: the embeddings' output is detached, and the method declares a block that is
    never run. What each process says goes into ``said<rank>.txt``.
    """

    folder: str
    method: str = "craft"
    backbone: str = "host"
    dataset: str = "eurosat"
    strategy: str = "ddp"
    parts: int = 1
    grouped: bool = False
    start: str | None = None
    cut: bool = False

    def argv(self, checkpoints: Path, processes: int) -> list[str]:
        """The arguments of the command line."""
        watching = [f"callbacks/{name}.yaml" for name in ("ste_check", "token_map", "prune")]
        files = ["base.yaml", f"methods/{self.method}.yaml", *watching]
        configs = [f"--config={ROOT / 'experiments' / file}" for file in files]
        # With Adam's usual eps, rounding alone moves what has no gradient (an attention's key bias) by whole steps.
        optim = ["--model.optim.lr=0.01", "--model.optim.eps=1e-4"]
        data = ["--data.batch_size=8", "--data.train_size=32", "--data.val_size=7", "--data.eval_batch_size=2"]
        steps = [f"--trainer.max_steps={STEPS}", f"--trainer.val_check_interval={STEPS * self.parts}"]
        layout = [f"--trainer.strategy={self.strategy}", f"--trainer.accumulate_grad_batches={self.parts}"]
        where = [f"--model.backbone.name={checkpoints / self.backbone}", f"--trainer.default_root_dir={self.folder}"]
        quiet = ["--trainer.enable_progress_bar=false", "--trainer.logger=false", "--trainer.log_every_n_steps=1"]
        machine = ["--trainer.accelerator=cpu", f"--trainer.devices={processes}", f"--data.dataset={self.dataset}"]
        begin = [] if self.start is None else [f"--ckpt_path={self.start}"]
        begin += ["--model.dropout=0"] if self.method == "llm_lora" else []  # each process drops other numbers
        begin += ["--ste_check.every=1", f"--data.group_by_image={str(self.grouped).lower()}"]
        return ["fit", *configs, *optim, *data, *steps, *layout, *where, *quiet, *machine, *begin]

    def run(self, checkpoints: Path, processes: int = 1) -> Any:
        """Run it in this process, which is one of ``processes``."""
        from lightning.pytorch import Callback

        from craft_lightning.cli.run import build_cli

        if self.cut:
            return self._run_cut(checkpoints, processes)
        folder, terms = Path(self.folder), {}

        class Record(Callback):
            """What was logged after each step, and the checkpoint that others go on from."""

            def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
                found = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("train/")}
                # Every process has to save: none may look whether another one already has.
                first = trainer.global_step not in terms
                terms[trainer.global_step] = found
                if trainer.global_step == MIDDLE and first:
                    trainer.save_checkpoint(folder / "middle.ckpt")

        cli = build_cli(self.argv(checkpoints, processes), callbacks=[Record()])
        if cli.trainer.is_global_zero:
            (folder / "terms.json").write_text(json.dumps(terms), encoding="utf-8")
        return cli

    def _run_cut(self, checkpoints: Path, processes: int) -> None:
        import pytest
        from lightning.pytorch import Callback

        from craft_lightning.cli.run import build_cli
        from craft_lightning.errors import CraftError
        from craft_lightning.methods.craft import Craft

        declared = Craft.trainable

        def trainable(method: Craft) -> Any:
            yield from declared(method)
            yield from ((n, p) for n, p in method.named_parameters() if ".encoder.layers.2.mlp" in n)

        class Cut(Callback):
            def on_train_start(self, trainer: Any, pl_module: Any) -> None:
                embeddings = pl_module.vlm.tower.vision.embeddings
                embeddings.register_forward_hook(lambda module, given, found: found.detach())

        argv = self.argv(checkpoints, processes)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(Craft, "trainable", trainable)
            with pytest.raises(CraftError) as caught:
                build_cli(argv, callbacks=[Cut()])
        where = Path(self.folder) / f"said{os.environ.get('LOCAL_RANK', '0')}.txt"
        where.parent.mkdir(parents=True, exist_ok=True)
        where.write_text(str(caught.value), encoding="utf-8")


def command(checkpoints: Path, scenarios: Sequence[Scenario]) -> list[str]:
    """What starts one of several processes."""
    return [sys.executable, __file__, str(checkpoints), *(json.dumps(asdict(s)) for s in scenarios)]


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    import torch

    torch.set_num_threads(1)
    for given in sys.argv[2:]:
        Scenario(**json.loads(given)).run(Path(sys.argv[1]), int(os.environ["PROCESSES"]))
