"""The adapted encoder is written whatever the counting of its codes meets."""

from __future__ import annotations

import json
from pathlib import Path

import lightning
import numpy as np
import pytest
from PIL import Image

from craft_lightning.methods.craft import Craft
from craft_lightning.models.vlm_spec import VlmSpec
from data_modules.datamodule import VqaDataModule
from data_modules.sources import records


class Breaks(lightning.Callback):
    """Cuts off the images of a folder when training ends, as if the ones that no step drew had been broken before."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def on_train_end(self, trainer: lightning.Trainer, pl_module: lightning.LightningModule) -> None:
        for path in self.root.rglob("*.png"):
            path.write_bytes(path.read_bytes()[:-30])


def test_a_broken_image_that_no_step_drew_costs_the_prior_alone(
    checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(records, "CACHE_BYTES", 0)
    root, values = tmp_path / "pets", np.random.default_rng(0)
    for split, label in ((split, label) for split in ("train", "val") for label in ("cat", "dog")):
        (root / split / label).mkdir(parents=True)
        for i in range(4):
            pixels = values.integers(0, 256, (20, 20, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / split / label / f"{i}.png")
    spec, run = VlmSpec(str(checkpoints / "small")), tmp_path / "run"
    own = {"source": "folder", "root": str(root), "batch_size": 4, "num_workers": 0, "query": "Which?", "domain": "pet"}
    trainer = lightning.Trainer(
        default_root_dir=run,
        accelerator="cpu",
        max_steps=2,
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        callbacks=[Breaks(root)],
    )
    trainer.fit(Craft(backbone=spec), VqaDataModule(spec, "folder", **own))
    assert "without the prior of its codes, which a test counts again: " in (said := capsys.readouterr().err)
    assert ".png: broken image" in said
    assert json.loads((run / "result.json").read_text())["steps"] == 2
    assert (run / "encoder" / "encoder.safetensors").is_file()
    assert not (run / "encoder" / "token_prior.safetensors").exists()
