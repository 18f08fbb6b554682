#!/usr/bin/env bash
# lightning 2.6.6: LightningCLI's "random seed" is 0.
#
# Expected: --seed_everything=true, the default, draws a seed and notes it in the config: "Set to True to use a random
#   seed", says --help. Repeats of a run are then different draws.
# Found: the seed is 0 each time (or the environment's PL_GLOBAL_SEED). Repeats are copies, and their spread is nil.
# Where: lightning/pytorch/cli.py, _set_seed ("choose randomly") calls seed_everything without a seed, and
#   lightning/fabric/utilities/seed.py takes 0 for that since pull request 18846. Help and comment are older.
# What to do: draw the seed yourself and pass it as a number.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet torch==2.14.1 lightning==2.6.6 "jsonargparse[signatures]==4.53.0"
cd "$work"
unset PL_GLOBAL_SEED
cat > seed.py <<'PY'
import logging, sys

import lightning
import torch
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LightningCLI

logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)


class Model(LightningModule):
    pass


arguments = ["--seed_everything=true", "--trainer.logger=false"]
cli = LightningCLI(Model, run=False, args=arguments, save_config_callback=None)
helped = "Set to True to use a random seed" in " ".join(cli.parser.format_help().split())
seed = cli.config["seed_everything"]
print(f"lightning {lightning.__version__}, help says random: {helped}, config {seed!r}, torch {torch.initial_seed()}")
if not helped or isinstance(seed, bool) or (seed, torch.initial_seed()) != (0, 0):
    sys.exit("CHANGED: the seed is no longer 0, or the help no longer says that it is random")
PY
for run in 1 2; do
    venv/bin/python -I -W ignore seed.py
done
echo "As found: in each process the random seed is 0."
