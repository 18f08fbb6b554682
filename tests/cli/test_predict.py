"""``predict`` for one image and question, and the file of its logits."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file

from craft_lightning import __main__ as entry
from craft_lightning.checkpoints.encoder import write_encoder
from craft_lightning.checkpoints.load import load_vlm
from craft_lightning.cli import verbs
from craft_lightning.inference import VisionLanguageModel, prompt_batch
from craft_lightning.models.image_processing import preprocess
from craft_lightning.models.pruning import PruneRule, prune
from craft_lightning.models.vlm_spec import VlmSpec
from craft_lightning.text.prompts import PromptBuilder
from craft_lightning.types import IMAGE_TOKEN_ID, VqaExample

SMOKE = str(Path(__file__).resolve().parents[2] / "experiments" / "smoke.yaml")


@pytest.fixture
def picture(tmp_path: Path) -> Path:
    values = np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)
    Image.fromarray(values).save(tmp_path / "p.png")
    return tmp_path / "p.png"


def predict(*argv: object) -> int:
    return entry.main(["predict", *map(str, argv)])


def prompt_of(vlm: Any, text: str) -> torch.Tensor:
    return torch.tensor([PromptBuilder(vlm.tokenizer, vlm.conversation).prompt_ids(text)])


@pytest.mark.parametrize("name", ["host", "small", "continuous"])
def test_the_logits_are_those_of_the_merged_sequence(
    name: str, checkpoints: Path, picture: Path, tmp_path: Path, capsys: Any
) -> None:
    out = tmp_path / "out" / "l.safetensors"
    out.parent.mkdir()
    asked = ["--images", picture, "--question", "What is shown?", "--options", "river", "sea", "--logits", out]
    assert predict("--backbone", checkpoints / name, *asked) == 0
    said = capsys.readouterr().out.removesuffix("\n")
    found = load_file(out)
    vlm = load_vlm(VlmSpec(str(checkpoints / name)))
    ids = prompt_of(vlm, "What is shown?\nA. river\nB. sea\nAnswer in one letter only.")
    assert torch.equal(found["input_ids"], ids)
    assert int((ids == IMAGE_TOKEN_ID).sum()) == 1
    at = int((ids[0] == IMAGE_TOKEN_ID).nonzero())
    with torch.no_grad():
        tokens = vlm.encode(preprocess(Image.open(picture), 32)[None]).tokens
        embedding = vlm.language_model.get_input_embeddings()
        ends = embedding(torch.tensor(vlm.wrap_ids))
        picture_part = torch.cat([ends[:1], vlm.project(tokens)[0], ends[1:]])
        inputs = torch.cat([embedding(ids[0, :at]), picture_part, embedding(ids[0, at + 1 :])])
        logits = vlm.language_model(inputs_embeds=inputs[None]).logits
    assert found["logits"].dtype == torch.float32
    assert found["logits"].shape == logits.shape == (1, ids.shape[1] - 1 + 16 + 2, embedding.num_embeddings)
    torch.testing.assert_close(found["logits"], logits, atol=1e-5, rtol=1e-5)
    with safe_open(out, "pt") as file:
        facts = file.metadata()
    reply = facts["reply"]
    assert said == reply + {"a": "  river", "b": "  sea"}.get(reply.lower(), "")
    assert facts["codebook_hash"] == (vlm.codebook_hash or "")
    assert (facts["image_position"], facts["visual_positions"]) == (str(at), "18")
    assert (facts["dtype"], facts["quantizer_dtype"]) == ("float32", "" if name == "continuous" else "float32")
    first = vlm.tokenizer.decode([int(found["logits"][0, -1].argmax())], skip_special_tokens=True)
    assert reply.startswith(first.strip())
    assert [p.name for p in out.parent.iterdir()] == [out.name]


def test_the_directive_and_the_length_of_the_reply(
    checkpoints: Path, picture: Path, tmp_path: Path, capsys: Any
) -> None:
    vlm = load_vlm(VlmSpec(str(checkpoints / "host")))
    asked = ["--backbone", checkpoints / "host", "--images", picture, "--question", "What is it?"]
    for given, text in (
        ([], "What is it?\nAnswer as succinctly as possible."),
        (["--directive", "Justify your answer."], "What is it?\nJustify your answer."),
        (["--directive", ""], "What is it?"),
    ):
        predict(*asked, *given, "--logits", tmp_path / "l.safetensors")
        assert torch.equal(load_file(tmp_path / "l.safetensors")["input_ids"], prompt_of(vlm, text))
    capsys.readouterr()
    replies = []
    for count in (1, 12):
        predict(*asked, f"--max_new_tokens={count}")
        replies.append(capsys.readouterr().out.strip())
    assert len(replies[1]) > len(replies[0])
    assert replies[1].startswith(replies[0])


def test_a_stored_item_is_asked_as_test_asks_it(checkpoints: Path, tmp_path: Path, capsys: Any) -> None:
    run = ["--config", SMOKE, f"--model.backbone.name={checkpoints / 'small'}", "--data.test_size=4"]
    assert predict(*run, f"--trainer.default_root_dir={tmp_path}", "--trainer.enable_progress_bar=false") == 0
    rows = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    for row, item in ((rows[0], []), (rows[2], ["--item", rows[2]["key"]])):
        capsys.readouterr()
        assert predict(*run, *item, "--logits", tmp_path / "l.safetensors") == 0
        captured = capsys.readouterr()
        assert captured.out.strip().split("  ")[0] == row["prediction"]
        assert f"{row['key']}, right answer {row['answer']!r}" in captured.err
    assert load_file(tmp_path / "l.safetensors")["input_ids"].dtype == torch.int64


def test_mistakes_are_one_line(checkpoints: Path, picture: Path, tmp_path: Path, capsys: Any) -> None:
    broken = tmp_path / "broken" / "broken.png"
    broken.parent.mkdir()
    broken.write_bytes(b"no image")
    for argv, expected in (
        (["--images", picture], "--images needs --question TEXT"),
        (["--question", "What?"], "name them with --images PATH"),
        (["--images", picture, "--question", "What?", "--item", "x"], "give one of the two"),
        (["--images", picture, "--question", "What?", "--options", "one"], "at least two choices"),
        (["--images", picture, "--question", "What?", "--options", *"abcdefghi"], "9 options, but there are only"),
        (["--images", picture, picture, "--question", "What?", "--logits", tmp_path / "l"], "names 2 images"),
        (["--item", "x", "--output", tmp_path / "o"], "--output is for the replies about --images"),
        (["--images", broken, "--question", "What?"], "broken.png: broken image"),
        (["--images", tmp_path / "no.png", "--question", "What?"], "no image"),
        (["--images", picture, "--question", "What?", "--logits", tmp_path / "no" / "l"], "no folder"),
        (["--images", picture, "--question", "What?", "--logits", tmp_path], "is a folder: name a file in it"),
        (["--images", picture, "--question", "What?", "--max_new_tokens", "0"], "at least 1, not 0"),
        (["--images", picture, "--question", "What?", "--quesiton", "x"], "quesiton"),
        (["--images", picture, "--question", "What?", "--ckpt_path", tmp_path / "no.ckpt"], "no checkpoint"),
        (["--data.test_size=4", "--item", "eurosat/test/99"], "no test item 'eurosat/test/99'; did you mean"),
    ):
        capsys.readouterr()
        assert predict("--backbone", checkpoints / "host", *argv) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1, lines
        assert expected in lines[0]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """18 images, more than are asked about at a time, and a broken one."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i in range(18):
        values = np.random.default_rng(i).integers(0, 256, (40, 50, 3), dtype=np.uint8)
        Image.fromarray(values).save(folder / f"{i:02}.png")
    (folder / "03.png").write_bytes(b"\x89PNG no")
    return folder


def test_many_images_are_answered_as_one_by_one(
    checkpoints: Path, pictures: Path, tmp_path: Path, capsys: Any, caplog: Any
) -> None:
    host, options = checkpoints / "host", list("abcdefgh")
    asked = ["--question", "What?", "--options", *options, "--images", pictures, pictures / "00.png"]
    assert predict("--backbone", host, *asked) == 0
    said = capsys.readouterr().out.splitlines()
    assert caplog.messages[-1].startswith("left out: 1 x broken image; the first: ")
    model = VisionLanguageModel.from_pretrained(host, device="cpu")
    files = [*(file for file in sorted(pictures.iterdir()) if file.name != "03.png"), pictures / "00.png"]
    replies = [model.ask(file, "What?", options) for file in files]
    assert said == [f"{f}  {' '.join(str(r).splitlines())}" for f, r in zip(files, replies, strict=True)]
    assert predict("--backbone", host, *asked, "--output", tmp_path / "replies.jsonl") == 0
    assert capsys.readouterr().out == f"{tmp_path / 'replies.jsonl'}: 18 images\n"
    rows = [json.loads(line) for line in (tmp_path / "replies.jsonl").read_text().splitlines()]
    told = {"question": "What?", "options": options}
    expected = zip(files, replies, strict=True)
    assert rows == [{"image": str(file), **told, **asdict(reply)} for file, reply in expected]
    assert len({row["likeliest"] for row in rows}) > 1, "the images are told apart"


def test_help_tells_of_both_kinds(capsys: Any) -> None:
    assert entry.main(["predict", "--help"]) == 0
    text = capsys.readouterr().out
    assert text.startswith(verbs.predict().format_help())
    assert "placeholder -200" in " ".join(text.split())
    assert "--data.dataset" in text


def test_one_picture_is_pruned_as_a_run_would(checkpoints: Path, picture: Path, tmp_path: Path, capsys: Any) -> None:
    vlm = load_vlm(VlmSpec(str(checkpoints / "host")))
    facts = {"base": "host", "codebook_hash": vlm.codebook_hash, "method": "craft"}
    counts = torch.arange(64)
    write_encoder(tmp_path / "encoder", dict(vlm.tower.used_parameters()), **facts, token_prior=counts)
    asked = ["--backbone", checkpoints / "host", "--images", picture, "--question", "What is shown?"]
    asked += ["--prune.enabled=true", "--prune.keep=0.5", "--logits", tmp_path / "l.safetensors"]
    assert predict(*asked, "--encoder", tmp_path / "encoder") == 0
    with safe_open(tmp_path / "l.safetensors", "pt") as file:
        assert file.metadata()["visual_positions"] == "10"  # 8 of 16, and the two around them
    batch = prompt_batch(vlm, [VqaExample("x", Image.open(picture), "What is shown?", "A")])
    with torch.no_grad():
        visual = prune(vlm.encode(batch.pixel_values), 0.5, counts, PruneRule(), ("x",))
        expected = vlm.prompt_logits(visual, batch)[0]
    torch.testing.assert_close(load_file(tmp_path / "l.safetensors")["logits"], expected)
    capsys.readouterr()
    assert predict(*asked) == 2
    assert "takes an --encoder with its prior, or --prune.prior FILE" in capsys.readouterr().err
