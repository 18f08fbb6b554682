"""Codebooks of any number of levels, one level (the paper's equation 1) included: every verb, to its end."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from craft_lightning import __main__ as entry
from craft_lightning import worker
from craft_lightning.checkpoints.load import load_tower
from tiny import write_tiny

ROOT = Path(__file__).resolve().parent.parent
SMALL = ["--data.train_size=16", "--data.val_size=4", "--data.test_size=4", "--trainer.enable_progress_bar=false"]
BOOKS = [(1, True, 64), (2, False, 64), (4, True, 64), (3, False, 1)]
"""Levels, one table for all of them, and codewords of a table."""


@pytest.fixture(scope="module", params=BOOKS, ids=lambda book: "{}-{}-{}".format(*book))
def made(request: Any, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, int, bool, int]:
    """A folder with a host ``host`` and a smaller model ``small`` on its tower, and a finished training ``run``."""
    levels, shared, codes = request.param
    root = tmp_path_factory.mktemp("levels")
    write_tiny(root / "host", levels=levels, shared=shared, codes=codes)
    (root / "small").mkdir()
    write_tiny(root / "small", llm="qwen2", width=32, tower="../host/vision_tower")
    run(root, "fit", "run", "host", "--trainer.max_steps=2", "--trainer.val_check_interval=1", "--token_map.pictures=1")
    return root, levels, shared, codes


def run(root: Path, verb: str, folder: str, backbone: str, *flags: str) -> None:
    configs = [f"--config={ROOT / 'experiments' / name}.yaml" for name in ("smoke", "callbacks/prune")]
    watching = [f"--config={ROOT / 'experiments/callbacks/ste_check.yaml'}", "--prune.also=[0.5]"]
    where = [f"--model.backbone.name={root / backbone}", f"--trainer.default_root_dir={root / folder}"]
    assert entry.main([verb, *configs, *watching, *where, *SMALL, "--trainer.logger=false", *flags]) == 0


def test_a_training_ends_and_says_how_its_codes_are_used(made: Any) -> None:
    root, levels, shared, codes = made
    found = json.loads((root / "run" / "result.json").read_text())["metrics"]
    assert 1.0 <= found["val/codebook_perplexity"] <= codes
    assert 0 <= found["val/codebook_dead"] <= codes * (1 if shared else levels) - 1


@pytest.mark.parametrize("verb", ["validate", "test", "predict"])
def test_its_encoder_is_evaluated_behind_another_model(verb: str, made: Any) -> None:
    root = made[0]
    run(root, verb, verb, "small", f"--encoder={root / 'run' / 'encoder'}")
    assert len((root / verb / "predictions.jsonl").read_text().splitlines()) == 4


def test_its_tokens_are_written_drawn_and_exported(made: Any, tmp_path: Path) -> None:
    root, levels, shared, codes = made
    pixels = np.random.default_rng(0).integers(0, 256, (2, 40, 50, 3), dtype=np.uint8)
    pictures = tmp_path / "pictures"
    pictures.mkdir()
    for number, picture in enumerate(pixels):
        Image.fromarray(picture).save(pictures / f"{number}.png")
    of = ["--backbone", str(root / "host"), "--encoder", str(root / "run" / "encoder")]
    output, sheet, whole = (str(tmp_path / name) for name in ("tokens.safetensors", "sheet.png", "whole"))
    assert entry.main(["tokenize", *of, "--images", str(pictures), "--output", output, "--keep", "0.5"]) == 0
    assert entry.main(["tokens", *of, "--images", str(pictures), "--output", sheet, "--keep", "0.5"]) == 0
    assert entry.main(["export", *of, "--output", whole]) == 0
    found, tower = load_file(output), load_tower(Path(whole))
    assert found["codes"].shape == (2, 16, levels)
    assert tower.quantizer is not None
    assert tower.quantizer.codebooks.shape == (1 if shared else levels, codes, 32)
    torch.testing.assert_close(tower.quantizer.decode(found["codes"].long()), found["quantized"], atol=1e-5, rtol=0)


def test_a_table_reads_its_metrics(made: Any, tmp_path: Path) -> None:
    root = made[0]
    flags = ["--config", str(ROOT / "experiments/smoke.yaml"), f"--model.backbone.name={root / 'small'}", *SMALL]
    read = ["test/exact_match", "test/codebook_perplexity", "test/codebook_dead"]
    told: list[Any] = []
    message = {"kind": "eval", "name": "a", "folder": tmp_path, "key": "k", "job": {"surrogate": "b"}, "metrics": read}
    worker.attempt({**message, "arguments": ["test", *flags, f"--trainer.default_root_dir={tmp_path}"]}, told.append)
    assert told[-1]["event"] == "done", told
