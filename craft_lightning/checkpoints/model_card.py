"""The model card of an adapted encoder, in the hub's format: front matter that the hub reads, prose for people."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from huggingface_hub import EvalResult, ModelCard, ModelCardData

from craft_lightning.models.vlm_spec import BACKBONES

SPLITS = {"val/accuracy": "validation", "test/exact_match": "test"}
"""Scores that the hub shows, and what they were found on."""

BODY = """# {method} encoder of {base}{on}

The vision encoder of `{base}`, adapted with `{method}`; all other parts of the model are as they were. {fits}

{table}

## Use

```python
from craft_lightning import VisionLanguageModel

model = VisionLanguageModel.from_pretrained("{base}", encoder="THIS_FOLDER_OR_REPOSITORY")
print(model.ask("photo.jpg", "What is shown?"))
```
"""


def model_card(config: Mapping[str, Any], front: Mapping[str, Any]) -> ModelCard:
    """The card of an encoder.

    Args:
        config: see :class:`.encoder.AdaptedEncoder`. front: metadata that every card of the library has.
    """
    run, base, method = config.get("run", {}), str(config.get("base")), str(config.get("method"))
    dataset = run.get("dataset")
    scores = {name: value for name, value in run.get("scores", {}).items() if name in SPLITS}
    results = [
        EvalResult(
            task_type="visual-question-answering",
            dataset_type=str(dataset),
            dataset_name=str(run.get("title", dataset)),
            dataset_split=SPLITS[name],
            metric_type="exact_match",
            metric_value=round(float(value), 4),
        )
        for name, value in scores.items()
    ]
    known = BACKBONES.get(base)
    hub_id = known.source if known is not None and "/" in known.source else None
    data = ModelCardData(
        **front,
        base_model=hub_id,
        model_name=f"{method} encoder of {base}",
        eval_results=results or None,
    )
    codebook = config.get("codebook_hash")
    fits = (
        "It fits every model that reads the codebook below, whatever its language model, and no other."
        if codebook
        else "Its tower has no codebook: it fits models with this very tower alone."
    )
    rows = {
        "base": f"`{base}`",
        "codebook (SHA-256)" if codebook else "tower (SHA-256)": f"`{codebook or config.get('base_hash')}`",
        "method": f"`{method}`" + "".join(f", {name} {value}" for name, value in run.get("settings", {}).items()),
        "data": _data(run),
        "steps": run.get("steps"),
        "seed": run.get("seed"),
        **{f"{name} (at the last step)": f"{value:.4f}" for name, value in run.get("scores", {}).items()},
    }
    table = "\n".join(["| | |", "| --- | --- |", *(f"| {k} | {v} |" for k, v in rows.items() if v not in (None, ""))])
    on = f", on {run.get('title', dataset)}" if dataset else ""
    body = BODY.format(method=method, base=base, on=on, fits=fits, table=table)
    return ModelCard(f"---\n{data.to_yaml()}\n---\n\n{body}")


def _data(run: Mapping[str, Any]) -> str:
    if not run.get("dataset"):
        return ""
    licence = f", licence: {run['licence']}" if run.get("licence") else ""
    counts = ", ".join(f"{count:,} {name}" for name, count in run.get("splits", {}).items())
    return f"{run['dataset']} from {run['source']} ({counts}{licence})"
