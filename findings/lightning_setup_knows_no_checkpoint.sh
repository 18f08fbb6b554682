#!/usr/bin/env bash
# lightning 2.6.6: in a callback's setup, trainer.ckpt_path of a fit that resumes is still None.
#
# Expected: a callback that is asked to set up for fit(ckpt_path=...) can see whether the fit begins or goes on; the
#   argument was given, and setup is the hook that every callback gets first.
# Found: None in setup, the path from on_fit_start on. A callback that looks after its files in setup takes a resumed
#   training for a new one.
# Where: Trainer._run calls _call_setup_hook before _restore_modules_and_callbacks, and only the latter's
#   _checkpoint_connector writes trainer.ckpt_path (lightning/pytorch/trainer/trainer.py).
# What to do: decide in on_train_start.
# Output seen, 30 November 2026:
#   lightning 2.6.6: {'setup': None, 'on_fit_start': 'last.ckpt', 'on_train_start': 'last.ckpt'}
#   As found: setup does not know the checkpoint.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet torch==2.14.1 lightning==2.6.6
cd "$work"
venv/bin/python -I -W ignore - <<'PY'
import logging

import lightning
import torch
from lightning.pytorch import Callback, LightningModule, Trainer
from torch.utils.data import DataLoader, TensorDataset

for name in ("lightning.pytorch", "lightning.fabric"):
    logging.getLogger(name).setLevel(logging.ERROR)


class Model(LightningModule):
    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(1, 1)

    def training_step(self, batch):
        return self.layer(batch[0]).sum()

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), 0.1)

    def train_dataloader(self):
        return DataLoader(TensorDataset(torch.ones(4, 1)))


class Asks(Callback):
    def __init__(self):
        self.seen = {}

    def note(self, hook, trainer):
        self.seen[hook] = trainer.ckpt_path

    def setup(self, trainer, pl_module, stage):
        self.note("setup", trainer)

    def on_fit_start(self, trainer, pl_module):
        self.note("on_fit_start", trainer)

    def on_train_start(self, trainer, pl_module):
        self.note("on_train_start", trainer)


plain = {"accelerator": "cpu", "logger": False, "enable_progress_bar": False, "enable_model_summary": False}
first = Trainer(max_steps=2, enable_checkpointing=False, **plain)
first.fit(Model())
first.save_checkpoint("last.ckpt")
asks = Asks()
Trainer(max_steps=4, enable_checkpointing=False, callbacks=[asks], **plain).fit(Model(), ckpt_path="last.ckpt")
print(f"lightning {lightning.__version__}: {asks.seen}")
if asks.seen != {"setup": None, "on_fit_start": "last.ckpt", "on_train_start": "last.ckpt"}:
    raise SystemExit("Changed: see what setup is told now.")
print("As found: setup does not know the checkpoint.")
PY
