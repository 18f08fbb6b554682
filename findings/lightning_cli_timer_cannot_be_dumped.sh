#!/usr/bin/env bash
# jsonargparse 4.53.0 with lightning 2.6.6: LightningCLI cannot take --trainer.callbacks=Timer.
#
# Expected: a callback that Lightning ships, with nothing but defaults, can be named on its own command line.
# Found: ValueError, "cannot represent an object, <Interval.step: 'step'>", in every parser mode. The default, said
#   aloud, works: --trainer.callbacks.interval=step.
# Where: Timer has "interval: str = Interval.step", a member of an enum that is also a str. jsonargparse keeps a
#   default that is an instance of its type as it is, and dumps by yaml.safe_dump (jsonargparse/_loaders_dumpers.py),
#   which knows str but none of its subclasses. LightningCLI dumps the config before it builds the trainer
#   (lightning/pytorch/cli.py, _dump_config). Typed as the enum, the same default is dumped by name.
# What to do: name the value on the command line; annotate parameters by the enum, not by str.
# Output seen, 30 November 2026:
#   jsonargparse 4.53.0 lightning 2.6.6
#   yaml: Timer: ('cannot represent an object', <Interval.step: 'step'>); Timer with interval=step: Timer
#   omegaconf+: Timer: ('cannot represent an object', <Interval.step: 'step'>); Timer with interval=step: Timer
#   jsonargparse alone, typed_as_str: RepresenterError
#   jsonargparse alone, typed_as_enum: unit: step
#   As found: a str that is an enum's member is taken as a default and cannot be dumped.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/python" -m pip install --quiet torch==2.14.1 lightning==2.6.6 "jsonargparse[signatures]==4.53.0" \
    pyyaml==6.0.4 omegaconf==2.4.0
cd "$work"
venv/bin/python -I -W ignore - <<'PY'
import enum, logging, sys

import jsonargparse
import lightning
from lightning.pytorch import LightningModule
from lightning.pytorch.cli import LightningCLI

for name in ("lightning.pytorch", "lightning.fabric"):
    logging.getLogger(name).setLevel(logging.ERROR)
print("jsonargparse", jsonargparse.__version__, "lightning", lightning.__version__)


class Model(LightningModule):
    pass


def outcome(mode: str, *arguments: str) -> str:
    keep = {"run": False, "save_config_callback": None, "seed_everything_default": False}
    parser = {"parser_mode": mode}
    try:
        cli = LightningCLI(Model, args=[*arguments, "--trainer.logger=false"], parser_kwargs=parser, **keep)
    except ValueError as error:
        return next((line.strip(" -") for line in str(error).splitlines() if "cannot represent" in line), str(error))
    return type(cli.trainer.callbacks[0]).__name__


changed = []
for mode in ("yaml", "omegaconf+"):
    bare = outcome(mode, "--trainer.callbacks=Timer")
    said = outcome(mode, "--trainer.callbacks=Timer", "--trainer.callbacks.interval=step")
    print(f"{mode}: Timer: {bare}; Timer with interval=step: {said}")
    if not bare.startswith("('cannot represent an object', <Interval.step") or said != "Timer":
        changed.append(f"{mode}: {bare}; {said}")


class Unit(str, enum.Enum):
    step = "step"


def typed_as_str(unit: str = Unit.step) -> None: ...
def typed_as_enum(unit: Unit = Unit.step) -> None: ...


dumps = []
for function in (typed_as_str, typed_as_enum):
    parser = jsonargparse.ArgumentParser()
    parser.add_function_arguments(function)
    try:
        dumps.append(parser.dump(parser.get_defaults()).strip())
    except Exception as error:
        dumps.append(type(error).__name__)
    print(f"jsonargparse alone, {function.__name__}: {dumps[-1]}")
if dumps != ["RepresenterError", "unit: step"]:
    changed.append(f"jsonargparse alone: {dumps}")
if changed:
    sys.exit("CHANGED: " + "; ".join(changed))
print("As found: a str that is an enum's member is taken as a default and cannot be dumped.")
PY
