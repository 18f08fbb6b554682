"""The flags of verbs whose work is slow to import: known, and their help printed, before it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from craft_lightning.cli.arguments import VerbParser, at_least_one, verb_parser
from craft_lightning.text.scoring import MAX_NEW_TOKENS

PASSES, STEPS = 40, (200, 1200)
"""A training of ``adapt`` shows every item 40 times, but takes 200 steps at least and 1,200 at most."""


def adapt() -> VerbParser:
    """Its own flags; all others are a run's."""
    p = verb_parser(
        "adapt",
        "Adapt a model's encoder to your own images or questions, and say whether it helped.",
        f"Any other flag is a setting of the runs, like --trainer.max_steps 500 or --data.holdout 0.2. By default "
        f"a training shows every item {PASSES} times, in {STEPS[0]} to {STEPS[1]:,} steps. The same call resumes.",
    )
    p.add_argument("data", metavar="FOLDER|FILE", help="CLASS/*.jpg, {train,test}/CLASS/*.jpg, *.jsonl, or a .zip")
    p.add_argument("--query", metavar="TEXT", help="the question asked of each image of a class")
    p.add_argument("--domain", metavar="TEXT", help="what all images show, for captions: 'plant leaf'")
    p.shared("--backbone", default=None, help="model to train with (pocket-qwen2-xs)")
    p.add_argument("--plug", nargs="+", default=[], metavar="NAME", help="models of the family to test the encoder in")
    p.shared("--output", required=False, help="folder of all results (runs/FOLDER)")
    p.add_argument("--dry_run", action="store_true", help="look at the data, and list the commands")
    return p


def board() -> VerbParser:
    """Of TensorBoard's folder."""
    p = verb_parser("board", "Name all runs for TensorBoard, and print the command that shows them.")
    p.shared("--runs")
    return p


def compare() -> VerbParser:
    """Of what tests found."""
    p = verb_parser(
        "compare",
        "Show what a test found, or how several tests of the same items differ from the first one.",
        "With --output the page also has learning curves, a matrix of replies, and images with their codes before and "
        "after: items that flipped or, for a single run, items answered wrongly and rightly.",
    )
    p.add_argument("runs", nargs="+", metavar="RUN", help="a run's folder, or a file predictions*.jsonl")
    p.shared("--output", required=False, help=".html file to write, or .md with a .png beside it")
    return p


def draw() -> VerbParser:
    """Of the contact sheet."""
    p = verb_parser("draw", "Draw images of the ten synthetic datasets, in source and in target domain.")
    p.shared("--output", help="image file to write, for example sheet.png")
    p.add_argument("--side", type=at_least_one, default=64, help="side length of an image in pixels")
    p.add_argument("--per_look", type=at_least_one, default=6, help="images of each dataset and domain")
    return p


def export() -> VerbParser:
    """Of what is done with an encoder."""
    p = verb_parser(
        "export",
        "Share an adapted encoder: put its gain on its card, upload it, or write a complete checkpoint in VILA-U's "
        "layout that contains it. The original code loads such a checkpoint if its base is one of VILA-U's authors; "
        "commands with --encoder read the encoder's own folder.",
        "Nothing is uploaded without --push. In OUTPUT the adapted tensors keep their stored precision (the original "
        "code casts what it loads); all other tensors and files are copied. OUTPUT/adaptation/ holds the encoder's "
        "config.json and its prior for --prune.prior.",
    )
    p.shared("--backbone", help="with --output: a name of `list backbones`, or the folder of a checkpoint")
    p.shared(
        "--encoder", required=True, help="adapted encoder: a folder, its encoder.safetensors, or OWNER/NAME of the hub"
    )
    gain = "two tests of the same items, without and with the encoder, for its card"
    p.add_argument("--gain", nargs=2, type=Path, metavar=("BEFORE", "AFTER"), help=gain)
    pushed = "upload the encoder's folder, card included, to this repository of the hub, which is made private"
    p.add_argument("--push", metavar="OWNER/NAME", help=pushed)
    p.shared("--output", required=False, help="folder to make, for the original code")
    return p


def judge() -> VerbParser:
    """Of who judges, and what it may cost."""
    p = verb_parser(
        "judge",
        "Judge the replies of tests that asked for justifications (--data.directive justify).",
        "Judgements are stored next to the replies, a line each, in judgements.NAME.jsonl; a second call asks only for "
        "missing ones. The key of an API is read from ANTHROPIC_API_KEY or OPENAI_API_KEY. Without --yes no API is "
        "called: the command prints what it would cost.",
    )
    p.add_argument("tests", nargs="+", metavar="RUN|TABLE", help="a test's folder, a file of replies, or a table")
    judges = "offline: by rules, for drawn images; claude-...: Anthropic's; any other name: of an OpenAI-compatible API"
    p.add_argument("--judge", metavar="NAME", help=f"{judges} (default: the table's, else offline)")
    p.add_argument("--url", help="of the API, where it is not the library's own")
    price = "dollars of a million tokens that the judge reads, and writes"
    p.add_argument("--price", nargs=2, type=float, metavar=("READ", "WRITTEN"), help=price)
    p.add_argument("--yes", action="store_true", help="ask the API, whatever it costs")
    p.add_argument("--at_once", type=at_least_one, default=4, metavar="N", help="requests at a time (%(default)s)")
    p.add_argument("--timeout", type=float, default=60.0, metavar="SECONDS", help="of a request (%(default)g)")
    p.shared("--budget", help="of a table: how long its trainings are (%(default)s)")
    p.shared("--seeds")
    p.shared("--scale", choices=None, default=None, help="of a table: pocket or paper (default: its own)")
    p.shared("--runs")
    return p


def grow() -> VerbParser:
    """Of a larger codebook."""
    p = verb_parser(
        "grow",
        "Find new entries for a model's codebook by k-means on the residuals that its entries leave of images.",
        "The old entries stay: encoders of the old codebook fit the grown one, and language models that read the old "
        "one read the grown one, too. An encoder that is adapted with the grown codebook carries the new entries.",
    )
    p.shared("--backbone", required=True)
    p.shared("--images", required=False, help="images of the domain (100 of each synthetic dataset)")
    p.shared("--encoder")
    p.add_argument("--by", type=float, default=0.25, metavar="SHARE", help="new entries, beside 1.0 (%(default)s)")
    p.add_argument("--seed", type=int, default=0, help="of the places where they begin")
    p.shared("--output", help="safetensors file to write")
    p.shared("--workers")
    return p


def predict() -> VerbParser:
    """Of prompts; all others are a run's."""
    p = verb_parser(
        "predict",
        "Ask a question about images, or about a stored test item (without --images); without any of these flags, "
        "answer a whole split.",
        "The option that the reply names is printed after it. Each line of OUTPUT is an object with image, question, "
        "options, text, option and likeliest (the option whose letter is the likeliest reply). "
        "FILE.safetensors holds logits [1,T,V] float32, one row for each position of what the language model reads: T "
        "counts the text tokens and, in the placeholder's place, all visual positions (start and end tokens of the "
        "image included). input_ids [1,T'] int64 is the text alone: its placeholder -200 stands for the whole image, "
        "and T = T' - 1 + visual positions. The metadata holds reply, codebook_hash, dtype, quantizer_dtype, "
        "image_position and visual_positions.",
        usage="python -m craft_lightning predict [--backbone NAME] --images PATH ...\n"
        "           --question TEXT [--options A B] [--SETTING VALUE ...]",
        add_help=False,
    )
    p.shared("--backbone")
    p.shared("--images")
    p.add_argument("--question", metavar="TEXT", help="what is asked of each")
    p.add_argument("--options", nargs="+", metavar="TEXT", help="choices, lettered in this order")
    p.add_argument("--directive", metavar="TEXT", help="in place of 'Answer ...'; an empty text for none")
    p.add_argument("--item", metavar="KEY", help="without --images: key of a stored test item (default: the first)")
    p.add_argument("--logits", type=Path, metavar="FILE.safetensors", help="write the logits of one prompt")
    p.shared("--output", required=False, help="JSONL file to write instead of printing the replies")
    p.add_argument("--max_new_tokens", type=at_least_one, default=MAX_NEW_TOKENS, metavar="N", help="(%(default)s)")
    return p


def surrogate() -> VerbParser:
    """Of what is built."""
    p = verb_parser("surrogate", "Train a family of frozen models, or a surrogate at paper scale; resumable.")
    usual = Path("experiments/surrogates/pocket.yaml")
    p.add_argument("--config", type=Path, default=usual, metavar="FILE", help="what is built (%(default)s)")
    p.add_argument("--data", type=Path, help="of a paper-scale config: folder of the published conversations")
    p.add_argument("--devices", default="auto", help="of a paper-scale config: how many (default: all)")
    p.shared("--workers", help="of a paper-scale config: processes of each device that read images")
    p.add_argument("--only", nargs="*", help="parts to build: vision_tower, or names of language models")
    p.add_argument("--again", metavar="MODEL", help="a finished model that goes through stage 2 again instead")
    p.add_argument("--adapter", help="with --again: the adapter that it is to read, a folder or a model's name")
    p.shared("--output", required=False, help="with --again: folder of the run; the model is in its model/")
    p.add_argument("--trial", action="store_true", help="with --again: three small steps")
    p.add_argument("--threads", type=at_least_one, default=1, help="threads of this process (CPU)")
    p.add_argument("--report", type=Path, help="measure the family instead, and write the figures to this file")
    p.add_argument("--items", type=at_least_one, default=200, help="with --report: unseen images of each dataset")
    return p


def table() -> VerbParser:
    """Of the verbs of a table."""
    parser = verb_parser("table", "Compute and print a table of the paper.")
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="plan|run|status|render")
    shared, only = VerbParser(add_help=False), VerbParser(add_help=False)
    shared.add_argument("table", help="a file, or a name below experiments/tables; all: the whole paper")
    shared.shared("--scale", choices=None, default=None, help="pocket or paper (default: the table's own)")
    shared.shared("--budget")
    shared.shared("--seeds")
    shared.add_argument("--limit", type=at_least_one, metavar="N", help="a trial: 2 rows, 2 columns, 3 steps, 8N items")
    shared.shared("--runs")
    only.add_argument("--only", metavar="PATTERN", help="jobs whose name contains this, or matches it as in a shell")
    verbs.add_parser("plan", parents=[shared, only], help="list the jobs and their commands")
    run = verbs.add_parser("run", parents=[shared, only], help="compute what is missing, then render")
    run.add_argument("--jobs", type=_jobs, metavar="N", help="worker processes (default: auto, one a GPU or core)")
    run.add_argument("--dry_run", action="store_true", help="say what would be computed; at paper scale examine it")
    run.add_argument("--commands", action="store_true", help="with --dry_run: then list the jobs and their commands")
    run.add_argument("--devices", metavar="8x40gb", help="what --dry_run estimates for (default: what is here)")
    run.add_argument("--keep_going", action="store_true", help="do not stop after three failures in a row")
    run.add_argument("--launcher", choices=["local", "slurm"], default="local", help="where the jobs are computed")
    run.add_argument("--slurm", nargs="+", default=[], metavar="KEY=VALUE", help="submitit's, e.g. timeout_min=120")
    verbs.add_parser("status", parents=[shared, only], help="count done, stale, failed and missing")
    render = verbs.add_parser("render", parents=[shared], help="print the table and save it")
    render.add_argument("--from", dest="stored", type=Path, metavar="CSV", help="a stored table in place of the runs")
    render.add_argument("--format", choices=["markdown", "readme", "latex", "csv"], help="print this, and save nothing")
    publish = "store the results beside the table (not with --from), write docs page and README"
    render.add_argument("--publish", action="store_true", help=publish)
    return parser


def _jobs(text: str) -> int | None:
    return None if text == "auto" else at_least_one(text)


def tokenize() -> VerbParser:
    """Of tokens in a file."""
    p = verb_parser(
        "tokenize",
        "Turn images into discrete visual tokens. Only the vision tower is loaded.",
        "The output holds codes [B,N,R] int32, features [B,N,d] before quantisation, quantized [B,N,d] and, with "
        "--keep, kept [B,M] int32, the raster positions that pruning keeps; its metadata holds codebook_hash, dtype "
        "and image_names (JSON). It runs on the first GPU, if there is one.",
    )
    p.shared("--backbone", required=True)
    pixels = "or a safetensors file with pixel_values [B,3,H,W] in [-1,1]"
    p.shared("--images", required=True, help=f"image files or folders of them, {pixels}")
    p.shared("--encoder")
    wanted = p.add_mutually_exclusive_group(required=True)
    wanted.add_argument("--output", type=Path, metavar="PATH", help="safetensors file to write")
    counted = "safetensors file for counts [K] of first-level codes: a prior for --prune.prior"
    wanted.add_argument("--counts", type=Path, metavar="FILE", help=counted)
    p.shared("--keep", default=1.0)
    dtypes = "of the tower, the code distances and the output (VILA-U's public code runs in bfloat16)"
    p.add_argument("--dtype", default="float32", choices=["float32", "bfloat16"], help=dtypes)
    kernel = "kernel; eager is the original's, bit for bit"
    p.add_argument("--attention", default="eager", choices=["eager", "sdpa"], help=kernel)
    p.add_argument("--batch_size", default=32, type=at_least_one, metavar="B", help="images at a time")
    p.shared("--workers")
    return p


def tokens() -> VerbParser:
    """Of tokens on a sheet."""
    p = verb_parser(
        "tokens",
        "Draw the first-level codes of images, and the tokens that pruning keeps.",
        "A code has the same colour in every image, and similar codewords have similar colours. With --encoder the "
        "sheet also shows the codes before adaptation, and which ones changed.",
    )
    p.shared("--backbone", required=True)
    p.shared("--images", required=True)
    drawn = "images on the sheet, the same number of each folder (%(default)s); the others count for the prior"
    p.add_argument("--number", type=at_least_one, default=16, metavar="N", help=drawn)
    p.shared("--encoder")
    p.shared("--keep", default=0.8)
    p.shared("--workers")
    p.shared("--output", help="PNG file to write")
    return p


def vocabulary() -> VerbParser:
    """Of the words of an adapter."""
    p = verb_parser(
        "vocabulary",
        "Find the tokens whose text several tokenizers share, the most frequent in the training text first: the words "
        "whose embeddings a `langbridge` adapter combines.",
        "The file holds the words in this order; each language model finds them in its own tokenizer.",
    )
    models = "models, folders of them, OWNER/NAME of the hub"
    p.add_argument("--tokenizers", nargs="+", required=True, metavar="NAME", help=models)
    text = "training text: conversations in LLaVA's format (.json), or lines (default: the pocket family's)"
    p.add_argument("--text", nargs="+", type=Path, metavar="FILE", help=text)
    p.add_argument("--size", type=at_least_one, metavar="COUNT", help="keep so many words (default: all)")
    p.shared("--output", help="JSON file to write")
    return p


_VERBS = (adapt, board, compare, draw, export, grow, judge, predict, surrogate, table, tokenize, tokens, vocabulary)
PARSERS: dict[str, Callable[[], VerbParser]] = {verb.__name__: verb for verb in _VERBS}
