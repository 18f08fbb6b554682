"""One image, however it is stored: the same pixels, codes and replies in every verb and from every place."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import ExifTags, Image
from safetensors.torch import load_file

from craft_lightning import __main__ as entry
from craft_lightning.checkpoints.load import load_tower
from craft_lightning.cli import tokens
from craft_lightning.models.image_processing import preprocess, to_pixels
from craft_lightning.models.vlm_spec import VlmSpec
from craft_lightning.visualization import TokenView, draw_tokens
from data_modules.datamodule import VqaDataModule


def turned(orientation: int) -> Image.Exif:
    exif = Image.Exif()
    exif[ExifTags.Base.Orientation] = orientation
    return exif


def lying(colour: Any, grey: Any, file: Path) -> None:
    """Upright only by its orientation, as a phone stores it."""
    Image.fromarray(colour).transpose(Image.Transpose.ROTATE_90).save(file, exif=turned(6))


def clear(colour: Any, grey: Any, file: Path) -> None:
    """Some colour is hidden where the image is white."""
    alpha = np.where((colour == 255).all(-1), 0, 255)[..., None]
    image = np.concatenate([np.where(alpha == 0, 40, colour), alpha], -1).astype(np.uint8)
    Image.fromarray(image).save(file)


def deep(colour: Any, grey: Any, file: Path) -> None:
    Image.fromarray(grey.astype(np.uint16) * 257).save(file)


def floats(colour: Any, grey: Any, file: Path) -> None:
    """On its head, and in a file whose name says nothing of it: the content counts."""
    Image.fromarray(np.float32(grey / 255)[::-1, ::-1].copy()).save(file, "TIFF", tiffinfo={274: 3})


ODD = {"lying.png": lying, "clear.png": clear, "deep.png": deep, "floats.png": floats}


@pytest.fixture
def pairs(tmp_path: Path) -> tuple[list[Path], list[Path]]:
    """Odd images, and the same as plain 8-bit RGB."""
    odd, plain = [], []
    for seed, (name, store) in enumerate(ODD.items()):
        draw = np.random.default_rng(seed)
        colour = draw.integers(0, 255, (40, 50, 3), dtype=np.uint8)
        colour[:20, :30] = 255
        grey = draw.integers(0, 256, (40, 50), dtype=np.uint8)
        for folder, files in (("odd", odd), ("plain", plain)):
            (tmp_path / folder).mkdir(exist_ok=True)
            files.append(tmp_path / folder / name)
        store(colour, grey, odd[-1])
        shown = colour if store in (lying, clear) else np.repeat(grey[..., None], 3, axis=-1)
        Image.fromarray(shown).save(plain[-1])
    return odd, plain


Seen = Callable[[Path, list[Path], Path, pytest.MonkeyPatch], Any]


def of_tokenize(checkpoint: Path, files: list[Path], place: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    out = place / "codes.safetensors"
    entry.main(["tokenize", "--backbone", str(checkpoint), "--output", str(out), "--images", *map(str, files)])
    return load_file(out)["codes"].long()


def of_tokens(checkpoint: Path, files: list[Path], place: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    views: list[TokenView] = []

    def watch(view: TokenView, colours: Any) -> Image.Image:
        views.append(view)
        return draw_tokens(view, colours)

    monkeypatch.setattr(tokens, "draw_tokens", watch)
    out = ["--keep", "1", "--output", str(place / "sheet.png")]
    entry.main(["tokens", "--backbone", str(checkpoint), *out, "--images", *map(str, files)])
    return torch.stack([view.codes for view in views if view.codes is not None])


def of_predict(checkpoint: Path, files: list[Path], place: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    out, logits = place / "logits.safetensors", []
    for file in files:
        asked = ["--image", str(file), "--question", "What is it?", "--logits", str(out)]
        entry.main(["predict", "--backbone", str(checkpoint), *asked])
        logits.append(load_file(out)["logits"])
    return torch.stack(logits)


def _codes(checkpoint: Path, root: Path) -> Any:
    """Codes of what training, validation and test are shown, by the image's name."""
    data = VqaDataModule(VlmSpec(str(checkpoint)), "folder", "folder", str(root), batch_size=1, holdout=0.0)
    data.setup()
    rows = [split[i] for split in data.splits.values() for i in range(len(split))]
    assert {name: len(split) for name, split in data.splits.items()} == {"train": 4, "val": 4, "test": 4}
    ordered = sorted(rows, key=lambda row: row.example.key)
    return load_tower(checkpoint).encode(to_pixels(torch.stack([row.pixels for row in ordered]))).codes


def _class_folders(files: list[Path], place: Path) -> Path:
    for split in ("train", "val", "test"):
        for at, file in enumerate(files):
            (target := place / "data" / split / f"class {at % 2}" / file.name).parent.mkdir(parents=True, exist_ok=True)
            target.write_bytes(file.read_bytes())
    return place / "data"


def of_class_folders(checkpoint: Path, files: list[Path], place: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    return _codes(checkpoint, _class_folders(files, place))


def of_an_archive(checkpoint: Path, files: list[Path], place: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    root = _class_folders(files, place)
    with zipfile.ZipFile(place / "data.zip", "w") as archive:
        for file in sorted(root.rglob("*.png")):
            archive.write(file, file.relative_to(root))
    return _codes(checkpoint, place / "data.zip")


def of_questions(checkpoint: Path, files: list[Path], place: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    root = place / "asked"
    root.mkdir()
    for file in files:
        (root / file.name).write_bytes(file.read_bytes())
    rows = [json.dumps({"image": file.name, "question": "What is it?", "answer": "noise"}) for file in files]
    for split in ("train", "val", "test"):
        (root / f"{split}.jsonl").write_text("\n".join(rows))
    return _codes(checkpoint, root)


VERBS: tuple[Seen, ...] = (of_tokenize, of_tokens, of_predict, of_class_folders, of_an_archive, of_questions)


@pytest.mark.parametrize("seen", VERBS)
@torch.no_grad()
def test_every_verb_sees_what_a_person_sees(
    seen: Seen,
    checkpoints: Path,
    pairs: tuple[list[Path], list[Path]],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    found = []
    for files in pairs:
        (place := tmp_path / f"of {files[0].parent.name}").mkdir()
        found.append(seen(checkpoints / "host", files, place, monkeypatch))
    assert torch.equal(*found)
    assert len(found[0]) >= 4


@torch.no_grad()
def test_the_odd_pictures_are_odd(checkpoints: Path, pairs: tuple[list[Path], list[Path]]) -> None:
    """As the original would read them, they have other codes: the test above can fail."""
    tower = load_tower(checkpoints / "host")
    for odd, plain in zip(*pairs, strict=True):
        with Image.open(odd) as image:
            read = Image.fromarray(np.asarray(image.convert("RGB")))
        with Image.open(plain) as image:
            wanted = tower.encode(preprocess(image, 32)[None]).codes
        assert wanted is not None
        assert (tower.encode(preprocess(read, 32)[None]).codes == wanted).float().mean() < 0.7, odd.name
