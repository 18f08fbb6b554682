"""``adapt``: from a folder of images or a file of questions to an answer: did it help, on what, is it chance?

It looks at the data, tests the model as it is, trains CRAFT, tests the same items again, and compares. Everything is
done by other verbs, whose commands are printed; what is done already is not done again.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import yaml

from craft_lightning import run_folder
from craft_lightning.benchmark.estimate import duration
from craft_lightning.checkpoints.configs import root_of
from craft_lightning.checkpoints.encoder import codebook_of
from craft_lightning.checkpoints.load import load_tower, tower_facts
from craft_lightning.cli import config_layers, run, verbs
from craft_lightning.cli.arguments import command
from craft_lightning.cli.verbs import PASSES, STEPS
from craft_lightning.comparison import Comparison
from craft_lightning.encoder_gain import add_gain
from craft_lightning.errors import CraftError
from craft_lightning.io import write_text
from craft_lightning.models.vlm_spec import BACKBONES, VlmSpec
from craft_lightning.report.verdict import sentences
from data_modules.datamodule import VqaDataModule
from data_modules.datasets import OWN
from data_modules.sources.records import RecordSource
from data_modules.survey import survey

SETTINGS, PAGE = "adapt.yaml", "report.html"
"""The settings of all runs of a folder, and what they found, beside the training's own files in it."""
PR_SET_PDEATHSIG = 1
"""Of Linux's ``prctl``: the signal that a process gets when the one that started it ends."""
BATCH, LOOKS = 24, 5
"""Training items of a step, and validations of a training."""
USUAL: dict[str, Any] = {
    "seed_everything": 0,
    "trainer.max_epochs": -1,
    "trainer.max_steps": STEPS[1],
    "trainer.check_val_every_n_epoch": None,
    "trainer.num_sanity_val_steps": 0,
    "trainer.log_every_n_steps": 10,
    "trainer.enable_model_summary": False,
    "model.class_path": "Craft",
    "model.backbone.name": "pocket-qwen2-xs",
    "model.optim.lr": 3e-4,
    "data.dataset": OWN,
    "data.source": "folder",
    "data.apart": True,
    "data.on_bad": "skip",
}
"""Settings that hold unless others are given; what hangs on the number of items: :func:`_usual`."""


@dataclass(frozen=True)
class Step:
    """A part of the work: what it is, the arguments of the verb that does it, and the last file that it writes."""

    title: str
    arguments: tuple[str, ...]
    result: Path

    @property
    def done(self) -> bool:
        """Whether an earlier call has done it."""
        return self.result.is_file()

    @property
    def again(self) -> tuple[str, ...]:
        """What lets it go on where a call was interrupted."""
        verb, folder = self.arguments[0], self.result.parent
        if verb == "fit" and (folder / "checkpoints" / "last.ckpt").exists():
            return ("--ckpt_path=last",)
        return ("--overwrite=true",) if verb == "test" and any(folder.glob("predictions*.jsonl")) else ()


def main(argv: Sequence[str]) -> int:
    """The verb; returns the exit code. Raises CraftError: no such data or setting, a folder that holds another run, a
    model to plug into that has another codebook; wording for questions that have their own."""
    args, others = verbs.adapt().parse_with_settings(argv)
    root = Path(args.data).expanduser().resolve()
    folder = args.output or Path("runs") / (root.name if root.is_dir() else root.stem)
    given = _given(args, root, others)
    settings = _stored(folder, given) or given
    begun = settings is not given
    data = _open({"data.batch_size": 1} | settings)  # how many items there are says how large a batch may be
    if data.kind == "question" and (args.query or args.domain):
        raise CraftError(f"{args.data} asks its own questions: --query and --domain are for class folders")
    if not (begun or args.dry_run or data.kind == "question"):
        settings |= _ask(settings, data)
        data = _open({"data.batch_size": 1} | settings)
    data.setup("fit")
    data.setup("test")
    settings = settings if begun else _usual(len(data.splits["train"]), settings)
    backbone = settings["model.backbone.name"]
    _check_plugged(args.plug, backbone)
    steps = list(_steps(folder, args.plug))
    length, batch = settings["trainer.max_steps"], settings["data.batch_size"]
    passes = length * batch / len(data.splits["train"])
    training = f"{length:,} steps of {batch} items, {passes:.1f} passes of all, with {backbone}"
    _say([*survey(data), ("training", training)])
    if args.dry_run:
        print("\n" + "\n".join(f"{command(*step.arguments)}{'  # done' * step.done}" for step in steps))
        words = "" if begun or data.kind == "question" else " Other words: --query TEXT, --domain TEXT"
        print(f"\nNothing was run; {folder / SETTINGS} {'holds' if begun else 'would hold'} the settings.{words}")
        return 0
    if not begun:
        write_text(folder / SETTINGS, yaml.safe_dump(_nested(settings), sort_keys=False, allow_unicode=True))
    for number, step in enumerate(steps, start=1):
        said = f"{step.title}{', done before' * step.done}"
        print(f"\n[{number}/{len(steps)}] {said}\n{command(*step.arguments)}", flush=True)
        if not step.done and (code := _call(*step.arguments, *step.again)):
            print(f"craft_lightning: it stopped at: {step.title}; the same command resumes there", file=sys.stderr)
            return code
    _conclude(folder, args.plug, settings, data)
    return 0


def _say(lines: Iterable[tuple[str, str]]) -> None:
    for heading, text in lines:
        print(f"{heading:<12} {text}")


# settings


def _given(args: argparse.Namespace, root: Path, others: Sequence[str]) -> dict[str, Any]:
    """Settings by their dotted names that the command line gives. Raises CraftError: it names a method, or epochs."""
    layers = config_layers.read_layers(config_layers.expanded(others))
    found = {name: value for _, settings in layers for name, value in settings.items()}
    texts = {"data.root": str(root), "data.query": args.query, "data.domain": args.domain}
    texts |= {"model.backbone.name": args.backbone}
    found |= {name: text for name, text in texts.items() if text is not None}
    if {"model", "model.class_path"} & set(found):
        raise CraftError("adapt trains CRAFT; another method is trained by `fit` and judged by `test` and `compare`")
    if found.get("trainer.max_epochs", -1) != -1:
        raise CraftError("adapt counts steps, not epochs: --trainer.max_steps N")
    return found


def _stored(folder: Path, given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings of a call that is gone on with; empty if there is none. Raises CraftError: others are given now, or
    the folder holds another run."""
    file = folder / SETTINGS
    if not file.is_file():
        run_folder.check_folder(folder)
        if kept := run_folder.used(folder):
            raise CraftError(f"{folder} holds another run ({kept}): name another folder with --output")
        return {}
    ((_, stored),) = config_layers.read_layers([f"--config={file}"])
    held = dict(stored)
    if differ := [f"{k} is {held.get(k)!r} there, not {v!r}" for k, v in given.items() if held.get(k) != v]:
        raise CraftError(f"{file}: {', '.join(differ)}; to start over, name another folder with --output")
    return held


def _usual(items: int, given: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that are given, and what holds where none is, for so many training items."""
    batch = given.get("data.batch_size", min(BATCH, items))
    tens = -(-PASSES * items // (10 * batch))
    steps = given.get("trainer.max_steps", min(max(10 * tens, STEPS[0]), STEPS[1]))
    every = next(steps // k for k in range(LOOKS, 0, -1) if steps % k == 0)  # the last step is validated, too
    counts = {"trainer.max_steps": steps, "trainer.val_check_interval": every, "data.batch_size": batch}
    return USUAL | counts | dict(given)


def _open(settings: Mapping[str, Any]) -> VqaDataModule:
    """The data of the runs. Raises CraftError: a setting that no run has, or no such data."""
    named = (USUAL | dict(settings)).items()
    argv = (f"--{name}={value if isinstance(value, str) else json.dumps(value)}" for name, value in named)
    cli = run.build_cli(["fit", *argv], run=False)
    cli.config["fit"].pop("trainer")
    return cli.parser.instantiate_classes(cli.config)["fit"].data


def _ask(settings: Mapping[str, Any], data: VqaDataModule) -> dict[str, str]:
    """The wording that no flag gives, asked for where somebody can answer."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return {}
    caption = data.facts.caption(data.open()[0].class_names[0])
    asked = {
        "data.domain": f"What do all images show? As: plant leaf. (Enter: captions stay {caption!r}) ",
        "data.query": f"What is asked of each image? (Enter: {data.facts.query!r}) ",
    }
    found: dict[str, str] = {}
    with suppress(EOFError):  # Ctrl-D: no more answers
        for name, question in asked.items():
            if name not in settings and (text := input(question).strip()):
                found[name] = text
    return found


def _nested(settings: Mapping[str, Any]) -> dict[str, Any]:
    """As a run's config has them."""
    from jsonargparse import Namespace

    found = Namespace()
    for name, value in settings.items():
        found[re.sub(r"^model\.(?!class_path)", "model.init_args.", name)] = value
    return dict(found.as_dict())


# steps


def _steps(folder: Path, plugged: Sequence[str]) -> Iterator[Step]:
    config, encoder = f"--config={folder / SETTINGS}", f"--encoder={folder / 'encoder'}"

    def run_to(title: str, place: Path, verb: str, *flags: str) -> Step:
        return Step(title, (verb, config, *flags, f"--output={place}"), place / "result.json")

    def comparison(place: Path) -> Step:
        page = place / PAGE
        runs = (str(place / "before"), str(place / "after"))
        return Step("compare", ("compare", *runs, f"--output={page}"), page)

    yield run_to("test the model as it is", folder / "before", "test")
    yield run_to("train the encoder", folder, "fit")
    yield run_to("test the same items again", folder / "after", "test", encoder)
    yield comparison(folder)
    for name in plugged:
        place, backbone = folder / _short(name), f"--backbone={name}"
        yield run_to(f"test {name} as it is", place / "before", "test", backbone)
        yield run_to(f"test {name} with the encoder", place / "after", "test", backbone, encoder)
        yield comparison(place)


def _short(name: str) -> str:
    """The name of a model, or of the folder that its checkpoint is in."""
    return name if name in BACKBONES else Path(name).expanduser().resolve().name


def _check_plugged(names: Sequence[str], backbone: str) -> None:
    """Raises CraftError: a model that the encoder would not fit, before anything is trained; two of one name."""
    if len(set(map(_short, names))) < len(names):
        raise CraftError(f"--plug {' '.join(names)}: two of one name, whose results would be in one folder")
    if taken := next((name for name in names if _short(name) in ("before", "after", "", *run_folder.OUTPUTS)), None):
        raise CraftError(f"--plug {taken}: a run has a folder {_short(taken)!r} of its own; rename the checkpoint's")
    towers = {name: tower_facts(load_tower(root_of(VlmSpec(name)))) for name in (backbone, *names) if names}
    for name in names:
        if towers[name] != towers[backbone]:
            raise CraftError(f"--plug {name}: it has not the codebook of {backbone}, whose encoder is trained")


def _call(*arguments: str) -> int:
    """A verb in a process of its own, as from a shell: it may start further ones, and ends in its own way on Ctrl-C.
    On Linux it also ends where this process is killed. The tables of ``compare`` are on its page."""
    linux = sys.platform == "linux"
    ends_with_us = partial(ctypes.CDLL(None).prctl, PR_SET_PDEATHSIG, signal.SIGKILL) if linux else None
    said = subprocess.DEVNULL if arguments[0] == "compare" else None
    ours = [sys.executable, "-m", "craft_lightning", *arguments]
    with subprocess.Popen(ours, stdout=said, preexec_fn=ends_with_us) as child:
        handler = signal.signal(signal.SIGTERM, lambda *_: child.terminate())
        try:
            while True:
                try:
                    return child.wait()
                except KeyboardInterrupt:  # the child was told, too
                    continue
        finally:
            signal.signal(signal.SIGTERM, handler)


def _conclude(folder: Path, plugged: Sequence[str], settings: Mapping[str, Any], data: VqaDataModule) -> None:
    """The verdict on each model, on the encoder's card, too, and the next command."""
    training, encoder, found = run_folder.result(folder), folder / "encoder", list[Comparison]()
    for name in ("", *plugged):
        place = folder / _short(name) if name else folder
        found.append(add_gain(encoder, place / "before", place / "after"))
        tests = " and ".join(duration(run.result["seconds"]) for run in found[-1].runs)
        trained = "" if name else f"training {duration(training['seconds'])}, "
        print(f"\n{name or data.backbone.name} before and after")
        _say([*sentences(found[-1]), ("took", f"{trained}tests {tests}"), ("images", str(place / PAGE))])
    print()
    _say([("card", f"{encoder / 'README.md'} says what was measured")])
    if found[0].verdict == "better":
        _say([("use it", _predict(encoder, data))])
    else:
        usual = _usual(len(data.splits["train"]), {"data.root": settings["data.root"]})
        longer: dict[str, Any] = {"trainer.max_steps": 2 * training["steps"]}
        gently = {"model.optim.lr": f"{float(settings['model.optim.lr']) / 3:.1g}"}
        how, changed = ("gently", gently) if found[0].difference < 0 else ("longer", longer)
        given = {k: v for k, v in settings.items() if k != "trainer.val_check_interval" and usual.get(k) != v}
        flags = [f"--{k}={v}" for k, v in sorted((given | changed).items())] + (["--plug", *plugged] if plugged else [])
        _say([(f"train {how}", command("adapt", str(data.root), *flags, f"--output={folder}-{how}"))])


def _predict(encoder: Path, data: VqaDataModule) -> str:
    """The command that asks the adapted model about a test image."""
    source, example = data.open()[0], data.examples("test")[0]
    assert isinstance(source, RecordSource)
    place = next(row.image.place for row in source.unread("test") if row.item.key == example.key)
    image = place if Path(place).is_file() else "IMAGE.jpg"  # one in an archive has no file of its own
    flags = ["--backbone", data.backbone.name, "--encoder", str(encoder), "--images", image]
    flags += [f"--model.backbone.{setting}={value}" for setting, value in codebook_of(encoder).items()]
    options = ["--options", *example.options] if example.options else []
    return command("predict", *flags, "--question", example.question, *options)
