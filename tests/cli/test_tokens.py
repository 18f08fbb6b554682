"""The verb ``tokens``: the sheet shows the codes, the changes and the kept tokens of the images that were given."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from craft_lightning import __main__ as entry
from craft_lightning.checkpoints.encoder import write_encoder
from craft_lightning.checkpoints.load import load_tower
from craft_lightning.cli import tokens
from craft_lightning.errors import CraftError
from craft_lightning.models.image_processing import preprocess, read_image
from craft_lightning.models.pruning import PruneRule, prune
from craft_lightning.models.towers.siglip import SiglipTower
from craft_lightning.visualization import TokenView, draw_tokens


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    (folder / "sub").mkdir(parents=True)
    for i in range(18):
        pixels = np.random.default_rng(i).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / ("sub" if i % 2 else ".") / f"{i:02}.png")
    (folder / ".thumbs").mkdir()
    (folder / ".thumbs" / "00.png").write_bytes((folder / "00.png").read_bytes())
    return folder


@pytest.fixture
def drawn(monkeypatch: pytest.MonkeyPatch) -> list[TokenView]:
    """What was handed to the drawing."""
    views: list[TokenView] = []

    def watch(view: TokenView, colours: Any) -> Image.Image:
        views.append(view)
        return draw_tokens(view, colours)

    monkeypatch.setattr(tokens, "draw_tokens", watch)
    return views


def run(*args: object) -> int:
    return tokens.main([str(a) for a in args])


def encode(tower: SiglipTower, files: list[Path]) -> Any:
    return tower.encode(torch.stack([preprocess(read_image(file), tower.image_size) for file in files]))


@torch.no_grad()
def test_the_sheet_of_a_folder(
    checkpoints: Path, pictures: Path, tmp_path: Path, drawn: list[TokenView], capsys: Any
) -> None:
    output = tmp_path / "sheet.png"
    assert run("--backbone", checkpoints / "host", "--images", pictures, "--keep", 0.5, "--output", output) == 0
    files = sorted(file for file in pictures.rglob("*.png") if ".thumbs" not in file.parts)
    drawn_files = [*files[:8], *files[9:17]]  # eight of each of the two folders
    assert [view.lines[0][0] for view in drawn] == [f.as_posix() for f in drawn_files]
    tower = load_tower(checkpoints / "host")
    whole = encode(tower, files).codes[..., 0]
    counts = torch.bincount(whole.flatten(), minlength=64)
    shown = prune(encode(tower, drawn_files), 0.5, counts, PruneRule(), [f.as_posix() for f in drawn_files])
    assert shown.selection is not None
    for i, view in enumerate(drawn):
        assert view.codes is not None
        assert view.kept is not None
        assert view.before is None
        assert torch.equal(view.codes, whole[files.index(drawn_files[i])])
        assert torch.equal(view.kept, shown.selection.mask(16)[i])
        assert int(view.kept.sum()) == 8
    said = capsys.readouterr().out
    assert "16 of 18 images; keep 0.5" in said
    assert "the 18 images given" in said
    with Image.open(output) as sheet:
        assert sheet.format == "PNG"


@torch.no_grad()
def test_an_encoder_brings_the_codes_after_and_its_prior(
    checkpoints: Path, pictures: Path, tmp_path: Path, drawn: list[TokenView], capsys: Any
) -> None:
    tower = load_tower(checkpoints / "host")
    files = sorted(pictures.glob("*.png"))[:3]
    before = encode(tower, files).codes[..., 0]
    for parameter in dict(tower.used_parameters()).values():
        parameter.add_(0.3 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(0)))
    prior = torch.arange(64)
    assert tower.quantizer is not None
    facts: Any = {"base": "host", "codebook_hash": tower.quantizer.hash(), "method": "craft", "token_prior": prior}
    write_encoder(tmp_path / "encoder", dict(tower.used_parameters()), **facts)
    output = tmp_path / "sheet.png"
    flags = ["--encoder", tmp_path / "encoder", "--output", output]
    assert run("--backbone", checkpoints / "host", "--images", *files, *flags) == 0
    after = prune(encode(tower, files), 0.8, prior, PruneRule(), [str(f) for f in files])
    assert after.codes is not None
    assert after.selection is not None
    for i, view in enumerate(drawn):
        assert view.before is not None
        assert view.codes is not None
        assert torch.equal(view.before, before[i])
        assert torch.equal(view.codes, after.codes[i, :, 0])
        assert torch.equal(view.kept, after.selection.mask(16)[i])  # type: ignore[arg-type]
        assert bool((view.codes != view.before).any())
    assert "the encoder's training images" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("number", "expected"),
    [(1, "a0"), (3, "a0 b0 c0"), (5, "a0 a1 b0 b1 c0"), (6, "a0 a1 b0 b1 c0 c1"), (99, "a0 a1 a2 a3 b0 b1 c0 c1 c2")],
)
def test_images_are_of_as_many_folders_as_can_be(number: int, expected: str) -> None:
    files = [Path(folder, f"{folder}{i}") for folder, count in (("a", 4), ("b", 2), ("c", 3)) for i in range(count)]
    assert [file.name for file in tokens.spread(files, number)] == expected.split()
    many = [Path(f"{folder:02}", f"{folder:02}") for folder in range(40)]
    assert [file.name for file in tokens.spread(many, 4)] == ["00", "10", "20", "30"]


def test_a_broken_image_is_left_out_and_counted(
    checkpoints: Path, pictures: Path, tmp_path: Path, drawn: list[TokenView], caplog: Any, capsys: Any
) -> None:
    (pictures / "00.png").write_bytes(b"no image")
    flags = ["--images", pictures, "--number", 4, "--output", tmp_path / "sheet.png"]
    assert run("--backbone", checkpoints / "host", *flags) == 0
    assert len(drawn) == 3
    assert caplog.messages[-1].startswith("left out: 1 x broken image; the first: ")
    assert "3 of 18 images" in capsys.readouterr().out


def test_keep_1_has_nothing_to_show_of_pruning(
    checkpoints: Path, pictures: Path, tmp_path: Path, drawn: list[TokenView]
) -> None:
    argv = ["tokens", "--backbone", str(checkpoints / "host"), "--images", str(pictures), "--keep", "1"]
    assert entry.main([*argv, "--output", str(tmp_path / "sheet.png")]) == 0
    assert all(view.kept is None for view in drawn)


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--backbone", "pocket-vila-v"], "did you mean 'pocket-vila-u'"),
        (["--backbone", "CONTINUOUS"], "no discrete tokens"),
        (["--images", "nowhere"], "no image or folder nowhere"),
        (["--keep", "0"], "keep ratio lies in (0, 1]"),
        (["--output", "sheet.jpg"], "sheet.jpg is no .png file"),
        (["--output", "."], "is a folder: name a file in it"),
        (["--output", "nowhere/sheet.png"], "no folder nowhere"),
        (["--encoder", "nowhere"], "no adapted encoder in nowhere"),
    ],
)
def test_mistakes_are_one_line(
    flags: list[str], expected: str, checkpoints: Path, pictures: Path, tmp_path: Path
) -> None:
    given = {"--backbone": str(checkpoints / "host"), "--images": str(pictures), "--output": str(tmp_path / "s.png")}
    given |= {flags[0]: flags[1].replace("CONTINUOUS", str(checkpoints / "continuous"))}
    with pytest.raises(CraftError) as caught:
        run(*(part for pair in given.items() for part in pair))
    assert expected in str(caught.value)
    assert "\n" not in str(caught.value)
