"""What can be told of a command in a fraction of a second, before torch is imported: help, and mistakes in its flags,
in its config files and in the names of what they lead to."""

from __future__ import annotations

import ast
from collections.abc import Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from craft_lightning.cli.config_layers import Layer, expanded, read_layers
from craft_lightning.cli.verbs import PARSERS
from craft_lightning.environment import ROOT
from craft_lightning.errors import CraftError, nearest
from craft_lightning.io import check_root
from craft_lightning.methods import METHODS
from craft_lightning.models.vlm_spec import VlmSpec, resolve
from data_modules.datasets import DATASETS, OWN

RUNS = ("fit", "validate", "test", "predict")
"""Verbs that config files describe."""

FIRST = (
    ("--config FILE", "what is run; of several the last one wins"),
    ("--model NAME", "the method: craft, vision_ft, ... (`list methods`)"),
    ("--backbone NAME", "the model (`list backbones`), or a checkpoint's folder"),
    ("--data.dataset NAME", "eurosat, ... (`list datasets`); folder: your own"),
    ("--data.source KIND", "twin (drawn), folder or hub"),
    ("--data.root FOLDER", "with --data.source folder: where the images are"),
)
LATER = {
    "fit": (
        ("--model.optim.lr RATE", "peak learning rate"),
        ("--data.batch_size N", "rows of a step"),
        ("--trainer.max_steps N", "length of the training"),
        ("--output FOLDER", "of all that the run writes"),
    ),
    "other": (
        ("--encoder FOLDER", "adapted encoder to plug in"),
        ("--keep SHARE", "share of tokens that pruning keeps, in (0, 1]"),
        ("--ckpt_path FILE", "a training's checkpoint instead, or last"),
        ("--output FOLDER", "of all that the run writes"),
    ),
}
"""The settings that matter first, of a training and of an evaluation."""

BESIDE = ("class_path", "init_args", "help")
"""Keys beside the settings of a part."""


def tell(verb: str, arguments: Sequence[str]) -> bool:
    """Print the help of a verb if that is asked for; returns whether it was. Raises CraftError: a mistake that can be
    seen so early."""
    wanted = not {"-h", "--help"}.isdisjoint(arguments)
    if verb not in RUNS:
        if verb in PARSERS:
            PARSERS[verb]().parse_known_args(arguments)  # which prints the help itself
        return False
    if wanted:
        print(PARSERS[verb]().format_help() if verb in PARSERS else "", end="")
        print(run_help(verb, "Or: " if verb in PARSERS else "usage: "))
    elif "--help_all" not in arguments:
        _check(PARSERS[verb]().parse_known_args(arguments)[1] if verb in PARSERS else arguments)
    return wanted


def run_help(verb: str, begins: str) -> str:
    """The ten settings of a run that matter first, on less than a screen."""
    lines = [f"  {flag:<24}{about}" for flag, about in (*FIRST, *LATER.get(verb, LATER["other"]))]
    example = f"python -m craft_lightning {verb} --config experiments/smoke.yaml"
    told = (
        f"{begins}python -m craft_lightning {verb} --config FILE ... [--SETTING VALUE]\n",
        *lines,
        f"\nAll settings: --help_all. Each is also a key of a config file. For example\n  {example}",
    )
    return "\n".join(told)


def _check(arguments: Sequence[str]) -> None:
    layers = read_layers(expanded(arguments))
    named = {name: value for _, settings in layers for name, value in settings.items()}
    _check_names(layers, named.get("model.class_path", named.get("model")))
    backbone, dataset = named.get("model.backbone.name"), named.get("data.dataset")
    if isinstance(dataset, str) and dataset != OWN and not DATASETS.place(dataset):
        DATASETS[dataset]  # raises: there is no such dataset
    if isinstance(backbone, str) and "${" not in backbone:
        resolve(VlmSpec(backbone))
    if named.get("data.source") == "folder" and "${" not in str(named.get("data.root")):
        check_root(named.get("data.root"), str(dataset))


def _check_names(layers: Iterable[Layer], model: Any) -> None:
    known = settings()
    if model is not None and METHODS.place(str(model)) not in METHODS.ours.values():
        del known["model"]  # whatever somebody's own method takes
    for name in (name for _, given in layers for name in given):
        part = max((part for part in known if name.startswith(f"{part}.")), key=len, default=None)
        if part and name.removeprefix(f"{part}.").partition(".")[0].rstrip("+") not in (*known[part], *BESIDE):
            raise unknown_setting(name, [f"{part}.{taken}" for part, all_taken in known.items() for taken in all_taken])


def unknown_setting(name: str, known: Iterable[str]) -> CraftError:
    """The error for a setting that there is not. A part of a part may report its own name alone: ``lrr``, not
    ``model.optim.lrr``."""
    known = list(known)
    by_end = {setting.rsplit(".", 1)[-1]: setting for setting in known}
    close = nearest(name, known) if "." in name else by_end.get(str(nearest(name, by_end)))
    hint = f"; did you mean {close!r}?" if close else "."
    return CraftError(f"no setting {name!r}{hint} All settings: --help_all")


def settings() -> dict[str, list[str]]:
    """By part, as ``model.optim``, the settings that it may have, read from the sources of its classes: importing those
    takes seconds. ``model`` has those of all of our methods."""
    spec = find_spec("lightning")
    assert spec is not None
    lightning, ours = Path(*(spec.submodule_search_locations or ())) / "pytorch", ROOT / "craft_lightning"
    return {
        "trainer": _taken(lightning / "trainer" / "trainer.py", "Trainer"),
        "data": _taken(ROOT / "data_modules" / "datamodule.py", "VqaDataModule"),
        "checkpoint": _taken(lightning / "callbacks" / "model_checkpoint.py", "ModelCheckpoint"),
        "token_map": _taken(ROOT / "callbacks" / "token_map.py", "TokenMap"),
        "ste_check": _taken(ROOT / "callbacks" / "ste_check.py", "SteCheck"),
        "model.optim": _taken(ours / "optim.py", "OptimSpec"),
        "model.backbone": _taken(ours / "models" / "vlm_spec.py", "VlmSpec"),
        "prune": _taken(ROOT / "callbacks" / "prune_at_validation.py", "PruneAtValidation"),
        "prune.rule": _taken(ours / "models" / "pruning.py", "PruneRule"),
        "model": [name for file in sorted((ours / "methods").rglob("*.py")) for name in _taken(file)],
    }


def _taken(file: Path, cls: str | None = None) -> list[str]:
    """What the constructor of a class takes, or by keyword alone (as methods do) those of all classes in a file."""
    found: list[str] = []
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef) and cls in (None, node.name):
            made = [part.args for part in node.body if isinstance(part, ast.FunctionDef) and part.name == "__init__"]
            taken = [a for args in made for a in (*(args.args[1:] if cls else ()), *args.kwonlyargs)]
            found += [a.arg for a in taken]
            if cls and not made:  # a dataclass
                found += [ast.unparse(part.target) for part in node.body if isinstance(part, ast.AnnAssign)]
    return found
