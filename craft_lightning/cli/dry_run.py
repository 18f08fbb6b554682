"""The dry run of a table: every config parsed, every model built without weights, and what is missing to run it.

Nothing is fetched, opened for training or written. Memory is what ``strategy: auto`` would plan with, time is
arithmetic (:mod:`.flops`); the tables start this by name, since they know no torch.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field, replace
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch

from craft_lightning.benchmark.cache_key import NO_WEIGHTS
from craft_lightning.benchmark.plan import Job, Plan
from craft_lightning.checkpoints.configs import BLUEPRINTS
from craft_lightning.cli import doctor
from craft_lightning.cli.config_layers import named_settings, read_layers
from craft_lightning.cli.run import build_cli
from craft_lightning.errors import CraftError
from craft_lightning.evaluation.judgement import cost
from craft_lightning.methods import METHODS
from craft_lightning.models.vlm_spec import SMALL_PACKAGE, VlmSpec, hub_folder
from craft_lightning.run_folder import OFFLINE
from craft_lightning.strategies import flops
from craft_lightning.strategies.choose import GIB, Choice, Machine, settle
from craft_lightning.strategies.memory import Profile, profile
from craft_lightning.text.scoring import MAX_NEW_TOKENS
from data_modules.datasets import DATASETS
from data_modules.datasets.facts import Expected
from data_modules.sources.hub import fetched

DEVICES = re.compile(r"(?:(?P<nodes>\d+)x)?(?P<devices>\d+)x(?P<memory>\d+)gb")
PAPER_DEVICES = "8x40gb"


@dataclass(frozen=True)
class Cards:
    """GPUs, each of which computes one job at a time. said: where the numbers come from."""

    count: int
    card: flops.Card
    said: str

    @property
    def machine(self) -> Machine:
        """What one job sees."""
        return Machine("cuda", 1, 1, self.card.memory * GIB, True)


def cards(devices: str | None) -> Cards:
    """Named ones (``8x40gb``), those of this machine, or the paper's. Raises CraftError: a name that says nothing."""
    found = torch.cuda.device_count()
    if devices is None and found:
        name, memory = torch.cuda.get_device_name(), torch.cuda.get_device_properties(0).total_memory / GIB
        card = replace(flops.card_of(memory), memory=round(memory))
        return Cards(found, card, f"here: {name}, reckoned as {card.name}")
    match = DEVICES.fullmatch(devices or PAPER_DEVICES)
    if match is None:
        raise CraftError(f"--devices {devices}: write COUNTxMEMORYgb, for example 8x40gb, 1x24gb or 2x8x40gb")
    card = replace(flops.card_of(int(match["memory"])), memory=int(match["memory"]))
    said = "named" if devices else "there is no GPU here, so for the paper's (--devices 1x24gb for others)"
    return Cards(int(match["nodes"] or 1) * int(match["devices"]), card, said)


@dataclass(frozen=True)
class Layout:
    """A method on a backbone, without weights: its numbers, how a device runs it, the number of frozen towers beside
    it, and the keep ratio of its evaluations."""

    profile: Profile
    choice: Choice
    teachers: int
    keep: float


@dataclass
class Kind:
    """Jobs that differ only in dataset and seed."""

    label: str
    layout: Layout
    jobs: int = 0
    steps: int = 0
    seconds: float = 0.0


@dataclass
class Rehearsal:
    """What a dry run finds.

    Attributes:
        configs: number of parsed ones. kinds: by label. data: expected rows of each dataset, and where they come from.
        items: what each test asks, by the job's name.
        wrong: what would fail, with the reason. missing: what is not there, with the command that gets it.
        layouts: by kind of job, method and its settings.
    """

    cards: Cards
    configs: int = 0
    layouts: dict[str, Layout] = field(default_factory=dict)
    kinds: dict[str, Kind] = field(default_factory=dict)
    data: dict[str, tuple[Expected, str]] = field(default_factory=dict)
    items: dict[str, int] = field(default_factory=dict)
    wrong: dict[str, str] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)


def rehearse(plan: Plan, devices: str | None) -> int:
    """Examine a plan and print what was found; 1 if it could not run as it is, else 0."""
    found = examine(plan, devices)
    print("\n".join(report(plan, found)))
    return 1 if found.wrong or found.missing else 0


def examine(plan: Plan, devices: str | None = None) -> Rehearsal:
    """Parse, build and look, without a network. Raises CraftError: devices that say nothing."""
    found = Rehearsal(cards(devices))
    parsed: dict[tuple[str, ...], Any] = {}
    for job in plan.jobs:
        # Seed, run folder and what is read from it are no settings that could be wrong in one job alone.
        own = ("--seed_everything", "--trainer.default_root_dir", "--encoder", "--ckpt_path")
        shared = tuple(a for a in job.arguments if not a.startswith(own))
        try:
            if shared not in parsed:
                parsed[shared] = build_cli([*shared], run=False).config[job.arguments[0]]
            _add(found, job, shared, parsed[shared])
        except CraftError as error:
            found.wrong[job.name] = " ".join(str(error).split())
    found.configs = len(parsed)
    _look(found, plan)
    return found


def _add(found: Rehearsal, job: Job, arguments: tuple[str, ...], config: Any) -> None:
    data, facts = config.data, DATASETS[config.data.dataset]
    rows, card = facts.expected(data.as_dict()), found.cards.card
    if data.dataset not in found.data:
        place = facts.hub[0].id if data.source == "hub" else str(data.root)
        found.data[data.dataset] = (rows, f"{data.source} {place}")
        _data_missing(found, data)
    key = json.dumps([job.kind, config.model.class_path, config.model.init_args.as_dict()], default=str)
    if key not in found.layouts:
        found.layouts[key] = _layout(arguments, config, found.cards.machine)
    layout = found.layouts[key]
    surrogate = job.facts["surrogate"]
    adapted = f" adapted with {surrogate}" if surrogate and surrogate != job.facts["backbone"] else ""
    label = f"{job.kind.replace('eval', 'test')} {job.facts['method']} on {job.facts['backbone']}{adapted}"
    kind = found.kinds.setdefault(label, Kind(label, layout))
    if job.kind == "train":
        epochs = rows.train // data.batch_size * max(config.trainer.max_epochs or 1, 1)
        steps = epochs if config.trainer.max_steps < 0 else config.trainer.max_steps
        questions = facts.questions if data.group_by_image else 1.0
        spent = training_seconds(layout, card, steps, data.batch_size, questions)
    else:
        keeps = {config.prune.keep or layout.keep, *(config.prune.also or ())} if config.prune.enabled else {1.0}
        steps, spent = -(-rows.test // layout.choice.eval_rows), eval_seconds(layout, card, rows.test, keeps)
        found.items[job.name] = rows.test
    kind.jobs, kind.steps, kind.seconds = kind.jobs + 1, kind.steps + steps, kind.seconds + spent


def _layout(arguments: Iterable[str], config: Any, machine: Machine) -> Layout:
    """The method built on the meta device, and how ``strategy: auto`` would run it."""
    given = config.model.init_args.as_dict()
    backbone = VlmSpec(**given.pop("backbone"))
    given.pop("optim")
    method = METHODS[config.model.class_path](backbone=backbone, **given)
    verb, sketch = next(iter(arguments)), method.sketch()
    numbers = profile(sketch, sketch.vlm, backbone.language_dtype)
    rows = SimpleNamespace(batch_size=config.data.batch_size, eval_batch_size=config.data.eval_batch_size)
    named = named_settings(read_layers(list(arguments)))
    choice = settle(verb, method, rows, config.trainer.as_dict(), named, machine)
    assert choice is not None
    towers = sum(isinstance(module, type(sketch.vlm.tower)) for module in sketch.modules())
    return Layout(numbers, choice, towers - 1, method.usual_keep)


def training_seconds(layout: Layout, card: flops.Card, steps: int, batch: int, questions: float = 1.0) -> float:
    """Seconds of a training on one card, loading included; so many ``questions`` about an image follow each other."""
    numbers, choice = layout.profile, layout.choice
    sharing = flops.rows_an_image(questions, choice.rows)
    work = flops.training_work(numbers, choice.recompute, layout.teachers, sharing)
    spent = flops.seconds(work, card, steps * batch, steps * choice.parts)
    if numbers.tables:  # the prior of pruning: the tower once more over all training images
        spent += flops.seconds(replace(flops.evaluation_work(numbers), language=0.0), card, steps * batch, 0)
    return spent + choice.estimate.weights / flops.LOADING


def eval_seconds(layout: Layout, card: flops.Card, items: int, keeps: Collection[float]) -> float:
    """Seconds of a test at some keep ratios on one card, loading included."""
    choice = layout.choice
    # Passes that take time of their own: the prefill, and those of every few tokens of the replies together.
    passes = (1 + -(-layout.profile.reply // MAX_NEW_TOKENS)) * -(-items // choice.eval_rows) * len(keeps)
    spent = flops.seconds(flops.evaluation_work(layout.profile, keeps), card, items, passes)
    return spent + choice.estimate.weights / flops.LOADING


def _data_missing(found: Rehearsal, data: Any) -> None:
    facts = DATASETS[data.dataset]
    if data.root:
        there, url = Path(data.root).expanduser().exists(), re.search(r"https?://\S+\.zip", facts.elsewhere)
        command = f"curl -L --create-dirs -o {data.root} {url[0]}" if url else f"{facts.elsewhere}, as {data.root}"
    else:
        there, command = fetched(facts, data.hub_id, data.hub_revision)
    if not there:
        found.missing[f"data of {facts.title}"] = command


def _look(found: Rehearsal, plan: Plan) -> None:
    """Checkpoints, what they lean on, and what the doctor says."""
    for name in dict.fromkeys(str(n.facts["backbone"]) for n in plan.jobs):
        backbone = plan.spec.backbone(name)
        if any(n.facts["weights"] == NO_WEIGHTS for n in plan.jobs if n.facts["backbone"] == name):
            found.missing[f"checkpoint {name}"] = backbone.origin
        for repository in leans_on(name):
            if hub_folder(repository) is None:
                found.missing[f"tower {repository}"] = f"hf download {repository}"
    for name, check in doctor.examine(plan.spec.scale).items():
        if not check.ok and name != "models":  # these have been looked at one by one
            found.missing[f"{name}: {check.text}"] = check.mend
    if any(kind.layout.profile.packed for kind in found.kinds.values()) and find_spec("bitsandbytes") is None:
        found.missing["package bitsandbytes, for weights in 8 and 4 bits"] = SMALL_PACKAGE
    for kind in found.kinds.values():
        if not kind.layout.choice.fits:
            found.wrong[kind.label] = kind.layout.choice.reason


def leans_on(name: str) -> tuple[str, ...]:
    """Hub repositories that a known checkpoint's config names: CLIP's tower, or SigLIP for its text tokenizer."""
    configs = BLUEPRINTS.get(name, {})
    tower = configs.get("vision_tower/config.json", {}).get("rqvaesiglip", {}).get("pretrained_model")
    named = (tower, configs.get("config.json", {}).get("mm_vision_tower"))
    return tuple(repository for repository in named if repository)


def judged_items(plan: Plan, found: Rehearsal) -> int:
    """Replies that a language model is to judge, 0 where rules do or nobody does."""
    columns = [c for c, column in enumerate(plan.columns) if column.metric.judged and plan.spec.judge != OFFLINE]
    replies = {
        (job.name, line.row.keep_ratio): found.items.get(job.name, 0)
        for n, line in enumerate(plan.lines)
        for c in columns
        for job in plan.cells[n, c]
    }
    return sum(replies.values())


def report(plan: Plan, found: Rehearsal) -> list[str]:
    """The lines of :func:`rehearse`: what it comes to first, then each part of it."""
    count, card, seeds = found.cards.count, found.cards.card, len({n.facts["seed"] for n in plan.jobs})
    total, items = sum(kind.seconds for kind in found.kinds.values()) / 3600, judged_items(plan, found)
    lines = [
        f"in all    {total:.1f} device hours, {total / count:.1f} on {count} devices at once; "
        f"would fail: {len(found.wrong) or 'nothing'}, missing: {len(found.missing) or 'nothing'}",
        f"configs   {found.configs} different ones of {len(plan.jobs)} jobs parsed, {seeds} seed(s)",
        f"devices   {count} x {card.memory} GiB ({found.cards.said}); a job on each",
        f"time      {card.name}: {card.half:g} TFLOP/s in bfloat16 at {flops.EFFICIENCY:.0%}, "
        f"and {flops.PASS_SECONDS} s a pass",
        *([f"judge     {plan.spec.judge}: {cost(items, plan.spec.judge)}"] if items else []),
        "",
        f"{'jobs':>5}  {'steps':>7}  {'rows of a pass':<22} {'GiB a device':>12} {'hours':>7}  what",
    ]
    for kind in found.kinds.values():
        choice = kind.layout.choice
        rows = f"{choice.parts} x {choice.rows}" if kind.label.startswith("train") else f"{choice.eval_rows}"
        rows += ", recomputed" if choice.recompute else ""
        held = f"{choice.estimate.peak / GIB:.1f}{'' if choice.fits else ' (!)'}"
        hours = kind.seconds / 3600
        lines.append(f"{kind.jobs:>5}  {kind.steps:>7,}  {rows:<22} {held:>12} {hours:>7.1f}  {kind.label}")
    lines += ["", f"{'rows':>7}  {'tests':>6}  dataset (before broken images are left out)"]
    lines += [f"{rows.train:>7,}  {rows.test:>6,}  {name}: {place}" for name, (rows, place) in found.data.items()]
    for title, what in (("would fail", found.wrong), ("missing", found.missing)):
        lines += ["", f"{title}: {len(what) or 'nothing'}"]
        lines += [f"{n:>3} {name}\n    {mend}" for n, (name, mend) in enumerate(what.items(), 1)]
    return lines
