"""``vocabulary``: the words that a LangBridge may combine, common to the tokenizers of several language models."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain

from craft_lightning.checkpoints.adapter import write_words
from craft_lightning.cli import verbs
from craft_lightning.errors import CraftError
from craft_lightning.io import check_file
from craft_lightning.pretraining.words import common_words, file_texts, new_studio, studio_texts, tokenizer_of


def main(argv: Sequence[str]) -> int:
    """The verb; returns the exit code."""
    args = verbs.vocabulary().parse_args(argv)
    check_file(args.output, "--output")
    tokenizers = [tokenizer_of(name) for name in args.tokenizers]
    texts = chain.from_iterable(map(file_texts, args.text)) if args.text else studio_texts(new_studio())
    found = common_words(tokenizers, texts)
    if len(found) < (args.size or 1):
        raise CraftError(f"--size {args.size or 1}: the tokenizers share {len(found)} words of the text")
    kept = found[: args.size]
    write_words(args.output, kept, tokenizers=args.tokenizers, text=[file.name for file in args.text or ()])
    few = ", ".join(repr(word) for word in kept[:8])
    print(f"{args.output}: {len(kept)} of {len(found)} words that {len(tokenizers)} tokenizers share: {few} ...")
    return 0
