"""A codebook grows from images of a domain; models and encoders of before and after meet."""

from __future__ import annotations

import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from craft_lightning import __main__ as entry
from craft_lightning.checkpoints.codebook_growth import entries_in, grow, growth_bytes
from craft_lightning.checkpoints.encoder import GROWN, AdaptedEncoder, growth_of, write_encoder
from craft_lightning.checkpoints.load import load_tower, load_vlm, skeleton
from craft_lightning.cli.grow import main
from craft_lightning.errors import CraftError
from craft_lightning.inference import VisualTokenizer
from craft_lightning.models.vlm_spec import GROWTH, VlmSpec
from tiny import write_tiny


@pytest.fixture
def model(checkpoints: Path) -> str:
    return str(checkpoints / "host")


@pytest.fixture
def grown(model: str, tmp_path: Path) -> str:
    """New entries for the tiny model's 64, from six images."""
    (tmp_path / "images").mkdir()
    for index in range(6):
        values = np.random.default_rng(index).integers(0, 256, (40, 40, 3), dtype=np.uint8)
        Image.fromarray(values).save(tmp_path / f"images/{index}.png")
    file = tmp_path / "more.safetensors"
    assert main(["--backbone", model, "--images", str(tmp_path / "images"), "--by", "0.5", "--output", str(file)]) == 0
    return str(file)


def write(folder: Path, model: str, growth: str | None) -> str:
    """An encoder that was adapted with the tiny model's codebook, or with the grown one."""
    tower = load_tower(VlmSpec(model, codebook_growth=growth))
    assert tower.quantizer is not None
    facts = {"base": model, "codebook_hash": tower.quantizer.hash(), "method": "craft"}
    facts["codebook_growth"] = growth_bytes(tower.quantizer)
    counts = torch.ones(tower.quantizer.entries, dtype=torch.long)
    write_encoder(folder, dict(tower.used_parameters()), **facts, token_prior=counts)
    return str(folder)


def test_entries_stand_behind_those_of_the_codebook(capsys: pytest.CaptureFixture[str], model: str, grown: str) -> None:
    told = capsys.readouterr().out
    assert "32 entries behind 64 of codebook" in told
    old, new = load_tower(VlmSpec(model)), load_tower(VlmSpec(model, codebook_growth=grown))
    assert old.quantizer is not None
    assert new.quantizer is not None
    assert new.quantizer.entries == 96
    assert torch.equal(new.quantizer.codebooks[:, :64], old.quantizer.codebooks)
    assert load_file(grown)["entries"].dtype == torch.float16
    assert new.quantizer.grown_from == old.quantizer.hash() != new.quantizer.hash()
    pixels = torch.rand(2, 3, old.image_size, old.image_size, generator=torch.Generator().manual_seed(0))
    before, after = old.encode(pixels), new.encode(pixels)
    assert torch.equal(before.features, after.features)
    assert after.codes is not None
    assert bool((after.codes >= 64).any())


def test_what_is_left_falls_at_every_level(capsys: pytest.CaptureFixture[str], grown: str) -> None:
    sides = re.findall(r"([\d.e-]+(?:, [\d.e-]+)*) (?:before|after)", capsys.readouterr().out)
    before, after = ([float(number) for number in side.split(", ")] for side in sides)
    assert len(before) == len(after) == 4
    assert all(now < then for now, then in zip(after, before, strict=True))


def test_an_encoder_of_before_fits_and_one_of_after_brings_the_new_entries(
    model: str, grown: str, tmp_path: Path
) -> None:
    old, new = (write(tmp_path / name, model, growth) for name, growth in (("old", None), ("new", grown)))
    assert "codebook_growth" not in json.loads((tmp_path / "old/config.json").read_text())
    plugged = load_vlm(VlmSpec(model, encoder=old, codebook_growth=grown))
    assert plugged.token_prior is None, "what was counted before there were new entries would keep each of theirs"
    told = load_vlm(VlmSpec(model, encoder=new, codebook_growth=grown))
    assert entries_in(f"{new}/{GROWN}") == entries_in(grown)
    AdaptedEncoder.from_pretrained(new).save_pretrained(tmp_path / "handed_on")
    Path(grown).unlink()
    shutil.rmtree(new)
    alone = load_vlm(VlmSpec(model, encoder=str(tmp_path / "handed_on")))
    assert alone.codebook_hash == told.codebook_hash == plugged.codebook_hash
    assert growth_of(VlmSpec(model, encoder=str(tmp_path / "handed_on"))) == str(tmp_path / "handed_on" / GROWN)
    assert growth_of(VlmSpec(model, encoder=old)) is None
    assert json.loads((tmp_path / "handed_on/config.json").read_text())["codebook_growth"] == GROWN, "no path of ours"


def test_what_reads_images_alone_takes_an_encoder_s_codebook(model: str, grown: str, tmp_path: Path) -> None:
    encoder, images = write(tmp_path / "new", model, grown), str(tmp_path / "images")
    spec = VlmSpec(model, encoder=encoder, codebook_growth=grown)
    found = VisualTokenizer.from_pretrained(model, encoder, attention="sdpa").tokenize(images)["codes"]
    assert torch.equal(found, VisualTokenizer(load_tower(spec)).tokenize(images)["codes"])
    assert bool((found >= 64).any())
    flags = ["--backbone", model, "--encoder", encoder, "--images", images, "--output"]
    assert entry.main(["tokenize", *flags, str(tmp_path / "codes.safetensors")]) == 0
    assert torch.equal(load_file(tmp_path / "codes.safetensors")["codes"], found)
    assert entry.main(["tokens", *flags, str(tmp_path / "codes.png")]) == 0


def test_what_holds_the_old_codebook_alone_refuses_it(
    model: str, grown: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    encoder = write(tmp_path / "new", model, grown)
    told = f"{encoder}: adapted with codebook_growth {encoder}/{GROWN}; "
    out = str(tmp_path / "x.safetensors")
    assert entry.main(["grow", "--backbone", model, "--encoder", encoder, "--output", out]) == 2
    assert told + "new entries stand behind a model's own codebook" in capsys.readouterr().err
    assert entry.main(["export", "--backbone", model, "--encoder", encoder, "--output", str(tmp_path / "whole")]) == 2
    assert told + "no checkpoint's layout says so" in capsys.readouterr().err
    with pytest.raises(CraftError, match="a part of a grown codebook is no part of the old one"):
        VlmSpec(model, codebook_share=0.5, codebook_growth=grown)


def test_a_model_that_is_only_planned_has_all_entries(model: str, grown: str, tmp_path: Path) -> None:
    quantizer = skeleton(VlmSpec(model, encoder=write(tmp_path / "new", model, grown))).tower.quantizer
    assert quantizer is not None
    assert quantizer.codebooks.shape == load_tower(VlmSpec(model, codebook_growth=grown)).quantizer.codebooks.shape  # type: ignore[union-attr]


def test_entries_of_another_codebook_and_files_that_are_none_are_refused(
    model: str, grown: str, tmp_path: Path
) -> None:
    other = write_tiny(tmp_path / "other", seed=9)
    with pytest.raises(CraftError, match=r"more.safetensors: grown from codebook \w{64}, this model has \w{64}"):
        load_tower(VlmSpec(str(other), codebook_growth=grown))
    with pytest.raises(CraftError, match=r"no file of new entries .*; python -m craft_lightning grow writes one"):
        load_tower(VlmSpec(model, codebook_growth="pocket-9"))
    with pytest.raises(CraftError, match="this model has none"):
        grow(None, grown)
    images = str(tmp_path / "images")
    with pytest.raises(CraftError, match=r"--by 9: 576 new entries of \d+ different rows .*; take more images"):
        main(["--backbone", model, "--images", images, "--by", "9", "--output", str(tmp_path / "x.safetensors")])
    for by in ("0", "-1", "nan", "inf"):
        with pytest.raises(CraftError, match=f"--by {by} is no share of new entries; take one above 0"):
            main(["--backbone", model, "--images", images, "--by", by, "--output", str(tmp_path / "x.safetensors")])


@pytest.mark.parametrize("share", [125, 150, 200])
def test_the_shipped_entries_are_those_of_the_shipped_codebook(share: int) -> None:
    assert (GROWTH / f"pocket-{share}.safetensors").is_file()
    quantizer = load_tower(VlmSpec("pocket-vila-u", codebook_growth=f"pocket-{share}")).quantizer
    assert quantizer is not None
    assert quantizer.entries == 1024 * share // 100
