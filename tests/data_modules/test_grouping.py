"""Rows that ask about one image come together where that is wanted, and each of them comes once."""

from __future__ import annotations

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from craft_lightning.models.vlm_spec import VlmSpec
from data_modules import samplers
from data_modules.datamodule import VqaDataModule

OF = [3, 1, 1, 2, 3, 3, 0, 2, 4, 3, 1]


class Items:
    """A split of eleven questions about five images."""

    items = tuple(SimpleNamespace(image=image) for image in OF)

    def __len__(self) -> int:
        return len(OF)


def test_rows_of_an_image_follow_its_first() -> None:
    assert samplers.by_image(range(len(OF)), OF) == [0, 4, 5, 9, 1, 2, 10, 3, 7, 6, 8]
    assert samplers.by_image([2, 0, 1], [5, 6, 7]) == [2, 0, 1], "an image each: nothing moves"


@pytest.mark.parametrize("processes", [1, 2, 3, 4])
@pytest.mark.parametrize("rows", [1, 2, 4, 16])
def test_stored_items_are_dealt_in_batches(processes: int, rows: int, monkeypatch: pytest.MonkeyPatch) -> None:
    shares = []
    for rank in range(processes):
        monkeypatch.setattr(samplers, "world", lambda rank=rank: (processes, rank))
        shares.append(list(samplers.StoredSampler(Items(), rows)))  # type: ignore[arg-type]
    assert len({len(share) for share in shares}) == 1, "all reach every collective together"
    counted = [draw for share in shares for draw in share if draw >= 0]
    assert sorted(counted) == list(range(len(OF)))
    assert sum(map(len, shares)) - len(OF) < processes, "no more is repeated than fills the last round"
    order = samplers.by_image(range(len(OF)), OF)
    assert [draw for share in shares for draw in share[:rows]] == order[: processes * rows] or rows * processes > 8


@pytest.mark.parametrize("grouped", [False, True])
@pytest.mark.parametrize("processes", [1, 2])
def test_an_epoch_has_every_row_whole_images_together(
    grouped: bool, processes: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[list[int]] = [[], []]
    epochs = []
    for epoch in (0, 1):
        for rank in range(processes):
            monkeypatch.setattr(samplers, "world", lambda rank=rank: (processes, rank))
            sampler = samplers.EpochSampler(Items(), 4, 7, grouped)  # type: ignore[arg-type]
            sampler.set_epoch(epoch)
            rows = [index for _, index in sampler]
            for step in range(2):
                steps[step] += rows[step * sampler.share : (step + 1) * sampler.share]
        epochs.append([*steps[0], *steps[1]])
        steps = [[], []]
    assert epochs[0] != epochs[1]
    for order in epochs:
        assert len(set(order)) == 8
        images = [OF[row] for row in order]
        changes = sum(one != other for one, other in itertools.pairwise(images))
        assert (changes + 1 == len(set(images))) == grouped


def test_a_batch_holds_an_image_once(checkpoints: Path) -> None:
    def batches(**options: Any) -> list[Any]:
        small: dict[str, Any] = {"train_size": 12, "val_size": 4, "batch_size": 8, "seed": 0}
        module = VqaDataModule(VlmSpec(str(checkpoints / "host")), "vqa_rad", **small, **options)
        module.setup("fit")
        return list(module.train_dataloader())

    for batch in batches():
        assert batch.image_of is None
        assert len(batch.pixel_values) == len(batch.image_names) == 8
    for batch in batches(group_by_image=True):
        assert len(batch.pixel_values) == len(set(batch.image_names)) == int(batch.image_of.max()) + 1 < 8
        labels = batch.by_row(torch.arange(len(batch.pixel_values)))
        for name in range(len(batch.pixel_values)):  # the label of a question is its image
            assert len(set(batch.label_ids[labels == name].tolist())) == 1
        parts = list(batch.split(2))
        rejoined = torch.cat([part.by_row(part.pixel_values) for part in parts])
        assert torch.equal(rejoined, batch.by_row(batch.pixel_values))
        names = [part.image_names[place] for part in parts for place in part.image_of.tolist()]
        assert names == [batch.image_names[place] for place in batch.image_of.tolist()]
