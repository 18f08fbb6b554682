"""Thirty planted mistakes across the packages, and whether the tests catch them.

    python benchmarks/mutations.py [--only NUMBER ...] [--publish]

Each is made in a copy of the tree, where the named tests run until one fails; the tests first pass without it. With
``--publish`` the list is written to ``docs/mutations.md``.
"""

from __future__ import annotations

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from craft_lightning.io import write_text
from timing import where

ROOT = Path(__file__).resolve().parents[1]
COPIED = ("craft_lightning", "data_modules", "callbacks", "experiments", "benchmarks", "tests", "docs")


@dataclass(frozen=True)
class Mutation:
    """A mistake: what stands in a file, what takes its place, and the tests that ought to fail."""

    mistake: str
    file: str
    old: str
    new: str
    tests: str


LIGHT = "craft_lightning"
MUTATIONS = (
    Mutation("commitment pulls codewords as well", f"{LIGHT}/losses.py", "targets.detach()", "targets", "test_losses"),
    Mutation(
        "pairs of one class are pushed apart",
        f"{LIGHT}/losses.py",
        "(labels[:, None] != text_labels[None]) & (",
        "(",
        "test_losses",
    ),
    Mutation("no cap of the temperature", f"{LIGHT}/losses.py", "math.log(100.0)", "math.log(1e6)", "test_losses"),
    Mutation("LDIFS: unit features over channels", f"{LIGHT}/losses.py", '"token": -2', '"token": -1', "test_losses"),
    Mutation(
        "the first step has no learning rate",
        f"{LIGHT}/optim.py",
        "return (step + 1) / rising",
        "return step / rising",
        "test_optim",
    ),
    Mutation(
        "exact match minds case",
        f"{LIGHT}/text/scoring.py",
        "text.lower().split()",
        "text.split()",
        "text/test_scoring",
    ),
    Mutation(
        "a repeated item counts twice",
        f"{LIGHT}/metrics.py",
        "return rows[list(last.values()), 1:]",
        "return rows[:, 1:]",
        "test_metrics",
    ),
    Mutation(
        "straight-through passes no gradient",
        f"{LIGHT}/models/quantizer.py",
        "return z + (quantized - z).detach()",
        "return (z + (quantized - z)).detach()",
        "models/test_quantizer",
    ),
    Mutation(
        "every level quantises the feature itself",
        f"{LIGHT}/models/quantizer.py",
        "            residual -= words\n",
        "",
        "models/test_quantizer",
    ),
    Mutation(
        "of equal codewords the last one",
        f"{LIGHT}/models/quantizer.py",
        "nearer = least < low",
        "nearer = least <= low",
        "models/test_quantizer",
    ),
    Mutation(
        "a part of the codebook that is not nested",
        f"{LIGHT}/models/quantizer.py",
        'f"{table}/{code}"',
        'f"{table}/{code}/{share}"',
        "models/test_quantizer",
    ),
    Mutation(
        "grown codebooks move their old entries",
        f"{LIGHT}/models/new_entries.py",
        "mine = chosen >= 0",
        "mine = chosen >= -len(table)",
        "models/test_new_entries",
    ),
    Mutation(
        "frequent codes are kept first",
        f"{LIGHT}/models/pruning.py",
        "return (mine / rarest).log()",
        "return (rarest / mine).log().abs() * -1",
        "models/test_pruning",
    ),
    Mutation(
        "quotas are rounded down",
        f"{LIGHT}/models/pruning.py",
        "int(keep * num_tokens + 0.5)",
        "int(keep * num_tokens)",
        "models/test_pruning",
    ),
    Mutation(
        "near tokens are isolated ones",
        f"{LIGHT}/models/pruning.py",
        "(1.0 - weight) * _scaled(isolation",
        "(weight - 1.0) * _scaled(isolation",
        "models/test_pruning",
    ),
    Mutation(
        "branches see each other",
        f"{LIGHT}/models/branches.py",
        "(owner[row, key] == owner[row, query])",
        "(owner[row, key] >= 0)",
        "models/test_branches",
    ),
    Mutation(
        "the last block looks ahead",
        f"{LIGHT}/models/last_block.py",
        "<= at[..., None]",
        "<= at[..., None] + 1",
        "models/test_last_block",
    ),
    Mutation(
        "images are not turned upright",
        f"{LIGHT}/models/image_processing.py",
        "6: Image.Transpose.ROTATE_270",
        "6: Image.Transpose.ROTATE_90",
        "models/test_image_processing",
    ),
    Mutation(
        "an encoder of another codebook is taken",
        f"{LIGHT}/checkpoints/encoder.py",
        "if theirs != own and",
        "if False and",
        "checkpoints/test_encoder checkpoints/test_load",
    ),
    Mutation(
        "prompts carry a loss",
        f"{LIGHT}/text/prompts.py",
        "[IGNORED_LABEL] * len(row.prompt) + list(reply)",
        "list(row.prompt) + list(reply)",
        "text/test_prompts",
    ),
    Mutation(
        "CRAFT: no weight on the contrast",
        f"{LIGHT}/methods/craft.py",
        "self.lambda_commitment * loss",
        "loss",
        "methods/test_craft",
    ),
    Mutation(
        "LDIFS: its start moves along",
        f"{LIGHT}/methods/ldifs.py",
        "self.start = copy.deepcopy(self.vlm.tower)",
        "self.start = self.vlm.tower",
        "methods/test_ldifs",
    ),
    Mutation(
        "LoRSU chooses the smallest gradients",
        f"{LIGHT}/methods/_support/subset.py",
        "scores.sort(descending=True",
        "scores.sort(descending=False",
        "methods/test_lorsu",
    ),
    Mutation(
        "an interval that forgets the seeds",
        f"{LIGHT}/benchmark/claims.py",
        "chosen = rng.multinomial(seeds, np.full(seeds, 1 / seeds), size=draws) / seeds",
        "chosen = np.full((draws, seeds), 1 / seeds)",
        "benchmark/test_table_claims",
    ),
    Mutation(
        "two seeds decide a claim",
        f"{LIGHT}/benchmark/claims.py",
        "LEAST_SEEDS = 3",
        "LEAST_SEEDS = 2",
        "benchmark/test_table_claims",
    ),
    Mutation(
        "a mean over the sets that are there",
        f"{LIGHT}/benchmark/results.py",
        "if not present or len(present) < len(scores):",
        "if not present:",
        "benchmark/test_table_render",
    ),
    Mutation(
        "keys forget the parent's",
        f"{LIGHT}/benchmark/plan.py",
        'key = digest({**facts, "parent": parent.key if parent else None})',
        "key = digest(facts)",
        "benchmark/test_table_plan",
    ),
    Mutation(
        "a claim holds where one part holds",
        f"{LIGHT}/report/paper_page.py",
        "WORST_FIRST = (FAILS, NO_ANSWER, UNDECIDED, HOLDS)",
        "WORST_FIRST = (HOLDS, FAILS, NO_ANSWER, UNDECIDED)",
        "benchmark/test_paper_page",
    ),
    Mutation(
        "lenient accuracy minds what follows a letter",
        f"{LIGHT}/text/scoring.py",
        "found.group(1).lower() == normalise(answer)",
        "normalise(text) == normalise(answer)",
        "text/test_scoring",
    ),
    Mutation(
        "validation without pruning's prior",
        "callbacks/prune_at_validation.py",
        "module.token_prior = self.find_prior(trainer, module)",
        "self.find_prior(trainer, module)",
        "callbacks/test_prune_at_validation",
    ),
)


def run(folder: Path, tests: str) -> bool:
    """Whether some tests pass in a copy of the tree."""
    files = [f"tests/{name}.py" for name in tests.split()]
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *files]
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    environment = {**os.environ, "PYTHONPATH": str(folder), "PYTHONDONTWRITEBYTECODE": "1"}
    return subprocess.run(command, cwd=folder, env=environment, check=False, **quiet).returncode == 0


def caught(mutation: Mutation, folder: Path) -> bool:
    """Whether its tests fail with it. Raises ValueError: the file has changed, so that the mistake cannot be made."""
    path = folder / mutation.file
    text = path.read_text(encoding="utf-8")
    if text.count(mutation.old) != 1:
        raise ValueError(f"{mutation.mistake}: {mutation.file} holds {text.count(mutation.old)} times {mutation.old!r}")
    path.write_text(text.replace(mutation.old, mutation.new), encoding="utf-8")
    try:
        return not run(folder, mutation.tests)
    finally:
        path.write_text(text, encoding="utf-8")


def page(found: Sequence[tuple[Mutation, bool]]) -> str:
    """``docs/mutations.md``."""
    rows = [
        f"| {number} | {one.mistake} | `{one.file}` | `{one.tests}` | {'yes' if seen else '**no**'} |"
        for number, (one, seen) in enumerate(found, 1)
    ]
    count = sum(seen for _, seen in found)
    return "\n".join(
        [
            "# Planted mistakes",
            "",
            f"{count} of {len(found)} mistakes are caught by the tests beside them, which pass without them.",
            f"`python benchmarks/mutations.py --publish` ({where()}).",
            "",
            "| | Mistake | In | Tests | Caught |",
            "| ---: | --- | --- | --- | --- |",
            *rows,
            "",
        ]
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Plant, run, print; returns 1 if a mistake was not caught."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", type=int, nargs="+", metavar="NUMBER", help="some of them")
    parser.add_argument("--publish", action="store_true", help="write docs/mutations.md")
    args = parser.parse_args(argv)
    chosen = [MUTATIONS[number - 1] for number in args.only] if args.only else list(MUTATIONS)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        for name in COPIED:
            shutil.copytree(ROOT / name, folder / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
        for file in ("pyproject.toml", "README.md", "Makefile", "CHANGELOG.md", "CONTRIBUTING.md"):
            shutil.copy(ROOT / file, folder / file)
        for tests in dict.fromkeys(one.tests for one in chosen):
            if not run(folder, tests):
                raise SystemExit(f"{tests} fails without any mistake")
        found = []
        for number, one in enumerate(chosen, 1):
            found.append((one, caught(one, folder)))
            print(f"{number:2} {'caught' if found[-1][1] else 'NOT CAUGHT'}: {one.mistake}", flush=True)
    if args.publish and not args.only:
        write_text(ROOT / "docs" / "mutations.md", page(found))
    return int(not all(seen for _, seen in found))


if __name__ == "__main__":
    raise SystemExit(main())
