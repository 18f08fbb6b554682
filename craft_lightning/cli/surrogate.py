"""``surrogate``: builds a family of frozen parts, or one model at paper scale; resumable to the step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch

from craft_lightning.cli import verbs
from craft_lightning.environment import find
from craft_lightning.errors import CraftError, unknown
from craft_lightning.pretraining.family import TOWER, FamilyBuilder
from craft_lightning.pretraining.family_report import report
from craft_lightning.pretraining.paper_scale import SurrogateBuilder
from craft_lightning.pretraining.plans import SurrogatePlan, read_plan
from craft_lightning.pretraining.training_loop import fabric_of


def main(argv: Sequence[str]) -> int:
    """``python -m craft_lightning surrogate --config FILE [--only NAME ...]``.

    A config with a ``language_model`` is a surrogate at paper scale (:mod:`.paper_scale`), any other a family. With
    ``--again MODEL --adapter FOLDER --output FOLDER`` a finished model learns to read another adapter.
    """
    args = verbs.surrogate().parse_args(argv)
    plan = read_plan(find(args.config), **({} if args.data is None else {"data": args.data}))
    if isinstance(plan, SurrogatePlan):
        if args.again is not None:
            raise CraftError(f"--again is for a family; the plan of a surrogate says adapter_of: {args.adapter}")
        fabric = fabric_of(plan.precision, args.devices, plan.strategy)
        fabric.launch()
        SurrogateBuilder(plan, fabric, workers=args.workers).build()
        return 0
    torch.set_num_threads(args.threads)
    if args.again is not None:
        if args.adapter is None or args.output is None:
            raise CraftError("--again needs --adapter and --output")
        if args.trial and plan.again is not None:
            plan = replace(plan, pictures_per_twin=8, again=replace(plan.again, steps=3, batch_size=4))
        FamilyBuilder(plan).again(args.again, args.adapter, args.output)
        return 0
    models = [part.name for part in plan.language]
    for name in args.only or ():
        if name not in (TOWER, *models):
            raise unknown("part", name, (TOWER, *models))
    if args.report is None:
        FamilyBuilder(plan).build(args.only or ())
    else:
        measured = [str(plan.output / name) for name in models if not args.only or name in args.only]
        report(measured, plan.output / TOWER, args.report, args.items)
    return 0
