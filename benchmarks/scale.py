"""Hours of the paper's Tables 1 and 3 and of its surrogates on two machines, its Table 4 beside our accounting, and how
cost grows.

    python benchmarks/scale.py [--output docs/scale.md]

Shapes, FLOPs and stated rates alone: nothing is loaded and nothing is run, so that the figures are the same everywhere.
The same accounting is behind ``python -m craft_lightning table run table1 --scale paper --dry_run``.
"""

from __future__ import annotations

import argparse
import csv
import re
import tempfile
from collections import Counter
from dataclasses import replace
from functools import cache
from pathlib import Path

import yaml

from craft_lightning.benchmark.plan import Plan, make_plan
from craft_lightning.benchmark.spec import find_table, load_spec
from craft_lightning.benchmark.table_parts import TableSpec
from craft_lightning.checkpoints.configs import write_blueprint
from craft_lightning.cli.dry_run import Cards, Layout, cards, eval_seconds, training_seconds
from craft_lightning.io import read_settings, write_text
from craft_lightning.methods import METHODS
from craft_lightning.models.vlm_spec import VlmSpec
from craft_lightning.strategies.choose import Given, Machine, choose
from craft_lightning.strategies.flops import CARDS, Work, rows_an_image, seconds, stack_flops, training_work
from craft_lightning.strategies.memory import MemoryPlan, Profile, estimate, profile
from data_modules.datasets import DATASETS
from data_modules.datasets.facts import Expected
from data_modules.sources.llava_conversations import PUBLISHED

EXPERIMENTS = Path(__file__).resolve().parents[1] / "experiments"
MACHINES = ("8x40gb", "1x24gb")
BATCH, EVAL_ROWS, KEEPS = 24, 64, (0.8, 1.0)
MIB = 2**20
TABLE4 = (
    # method and model of the paper's Table 4, ours
    ("CRAFT", "Qwen2-0.5B", "craft", "qwen2-0.5b"),
    ("CRAFT", "VILA-U-7B", "craft", "vila-u-7b-256"),
    ("Vision FT", "VILA-7B", "vision_ft", "vila-7b"),
    ("LoRA FT", "VILA-7B", "llm_lora", "vila-7b"),
    ("Projector FT", "VILA-7B", "projector_ft", "vila-7b"),
)
TABLE4_BATCH, TABLE4_DEVICES = 32, 8
SURROGATES = ("qwen2-0.5b", "qwen2.5-0.5b", "qwen2-1.5b", "qwen2.5-3b")
SIZES = ("qwen2-0.5b", "qwen2-1.5b", "qwen2.5-3b", "vila-u-7b-256", "vila-u-7b-384")
TEXT = {"cc3m": 15, "sharegpt4v": 200, "llava150k": 250}
"""Text tokens of a row of the surrogates' sets: assumed, not counted (there was no such file here)."""


@cache
def table() -> TableSpec:
    """Table 1 at paper scale."""
    return load_spec(find_table("table1", "paper"))


@cache
def numbers(method: str, backbone: str) -> tuple[Profile, int]:
    """Shapes of a method at paper scale on a blueprint, and the number of frozen towers beside it."""
    fragment = next(row.method for row in table().rows if row.method.stem == method)
    given = yaml.safe_load(fragment.read_text(encoding="utf-8"))["model"]
    settings = {name: value for name, value in given.get("init_args", {}).items() if name != "optim"}
    with tempfile.TemporaryDirectory() as folder:
        spec = VlmSpec(str(write_blueprint(folder, backbone)))
        sketch = METHODS[method](backbone=spec, **settings).sketch()
    towers = sum(isinstance(module, type(sketch.vlm.tower)) for module in sketch.modules())
    return profile(sketch, sketch.vlm), towers - 1


@cache
def layout(kind: str, method: str, backbone: str, machine: Machine) -> Layout:
    """How one device runs a training or a test."""
    found, teachers = numbers(method, backbone)
    if kind == "eval":
        trained = {"trained": 0, "frozen": found.parameters}
        found = replace(found, tower_trains=False, language_trains=False, **trained)
    choice = choose(found, machine, BATCH, EVAL_ROWS, Given(precision="bf16-mixed"))
    return Layout(found, choice, teachers, METHODS[method].usual_keep)


@cache
def rows_of(dataset: str) -> Expected:
    """Expected rows at paper scale."""
    own = next(c.overrides.get("all", {}) for c in table().columns if c.id == dataset)
    settings = {"source": "hub", "train_size": None, "test_size": None, "holdout": 0.2}
    settings |= {name.removeprefix("data."): value for name, value in own.items()}
    return DATASETS[dataset].expected(settings)


def hours(plan: Plan, on: Cards) -> Counter[tuple[str, str, str]]:
    """Device hours by kind of job, method and model that trains (or is tested)."""
    spent: Counter[tuple[str, str, str]] = Counter()
    for job in plan.jobs:
        method, backbone, dataset = (str(job.facts[name]) for name in ("method", "backbone", "dataset"))
        found = layout(job.kind, method, backbone, on.machine)
        if job.kind == "train":
            questions = DATASETS[dataset].questions  # which follow each other: experiments/paper/base.yaml
            took = training_seconds(found, on.card, rows_of(dataset).train // BATCH, BATCH, questions)
        else:
            keeps = KEEPS if method == "craft" else (1.0,)
            took = eval_seconds(found, on.card, rows_of(dataset).test, keeps)
        spent[job.kind, method, backbone] += took / 3600
    return spent


def plans() -> dict[str, Plan]:
    """Table 1, and what Table 3 adds to it, with all seeds."""
    one, three = make_plan(table()), make_plan(load_spec(find_table("table3", "paper")))
    known = {job.name for job in one.jobs}
    added = tuple(job for job in three.jobs if job.name not in known)
    return {"Table 1": one, "Table 3 beyond it": replace(three, jobs=added)}


def hours_block() -> str:
    """A Markdown table: what the hours go to, by machine."""
    lines = [f"| device hours | {' | '.join(MACHINES)} |", f"|---|{'---:|' * len(MACHINES)}"]
    whole = [0.0] * len(MACHINES)
    for title, plan in plans().items():
        found = [hours(plan, cards(machine)) for machine in MACHINES]
        for kind in found[0]:
            what = f"{title}: {'train' if kind[0] == 'train' else 'test'} {kind[1]} on {kind[2]}"
            lines.append(f"| {what} | {' | '.join(f'{each[kind]:.1f}' for each in found)} |")
        totals = [each.total() for each in found]
        lines.append(f"| **{title}**, {len(plan.jobs)} jobs | {' | '.join(f'**{n:.0f}**' for n in totals)} |")
        whole = [a + b for a, b in zip(whole, totals, strict=True)]
    days = [total / cards(machine).count / 24 for total, machine in zip(whole, MACHINES, strict=True)]
    return "\n".join([*lines, f"| **days, all devices at work** | {' | '.join(f'**{n:.1f}**' for n in days)} |"])


def table4_row(method: str, backbone: str) -> tuple[Work, float, float, float]:
    """A training on Dogs as in Table 4: FLOPs of a row, minutes of arithmetic and of passes, MiB of a device."""
    card = next(card for card in CARDS if card.name == "A100-40GB")
    steps = rows_of("stanford_dogs").train // TABLE4_BATCH
    found, teachers = numbers(method, backbone)
    work = training_work(found, False, teachers)
    took = seconds(work, card, steps * TABLE4_BATCH, 0, TABLE4_DEVICES) / 60
    passes = seconds(Work(0, 0, 0), card, 0, steps) / 60
    rows = TABLE4_BATCH // TABLE4_DEVICES
    memory = estimate(found, MemoryPlan("ddp", TABLE4_DEVICES, rows, rows, True, 2)).peak / MIB
    return work, took, passes, memory


def table4_block() -> str:
    """A Markdown table: the paper's minutes and memory of a training on Dogs beside ours, and ours taken apart."""
    with (EXPERIMENTS / "tables" / "paper" / "table4.csv").open(encoding="utf-8") as file:
        printed = {(row["method"], row["surrogate_or_backbone"]): row for row in csv.DictReader(file)}
    lines = [
        "| on Dogs, 8 x A100-40GB, batch 32 | TFLOP a row | arithmetic, min | passes, min | ours, min | paper, min "
        "| ours, MiB | paper, MiB |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for theirs, model, method, backbone in TABLE4:
        work, took, passes, memory = table4_row(method, backbone)
        row = printed[theirs, model]
        lines.append(
            f"| {theirs}, {model} | {work.flops / 1e12:.1f} | {took:.2f} | {passes:.2f} | {took + passes:.2f} "
            f"| {row['train_time_min']} | {memory:,.0f} | {float(row['train_vram_mib']):,.0f} |"
        )
    return "\n".join(lines)


def ratios_block() -> str:
    """A Markdown table: Table 4's ratios to LoRA, printed and ours."""
    with (EXPERIMENTS / "tables" / "paper" / "table4.csv").open(encoding="utf-8") as file:
        printed = {(row["method"], row["surrogate_or_backbone"]): row for row in csv.DictReader(file)}
    ours = {(row[0], row[1]): table4_row(row[2], row[3]) for row in TABLE4}
    base = ("LoRA FT", "VILA-7B")
    lines = ["| to LoRA FT on VILA-7B | minutes, paper | ours | MiB, paper | ours |", "|---|---:|---:|---:|---:|"]
    for key, (work, arithmetic, passes, memory) in ours.items():
        del work
        theirs = [float(printed[key][c]) / float(printed[base][c]) for c in ("train_time_min", "train_vram_mib")]
        mine = [(arithmetic + passes) / sum(ours[base][1:3]), memory / ours[base][3]]
        lines.append(f"| {key[0]}, {key[1]} | {theirs[0]:.2f} | {mine[0]:.2f} | {theirs[1]:.2f} | {mine[1]:.2f} |")
    return "\n".join(lines)


def growth_block() -> str:
    """A Markdown table: CRAFT's cost by the model it trains with, one A100-40GB."""
    on = cards("1x40gb")
    lines = [
        "| CRAFT with | parameters, 10^9 | tokens | TFLOP a row: tower | codes | language model "
        "| GiB, batch 24 | s a step | hours, ten sets |",
        "|---|---:|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for backbone in SIZES:
        found = layout("train", "craft", backbone, on.machine)
        p, choice = found.profile, found.choice
        work, step = step_of(found, on, 1.0)
        spent = [
            step_of(found, on, DATASETS[c.id].questions)[1] * (rows_of(c.id).train // BATCH) for c in table().columns
        ]
        shares = " | ".join(f"{part / 1e12:.2f}" for part in (work.tower, work.codes, work.language))
        held = f"{choice.estimate.peak / 2**30:.1f} in {choice.parts} x {choice.rows}"
        lines.append(
            f"| {backbone} | {p.parameters / 1e9:.1f} | {p.tokens} | {shares} | {held} | {step:.2f} "
            f"| {sum(spent) / 3600:.1f} |"
        )
    return "\n".join(lines)


def step_of(found: Layout, on: Cards, questions: float) -> tuple[Work, float]:
    """FLOPs of a row of a training, and seconds of a step, where so many questions ask about an image."""
    choice = found.choice
    work = training_work(found.profile, choice.recompute, found.teachers, rows_an_image(questions, choice.rows))
    return work, seconds(work, on.card, BATCH, choice.parts)


def surrogate_work(backbone: str, name: str, stage: str) -> Work:
    """FLOPs of a row of a stage, activations recomputed: the gradient passes the frozen model (3 forward passes), or
    reaches its weights, too (4).
    """
    p, _ = numbers("craft", backbone)
    passes = 3 if stage == "projector" else 4
    logits = 2.0 * TEXT[name] * p.vocabulary * p.language.width
    return Work(0.0, 0.0, passes * stack_flops(p.language, p.tokens + TEXT[name], True, TEXT[name]) + 3 * logits)


def surrogates_block() -> str:
    """A Markdown table: device hours of making the paper's four surrogates."""
    lines = [f"| device hours | {' | '.join(MACHINES)} |", f"|---|{'---:|' * len(MACHINES)}"]
    plan = read_settings(EXPERIMENTS / "surrogates" / "paper.yaml")
    p, _ = numbers("craft", SURROGATES[0])
    pictures = sum(PUBLISHED[name].rows for name in TEXT)
    tower = Work(stack_flops(p.tower, p.tokens, False) if p.tower else 0.0, p.distances, 0.0)
    coded = [seconds(tower, cards(m).card, pictures, pictures // 64) / 3600 for m in MACHINES]
    lines.append(f"| codes of at most {pictures:,} images, once | {' | '.join(f'{n:.1f}' for n in coded)} |")
    whole = list(coded)
    for backbone in SURROGATES:
        spent = [0.0] * len(MACHINES)
        for stage in ("projector", "joint"):
            for name in plan[stage]["sets"]:
                rows, work = PUBLISHED[name].rows, surrogate_work(backbone, name, stage)
                passes = rows // plan[stage]["rows"]
                spent = [
                    h + seconds(work, cards(m).card, rows, passes) / 3600 for h, m in zip(spent, MACHINES, strict=True)
                ]
        lines.append(f"| {backbone}, both stages | {' | '.join(f'{n:.0f}' for n in spent)} |")
        whole = [a + b for a, b in zip(whole, spent, strict=True)]
    days = [total / cards(machine).count / 24 for total, machine in zip(whole, MACHINES, strict=True)]
    lines.append(f"| **all of it** | {' | '.join(f'**{n:.0f}**' for n in whole)} |")
    return "\n".join([*lines, f"| **days, all devices at work** | {' | '.join(f'**{n:.1f}**' for n in days)} |"])


def report() -> dict[str, str]:
    """The blocks of docs/scale.md by name."""
    return {
        "table4": table4_block(),
        "ratios": ratios_block(),
        "hours": hours_block(),
        "growth": growth_block(),
        "surrogates": surrogates_block(),
    }


def main() -> None:
    """Print the blocks, or write them into a page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--output", type=Path, help="page whose blocks are written anew")
    page = parser.parse_args().output
    for name, block in report().items():
        if page is None:
            print(block, end="\n\n")
            continue
        text, marks = page.read_text(encoding="utf-8"), (f"<!-- {name}:begin -->", f"<!-- {name}:end -->")
        inner = f"{marks[0]}\n{block}\n{marks[1]}"
        write_text(page, re.sub(f"{marks[0]}.*{marks[1]}", lambda _, i=inner: i, text, flags=re.DOTALL))


if __name__ == "__main__":
    main()
