"""``fit``, ``validate``, ``test`` and ``predict``: the only module that knows jsonargparse.

What LightningCLI does otherwise is replaced here where it would run another experiment than the one asked for: a
checkpoint changes weights and never settings, a used run folder is never written over, errors are one line.
"""

from __future__ import annotations

import inspect
import logging
import os
import re
import shutil
import sys
import warnings
from collections.abc import Sequence
from dataclasses import fields
from itertools import pairwise
from pathlib import Path
from typing import Any, NoReturn

import torch
import yaml
from jsonargparse import Namespace, set_parsing_settings
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, LightningModule, Trainer
from lightning.pytorch.callbacks import ProgressBar
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from omegaconf.errors import OmegaConfBaseException

from callbacks.codebook_usage import CodesChanged
from callbacks.encoder_export import EncoderExport
from callbacks.hparams_tab import HparamsTab
from callbacks.last_checkpoint import LastCheckpoint
from callbacks.progress import Progress
from callbacks.prune_at_validation import PruneAtValidation
from callbacks.result_writer import ResultWriter
from callbacks.run_banner import RunBanner
from callbacks.token_map import TokenMap
from craft_lightning import __version__
from craft_lightning.errors import CraftError, nearest, unknown
from craft_lightning.methods import METHODS, import_methods
from craft_lightning.methods.base import BaseMethod
from craft_lightning.models.pruning import PruneRule
from craft_lightning.models.spec import VlmSpec
from craft_lightning.optim import OptimSpec
from craft_lightning.tables.board import EVENTS
from data_modules.base import VqaDataModule

ALIASES = {"--encoder": "--model.backbone.encoder"}
"""Flags that people type, and what they stand for."""

FINDINGS = ("checkpoints", "encoder", "result*.json")
"""What makes a folder a used one."""

OUTPUTS = (*FINDINGS, "config*.yaml", "predictions*.jsonl", "items*.jsonl", "token_map.*.png", EVENTS)
"""What a run writes into its folder, and all that ``--overwrite`` removes."""


class CraftParser(LightningArgumentParser):
    """Errors are one line with the nearest name that exists."""

    def error(self, message: str, ex: Exception | None = None) -> NoReturn:
        """Turn whatever was wrong on the command line or in a config file into a :class:`CraftError`."""
        text = " ".join(str(message).split())
        # jsonargparse lists what was wrong with each type that a part may have; the first one is ours.
        found = re.search(r"Errors: - (.+?) - Expected a <class 'NoneType'>", text)
        text = found.group(1) if found else text
        if found := re.search(r"Option '([\w.]+)' is not accepted", text):
            self._unknown(f"model.{found.group(1)}")
        if found := re.search(r"(?:[Uu]nrecognized arguments?: --|does not accept option ')([\w.+-]+)", text):
            self._unknown(found.group(1))
        if found := re.search(r"Expected a dot import path string: (\w+)", text):
            raise unknown("class", found.group(1), [m.class_name for m in METHODS.values()])
        if "not accepted before subcommand" in text:
            raise CraftError("-c and --config come after the verb: python -m craft_lightning fit --config FILE")
        if text.startswith("Not a valid subclass of BaseMethod"):
            raise CraftError("the config that names the method (model.class_path) comes before those that fill it in")
        if re.search(r"required: \w+\.model$", text):
            raise CraftError("no method is named; for example --config experiments/methods/craft.yaml")
        raise CraftError(text)

    def _unknown(self, name: str) -> NoReturn:
        known = _settings()
        # Parts of parts report their own name alone: ``lrr``, not ``model.optim.lrr``.
        by_end = {setting.rsplit(".", 1)[-1]: setting for setting in known}
        close = nearest(name, known) if "." in name else by_end.get(str(nearest(name, by_end)))
        hint = f"; did you mean {close!r}?" if close else "."
        raise CraftError(f"no setting {name!r}{hint} All settings: --help")


def _settings() -> list[str]:
    """What can be set, as ``model.optim.lr``."""
    parts: list[tuple[str, Any]] = [("trainer", Trainer), ("data", VqaDataModule), ("checkpoint", LastCheckpoint)]
    parts += [("token_map", TokenMap)]
    parts += [("model.optim", OptimSpec), ("model.backbone", VlmSpec)]
    parts += [("prune", PruneAtValidation), ("prune.rule", PruneRule)]
    parts += [
        ("model", cls) for entry in METHODS.values() for cls in entry.load().__mro__ if issubclass(cls, BaseMethod)
    ]
    names = [f"{part}.{name}" for part, cls in parts for name in inspect.signature(cls).parameters if name != "kwargs"]
    return list(dict.fromkeys(["seed_everything", "ckpt_path", "overwrite", "encoder", *names]))


class SaveConfig(SaveConfigCallback):
    """Writes the complete resolved config into the run folder: ``config.yaml`` for fit, ``config.test.yaml``..."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Save once, on the first process."""
        if self.already_saved or not trainer.is_global_zero:
            return
        folder = Path(trainer.default_root_dir)
        folder.mkdir(parents=True, exist_ok=True)
        name = "config.yaml" if stage == "fit" else f"config.{getattr(stage, 'value', stage)}.yaml"
        # Whoever runs this file again must ask again for permission to overwrite.
        config = self.config.clone()
        config.overwrite = False
        self.parser.save(config, folder / name, skip_none=False, overwrite=True, multifile=False)
        self.already_saved = True


class CraftCLI(LightningCLI):
    """LightningCLI with our parser, our callbacks and a run folder for everything a run writes."""

    subcommand: str
    callbacks: Sequence[Callback] = ()

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The links, the checkpoint callback, and the permission to write over a used run folder."""
        for field in fields(VlmSpec):
            parser.link_arguments(f"model.init_args.backbone.{field.name}", f"data.backbone.{field.name}")
        parser.link_arguments("seed_everything", "data.seed", compute_fn=int)
        parser.add_lightning_class_args(PruneAtValidation, "prune")
        parser.link_arguments("seed_everything", "prune.rule.seed", compute_fn=int)
        parser.add_lightning_class_args(LastCheckpoint, "checkpoint")
        parser.add_lightning_class_args(TokenMap, "token_map")
        parser.set_defaults(
            {
                # The weights of the last step, never the best of many (methods.md 1.5, DESIGN 4.7).
                "checkpoint.save_last": True,
                "checkpoint.save_top_k": 0,
                "checkpoint.save_on_train_epoch_end": True,
                # Beside the end of each epoch, so that an interrupted training loses little of a long one.
                "checkpoint.every_n_train_steps": 50,
            }
        )
        parser.add_argument(
            "--overwrite", type=bool, default=False, help="Remove what an earlier run left in the run folder (fit)."
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse; an interpolation that fails is one line, too."""
        try:
            self.config = parser.parse_args(args if isinstance(args, list) else None)
        except OmegaConfBaseException as error:
            raise CraftError(f"config: {' '.join(str(error).split())}") from error

    def _parse_ckpt_path(self) -> None:
        """Say where a checkpoint was made with other settings; Lightning would silently take them over."""
        config = self.config[self.config.subcommand]
        path = config.get("ckpt_path")
        if not path or not Path(path).is_file():
            return
        held = torch.load(path, map_location="cpu", weights_only=True, mmap=True).get("hyper_parameters", {})
        given = _flat(config.model.init_args.as_dict())
        told = {
            k: v for k, v in _flat({k: v for k, v in held.items() if k[0] != "_"}).items() if given.get(k) is not None
        }
        changed = [f"{k}={given[k]!r} (checkpoint: {v!r})" for k, v in told.items() if _plain(v) != _plain(given[k])]
        if changed:
            rank_zero_only(print)(
                f"the run's settings hold, not the checkpoint's: {', '.join(changed)}", file=sys.stderr
            )

    def before_instantiate_classes(self) -> None:
        """Fix the run folder and the checkpoint, and refuse a folder that is used."""
        config = self.config[self.subcommand]
        fit_folder = Path("runs") / _run_name(config)
        if config.trainer.default_root_dir is None:
            config.trainer.default_root_dir = str(
                fit_folder if self.subcommand == "fit" else fit_folder / self.subcommand
            )
        else:
            fit_folder = Path(config.trainer.default_root_dir)
        path = config.get("ckpt_path")
        if path == "last":
            path = config.ckpt_path = str(fit_folder / "checkpoints" / "last.ckpt")
        if path is not None and path != "best" and not Path(path).exists():
            there = sorted(map(str, Path(path).parent.glob("*.ckpt")))
            raise CraftError(f"no checkpoint {path}; there is {', '.join(there) or 'none in that folder'}")
        if self.subcommand == "fit" and os.environ.get("LOCAL_RANK", "0") == "0":
            _claim(Path(config.trainer.default_root_dir), resuming=path is not None, overwrite=config.overwrite)

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Add the callbacks of every run, and the logger unless the config names one or switches it off."""
        config = self.config_init[self.subcommand]
        folder = config.trainer.default_root_dir
        if config.trainer.logger in (None, True):
            kwargs["logger"] = TensorBoardLogger(folder, name="", version="", sub_dir=EVENTS, default_hp_metric=False)
        resolved = yaml.safe_load(
            self._parser(self.subcommand).dump(
                self.config[self.subcommand], skip_none=False, skip_link_targets=False, format="yaml"
            )
        )
        theirs = any(isinstance(c, ProgressBar) for c in config.trainer.callbacks or ())
        self.trainer_defaults["callbacks"] = [
            RunBanner(),
            *([] if theirs or config.trainer.enable_progress_bar is False else [Progress()]),
            CodesChanged(),
            ResultWriter(self.subcommand, resolved),
            EncoderExport(),
            HparamsTab(),
            *self.callbacks,
        ]
        return super().instantiate_trainer(**kwargs)


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings and dataclasses as one mapping with dotted keys."""
    if isinstance(value, Namespace):
        value = value.as_dict()
    if hasattr(value, "__dataclass_fields__"):
        value = vars(value)
    if not isinstance(value, dict):
        return {prefix: value}
    return {k: v for key, inner in value.items() for k, v in _flat(inner, f"{prefix}.{key}" if prefix else key).items()}


def _plain(value: Any) -> Any:
    return list(value) if isinstance(value, tuple) else value


def _run_name(config: Namespace) -> Path:
    """``<dataset>/<surrogate>/<method>/seed<k>``: what the run is, so that one folder shows a dataset's methods."""
    method = next(m.name for m in METHODS.values() if m.class_name == config.model.class_path.rsplit(".", 1)[-1])
    backbone = Path(config.model.init_args.backbone.name).name
    return Path(str(config.data.dataset)) / backbone / method / f"seed{config.seed_everything}"


def _claim(folder: Path, resuming: bool, overwrite: bool) -> None:
    """Make sure that a fit begins in a clean run folder.

    Raises:
        CraftError: the folder holds a run, and neither ``--ckpt_path`` nor ``--overwrite`` was given.
    """
    kept = sorted(path for pattern in FINDINGS for path in folder.glob(pattern))
    if resuming:
        return
    if kept and not overwrite:
        raise CraftError(
            f"{folder} holds a run ({kept[0].name}); continue it with --ckpt_path last, replace it with --overwrite "
            "true, or name another folder with --trainer.default_root_dir"
        )
    # What a run left that found nothing would mix with the new one's curves.
    for path in [path for pattern in OUTPUTS for path in folder.glob(pattern)]:
        shutil.rmtree(path) if path.is_dir() else path.unlink()


def _one_class_each(argv: Sequence[str]) -> None:
    """Refuse config files that name different classes for one part: the second would inherit arguments of the first.

    Raises:
        CraftError: with both files.
    """
    named: dict[str, tuple[str, str]] = {}
    flags = ("-c", "--config")
    files = [value for flag, value in pairwise(argv) if flag in flags]
    files += [a.split("=", 1)[1] for a in argv if a.startswith("--config=")]
    for file in files:
        if not Path(file).is_file():
            near = nearest(Path(file).name, (p.name for p in Path(file).parent.glob("*")))
            raise CraftError(f"no config file {file}" + (f"; did you mean {Path(file).parent / near}?" if near else ""))
        try:
            content = yaml.safe_load(Path(file).read_text(encoding="utf-8"))
        except (yaml.YAMLError, UnicodeDecodeError) as error:
            raise CraftError(f"{file}: {' '.join(str(error).split())}") from error
        for part in ("model", "data"):
            section = content.get(part) if isinstance(content, dict) else None
            name = section.get("class_path") if isinstance(section, dict) else None
            if name is None:
                continue
            before = named.setdefault(part, (name, file))
            if before[0].rsplit(".", 1)[-1] != name.rsplit(".", 1)[-1]:
                raise CraftError(
                    f"{file} names {part} {name}, but {before[1]} names {before[0]}: give one of the two files"
                )


def build_cli(argv: Sequence[str], run: bool = True, callbacks: Sequence[Callback] = ()) -> CraftCLI:
    """Parse and, if ``run``, do what the arguments say.

    Args:
        argv: verb and flags. run: False only parses (for tests and planning). callbacks: added to the run's own.

    Raises:
        CraftError: a mistake in the arguments or in a config file.
    """
    _quiet()
    argv = [_alias(a) for a in argv]
    _one_class_each(argv)
    import_methods()
    set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
    # The parser of a verb takes longer to build than the rest of a parse: only the one asked for is made.
    asked = {verb: skipped for verb, skipped in CraftCLI.subcommands().items() if verb in argv[:1]}
    parts = {"callbacks": callbacks, "subcommands": staticmethod(lambda: asked or CraftCLI.subcommands())}
    cls = type("CraftCLI", (CraftCLI if run else _DryCLI,), parts)
    try:
        return _construct(cls, argv)
    except MisconfigurationException as error:
        raise CraftError(" ".join(str(error).split())) from error


def _construct(cls: type[CraftCLI], argv: Sequence[str]) -> CraftCLI:
    return cls(
        BaseMethod,
        VqaDataModule,
        subclass_mode_model=True,
        parser_class=CraftParser,
        auto_configure_optimizers=False,
        seed_everything_default=0,
        save_config_callback=SaveConfig,
        parser_kwargs={"parser_mode": "omegaconf+", "allow_abbrev": False, "version": __version__},
        args=list(argv),
    )


class _DryCLI(CraftCLI):
    """Parses and stops."""

    def before_instantiate_classes(self) -> None:
        """Leave the run folder alone."""

    def instantiate_classes(self) -> None:
        """Build nothing."""

    def _run_subcommand(self, subcommand: str) -> None:
        """Run nothing."""


def _alias(argument: str) -> str:
    flag, equals, value = argument.partition("=")
    return ALIASES.get(flag, flag) + equals + value


def _quiet() -> None:
    """Drop what Lightning says about things that are meant to be so, and its advertisement."""
    warnings.filterwarnings("ignore", message=r".*module\(s\) in eval mode at the start of training")
    warnings.filterwarnings("ignore", message=r".*does not have many workers which may be a bottleneck")
    warnings.filterwarnings("ignore", message=r".*treespec, LeafSpec")
    warnings.filterwarnings("ignore", message=r"The dirpath has changed")  # a test's folder is not its training's
    rank_zero_log = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    rank_zero_log.addFilter(lambda record: "litlogger" not in record.getMessage())


def main(argv: Sequence[str]) -> int:
    """The four verbs; returns the exit code."""
    build_cli(argv)
    return 0
