"""``fit``, ``validate``, ``test`` and ``predict``; only this module and :mod:`.parser` know jsonargparse.

What LightningCLI does otherwise is replaced here where it would run another experiment than the one asked for: a
checkpoint changes weights and never settings, a used run folder is never written over, errors are one line.
"""

from __future__ import annotations

import logging
import os
import sys
import warnings
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import fields, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from jsonargparse import Namespace, set_parsing_settings
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint, ProgressBar
from lightning.pytorch.cli import ArgsType, LightningArgumentParser, LightningCLI
from lightning.pytorch.loggers import TensorBoardLogger
from lightning.pytorch.utilities import rank_zero_only
from omegaconf.errors import OmegaConfBaseException
from rich.console import Console
from rich.table import Table

from callbacks.last_step import LastCheckpoint
from callbacks.progress import Progress
from callbacks.prune_at_validation import PruneAtValidation
from callbacks.run_banner import StrategyAdvisor
from callbacks.save_config import SaveConfig
from callbacks.ste_check import SteCheck
from callbacks.token_map import TokenMap
from craft_lightning import __version__, run_folder
from craft_lightning import settings as defaults
from craft_lightning.cli import config_layers
from craft_lightning.cli import trainer_flags as flags
from craft_lightning.cli.arguments import command
from craft_lightning.cli.parser import CraftParser, whole_numbers_first, wrong_part
from craft_lightning.errors import CraftError
from craft_lightning.methods import METHODS
from craft_lightning.methods._support import resuming
from craft_lightning.methods._support.checkpointed import check_method, read_checkpoint
from craft_lightning.methods.base import BaseMethod
from craft_lightning.models.vlm_spec import VlmSpec
from craft_lightning.settings import flat
from craft_lightning.strategies.choose import settings, settle
from craft_lightning.strategies.fsdp2 import register
from craft_lightning.strategies.lost_process import lost_process
from data_modules.datamodule import VqaDataModule
from data_modules.datasets import dataset_name, usual_holdout

LINKS = {f"data.backbone.{field.name}": f"model.backbone.{field.name}" for field in fields(VlmSpec)}
LINKS |= dict.fromkeys(defaults.SEEDED, "seed_everything")
"""Settings that follow another one, which is set in their place."""


class Events(TensorBoardLogger):
    """``epoch``, which Lightning logs beside all numbers, is ``trainer/epoch``: cards are sorted by name, and its card
    would be the first."""

    def log_metrics(self, metrics: Mapping[str, float], step: int | None = None) -> None:
        """Write scalars."""
        super().log_metrics({"trainer/epoch" if k == "epoch" else k: v for k, v in metrics.items()}, step)


class FinishedError(Exception):
    """A run that is asked to go on has nothing left to do."""


class CraftCLI(LightningCLI):
    """LightningCLI with our parser, our callbacks and a run folder for everything a run writes."""

    subcommand: str
    callbacks: Sequence[Callback] = ()
    layers: Sequence[config_layers.Layer] = ()
    rehearsal: TemporaryDirectory[str] | None = None
    held: ExitStack
    shows = True

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Lightning's, without the flag that would have a checkpoint unpickled."""
        return {verb: {*skipped, "weights_only"} for verb, skipped in LightningCLI.subcommands().items()}

    def _prepare_subcommand_kwargs(self, subcommand: str) -> dict[str, Any]:
        found = {**super()._prepare_subcommand_kwargs(subcommand), "weights_only": True}
        if subcommand in ("validate", "test"):
            self.shows, found["verbose"] = found["verbose"], False  # Lightning's table has 16 digits
        return found

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """The links, the checkpoint callback, and the permission to write over a used run folder."""
        whole_numbers_first(parser)
        parser.add_lightning_class_args(PruneAtValidation, "prune")
        for target, source in LINKS.items():
            compute = int if source == "seed_everything" else None
            parser.link_arguments(source.replace("model.", "model.init_args."), target, compute_fn=compute)
        parser.add_lightning_class_args(LastCheckpoint, "checkpoint")
        parser.add_lightning_class_args(TokenMap, "token_map")
        parser.add_lightning_class_args(SteCheck, "ste_check")
        parser.set_defaults({f"checkpoint.{name}": value for name, value in defaults.CHECKPOINT.items()})
        parser.add_argument(
            "--overwrite", type=bool, default=False, help="Remove what an earlier run left in the folder."
        )

    def parse_arguments(self, parser: LightningArgumentParser, args: ArgsType) -> None:
        """Parse; an interpolation that fails is one line, too, and so is a value that a link would overwrite."""
        try:
            self.config = parser.parse_args(args if isinstance(args, list) else None)
        except OmegaConfBaseException as error:
            raise CraftError(f"config: {' '.join(str(error).split())}") from error
        verb, config = self.config.subcommand, self.config[self.config.subcommand]
        config_layers.links_hold(self.layers, LINKS, flat(config))
        config_layers.check_numbers(flat(config))
        clip = config.model.init_args.optim.clip
        flags.check_seed(config.seed_everything)
        flags.put_right(config.trainer, clip)
        if config.data.holdout is None:  # in numbers, for the run's config and whatever goes on from it
            config.data.holdout = usual_holdout(config.data.dataset)
        flags.check(verb, config.trainer, clip)

    def _parse_ckpt_path(self) -> None:
        """A checkpoint changes weights and never settings; Lightning would silently take those over."""

    def _read_checkpoint(self, config: Namespace) -> None:
        """Before anything is loaded: refuse a checkpoint of another method or training, and say what else differs.

        Raises:
            CraftError: see :func:`.check_method` and :func:`.check_settings`.
            FinishedError: the run has its result, and no steps are left.
        """
        path, trainer = Path(config.ckpt_path), config.trainer
        if path.is_dir():
            if "deepspeed" not in str(trainer.strategy).lower():
                raise CraftError(f"{path} is in parts, which only --trainer.strategy deepspeed_stage_2 reads")
            told = f"{path} is in parts that its strategy reads: what differs is told once it has"
            rank_zero_only(print)(f"craft_lightning: {told}", file=sys.stderr)
            return
        held = read_checkpoint(path)
        check_method(held, METHODS[config.model.class_path].name)
        given = resuming.named(config.model.init_args, config.data)
        # A method's null may stand for a number that it finds later, and compares then.
        given = {k: v for k, v in given.items() if v is not None or k.startswith("data.")}
        changed = resuming.changes(held, given)
        if self.subcommand == "fit":
            resuming.check_settings(changed, path)
        else:  # an evaluation has data of its own
            changed = {k: v for k, v in changed.items() if k.startswith("model.")}
        limit = resuming.out_of_steps(held, trainer.max_steps, trainer.max_epochs)
        folder, step = Path(trainer.default_root_dir), held["global_step"]
        if self.subcommand == "fit" and limit and run_folder.is_finished(folder, step):
            raise FinishedError(f"{folder} is finished after {step} steps, its result is kept; to go on, raise {limit}")
        if changed:
            rank_zero_only(print)(resuming.tell(changed), file=sys.stderr)

    def before_instantiate_classes(self) -> None:
        """Fix the run folder and the checkpoint, and refuse a folder that is used."""
        config = self.config[self.subcommand]
        given = {where for where, _ in self.layers}
        if config.data.source == "twin" and "--data.root" in given and "--data.source" not in given:
            told = f"--data.root {config.data.root}: images are drawn by default"
            raise CraftError(f"{told}; --data.source folder or hub reads those there")
        fit_folder = Path("runs") / _run_name(config)
        first = getattr(rank_zero_only, "rank", 0) == 0 and os.environ.get("NODE_RANK", "0") == "0"
        if config.trainer.default_root_dir is not None:
            fit_folder = Path(config.trainer.default_root_dir)
        elif self.subcommand == "fit":
            config.trainer.default_root_dir = str(fit_folder)
        else:
            plugged = config.model.init_args.backbone
            homes = map(run_folder.home_of, (plugged.encoder, plugged.adapter))
            fit_folder = next(filter(None, homes), fit_folder)
            own = fit_folder / self.subcommand
            config.trainer.default_root_dir = str(
                run_folder.unused(own, self.subcommand) if first and not config.overwrite else own
            )
        if config.trainer.fast_dev_run:  # whose results are none, and may not stand in a run's place
            self.rehearsal = TemporaryDirectory(prefix="craft_lightning-")
            config.trainer.default_root_dir = self.rehearsal.name
        folder = Path(config.trainer.default_root_dir)
        run_folder.check_folder(folder)
        if first and self.rehearsal is None:
            self.held.enter_context(run_folder.alone(folder / ".lock", f"a run is at work in {folder}"))
        if config.get("ckpt_path") is not None:
            config.ckpt_path = run_folder.find_checkpoint(str(config.ckpt_path), fit_folder)
        if self.subcommand == "fit" and first:
            asked = config.overwrite and any(where == "--overwrite" for where, _ in self.layers)
            run_folder.claim(folder, config.get("ckpt_path"), config.overwrite, asked)
        elif first:
            run_folder.claim_evaluation(folder, self.subcommand, config.overwrite)
        if config.get("ckpt_path") is not None:
            self._read_checkpoint(config)

    def instantiate_classes(self) -> None:
        """Whatever ends a part that the user named is one line: a missing package, a value that it refuses."""
        try:
            super().instantiate_classes()
        except ValueError as error:
            told = wrong_part(" ".join(str(error).split()))
            raise CraftError(told) if told else error from error

    def instantiate_trainer(self, **kwargs: Any) -> Trainer:
        """Lay the run out; add progress and the caller's callbacks, and the logger unless the config names one or none.

        What every run does besides is the method's :meth:`.BaseMethod.configure_callbacks`.
        """
        config = self.config_init[self.subcommand]
        flags.check_parts(config.trainer.callbacks or [], config.trainer.plugins)
        advice = self._lay_out()
        folder = config.trainer.default_root_dir
        if config.trainer.logger in (None, True):
            kwargs["logger"] = Events(folder, name="", version="", sub_dir=run_folder.EVENTS, default_hp_metric=False)
        theirs = any(isinstance(c, ProgressBar) for c in config.trainer.callbacks or ())
        self.trainer_defaults["callbacks"] = [
            *advice,
            *([] if theirs or config.trainer.enable_progress_bar is False else [Progress()]),
            *self.callbacks,
        ]
        trainer: Trainer = super().instantiate_trainer(**kwargs)
        for callback in trainer.checkpoint_callbacks:  # with a logger of the user's they would follow that
            if isinstance(callback, ModelCheckpoint) and callback.dirpath is None:
                callback.dirpath = str(Path(folder) / "checkpoints")
        asked = config.trainer.precision
        if asked not in (None, trainer.precision):
            raise CraftError(f"--trainer.precision {asked}: this machine would compute in {trainer.precision}")
        return trainer

    def _instantiate_trainer(self, config: dict[str, Any], callbacks: list[Callback]) -> Trainer:
        """Whatever Lightning says of the trainer's settings is one line."""
        if config["enable_checkpointing"] is False:
            callbacks = [c for c in callbacks if not isinstance(c, LastCheckpoint)]
        try:
            return super()._instantiate_trainer(config, callbacks)
        except (ImportError, RuntimeError, TypeError, ValueError) as error:
            raise CraftError(f"trainer: {' '.join(str(error).split())}") from error

    def _lay_out(self) -> list[Callback]:
        """Choose what ``strategy: auto`` leaves open, and write it into the run's config."""
        config, made = self.config[self.subcommand], self.config_init[self.subcommand]
        named = config_layers.named_settings(self.layers)
        choice = settle(self.subcommand, self.model, self.datamodule, made.trainer, named)
        if choice is None:
            return []
        for name, value in settings(choice, made.trainer, self.model.optim.clip).items():
            config[name] = value
            if name.startswith("trainer."):
                made[name] = value
        chosen = replace(self.model.backbone, dtype=choice.dtype, gradient_checkpointing=choice.recompute)
        self.model.backbone = self.datamodule.backbone = chosen  # linked, as on the command line
        self.datamodule.eval_batch_size = choice.eval_rows
        return [StrategyAdvisor(choice)]

    def after_fit(self) -> None:
        """Say what came of it, and the next command."""
        if self.rehearsal is not None or not self.trainer.is_global_zero:
            return
        folder = Path(self.trainer.default_root_dir)
        found = run_folder.result(folder)
        accuracy = found["metrics"].get("val/accuracy")
        told = "not validated" if accuracy is None else f"validation accuracy {accuracy:.1%} of {found['rows']} items"
        part = next((part for part in ("encoder", "adapter") if (folder / part).is_dir()), None)
        weights = [f"--{part}", str(folder / part)] if part else ["--ckpt_path", "last"]
        if part and self.model.backbone.language_dtype != "same":  # it is for the whole model
            weights += ["--model.backbone.language_dtype", "same"]
        print(f"done      {found['steps']} steps in {found['seconds']:.0f} s; {told}", file=sys.stderr)
        print(f"next      {command('test', '--config', str(folder / 'config.yaml'), *weights)}", file=sys.stderr)

    def after_test(self) -> None:
        """Show what was measured, as exactly as can be read; ``result.json`` has all digits."""
        if self.shows and self.trainer.is_global_zero:
            table = Table("metric", "value")
            for name, value in sorted(self.trainer.callback_metrics.items()):
                table.add_row(name, f"{float(value):.4g}")
            Console().print(table)

    after_validate = after_test

    def _run_subcommand(self, subcommand: str) -> None:
        """Run the verb; say it in one line if a process was lost on the way."""
        try:
            super()._run_subcommand(subcommand)
        except RuntimeError as error:
            if "conditioned on metric" in str(error):
                raise CraftError(f"--trainer.callbacks EarlyStopping: {error}") from error
            raise lost_process(self.trainer, error) or error from None
        finally:
            if self.rehearsal is not None:
                self.rehearsal.cleanup()


def _run_name(config: Namespace) -> Path:
    """``<dataset>/<surrogate>/<method>/seed<k>``: what the run is, so that one folder shows a dataset's methods."""
    backbone = Path(config.model.init_args.backbone.name).name
    method = METHODS[config.model.class_path].name
    return Path(dataset_name(config.data.dataset)) / backbone / method / f"seed{config.seed_everything}"


def build_cli(argv: Sequence[str], run: bool = True, callbacks: Sequence[Callback] = ()) -> CraftCLI:
    """Parse and, if ``run``, do what the arguments say.

    Args:
        argv: verb and flags. run: False only parses (for tests and planning). callbacks: added to the run's own.

    Raises:
        CraftError: a mistake in the arguments or in a config file.
        FinishedError: a training that is asked to go on has its result and no steps left.
    """
    _quiet()
    register()
    argv = config_layers.expanded(argv)
    layers = config_layers.read_layers(argv)
    config_layers.one_class(layers)
    for method in METHODS.ours:
        METHODS[method]  # imported, a config can name its class alone
    set_parsing_settings(omegaconf_absolute_to_relative_paths=True)
    # The parser of a verb takes longer to build than the rest of a parse: only the one asked for is made.
    asked = {verb: skipped for verb, skipped in CraftCLI.subcommands().items() if verb in argv[:1]}
    held = ExitStack()  # the run's folder, until it is over
    parts = {
        "callbacks": callbacks,
        "layers": layers,
        "held": held,
        "subcommands": staticmethod(lambda: asked or CraftCLI.subcommands()),
    }
    cls = type("CraftCLI", (CraftCLI if run else _DryCLI,), parts)
    try:
        with held:
            return cls(
                BaseMethod,
                VqaDataModule,
                subclass_mode_model=True,
                parser_class=CraftParser,
                auto_configure_optimizers=False,
                seed_everything_default=defaults.SEED,
                save_config_callback=SaveConfig,
                parser_kwargs={"parser_mode": "omegaconf+", "allow_abbrev": False, "version": __version__},
                args=list(argv),
            )
    except MisconfigurationException as error:
        raise CraftError(" ".join(str(error).split())) from error


class _DryCLI(CraftCLI):
    """Parses and stops."""

    def before_instantiate_classes(self) -> None:
        """Leave the run folder alone."""

    def instantiate_classes(self) -> None:
        """Build nothing."""

    def _run_subcommand(self, subcommand: str) -> None:
        """Run nothing."""


def _quiet() -> None:
    """Drop what Lightning says about things that are meant to be so, and its advertisement."""
    warnings.filterwarnings("ignore", message=r".*module\(s\) in eval mode at the start of training")
    warnings.filterwarnings("ignore", message=r".*does not have many workers which may be a bottleneck")
    warnings.filterwarnings("ignore", message=r".*treespec, LeafSpec")
    warnings.filterwarnings("ignore", message=r"The dirpath has changed")  # a test's folder is not its training's
    warnings.filterwarnings("ignore", message=r"You passed `Trainer\(accelerator='cpu', precision='16")  # refused
    warnings.filterwarnings("ignore", message=r".*all_gather is deprecated")
    warnings.filterwarnings("ignore", message=r".*returned a view tensor")  # sharded: nothing is changed in place
    # The seed is in the run's config, result and folder; told here, it would stand before the one line of a mistake.
    logging.getLogger("lightning.fabric.utilities.seed").setLevel(logging.WARNING)
    # It warns of a package that would only speed up evaluation in 4 bits, also where nothing is in 4 bits.
    logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
    rank_zero_log = logging.getLogger("lightning.pytorch.utilities.rank_zero")
    rank_zero_log.addFilter(lambda record: "litlogger" not in record.getMessage())


def main(argv: Sequence[str]) -> int:
    """The four verbs; returns the exit code."""
    try:
        build_cli(argv)
    except FinishedError as told:
        rank_zero_only(print)(f"craft_lightning: {told}", file=sys.stderr)
    return 0
