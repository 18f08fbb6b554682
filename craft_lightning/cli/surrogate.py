"""``surrogate``: builds a family of frozen parts, or one model at paper scale; resumable to the step."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch

from craft_lightning.environment import find
from craft_lightning.errors import unknown
from craft_lightning.pretraining.family import TOWER, FamilyBuilder
from craft_lightning.pretraining.family_plan import read_plan
from craft_lightning.pretraining.family_report import report
from craft_lightning.pretraining.surrogate import SurrogateBuilder, fabric_of
from craft_lightning.pretraining.surrogate_plan import read_settings, surrogate_plan


def main(argv: Sequence[str]) -> int:
    """``python -m craft_lightning surrogate --config FILE [--only NAME ...]``.

    A config with a ``language_model`` is a surrogate at paper scale (:mod:`.surrogate`), any other a family.
    """
    parser = argparse.ArgumentParser(prog="python -m craft_lightning surrogate", description=__doc__)
    parser.add_argument("--config", type=Path, default=Path("experiments/surrogates/pocket.yaml"))
    parser.add_argument("--data", type=Path, help="of a paper-scale config: folder of the published conversations")
    parser.add_argument("--devices", default="auto", help="of a paper-scale config: how many (default: all)")
    parser.add_argument("--only", nargs="*", help="parts to build: vision_tower, or names of language models")
    parser.add_argument("--threads", type=int, default=1, help="threads of this process (CPU)")
    parser.add_argument("--report", type=Path, help="measure the family instead, and write the figures to this file")
    parser.add_argument("--items", type=int, default=200, help="with --report: unseen pictures of each dataset")
    args = parser.parse_args(argv)
    args.config = find(args.config)
    settings = read_settings(args.config)
    if "language_model" in settings:
        given = {} if args.data is None else {"data": args.data}
        surrogate = surrogate_plan({**settings, **given})
        fabric = fabric_of(surrogate.precision, args.devices, surrogate.strategy)
        fabric.launch()
        SurrogateBuilder(surrogate, fabric).build()
        return 0
    plan = read_plan(args.config)
    names = [TOWER, *(p.name for p in plan.language)]
    for name in args.only or ():
        if name not in names:
            raise unknown("part", name, names)
    torch.set_num_threads(args.threads)
    if args.report is not None:
        models = [p.name for p in plan.language if not args.only or p.name in args.only]
        report([str(plan.output / name) for name in models], plan.output / TOWER, args.report, args.items)
        return 0
    builder = FamilyBuilder(plan)
    if not args.only or TOWER in args.only:
        builder.tower()
    for part in plan.language:
        if not args.only or part.name in args.only:
            builder.language(part)
    return 0
