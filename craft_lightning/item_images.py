"""Images of a stored run's items, opened again, and the visual tokens that two encoders make of them."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import fields, replace
from typing import Any

import torch
from PIL import Image
from torch import Tensor

from craft_lightning.benchmark.stored_run import StoredRun
from craft_lightning.checkpoints.load import load_tower
from craft_lightning.errors import CraftError
from craft_lightning.models.image_processing import preprocess
from craft_lightning.models.vlm_spec import VlmSpec
from craft_lightning.text.multiple_choice import item_hash
from craft_lightning.types import VqaExample
from craft_lightning.visualization import TokenView, code_colours
from data_modules.datamodule import VqaDataModule


def open_images(run: StoredRun, keys: Collection[str]) -> dict[str, Image.Image]:
    """Images of some items by key; see :func:`open_items`."""
    return {key: example.image for key, example in open_items(run, keys).items()}


def open_items(run: StoredRun, keys: Collection[str] | None = None) -> dict[str, VqaExample]:
    """Some items by key as they were asked (by default all that the test could ask), out of the data that the run was
    tested on, images at the side of its model. Raises CraftError: the run does not say what its data were, or they are
    not there or others by now."""
    settings: Mapping[str, Any] = run.result.get("data_settings", {})
    if not settings:
        raise CraftError(f"{run.file.parent} does not say where its images are: test it again")
    split, stage = ("test", "test") if run.result["verb"] == "test" else ("val", "validate")
    try:
        data = VqaDataModule(spec_of(run), **settings)
    except TypeError as error:
        raise CraftError(
            f"the data of {run.file.parent} were made by another version ({error}): test it again"
        ) from error
    data.setup(stage)
    examples = data.splits[split]  # type: ignore[index]
    found = {item.key: examples.example(i) for i, item in enumerate(examples.items) if keys is None or item.key in keys}
    asked = run.items if keys is None else keys
    if other := [key for key in asked if key not in found or item_hash(found[key]) != run.items[key].item]:
        raise CraftError(f"the data of {run.file.parent} are others by now: {len(other)} items, {other[0]} for one")
    return found


def spec_of(run: StoredRun, adapted: bool = True) -> VlmSpec:
    """The model of a run: as it was tested, with the encoder that its own training left where it tests that; or, not
    ``adapted``, the model alone."""
    told = run.result["settings"]["backbone"]
    spec = VlmSpec(**{field.name: told[field.name] for field in fields(VlmSpec) if field.name in told})
    return replace(spec, encoder=str(run.encoder) if adapted and run.encoder else None, adapter=None)


@torch.no_grad()
def token_views(
    before: VlmSpec, after: VlmSpec, images: Mapping[str, Image.Image]
) -> tuple[dict[str, TokenView], Tensor | None]:
    """Each image by key with its codes as two models see it, once where no code differs, and the colours of codes; the
    images alone, and None, where the models do not share a codebook.

    Raises:
        CraftError: a model or its encoder is not there.
    """
    towers = [load_tower(spec) for spec in (before, after)]
    tables = [None if tower.quantizer is None else tower.quantizer.table(0) for tower in towers]
    grid = towers[0].grid
    if tables[0] is None or tables[1] is None or grid != towers[1].grid or not torch.equal(tables[0], tables[1]):
        return {key: TokenView(image, grid) for key, image in images.items()}, None
    codes = {}
    for key, image in images.items():
        seen = [tower.encode(preprocess(image, tower.image_size)[None]).codes for tower in towers]
        codes[key] = [one[0, :, 0] for one in seen if one is not None]
    moved = any(not torch.equal(old, new) for old, new in codes.values())
    views = {
        key: TokenView(image, grid, codes=codes[key][1], before=codes[key][0] if moved else None)
        for key, image in images.items()
    }
    return views, code_colours(tables[0])
