"""``predict``: the replies to a split, or to one image and question, whose logits can be written, too.

Over a split it is the run that :mod:`.run` makes. With ``--image`` or ``--logits`` one prompt is asked; every other
argument means what it means in a run, so that any method, checkpoint, encoder and data set can be looked into.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from callbacks.prune_at_validation import PruneAtValidation
from craft_lightning import run_facts
from craft_lightning.checkpoints.tensors import save_tensors
from craft_lightning.cli import run
from craft_lightning.cli.arguments import VerbParser, at_least_one, verb_parser
from craft_lightning.errors import CraftError, did_you_mean
from craft_lightning.inference import asked, prompt_batch
from craft_lightning.io import check_file
from craft_lightning.methods._support.checkpointed import read_checkpoint
from craft_lightning.methods.base import BaseMethod
from craft_lightning.models.pruning import prune
from craft_lightning.run_folder import find_checkpoint
from craft_lightning.text.prompts import message
from craft_lightning.text.scoring import MAX_NEW_TOKENS
from craft_lightning.types import IMAGE_TOKEN_ID, VisualTokens, VqaExample
from data_modules.datamodule import VqaDataModule

ONE = ("--image", "--question", "--options", "--directive", "--item", "--logits")
"""Flags that ask for one prompt."""


def parser() -> VerbParser:
    """The flags of one prompt; all others are a run's."""
    p = verb_parser(
        "predict",
        "Ask about one image, or (without --image) one stored test item; without any of these flags, answer a whole "
        "split.",
        "FILE.safetensors holds logits [1,T,V] float32, one row for each position of what the language model reads: T "
        "counts the text tokens and, in the placeholder's place, all visual positions (start and end tokens of the "
        "image included). input_ids [1,T'] int64 is the text alone: its placeholder -200 stands for the whole image, "
        "and T = T' - 1 + visual positions. The metadata holds reply, codebook_hash, dtype, quantizer_dtype, "
        "image_position and visual_positions.",
        usage="python -m craft_lightning predict [--backbone NAME] --image FILE --question TEXT [--options A B ...]",
        add_help=False,
    )
    p.shared("--backbone")
    p.add_argument("--image", type=Path, metavar="FILE", help="the image")
    p.add_argument("--question", metavar="TEXT", help="what is asked of it")
    p.add_argument("--options", nargs="+", metavar="TEXT", help="choices, lettered in this order")
    p.add_argument("--directive", metavar="TEXT", help="in place of 'Answer ...'; an empty text for none")
    p.add_argument("--item", metavar="KEY", help="without --image: key of a stored test item (default: the first)")
    p.add_argument("--logits", type=Path, metavar="FILE.safetensors", help="write the logits of the prompt")
    p.add_argument("--max-new-tokens", type=at_least_one, default=MAX_NEW_TOKENS, metavar="N", help="(%(default)s)")
    return p


def main(argv: Sequence[str]) -> int:
    """The verb; returns the exit code."""
    if any(a in ("-h", "--help") for a in argv):
        print(parser().format_help() + "\nAll other settings are those of a run:\n")
    elif any(a.split("=", 1)[0] in ONE for a in argv):
        args, others = parser().parse_known_args(list(argv))
        return ask(args, others)
    return run.main(["predict", *argv])


@torch.no_grad()
def ask(args: argparse.Namespace, others: Sequence[str]) -> int:
    """Print the reply to one prompt, and write its logits if a file is given. ``others`` are a run's arguments;
    zero-shot is the method if they name none. Raises CraftError: flags that do not go together, no such image or item,
    or a mistake in the run's arguments."""
    if args.image is None and (args.question is not None or args.options is not None or args.directive is not None):
        raise CraftError("--question, --options and --directive are about an image: name it with --image FILE")
    if args.image is not None and args.item is not None:
        raise CraftError("--image is an image of your own and --item a stored one: give one of the two")
    if args.image is not None and not (args.question or "").strip():
        raise CraftError("--image needs --question TEXT")
    if args.logits is not None:
        check_file(args.logits, "--logits")
    if args.backbone is not None:
        others = [*others, f"--backbone={args.backbone}"]
    if not any(a.split("=", 1)[0] in ("-c", "--config", "--model", "--model.class_path") for a in others):
        others = ["--model=ZeroShot", *others]
    if args.image is not None:
        example = asked(args.image, args.question, args.options, args.directive)
    cli = run.build_cli(["predict", *others], run=False)
    trainer = cli.config["predict"].pop("trainer")  # whose loggers and callbacks one prompt does not need
    made = cli.parser.instantiate_classes(cli.config)["predict"]
    method = load(made.model, made.get("ckpt_path"), trainer)
    if args.image is None:
        example = _stored_item(made.data, args.item)
    batch = prompt_batch(method.vlm, example)
    visual = pruned(made.prune, method, method.visual_tokens(batch.pixel_values), batch.keys)
    reply = method.vlm.generate(visual, batch, args.max_new_tokens)[0]
    print(reply)
    if args.logits is not None:
        logits, ids = method.vlm.prompt_logits(visual, batch)
        told = {
            "reply": reply,
            "codebook_hash": method.vlm.codebook_hash or "",
            "dtype": method.backbone.dtype,
            "quantizer_dtype": run_facts.quantizer_dtype(method) or "",
            "image_position": str(int((ids[0] == IMAGE_TOKEN_ID).int().argmax())),
            "visual_positions": str(logits.shape[1] - ids.shape[1] + 1),
        }
        save_tensors(args.logits, {"logits": logits, "input_ids": ids}, told)
        print(f"{args.logits}: logits {'x'.join(map(str, logits.shape))}", file=sys.stderr)
    return 0


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
