"""``judge``: what rules or a language model say of justified answers, stored beside the replies."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import replace
from pathlib import Path
from threading import Lock

from craft_lightning.benchmark import store
from craft_lightning.benchmark.judged import reply_texts
from craft_lightning.benchmark.plan import make_plan
from craft_lightning.benchmark.spec import find_table, load_spec
from craft_lightning.benchmark.stored_run import StoredRun, read_runs, short_names
from craft_lightning.cli import verbs
from craft_lightning.errors import CraftError
from craft_lightning.evaluation.api_judge import ApiJudge
from craft_lightning.evaluation.judgement import (
    DIMENSIONS,
    Judgement,
    cost,
    judgements_file,
    means,
    read_judgements,
    to_line,
)
from craft_lightning.evaluation.offline_judge import OfflineJudge
from craft_lightning.io import write_text
from craft_lightning.item_images import open_items
from craft_lightning.report.render import show_report
from craft_lightning.report.report import MISSING, Report, Section
from craft_lightning.run_folder import OFFLINE, alone
from data_modules.twins import facts_of_all

IN_A_ROW = 5
"""Items that fail one after the other, and the rest need not be asked."""


def main(argv: Sequence[str]) -> int:
    """The verb; returns the exit code, 1 if some items are not judged."""
    args = verbs.judge().parse_args(argv)
    named, files = None, list[Path]()
    for test in args.tests:
        if Path(test).exists() and Path(test).suffix not in (".yaml", ".yml"):
            files.append(read_runs([test])[0].file)
            continue
        spec = load_spec(find_table(test, args.scale), args.scale, args.budget)
        plan, named = make_plan(spec, args.runs, args.seeds), spec.judge
        for (number, column), jobs in plan.cells.items():
            if plan.columns[column].metric.judged:
                keep = plan.lines[number].row.keep_ratio
                files += [store.predictions(job, keep) for job in jobs if store.result(job) is not None]
    if not files:
        raise CraftError(
            f"{', '.join(args.tests)}: no test is computed; python -m craft_lightning table run comes first"
        )
    files, judge = list(dict.fromkeys(files)), args.judge or named or OFFLINE
    runs = [replace(read_runs([file])[0], name=name) for file, name in zip(files, short_names(files), strict=True)]
    for run in runs:
        if run.result.get("data_settings", {}).get("directive") != "justify":
            raise CraftError(f"{run.file} holds short answers: test with --data.directive justify")
    if judge == OFFLINE:
        for run in runs:
            _by_rules(run)
    else:
        known = {run.file: _known(run, judge) for run in runs}
        # What the judge gave none for is asked last: five failures in a row keep nothing from being asked once.
        left = {
            run.file: sorted((k for k in run.items if not known[run.file].get(k)), key=known[run.file].__contains__)
            for run in runs
        }
        count = sum(map(len, left.values()))
        if count and not args.yes:
            print(f"{judge} would be asked about {cost(count, judge, args.price)}: add --yes")
            return 0
        asked = ApiJudge(judge, args.url, args.timeout) if count else None
        print(f"{judge} is asked about {cost(count, judge, args.price)}" if asked else f"{judge} has judged all items")
        for run in runs if asked else ():
            assert asked is not None
            lock = judgements_file(run.file, judge).with_suffix(".lock")
            with alone(lock, f"{judge} is asked about {run.file}"):
                _by_model(asked, run, left[run.file], args.at_once)
    report = _report(runs, judge)
    show_report(report)
    return 1 if report.problems else 0


def _known(run: StoredRun, judge: str) -> dict[str, Judgement | None]:
    return read_judgements(judgements_file(run.file, judge), reply_texts(run.file))


def _by_rules(run: StoredRun) -> None:
    items, said = open_items(run), reply_texts(run.file)
    judge = OfflineJudge((item.meta["facts"] for item in items.values()), facts_of_all())
    if not judge.known:
        raise CraftError(f"nothing is written down about the images of {run.file}: name a model (--judge)")
    lines = (to_line(key, said[key], judge.judge(said[key], items[key])) for key in run.items)
    write_text(judgements_file(run.file, OFFLINE), "".join(lines))


def _by_model(judge: ApiJudge, run: StoredRun, keys: Sequence[str], at_once: int) -> None:
    """Ask about some items, and add what is said to the file as it comes. Raises CraftError: many failed in a row."""
    if not keys:
        return
    items, said, path = open_items(run, keys), reply_texts(run.file), judgements_file(run.file, judge.model)
    # A line that was cut off, or is of a reply that is no more, goes.
    write_text(path, "".join(to_line(key, said[key], known) for key, known in _known(run, judge.model).items()))
    failed, writing = 0, Lock()

    def ask(key: str) -> Judgement | None:
        judgement = judge.judge(said[key], items[key])
        with writing:  # by whoever got it, so that nothing that was answered is lost when the others stop
            file.write(to_line(key, said[key], judgement))
            file.flush()
        return judgement

    with path.open("a", encoding="utf-8") as file, ThreadPoolExecutor(at_once) as pool:
        try:
            for number, future in enumerate(as_completed([pool.submit(ask, key) for key in keys]), 1):
                failed = 0 if future.result() else failed + 1
                if failed == IN_A_ROW:
                    silent = "the API cannot be reached, takes more than --timeout or answers nothing of the schema"
                    raise CraftError(
                        f"{failed} items in a row got no judgement: {judge.refusal or silent} (--url, --judge); "
                        "the same command resumes"
                    )
                print(f"\r{run.name}: {number} of {len(keys)}", end="", file=sys.stderr)
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
    print(file=sys.stderr)


def _report(runs: Sequence[StoredRun], judge: str) -> Report:
    """Means of every run, over the items that are judged in all runs of the same items."""
    rows, problems, per_cent = list[tuple[str, ...]](), list[str](), ("correctness", "presence")
    found = {run.file: {key: said for key, said in _known(run, judge).items() if said} for run in runs}
    for run in runs:
        alike = [other for other in runs if other.items.keys() == run.items.keys()]
        kept = set.intersection(*(set(found[other.file]) for other in alike))
        if lost := len(run.items) - len(kept):
            problems.append(
                f"{run.name}: {lost} of {len(run.items)} items are left out, not judged for all runs of them."
            )
        values = means(found[run.file][key] for key in kept) if kept else {}
        scaled = {name: value * (100 if name in per_cent else 1) for name, value in values.items()}
        numbers = [f"{scaled[name]:.2f}" if scaled else MISSING for name in DIMENSIONS]
        rows.append((run.name, run.about, str(len(kept)), *numbers))
    header = ("Run", "What", "Items", *map(str.capitalize, DIMENSIONS))
    section = Section(f"Judged by {judge}", header, tuple(rows), (False,) * len(rows))
    note = "Correctness and presence in per cent, overall from -2.5 to 10, others from 0 to 5 (docs/judge.md)."
    return Report("Justified answers", note, "", (section,), problems=tuple(problems))
