"""``predict``: the replies to a split, or to one question about images; the logits of one prompt can be written, too.

Over a split it is the run that :mod:`.run` makes. With ``--images`` or ``--logits`` nothing but prompts is asked; every
other argument means what it means in a run, so that any method, checkpoint, encoder and data set can be looked into.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from itertools import chain, islice
from pathlib import Path
from typing import Any

import torch

from callbacks.prune_at_validation import PruneAtValidation
from craft_lightning import run_facts
from craft_lightning.checkpoints.tensors import save_tensors
from craft_lightning.cli import run, verbs
from craft_lightning.errors import CraftError, did_you_mean
from craft_lightning.inference import Reply, asked, prompt_batch, replies
from craft_lightning.io import check_file, write_text
from craft_lightning.methods._support.checkpointed import read_checkpoint
from craft_lightning.methods.base import BaseMethod
from craft_lightning.models.image_files import find_images, read_images
from craft_lightning.models.pruning import prune
from craft_lightning.run_folder import find_checkpoint
from craft_lightning.text.prompts import message
from craft_lightning.types import IMAGE_TOKEN_ID, VisualTokens, VqaExample
from data_modules.datamodule import VqaDataModule

PROMPT = ("--images", "--image", "--question", "--options", "--directive", "--item", "--logits")
"""Flags that ask for prompts of one's own, or for one stored one."""

AT_ONCE = 16
"""Images that are asked about at a time."""


def main(argv: Sequence[str]) -> int:
    """The verb; returns the exit code."""
    if any(a.split("=", 1)[0] in PROMPT for a in argv):
        args, others = verbs.predict().parse_known_args(list(argv))
        return ask(args, others)
    return run.main(["predict", *argv])


@torch.no_grad()
def ask(args: argparse.Namespace, others: Sequence[str]) -> int:
    """Print or write the replies to prompts, and write the logits of one if a file is given. ``others`` are a run's
    arguments; zero-shot is the method if they name none. Raises CraftError: flags that do not go together, no such
    image or item, or a mistake in the run's arguments."""
    if args.images is None and any(given is not None for given in (args.question, args.options, args.directive)):
        raise CraftError("--question, --options and --directive are about images: name them with --images PATH ...")
    if args.images is not None and args.item is not None:
        raise CraftError("--images are images of your own and --item a stored one: give one of the two")
    if args.images is not None and not (args.question or "").strip():
        raise CraftError("--images needs --question TEXT")
    if args.images is None and args.output is not None:
        raise CraftError("--output is for the replies about --images; a stored item's is printed")
    for file, flag in ((args.logits, "--logits"), (args.output, "--output")):
        if file is not None:
            check_file(file, flag)
    files = [] if args.images is None else find_images(args.images)
    if args.logits is not None and len(files) > 1:
        raise CraftError(f"--logits are those of one prompt, --images names {len(files)} images")
    asks = _asked(args, files)
    first = list(islice(asks, 1))  # whose mistakes are told before a model is loaded
    if args.backbone is not None:
        others = [*others, f"--backbone={args.backbone}"]
    if not any(a.split("=", 1)[0] in ("-c", "--config", "--model", "--model.class_path") for a in others):
        others = ["--model=ZeroShot", *others]
    cli = run.build_cli(["predict", *others], run=False)
    trainer = cli.config["predict"].pop("trainer")  # whose loggers and callbacks prompts do not need
    made = cli.parser.instantiate_classes(cli.config)["predict"]
    method = load(made.model, made.get("ckpt_path"), trainer)
    asks = chain(first, asks) if files else iter([_stored_item(made.data, args.item)])
    rows: list[str] = []
    while examples := list(islice(asks, AT_ONCE)):
        batch = prompt_batch(method.vlm, examples)
        visual = pruned(made.prune, method, method.visual_tokens(batch.pixel_values), batch.keys)
        found = replies(method.vlm, visual, batch, examples[0].options, args.max_new_tokens)
        for example, reply in zip(examples, found, strict=True):
            if args.output is None:
                print(f"{example.key}  {' '.join(str(reply).splitlines())}" if len(files) > 1 else reply)
            rows.append(_row(example, reply))
    if args.output is not None:
        write_text(args.output, "".join(rows))
        print(f"{args.output}: {len(rows)} images")
    if args.logits is not None:
        logits, ids = method.vlm.prompt_logits(visual, batch)
        told = {
            "reply": reply.text,
            "codebook_hash": method.vlm.codebook_hash or "",
            "dtype": method.backbone.dtype,
            "quantizer_dtype": run_facts.quantizer_dtype(method) or "",
            "image_position": str(int((ids[0] == IMAGE_TOKEN_ID).int().argmax())),
            "visual_positions": str(logits.shape[1] - ids.shape[1] + 1),
        }
        save_tensors(args.logits, {"logits": logits, "input_ids": ids}, told)
        print(f"{args.logits}: logits {'x'.join(map(str, logits.shape))}", file=sys.stderr)
    return 0


def _asked(args: argparse.Namespace, files: Sequence[Path]) -> Iterator[VqaExample]:
    for file, image in read_images(files):
        yield replace(asked(image, args.question, args.options, args.directive), key=file.as_posix())


def _row(example: VqaExample, reply: Reply) -> str:
    told = {"image": example.key, "question": example.question, "options": example.options, **asdict(reply)}
    return json.dumps(told, ensure_ascii=False) + "\n"


def load(method: BaseMethod, path: str | None, trainer: Any) -> BaseMethod:
    """A method in eval mode on the trainer's device, with the weights of a checkpoint if one is named. Raises
    CraftError: a checkpoint that is not there or does not fit."""
    method.configure_model()
    if path is not None:
        checkpoint = read_checkpoint(find_checkpoint(str(path), Path(trainer.default_root_dir or "runs")))
        method.on_load_checkpoint(checkpoint)
        method.load_state_dict(checkpoint["state_dict"], strict=False)
    on_gpu = trainer.accelerator != "cpu" and torch.cuda.is_available()
    return method.eval().to("cuda" if on_gpu else "cpu")


def pruned(pruning: PruneAtValidation, method: BaseMethod, visual: VisualTokens, keys: Sequence[str]) -> VisualTokens:
    """What a run would leave of the visual tokens. Raises CraftError: the prior would have to be counted."""
    keep = pruning.share(method) if pruning.enabled else 1.0
    prior = None
    if keep < 1.0 and pruning.rule.by_quota:
        prior = pruning.stored_prior(method, moved=method.moved)
        if prior is None:
            raise CraftError("pruning one image takes an --encoder with its prior, or --prune.prior FILE")
    return prune(visual, keep, prior, pruning.rule, keys)


def _stored_item(data: VqaDataModule, key: str | None) -> VqaExample:
    """A test item of the run's data, asked as ``test`` asks it. Raises CraftError: no item of that key."""
    data.setup("predict")
    items = {example.key: example for example in data.examples("test")}
    if key is not None and key not in items:
        raise CraftError(f"no test item {key!r}{did_you_mean(key, items)}")
    found = items[key or next(iter(items))]
    print(f"{found.key}, right answer {found.answer!r}\n{message(found)}", file=sys.stderr)
    return found
