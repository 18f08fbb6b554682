"""``python -m craft_lightning table plan|run|status|render``."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

from rich.console import Console

from craft_lightning.benchmark import scheduler, store
from craft_lightning.benchmark.cache_key import NO_WEIGHTS
from craft_lightning.benchmark.estimate import make_view
from craft_lightning.benchmark.plan import Plan, make_plan, select
from craft_lightning.benchmark.results import beside, collect, gather
from craft_lightning.benchmark.spec import find_table, load_collection, load_spec
from craft_lightning.benchmark.table_files import read, stored_seeds, stored_table
from craft_lightning.benchmark.table_parts import Collection, TableSpec
from craft_lightning.cli import verbs
from craft_lightning.cli.arguments import command
from craft_lightning.errors import CraftError
from craft_lightning.report import paper_page, render
from craft_lightning.report.sections import build_report
from craft_lightning.report.tensorboard import link_table
from craft_lightning.run_folder import check_folder
from craft_lightning.workers import Launcher, LocalWorker, cluster_launcher

INTERRUPTED = 130
JOBS_FOLDER = ".jobs"
REHEARSAL = "craft_lightning.cli.dry_run"


def main(argv: Sequence[str] | None = None) -> int:
    """Run one verb; returns the exit code: 0, 1 if a job failed, 130 after Ctrl-C. Raises CraftError: a mistake in the
    call, the table or its fragments."""
    args = verbs.table().parse_args(argv)
    path = find_table(args.table, args.scale)
    collection = load_collection(path)
    return _one(path, args) if collection is None else _all(collection, path.parent, args)


def _all(collection: Collection, folder: Path, args: argparse.Namespace) -> int:
    """Each table in turn, then the page that holds them all."""
    if one := next((f for f in ("only", "stored", "format") if getattr(args, f, None)), None):
        raise CraftError(f"--{one.replace('stored', 'from')} is for one table: {', '.join(collection.tables)}")
    code, publish = 0, args.verb == "render" and args.publish
    paths = [folder / f"{name}.yaml" for name in collection.tables]
    for number, path in enumerate(paths, 1):
        print(f"\n{path.stem}, {number} of {len(collection.tables)}", flush=True)
        if publish and not any(map(store.result, _plan_of(path, args).jobs)):
            print("nothing computed here: what is published stays")
            continue
        try:
            code = max(code, _one(path, args))
        except CraftError as error:
            if not publish:
                raise
            print(f"what is published stays: {error}", file=sys.stderr)
            code = 1
        if code == INTERRUPTED:
            return code
    if args.verb == "run" and args.dry_run:
        left = {job.name for path in paths for job in _plan_of(path, args).jobs if store.state(job) != "done"}
        print(f"\nin all {len(left)} jobs: one that tables share is counted once")
    elif args.verb in ("render", "run"):
        _page(collection, folder, args)
    return code


def _plan_of(path: Path, args: argparse.Namespace) -> Plan:
    return make_plan(load_spec(path, args.scale, args.budget), args.runs, args.seeds, args.limit)


def _page(collection: Collection, folder: Path, args: argparse.Namespace) -> None:
    """Write the common page: tables at the budget that is asked for, claims at every one that has results."""

    def computed(spec: TableSpec) -> paper_page.ShownTable | None:
        return paper_page.computed_part(make_plan(spec, args.runs, args.seeds, args.limit))

    publish = args.verb == "render" and args.publish
    made = paper_page.stored_part if publish else computed
    page = paper_page.collect(collection, folder, args.budget, made)
    first = make_plan(load_spec(folder / f"{collection.tables[0]}.yaml"), args.runs, limit=args.limit)
    for path in page.publish(folder) if publish else page.write(first.output):
        print(f"written: {path}")


def _one(path: Path, args: argparse.Namespace) -> int:
    spec = load_spec(path, args.scale, args.budget)
    stored = args.stored if args.verb == "render" else None
    whole = make_plan(spec, args.runs, stored_seeds(stored) if stored else args.seeds, args.limit)
    if args.verb == "render":
        return _render(whole, args, stored, args.format, args.publish)
    plan = select(whole, args.only)
    if args.verb == "plan":
        _plan(plan, missing_only=False, commands=True)
        return 0
    if args.verb == "run" and args.dry_run:
        # By name: what parses configs and builds models needs torch, and the tables do not.
        code: int = 0 if spec.scale == "pocket" else import_module(REHEARSAL).rehearse(plan, args.devices)
        _plan(plan, missing_only=True, commands=args.commands)
        return code
    if args.verb == "status":
        _status(plan)
        if args.limit is None:
            _beside_published(plan)
        return 0
    code = _run(plan, args)
    return code if code == INTERRUPTED else max(code, _render(whole, args))


def _plan(plan: Plan, missing_only: bool, commands: bool) -> None:
    jobs = [job for job in plan.jobs if not missing_only or store.state(job) != "done"]
    kinds = Counter(job.kind for job in jobs)
    more = "" if commands else "; --commands lists them"
    counts = ", ".join(f"{kinds[kind]} {kind}" for kind in _kinds(plan))
    _tell_missing(plan)
    print(f"{len(jobs)} jobs: {counts}; results below {plan.root}{more}")
    for job in jobs if commands else ():
        print(f"{store.state(job):8}{job.kind:7}{job.name}")
        print(f"        {command(*job.arguments)}")


def _kinds(plan: Plan) -> list[str]:
    """Those of its jobs, trainings and tests among them in any case."""
    return [kind for kind in ("train", "stage2", "eval") if kind != "stage2" or any(j.kind == kind for j in plan.jobs)]


def _tell_missing(plan: Plan) -> None:
    """A line for each backbone that is not there."""
    waiting = Counter(job.facts["backbone"] for job in plan.jobs if job.facts["weights"] == NO_WEIGHTS)
    for name, count in waiting.items():
        print(f"{scheduler.no_weights(plan.spec.backbone(name))} ({count} jobs wait for them)")


def _status(plan: Plan) -> None:
    found = {job.name: store.state(job) for job in plan.jobs}
    for kind in _kinds(plan):
        states = Counter(found[job.name] for job in plan.jobs if job.kind == kind)
        print(f"{kind:7}" + ", ".join(f"{states[s]} {s}" for s in ("done", "stale", "failed", "missing")))
    if (other := store.other_libraries(plan.jobs)) is not None:
        print(other)
    _tell_missing(plan)
    for job in plan.jobs:
        if job.facts["weights"] == NO_WEIGHTS:
            continue
        if found[job.name] == "stale":
            print(f"stale  {job.name} (changed: {store.why_stale(job)})")
        elif (error := store.failure(job)) is not None:
            print(f"failed {job.name}: {error}")


def _beside_published(plan: Plan) -> None:
    """Where the table has published results: how the computed ones compare, and what the sums of both hang on."""
    path, cells = stored_table(plan), collect(plan)
    if not path.is_file() or not any(cell.score for cell in cells.values()):
        return
    stored = read(plan, path)
    print(f"beside {path}: {beside(plan, cells, stored.cells)}")
    print(f"computed with {'; '.join(store.arithmetic(plan.jobs)) or 'arithmetic that is not told'}")
    if stored.made is not None:
        print(f"published with {'; '.join(stored.made.arithmetic or stored.made.machines)}")


def _run(plan: Plan, args: argparse.Namespace) -> int:
    check_folder(args.runs, "--runs")
    link_table(plan)
    if (other := store.other_libraries(plan.jobs)) is not None:
        print(other, file=sys.stderr)
    launcher: Launcher = LocalWorker
    workers = scheduler.worker_count(plan.jobs, args.jobs)
    if args.launcher == "slurm":
        launcher = cluster_launcher(plan.root / JOBS_FOLDER, "slurm", args.slurm)
        workers = args.jobs or max(1, len(plan.jobs))  # the queue decides how many run at a time
    try:
        progress = scheduler.run_plan(plan, workers, make_view(Console()), args.keep_going, launcher=launcher)
    except KeyboardInterrupt:
        print("stopped; the same command continues where it was", file=sys.stderr)
        return INTERRUPTED
    except OSError as error:
        raise CraftError(f"{error}; the same command resumes") from error
    print(progress.summary())
    return 1 if progress.failed else 0


def _render(
    plan: Plan, args: argparse.Namespace, stored: Path | None = None, wanted: str | None = None, publish: bool = False
) -> int:
    if publish:
        if wanted or args.limit:
            raise CraftError("--publish stores the results of whole runs: no --format or --limit with it")
        for path in render.publish(plan, stored):
            print(f"written: {path}")
        return 0
    results = read(plan, stored) if stored else gather(plan)
    if wanted:
        print(render.FORMATS[wanted](plan, results), end="")
        return 0
    render.show_report(build_report(plan, results))
    for path in [] if stored else render.save(plan, results):
        print(f"written: {path}")
    return 0
