"""Images read by other processes are those that this one reads, in order, and a process that is lost is one line."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from craft_lightning.errors import CraftError
from craft_lightning.inference import VisualTokenizer
from craft_lightning.models.image_files import read_squares
from craft_lightning.models.image_processing import preprocess, read_image
from craft_lightning.models.image_workers import in_order, usual_workers
from data_modules.datamodule import VqaDataModule


def late(item: int) -> Tensor:
    """The earlier the later; every fifth is broken."""
    time.sleep(0.002 * (20 - item))
    if item % 5 == 3:
        raise CraftError(f"{item} is broken")
    return torch.tensor([item, os.getpid()])


@pytest.fixture
def images(tmp_path: Path) -> Path:
    """A folder of two classes, with a broken file."""
    for number in range(10):
        pixels = np.random.default_rng(number).integers(0, 256, (90, 70 + number, 3), dtype=np.uint8)
        file = tmp_path / "images" / "test" / ("brick", "cork")[number % 2] / f"{number}.jpg"
        file.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(file)
    file.write_bytes(file.read_bytes()[:400])
    return tmp_path / "images"


def test_results_keep_their_order_and_errors_their_place() -> None:
    found = list(in_order(late, range(20), 2))
    assert [str(f) if isinstance(f, CraftError) else int(f[0]) for f in found] == [
        f"{item} is broken" if item % 5 == 3 else item for item in range(20)
    ]
    readers = {int(f[1]) for f in found if isinstance(f, Tensor)}
    assert len(readers) == 2
    assert os.getpid() not in readers
    assert {int(f[1]) for f in in_order(late, range(3), 0) if isinstance(f, Tensor)} == {os.getpid()}
    assert list(in_order(late, [], 2)) == []


def test_the_run_draws_the_same_random_numbers() -> None:
    torch.manual_seed(0)
    expected = torch.rand(2)
    for workers in (0, 2):
        torch.manual_seed(0)
        list(in_order(late, range(3), workers))
        assert torch.equal(torch.rand(2), expected)


def test_how_many_read(monkeypatch: pytest.MonkeyPatch) -> None:
    for threads, images, expected in ((2, 1000, 2), (2, 64, 2), (2, 63, 0), (1, 1000, 0), (64, 1000, 8)):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        assert usual_workers(images) == expected


def test_squares_of_files_are_the_same(images: Path, caplog: pytest.LogCaptureFixture) -> None:
    files = sorted(images.rglob("*.jpg"))
    alone, shared = (list(read_squares(files, 32, "pad", workers)) for workers in (0, 2))
    assert [file for file, _ in alone] == [file for file, _ in shared] == [file for file in files if file.stem != "9"]
    assert all(torch.equal(a, b) for (_, a), (_, b) in zip(alone, shared, strict=True))
    assert [message.split(";")[0] for message in caplog.messages] == ["left out: 1 x broken image"] * 2


@torch.no_grad()
def test_tokens_are_the_same(checkpoints: Path, images: Path) -> None:
    tokenizer = VisualTokenizer.from_pretrained(checkpoints / "llama")
    files = [file for file in sorted(images.rglob("*.jpg")) if file.stem != "9"]
    opened = [files[0], read_image(files[1]), *files[2:]]
    alone, shared = (tokenizer.tokenize(opened, batch_size=4, workers=workers) for workers in (0, 2))
    assert all(torch.equal(alone[name], shared[name]) for name in alone)
    pixels = torch.stack([preprocess(read_image(file), 32) for file in files])
    assert torch.equal(alone["codes"], tokenizer.tower.encode(pixels).codes.int())
    with pytest.raises(CraftError, match=r"9\.jpg: broken image"):
        tokenizer.tokenize(images, workers=2)


@pytest.mark.parametrize("lazy", [False, True])
def test_a_test_sees_the_same_images(
    images: Path, checkpoints: Path, lazy: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if lazy:
        monkeypatch.setattr("data_modules.sources.records.CACHE_BYTES", 0)
    seen, skipped = [], []
    for workers in (0, 2):
        data = VqaDataModule(
            str(checkpoints / "llama"),  # type: ignore[arg-type]
            dataset="folder",
            source="folder",
            root=str(images),
            num_workers=workers,
            on_bad="skip",
        )
        data.setup("test")
        seen.append([(batch.keys, batch.pixel_values) for batch in data.test_dataloader()])
        skipped.append(data.describe()["skipped"])
    assert skipped == [{"broken image": 1}] * 2
    for (keys, pixels), (others, other_pixels) in zip(*seen, strict=True):
        assert keys == others
        assert torch.equal(pixels, other_pixels)


DIES = """
import os, signal, sys
from craft_lightning import __main__ as entry
from craft_lightning.models import image_files
read = image_files.read_image
image_files.read_image = lambda file: os.kill(os.getpid(), signal.SIGKILL) if file.stem == "6" else read(file)
sys.exit(entry.main(sys.argv[1:]))
"""


@pytest.mark.parametrize("stdin", [subprocess.DEVNULL, subprocess.PIPE])
def test_a_process_that_is_lost_is_one_line(checkpoints: Path, images: Path, tmp_path: Path, stdin: int) -> None:
    flags = ["--backbone", checkpoints / "llama", "--images", images, "--output", tmp_path / "out", "--workers", "2"]
    done = subprocess.run(
        [sys.executable, "-c", DIES, "tokenize", *flags], stdin=stdin, capture_output=True, text=True, timeout=100
    )
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1, done.stderr
    assert done.stderr.startswith("craft_lightning: a process that reads images was lost (DataLoader worker")
    assert "--workers N" in done.stderr
    assert not (tmp_path / "out").exists()
