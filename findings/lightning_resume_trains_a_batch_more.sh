#!/usr/bin/env bash
# lightning 2.6.6: a training by max_steps that is resumed from the end of an epoch first trains one batch more of the
# epoch that had ended.
#
# Expected: the default checkpoint, saved when an epoch ends, resumes with the first batch of the next epoch.
# Found: with max_steps and no validation due at that point (here: no validation at all), batch_idx 4 of an epoch of 4
#   batches is trained, with the first row of a fresh pass; then the next epoch begins, so that row is seen twice, and
#   the run stops before its last row. Other weights, no warning. With max_epochs it resumes as expected.
# Where: lightning/pytorch/loops/training_epoch_loop.py: done needs _is_validation_done, which on a restart is
#   val_loop._has_run, still False; advance, with no validation to go back to, takes a batch. With max_epochs the
#   finished epoch does not count as a restart (loops/fit_loop.py, restarting).
# What to do: bound the training by max_epochs, or let _is_validation_done be true where no validation is due.
# Output seen, 30 November 2026:
#   lightning 2.6.6 torch 2.14.1+cu130
#   {'max_epochs': 2}, (epoch, batch, row): uninterrupted [(1, 0, 0), (1, 1, 1), (1, 2, 2), (1, 3, 3)] after step 4, weight -1.2
#       resumed from the end of epoch 0: [(1, 0, 0), (1, 1, 1), (1, 2, 2), (1, 3, 3)], weight -1.2
#   {'max_steps': 8}, (epoch, batch, row): uninterrupted [(1, 0, 0), (1, 1, 1), (1, 2, 2), (1, 3, 3)] after step 4, weight -1.2
#       resumed from the end of epoch 0: [(0, 4, 0), (1, 0, 0), (1, 1, 1), (1, 2, 2)], weight -0.9
#   As found: by max_steps, batch 4 of epoch 0, which has batches 0 to 3, is trained on resume.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet torch==2.14.1 lightning==2.6.6
cd "$work"
venv/bin/python -I -W ignore - <<'PY'
import logging, sys

import lightning
import torch
from lightning.pytorch import LightningModule, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch.utils.data import DataLoader

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
print("lightning", lightning.__version__, "torch", torch.__version__)


class Model(LightningModule):
    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(1))
        self.seen = []

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)

    def training_step(self, batch, batch_idx):
        self.seen.append((self.current_epoch, batch_idx, int(batch)))
        return (self.weight * batch).sum()


def run(name: str, checkpoint: str | None = None, **length: int) -> tuple[list[tuple[int, int, int]], float]:
    model = Model()
    save = ModelCheckpoint(name, filename="{step}", save_top_k=-1)
    quiet = {"logger": False, "enable_progress_bar": False, "enable_model_summary": False}
    trainer = Trainer(accelerator="cpu", callbacks=[save], **quiet, **length)
    trainer.fit(model, DataLoader(torch.arange(4.0), batch_size=1), ckpt_path=checkpoint, weights_only=True)
    return model.seen, round(model.weight.item(), 3)


second = [(1, i, i) for i in range(4)]
found = {"max_epochs": second, "max_steps": [(0, 4, 0), *second[:3]]}
changed = []
for length in ({"max_epochs": 2}, {"max_steps": 8}):
    bound = next(iter(length))
    whole, weight = run(bound, **length)
    resumed, other = run(f"{bound}-resumed", f"{bound}/step=4.ckpt", **length)
    print(f"{length}, (epoch, batch, row): uninterrupted {whole[4:]} after step 4, weight {weight}")
    print(f"    resumed from the end of epoch 0: {resumed}, weight {other}")
    if whole[4:] != second or resumed != found[bound]:
        changed.append(f"{bound}: resumed run saw {resumed}")
if changed:
    sys.exit("CHANGED: " + "; ".join(changed))
print("As found: by max_steps, batch 4 of epoch 0, which has batches 0 to 3, is trained on resume.")
PY
