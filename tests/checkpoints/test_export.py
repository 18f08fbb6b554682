"""``export``: the adapted encoder in the original's layout, and nothing else changed."""

from __future__ import annotations

import hashlib
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from craft_lightning import __main__ as entry
from craft_lightning.checkpoints.encoder import write_encoder
from craft_lightning.checkpoints.load import load_tower, load_vlm
from craft_lightning.checkpoints.tensors import TensorFiles
from craft_lightning.checkpoints.vila_u import load_text_tower
from craft_lightning.cli import export as module
from craft_lightning.models.vlm_spec import VlmSpec
from tests.checkpoints import original_kit as kit
from tiny import write_tiny, write_tiny_tower

FORMS: list[tuple[kit.Form, kit.Books, int]] = [("safetensors", "copied", 2), ("bin", "aliased", 1)]


def export(*args: object) -> int:
    return entry.main(["export", *map(str, args)])


def adapted(checkpoint: Path, folder: Path, scale: float = 0.3) -> Path:
    """An encoder that a method might have left: every used parameter moved, and a prior."""
    tower = load_tower(checkpoint)
    random = torch.Generator().manual_seed(1)
    state = {k: v.detach() + scale * torch.randn(v.shape, generator=random) for k, v in tower.used_parameters()}
    digest, prior = tower.quantizer.hash(), torch.arange(tower.quantizer.entries)
    write_encoder(folder, state, base="x", codebook_hash=digest, method="craft", token_prior=prior)
    return folder


def digests(folder: Path) -> dict[str, str]:
    files = (p for p in folder.rglob("*") if p.is_file())
    return {str(p.relative_to(folder)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def tensors(folder: Path) -> dict[str, Tensor]:
    files = TensorFiles(folder)
    return {name: files[name] for name in files.names()}


def places(folder: Path) -> dict[str, str]:
    """The file of every tensor."""
    held = {p: load_file(p) if p.suffix == ".safetensors" else torch.load(p) for p in TensorFiles(folder).files}
    return {name: path.name for path, tensors in held.items() for name in tensors}


@pytest.mark.parametrize(("form", "books", "shards"), FORMS, ids=["safetensors", "bin"])
def test_the_round_trip_is_bit_identical(form: kit.Form, books: kit.Books, shards: int, tmp_path: Path) -> None:
    source = kit.write_original(tmp_path / "original", form=form, books=books, tower_shards=shards)
    (source / ".cache").mkdir()
    (source / "README.md").write_text("the model card")
    encoder, out = adapted(source, tmp_path / "encoder"), tmp_path / "out" / "exported"
    before = digests(source)
    assert export("--backbone", source, "--encoder", encoder / "encoder.safetensors", "--output", out) == 0

    plugged = load_vlm(VlmSpec(str(source), encoder=str(encoder)))
    exported = load_vlm(VlmSpec(str(out)))
    pixels = torch.rand(3, 3, 16, 16, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        ours, theirs = plugged.encode(pixels), exported.encode(pixels)
        assert not torch.equal(load_tower(source).encode(pixels).codes, ours.codes)
    assert torch.equal(ours.codes, theirs.codes)
    assert torch.equal(ours.features, theirs.features)
    for (name, value), other in zip(exported.state_dict().items(), plugged.state_dict().values(), strict=True):
        assert torch.equal(value, other), name

    moved = {f"{kit.VISION}{name.removeprefix('vision.')}" for name, _ in plugged.tower.used_parameters()}
    old, new = tensors(source / "vision_tower"), tensors(out / "vision_tower")
    assert places(source / "vision_tower") == places(out / "vision_tower")
    assert {name for name in old if not torch.equal(old[name].float(), new[name].float())} == moved
    assert {name for name in old if old[name].dtype != new[name].dtype} == moved
    weights = {f"vision_tower/{file.name}" for file in TensorFiles(source / "vision_tower").files}
    assert digests(source) == before
    after = digests(out)
    extra = {"adaptation/config.json", "adaptation/token_prior.safetensors"}
    assert set(after) == set(before) | extra
    assert {name for name in before if after[name] != before[name]} == weights
    assert json.loads((out / "adaptation" / "config.json").read_text())["method"] == "craft"
    assert [p.name for p in out.parent.iterdir()] == [out.name]
    if form == "safetensors":
        with safe_open(out / "vision_tower" / "model-00001-of-00002.safetensors", "pt") as file:
            assert file.metadata() == {"format": "pt"}
    else:
        state = torch.load(out / "vision_tower" / "pytorch_model.bin", weights_only=True)
        tables = {state[f"{kit.BOOKS}{level}.weight"].data_ptr() for level in range(kit.LEVELS)}
        assert len(tables) == 1, "what was one table is one still"


def test_a_shared_tower_is_written_in_full(tmp_path: Path) -> None:
    write_tiny_tower(tmp_path / "eyes")
    source = write_tiny(tmp_path / "small", llm="qwen2", tower="../eyes")
    encoder, out = adapted(source, tmp_path / "encoder"), tmp_path / "exported"
    assert export("--backbone", source, "--encoder", encoder, "--output", out) == 0
    pixels = torch.rand(2, 3, 32, 32) * 2 - 1
    plugged = load_vlm(VlmSpec(str(source), encoder=str(encoder)))
    shutil.rmtree(tmp_path / "eyes")
    moved = Path(shutil.move(out, tmp_path / "elsewhere"))
    assert json.loads((moved / "config.json").read_text())["vision_tower_cfg"]["hidden_size"] == 32
    with torch.no_grad():
        assert torch.equal(load_vlm(VlmSpec(str(moved))).encode(pixels).codes, plugged.encode(pixels).codes)
    assert load_text_tower(moved).embed_texts(["a river"]).shape == (1, 32)


def test_siglip_beside_the_tower_comes_along(tmp_path: Path) -> None:
    source = write_tiny(tmp_path / "m")
    encoder = adapted(source, tmp_path / "encoder")
    (source / "vision_tower" / "siglip").rename(tmp_path / "siglip")
    path = source / "vision_tower" / "config.json"
    config = json.loads(path.read_text())
    config["rqvaesiglip"]["pretrained_model"] = str(tmp_path / "siglip")
    path.write_text(json.dumps(config))
    assert export("--backbone", source, "--encoder", encoder, "--output", tmp_path / "out") == 0
    shutil.rmtree(tmp_path / "siglip")
    load_tower(tmp_path / "out")


def test_what_the_original_cannot_load_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    source = write_tiny(tmp_path / "m", llm="qwen2")
    out = tmp_path / "out"
    assert export("--backbone", source, "--encoder", adapted(source, tmp_path / "encoder"), "--output", out) == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"warning: VILA-U's own code cannot load {out}: its SigLIP is ")
    assert "google/siglip-large-patch16-256" in line
    assert "its language model is qwen2, not llama, its tokenizer is no sentencepiece model" in line

    public = kit.write_original(tmp_path / "public")
    assert [reason.split(",")[0] for reason in module.unlike_the_original(public)] == ["its SigLIP is siglip"]
    path = public / "vision_tower" / "config.json"
    config = json.loads(path.read_text())
    config["rqvaesiglip"]["pretrained_model"] = "google/siglip-large-patch16-256"
    path.write_text(json.dumps(config))
    assert module.unlike_the_original(public) == []
    path = public / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"continuous": True}))
    assert module.unlike_the_original(public) == ["its tower is continuous"]


def write_clip(folder: Path) -> Path:
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps({"model_type": "llava_llama"}))
    return folder


def test_mistakes_are_one_line_and_leave_nothing(tmp_path: Path, monkeypatch: Any, capsys: Any) -> None:
    source, other = write_tiny(tmp_path / "m"), write_tiny(tmp_path / "other", seed=5)
    own, foreign = adapted(source, tmp_path / "own"), adapted(other, tmp_path / "foreign")
    bare = Path(shutil.copytree(source, tmp_path / "bare"))
    (bare / "llm" / "model.safetensors").unlink()
    headless = Path(shutil.copytree(source, tmp_path / "headless"))
    shutil.rmtree(headless / "mm_projector")
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    out = tmp_path / "out"
    for checkpoint, encoder, output, expected in (
        (source, foreign, out, "an encoder only fits models of its own codebook"),
        (source, tmp_path / "none", out, "no such folder"),
        (tmp_path / "none", own, out, "no checkpoint folder"),
        ("pocket-vila-v", own, out, "'pocket-vila-v'; did you mean 'pocket-vila-u'"),
        (bare, own, out, "no weights in"),
        (headless, own, out, "no mm_projector/config.json"),
        (source, own, tmp_path / "full", "exists: name another folder"),
        (source, own, source / "x", "lies in the checkpoint"),
        (source, own, tmp_path / "full" / "x" / "y", "cannot be written"),
        (write_clip(tmp_path / "clip"), own, out, "only checkpoints in VILA-U's layout can be exported"),
    ):
        capsys.readouterr()
        assert export("--backbone", checkpoint, "--encoder", encoder, "--output", output) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1, lines
        assert expected in lines[0]
        assert not out.exists()
    monkeypatch.setattr(module.shutil, "disk_usage", lambda place: type("Usage", (), {"free": 10}))
    assert export("--backbone", source, "--encoder", own, "--output", out) == 2
    assert "GB left" in capsys.readouterr().err
    monkeypatch.undo()

    def dies(*args: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr(module, "_replace", dies)
    assert export("--backbone", source, "--encoder", own, "--output", out) == 130
    assert not [p for p in tmp_path.iterdir() if p.name.startswith((".", "out"))]
