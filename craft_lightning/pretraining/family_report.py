"""What a family can do on unseen studio images, measured on the shipped files as any user loads them."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import islice, pairwise
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from craft_lightning.checkpoints.load import load_tower, load_vlm
from craft_lightning.io import write_json
from craft_lightning.metrics import CodebookUsage
from craft_lightning.models.vlm_spec import VlmSpec, resolve
from craft_lightning.text import prompts, scoring
from craft_lightning.types import Fact
from data_modules.datamodule import VqaDataModule
from data_modules.twins import TWINS
from data_modules.twins.studio import Studio

JUSTIFICATION_TOKENS = 64
_CODEBOOK_IMAGES = 100
_SMALLEST = 8
"""Side of images that nobody looks at."""


@torch.no_grad()
def measure_codebook(tower_folder: Path) -> dict[str, Any]:
    """Use of the codebook on unseen studio images of all synthetic datasets.

    Returns:
        ``hash``, ``entries`` (of all tables), ``used`` (share of them chosen at any level), ``perplexity`` of each
        level, ``residual`` (mean squared, before level 1, where it is the features' variance, and after each level) and
        ``cut`` (share removed by each).
    """
    tower = load_tower(tower_folder)
    assert tower.quantizer is not None
    studio = Studio([kind() for kind in TWINS.values()], tower.image_size, _CODEBOOK_IMAGES, "studio-test")
    usage = CodebookUsage(tower.quantizer.entries, tower.quantizer.levels, tower.quantizer.shared)
    features, codes = [], []
    for start in range(0, len(studio), 100):
        visual = tower.encode(studio.images(range(start, min(start + 100, len(studio)))))
        assert visual.codes is not None
        usage.update(visual.codes)
        features.append(visual.features)
        codes.append(visual.codes)
    z, k = torch.cat(features), torch.cat(codes)
    sums = tower.quantizer.partial_sums(k)
    used, entries = usage.compute(), tower.quantizer.codebooks.shape[:2].numel()
    residual = [z.var(unbiased=False).item(), *((z - s).pow(2).mean().item() for s in sums)]
    return {
        "hash": tower.quantizer.hash(),
        "entries": entries,
        "used": (entries - int(used["dead"])) / entries,
        "perplexity": [float(level) for level in used["perplexity"]],
        "residual": residual,
        "cut": [1 - after / before for before, after in pairwise(residual)],
    }


def grounded(text: str, facts: Sequence[Fact]) -> bool:
    """Whether a reply names at least two facts of the image, one of which varies within its class."""
    said = [fact for fact in facts if fact.phrase in text.lower() or fact.phrase.lower() in text.lower()]
    return len(said) >= 2 and any(fact.varies for fact in said)


def question_kinds(dataset: str, items: int) -> list[str]:
    """The kind of each stored question of a synthetic dataset of questions; empty for one of labels."""
    asked = TWINS[dataset]().draw("test", range(items), _SMALLEST, "studio").questions
    return [questions[0].kind for questions in asked if questions]


@torch.no_grad()
def measure_backbone(name: str, dataset: str, items: int) -> dict[str, Any]:
    """Exact match (also by kind of question) and share of grounded justifications on unseen studio images of a
    synthetic dataset."""
    data = VqaDataModule(VlmSpec(name), dataset, look="studio", test_size=items)
    data.setup("test")
    vlm, (_, reader) = load_vlm(VlmSpec(name)), data.open()
    examples = iter(data.examples("test"))
    right, justified = list[bool](), list[bool]()
    for batch in data.stored("test"):  # in the order of the examples
        visual = vlm.encode(batch.by_row(batch.pixel_values))
        right += map(scoring.exact_match, vlm.generate(visual, batch), batch.answers)
        rows = [prompts.justify(example) for example in islice(examples, len(batch.keys))]
        asked = [reader.builder.encode(replace(row, answer="")) for row in rows]
        text: dict[str, Any] = prompts.collate_text(asked, reader.builder.pad_id, with_reply=False)
        replies = vlm.generate(visual, replace(batch, **text), JUSTIFICATION_TOKENS)
        justified += [grounded(reply, row.meta["facts"]) for reply, row in zip(replies, rows, strict=True)]
    kinds: dict[str, list[bool]] = {}
    for kind, correct in zip(question_kinds(dataset, items), right, strict=False):
        kinds.setdefault(kind, []).append(correct)
    return {
        "exact_match": fmean(right),
        "kinds": {kind: fmean(correct) for kind, correct in kinds.items()},
        "justified": fmean(justified),
        "items": len(right),
    }


def report(names: Sequence[str], tower_folder: Path, path: Path, items: int) -> None:
    """Measure every model on every synthetic dataset; write ``path`` (JSON) after each, and print it as Markdown."""
    tower = {**weights(tower_folder), "codebook": measure_codebook(tower_folder)}
    result: dict[str, Any] = {"items": items, "tower": tower, "models": {}}
    for name in names:
        model: dict[str, Any] = {**weights(resolve(VlmSpec(name))), "studio": {}}
        result["models"][name] = model
        for dataset in TWINS:
            figures = model["studio"][dataset] = measure_backbone(name, dataset, items)
            print(f"{name:16s} {dataset:14s} exact {figures['exact_match']:.3f}  justified {figures['justified']:.3f}")
        write_json(path, result)
    print(to_markdown(result))


def weights(folder: Path) -> dict[str, Any]:
    """Megabytes of a model's own weights, and the first digits of a SHA-256 over those of its files, by name."""
    total, files = hashlib.sha256(), sorted(folder.rglob("*.safetensors"))
    for file in files:
        with file.open("rb") as stream:
            total.update(hashlib.file_digest(stream, "sha256").digest())
    return {"megabytes": sum(file.stat().st_size for file in files) / 1e6, "sha256": total.hexdigest()[:16]}


def to_markdown(result: Mapping[str, Any]) -> str:
    """The figures of :func:`report` as the family's card shows them."""
    models, codebook = result["models"], result["tower"]["codebook"]
    names = [f"`{Path(name).name}`" for name in models]
    rows, kinds = list[list[str]](), list[list[str]]()
    for dataset in TWINS:
        found = [model["studio"][dataset] for model in models.values()]
        rows.append([dataset, *(f"{100 * one[key]:.1f}" for one in found for key in ("exact_match", "justified"))])
        kinds += [
            [dataset, kind, *(f"{100 * one['kinds'][kind]:.0f}" for one in found)] for kind in found[0].get("kinds", {})
        ]
    own = zip(("`vision_tower`", *names), (result["tower"], *models.values()), strict=True)
    sizes = [f"{name} {model['megabytes']:.1f} MB, `{model['sha256']}`" for name, model in own]
    cuts = ", ".join(f"{100 * cut:.0f}" for cut in codebook["cut"])
    perplexity = ", ".join(f"{value:.0f}" for value in codebook["perplexity"])
    return "\n\n".join(
        [
            f"{result['items']} unseen studio images of each twin, per cent:",
            _table(["twin"], [f"{name} exact | justified" for name in names], 2 * len(names), rows),
            *([_table(["twin", "question"], names, len(names), kinds)] if kinds else []),
            f"Codebook: {100 * codebook['used']:.1f} % of {codebook['entries']} entries in use; perplexity of the "
            f"levels {perplexity}; each removes {cuts} % of the mean squared residual. SHA-256 `{codebook['hash']}`.",
            f"Weights, with the first digits of their SHA-256: {'; '.join(sizes)}.",
        ]
    )


def _table(words: list[str], figures: list[str], columns: int, rows: list[list[str]]) -> str:
    rule = f"|{'---|' * len(words)}{'---:|' * columns}"
    first, *others = (f"| {' | '.join(row)} |" for row in ([*words, *figures], *rows))
    return "\n".join([first, rule, *others])
