"""What a family can do on unseen studio pictures, measured on the shipped files as any user loads them."""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any

import torch

from craft_lightning.checkpoints.load import load_tower, load_vlm
from craft_lightning.io import write_json
from craft_lightning.metrics import CodebookUsage
from craft_lightning.models.vlm import DiscreteVlm
from craft_lightning.models.vlm_spec import VlmSpec, resolve
from craft_lightning.text import prompts, scoring
from craft_lightning.types import Fact, VqaBatch, VqaExample
from data_modules.datamodule import VqaDataModule
from data_modules.twins import TWINS
from data_modules.twins.studio import Studio

JUSTIFICATION_TOKENS = 64
_CODEBOOK_PICTURES = 100
_SMALLEST = 8
"""Side of pictures that nobody looks at."""


@torch.no_grad()
def measure_codebook(tower_folder: Path) -> dict[str, Any]:
    """Use of the codebook on unseen studio pictures of all twins.

    Returns:
        ``hash``, ``entries`` (of all tables), ``used`` (share of them chosen at any level), ``perplexity`` of each
        level, ``residual`` (mean squared, before level 1, where it is the features' variance, and after each level) and
        ``cut`` (share removed by each).
    """
    tower = load_tower(tower_folder)
    assert tower.quantizer is not None
    studio = Studio([kind() for kind in TWINS.values()], tower.image_size, _CODEBOOK_PICTURES, "studio-test")
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
        "cut": [1 - after / before for before, after in itertools.pairwise(residual)],
    }


def grounded(text: str, facts: Sequence[Fact]) -> bool:
    """Whether a reply names at least two facts of the picture, one of which varies within its class."""
    said = [fact for fact in facts if fact.phrase in text.lower() or fact.phrase.lower() in text.lower()]
    return len(said) >= 2 and any(fact.varies for fact in said)


def question_kinds(dataset: str, items: int) -> list[str]:
    """The kind of each stored question of a question twin; empty for a classification twin."""
    asked = TWINS[dataset]().draw("test", range(items), _SMALLEST, "studio").questions
    return [questions[0].kind for questions in asked if questions]


@torch.no_grad()
def measure_backbone(name: str, dataset: str, items: int) -> dict[str, Any]:
    """Exact match (also by kind of question), and share of grounded justifications, on unseen studio pictures of one
    twin."""
    data = VqaDataModule(VlmSpec(name), dataset, look="studio", test_size=items)
    data.setup("test")
    vlm = load_vlm(VlmSpec(name))
    right = []
    for batch in data.test_dataloader():
        replies = vlm.generate(vlm.encode(batch.pixel_values), batch)
        right += [scoring.exact_match(reply, answer) for reply, answer in zip(replies, batch.answers, strict=True)]
    justified = _justifications(vlm, data)
    kinds: dict[str, list[bool]] = {}
    for kind, correct in zip(question_kinds(dataset, items), right, strict=False):
        kinds.setdefault(kind, []).append(correct)
    return {
        "exact_match": fmean(right),
        "kinds": {kind: fmean(correct) for kind, correct in kinds.items()},
        "justified": fmean(justified),
        "items": len(right),
    }


def _justifications(vlm: DiscreteVlm, data: VqaDataModule) -> list[bool]:
    """One bool for each test item, asked to justify its answer."""
    _, reader = data.open()
    examples = [prompts.justify(example) for example in data.examples("test")]
    found = []
    for batch, rows in zip(data.test_dataloader(), _chunks(examples, data.eval_batch_size), strict=True):
        asked = _ask(batch, [reader.builder.encode(replace(e, answer="")) for e in rows], reader.builder.pad_id)
        replies = vlm.generate(vlm.encode(batch.pixel_values), asked, JUSTIFICATION_TOKENS)
        found += [grounded(reply, e.meta["facts"]) for reply, e in zip(replies, rows, strict=True)]
    return found


def _ask(batch: VqaBatch, texts: Sequence[prompts.Encoded], pad_id: int) -> VqaBatch:
    text: dict[str, Any] = {**prompts.collate_text(texts, pad_id, with_reply=False)}
    return replace(batch, **text)


def _chunks(examples: Sequence[VqaExample], size: int) -> list[Sequence[VqaExample]]:
    return [examples[start : start + size] for start in range(0, len(examples), size)]


def report(
    names: Sequence[str], tower_folder: Path, path: Path, items: int, log: Callable[[str], None] = print
) -> None:
    """Measure every model on every twin; write ``path`` (JSON) as each is done, and print the whole as Markdown."""
    tower = {**weights(tower_folder), "codebook": measure_codebook(tower_folder)}
    result: dict[str, Any] = {"items": items, "tower": tower, "models": {}}
    for name in names:
        model: dict[str, Any] = {**weights(resolve(VlmSpec(name))), "studio": {}}
        result["models"][name] = model
        for dataset in TWINS:
            figures = model["studio"][dataset] = measure_backbone(name, dataset, items)
            log(f"{name:16s} {dataset:14s} exact {figures['exact_match']:.3f}  justified {figures['justified']:.3f}")
        write_json(path, result)
    log(to_markdown(result))


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
    names = [Path(name).name for name in models]
    lines = [
        f"{result['items']} unseen studio pictures of each twin, per cent:",
        "",
        f"| twin | {' | '.join(f'`{name}` exact | justified' for name in names)} |",
        f"|---|{'---:|---:|' * len(names)}",
    ]
    for dataset in TWINS:
        studio = [model["studio"][dataset] for model in models.values()]
        cells = (f"{100 * one['exact_match']:.1f} | {100 * one['justified']:.1f}" for one in studio)
        lines.append(f"| {dataset} | {' | '.join(cells)} |")
    kinds = _by_kind(models)
    own = zip(("vision_tower", *names), (result["tower"], *models.values()), strict=True)
    sizes = [f"`{name}` {model['megabytes']:.1f} MB, `{model['sha256']}`" for name, model in own]
    cuts = ", ".join(f"{100 * cut:.0f}" for cut in codebook["cut"])
    perplexity = ", ".join(f"{value:.0f}" for value in codebook["perplexity"])
    return "\n".join(
        [
            *lines,
            *kinds,
            "",
            f"Codebook: {100 * codebook['used']:.1f} % of {codebook['entries']} entries in use; perplexity of the "
            f"levels {perplexity}; each removes {cuts} % of the mean squared residual. SHA-256 `{codebook['hash']}`.",
            "",
            f"Weights, with the first digits of their SHA-256: {'; '.join(sizes)}.",
        ]
    )


def _by_kind(models: Mapping[str, Any]) -> list[str]:
    """A table of exact match by kind of question, where there are kinds."""
    lines = []
    for dataset in TWINS:
        first, *_ = studio = [model["studio"][dataset].get("kinds", {}) for model in models.values()]
        for kind in first:
            cells = " | ".join(f"{100 * one[kind]:.0f}" for one in studio)
            lines.append(f"| {dataset} | {kind} | {cells} |")
    if not lines:
        return []
    names = " | ".join(f"`{Path(name).name}`" for name in models)
    return ["", f"| twin | question | {names} |", f"|---|---|{'---:|' * len(models)}", *lines]
