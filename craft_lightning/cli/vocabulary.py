"""``vocabulary``: the words that a LangBridge may combine, common to the tokenizers of several language models."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import chain
from pathlib import Path

from craft_lightning.checkpoints.adapter import write_words
from craft_lightning.cli.arguments import at_least_one, verb_parser
from craft_lightning.errors import CraftError
from craft_lightning.io import check_file
from craft_lightning.pretraining.words import common_words, file_texts, new_studio, studio_texts, tokenizer_of


def main(argv: Sequence[str]) -> int:
    """The verb; returns the exit code."""
    parser = verb_parser(
        "vocabulary",
        "Find the tokens whose text several tokenizers share, the most frequent of the training text first: the words "
        "whose embeddings an adapter `langbridge` combines.",
        "The file holds the words alone, in order; each language model finds them in its own tokenizer.",
    )
    parser.add_argument(
        "--tokenizers", nargs="+", required=True, metavar="NAME", help="models, folders of them, OWNER/NAME of the hub"
    )
    parser.add_argument(
        "--text",
        nargs="+",
        type=Path,
        metavar="FILE",
        help="training text: conversations in LLaVA's format (.json), or lines (default: the pocket family's)",
    )
    parser.add_argument("--size", type=at_least_one, metavar="COUNT", help="keep so many words (default: all)")
    parser.shared("--output", help="JSON file to write")
    args = parser.parse_args(argv)
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
