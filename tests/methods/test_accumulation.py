"""Gradient accumulation changes how a step is computed, and not what it is."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from lightning.pytorch import Callback

from craft_lightning.errors import CraftError
from craft_lightning.methods._support.contrastive import ContrastiveMethod
from craft_lightning.methods.craft import Craft
from craft_lightning.optim import OptimSpec, rows_per_pass

FAST = OptimSpec(lr=1e-2, eps=1e-4)
"""With Adam's usual eps, rounding alone moves what has no gradient (the bias of an attention's keys) by whole steps."""


class Terms(Callback):
    """What was logged after each optimiser step."""

    def __init__(self, save: Any = None) -> None:
        self.seen: dict[int, dict[str, float]] = {}
        self.save = save

    def on_train_batch_end(self, trainer: Any, *args: Any) -> None:
        found = {k: float(v) for k, v in trainer.callback_metrics.items() if k.startswith("train/")}
        self.seen[trainer.global_step] = found
        if self.save is not None and trainer.global_step == 5:
            trainer.save_checkpoint(self.save)


@pytest.fixture
def fit(build: Any, data: Any, trainer: Any) -> Any:
    def run(parts: int, dataset: str = "eurosat", steps: int = 6, **options: Any) -> tuple[Craft, dict[int, Any]]:
        torch.manual_seed(0)
        method, terms = build(Craft, optim=FAST, lambda_contrastive=1.0), Terms(options.pop("save", None))
        run = trainer(max_steps=steps, accumulate_grad_batches=parts, callbacks=[terms], log_every_n_steps=1)
        grouped = {"group_by_image": options.pop("grouped", False)}
        run.fit(method, data(dataset=dataset, batch_size=12, train_size=50, **grouped), **options)
        return method, terms.seen

    return run


@pytest.mark.parametrize("parts", [2, 4])
@pytest.mark.parametrize(("dataset", "grouped"), [("eurosat", False), ("vqa_rad", False), ("vqa_rad", True)])
def test_parts_add_up_to_the_step(fit: Any, parts: int, dataset: str, grouped: bool) -> None:
    whole, terms = fit(1, dataset, grouped=grouped)
    cut, found = fit(parts, dataset, grouped=grouped)
    for step in range(1, 7):
        assert found[step] == pytest.approx(terms[step], abs=2e-4), step
    beside = {"train/loss", "train/codebook_distance"}
    assert set(terms[1]) == {"train/sal", "train/commitment", "train/contrastive"} | beside
    if not grouped:  # else an image that is cut apart counts as two
        assert cut.first_gradients == pytest.approx(whole.first_gradients, rel=1e-4)
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(cut.state_dict()[name], value, atol=3e-4, rtol=0.0)


def test_a_part_scored_against_its_own_sentences_alone_would_be_seen(fit: Any, monkeypatch: Any) -> None:
    """The comparison above can fail: with the sentences of each part alone the contrastive term is another."""
    whole = fit(1)[1][1]["train/contrastive"]
    known = ContrastiveMethod.caption_rows

    def alone(self: Any, batch: Any) -> Any:
        return known(self, replace(batch, step=None))

    monkeypatch.setattr(ContrastiveMethod, "caption_rows", alone)
    assert fit(4)[1][1]["train/contrastive"] < 0.7 * whole


@pytest.mark.parametrize(("before", "after"), [(1, 2), (4, 1)])
def test_a_run_goes_on_with_other_parts(fit: Any, tmp_path: Any, before: int, after: int) -> None:
    whole, terms = fit(1, steps=9)
    fit(before, steps=9, save=tmp_path / "5.ckpt")  # step 5 is in the middle of the second epoch of four
    again, found = fit(after, steps=9, ckpt_path=tmp_path / "5.ckpt", weights_only=True)
    assert max(found) == 9
    assert {step: found[step]["train/loss"] for step in range(6, 10)} == pytest.approx(
        {step: terms[step]["train/loss"] for step in range(6, 10)}, abs=1e-3
    )
    for name, value in whole.state_dict().items():
        torch.testing.assert_close(again.state_dict()[name], value, atol=1e-3, rtol=0.0)


def test_a_batch_is_never_rounded() -> None:
    assert rows_per_pass(24, 8) == 3
    assert rows_per_pass(24, 2, 4) == 3
    with pytest.raises(CraftError, match="24 rows cannot be shared equally by 16 devices; it divides by 1, 2, 3, 4"):
        rows_per_pass(24, 16)
    with pytest.raises(CraftError, match="by 2 devices x 5 accumulated batches"):
        rows_per_pass(24, 2, 5)
