import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from craft_lightning.checkpoints.encoder import write_encoder
from craft_lightning.checkpoints.load import load_tower
from craft_lightning.cli.tokenize import main
from craft_lightning.errors import CraftError
from craft_lightning.models.image_processing import preprocess
from craft_lightning.models.pruning import PruneRule, count_codes, prune
from tiny import write_tiny


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    (folder / "sub").mkdir(parents=True)
    for index, name in enumerate(("b.png", "a.jpg", "sub/c.png")):
        values = np.random.default_rng(index).integers(0, 256, (40 + index, 50, 3), dtype=np.uint8)
        Image.fromarray(values).save(folder / name)
    (folder / "notes.txt").write_text("no image")
    (folder / ".ipynb_checkpoints").mkdir()
    for name in (".ipynb_checkpoints/b-checkpoint.png", "._b.png"):
        (folder / name).write_bytes((folder / "b.png").read_bytes())
    return folder


def run(*args: object) -> int:
    return main([str(a) for a in args])


def test_folder_of_pictures(
    checkpoints: Path, pictures: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    out = tmp_path / "out.safetensors"
    assert run("--backbone", checkpoints / "llama", "--images", pictures, "--output", out, "--batch_size", 2) == 0
    found = load_file(out)
    tower = load_tower(checkpoints / "llama", attention="eager")
    names = ["a.jpg", "b.png", "sub/c.png"]
    pixels = torch.stack([preprocess(Image.open(pictures / name), 32) for name in names])
    expected = tower.encode(pixels)
    assert set(found) == {"codes", "features", "quantized"}
    assert found["codes"].dtype == torch.int32
    assert torch.equal(found["codes"].long(), expected.codes)
    torch.testing.assert_close(found["features"], expected.features, atol=1e-5, rtol=0)
    torch.testing.assert_close(found["quantized"], expected.tokens, atol=1e-5, rtol=0)
    with safe_open(out, "pt") as file:
        metadata = file.metadata()
    assert metadata["codebook_hash"] == tower.quantizer.hash()
    assert metadata["dtype"] == "float32"
    assert json.loads(metadata["image_names"]) == names
    assert caplog.messages == [f"left out of {pictures}: 2 x hidden image, 1 x .txt file"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.safetensors", "pictures"]


def test_broken_images_are_left_out_and_counted(
    checkpoints: Path, pictures: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, capsys: Any
) -> None:
    where = ("--backbone", checkpoints / "llama", "--images", pictures, "--batch_size", 2)
    run(*where, "--output", tmp_path / "whole")
    (pictures / "b.png").write_bytes(b"\x89PNG no")
    run(*where, "--output", tmp_path / "out")
    assert caplog.messages[-1].startswith(f"left out: 1 x broken image; the first: {pictures / 'b.png'}: broken")
    assert "codes 2x16x4" in capsys.readouterr().out.splitlines()[-1]
    with safe_open(tmp_path / "out", "pt") as file:
        assert json.loads(file.metadata()["image_names"]) == ["a.jpg", "sub/c.png"]
    assert torch.equal(load_file(tmp_path / "out")["codes"], load_file(tmp_path / "whole")["codes"][[0, 2]])
    run(*where, "--counts", tmp_path / "counts")
    assert "in 2 images" in capsys.readouterr().out.splitlines()[-1]


def test_pixel_values_and_files(checkpoints: Path, pictures: Path, tmp_path: Path) -> None:
    files = [pictures / "b.png", pictures / "a.jpg"]
    save_file(
        {"pixel_values": torch.stack([preprocess(Image.open(f), 32) for f in files])}, tmp_path / "in.safetensors"
    )
    run("--backbone", checkpoints / "llama", "--images", tmp_path / "in.safetensors", "--output", tmp_path / "x")
    run("--backbone", checkpoints / "llama", "--images", *files, "--output", tmp_path / "y")
    first, second = load_file(tmp_path / "x"), load_file(tmp_path / "y")
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_bfloat16(checkpoints: Path, pictures: Path, tmp_path: Path) -> None:
    arguments = ("--backbone", checkpoints / "llama", "--images", pictures)
    run(*arguments, "--output", tmp_path / "low", "--dtype", "bfloat16")
    run(*arguments, "--output", tmp_path / "high")
    low, high = load_file(tmp_path / "low"), load_file(tmp_path / "high")
    assert low["features"].dtype == low["quantized"].dtype == torch.bfloat16
    assert 0.3 < float((low["codes"] == high["codes"]).float().mean()) < 1.0
    with safe_open(tmp_path / "low", "pt") as file:
        assert file.metadata()["dtype"] == "bfloat16"


def test_mistakes_are_one_line(checkpoints: Path, pictures: Path, tmp_path: Path) -> None:
    out, checkpoint = tmp_path / "out", checkpoints / "llama"
    empty = tmp_path / "empty"
    empty.mkdir()
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"\x89PNG no")
    save_file({"images": torch.zeros(1)}, tmp_path / "other.safetensors")
    save_file({"pixel_values": torch.zeros(1, 3, 8, 8)}, tmp_path / "small.safetensors")
    twin = write_tiny(tmp_path / "twin", continuous=True)
    for arguments, message in (
        (("--backbone", tmp_path / "absent", "--images", pictures), "no checkpoint folder"),
        (("--backbone", "pocket-vila-v", "--images", pictures), "'pocket-vila-v'; did you mean 'pocket-vila-u'"),
        (("--backbone", checkpoint, "--images", tmp_path / "absent.png"), "no image or folder"),
        (("--backbone", checkpoint, "--images", empty), "no image in"),
        (("--backbone", checkpoint, "--images", broken), "broken.png: broken image"),
        (("--backbone", checkpoint, "--images", tmp_path / "other.safetensors"), "it holds images"),
        (("--backbone", checkpoint, "--images", tmp_path / "small.safetensors"), "this tower reads"),
        (("--backbone", twin, "--images", pictures), "continuous"),
        (("--backbone", checkpoint, "--images", pictures, "--batch_size", 0), "batch_size"),
    ):
        with pytest.raises(CraftError, match=message):
            run(*arguments, "--output", out)
    assert not out.exists()
    for place, message in ((tmp_path / "no" / "out", "no folder"), (empty, "is a folder: name a file in it")):
        with pytest.raises(CraftError, match=message):
            run("--backbone", checkpoint, "--images", pictures, "--output", place)


def test_kept_tokens_and_counts(checkpoints: Path, pictures: Path, tmp_path: Path) -> None:
    where = ("--backbone", checkpoints / "llama", "--images", pictures, "--batch_size", 2)
    tower = load_tower(checkpoints / "llama", attention="eager")
    assert run(*where, "--counts", tmp_path / "counts") == 0
    counts = load_file(tmp_path / "counts")["counts"]
    names = ["a.jpg", "b.png", "sub/c.png"]
    visual = tower.encode(torch.stack([preprocess(Image.open(pictures / name), 32) for name in names]))
    assert torch.equal(counts, count_codes([visual.codes], 64))
    facts = {"base": "llama", "codebook_hash": tower.quantizer.hash(), "method": "craft"}
    write_encoder(tmp_path / "encoder", dict(tower.used_parameters()), **facts, token_prior=counts)
    assert run(*where, "--output", tmp_path / "out", "--encoder", tmp_path / "encoder", "--keep", 0.4) == 0
    found = load_file(tmp_path / "out")
    selection = prune(visual, 0.4, counts, PruneRule(), names).selection
    assert found["kept"].shape == (3, 6)
    assert torch.equal(found["kept"].long(), selection.positions)
    assert found["quantized"].shape[1] == 16
    with pytest.raises(CraftError, match="needs a prior"):
        run(*where, "--output", tmp_path / "out", "--keep", 0.4)


@pytest.mark.parametrize(
    "spoilt", [torch.zeros(1, 3, 32, 32, dtype=torch.uint8), torch.full((1, 3, 32, 32), torch.nan)]
)
def test_pixels_that_are_none_are_refused(checkpoints: Path, tmp_path: Path, spoilt: torch.Tensor) -> None:
    save_file({"pixel_values": spoilt}, tmp_path / "in.safetensors")
    out = tmp_path / "out.safetensors"
    with pytest.raises(CraftError, match="finite floating-point"):
        run("--backbone", checkpoints / "llama", "--images", tmp_path / "in.safetensors", "--output", out)
    assert not out.exists()
