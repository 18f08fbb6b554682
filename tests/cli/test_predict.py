"""``predict`` for one image and question, and the file of its logits."""

from __future__ import annotations

import json
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
from craft_lightning.cli.predict import parser
from craft_lightning.inference import prompt_batch
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
    asked = ["--image", picture, "--question", "What is shown?", "--options", "river", "sea", "--logits", out]
    assert predict("--backbone", checkpoints / name, *asked) == 0
    reply = capsys.readouterr().out.removesuffix("\n")
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
    assert facts["reply"] == reply
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
    asked = ["--backbone", checkpoints / "host", "--image", picture, "--question", "What is it?"]
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
        predict(*asked, f"--max-new-tokens={count}")
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
        assert captured.out.strip() == row["prediction"]
        assert f"{row['key']}, right answer {row['answer']!r}" in captured.err
    assert load_file(tmp_path / "l.safetensors")["input_ids"].dtype == torch.int64


def test_mistakes_are_one_line(checkpoints: Path, picture: Path, tmp_path: Path, capsys: Any) -> None:
    for argv, expected in (
        (["--image", picture], "--image needs --question TEXT"),
        (["--question", "What?"], "name it with --image FILE"),
        (["--image", picture, "--question", "What?", "--item", "x"], "give one of the two"),
        (["--image", picture, "--question", "What?", "--options", "one"], "at least two choices"),
        (["--image", picture, "--question", "What?", "--options", *"abcdefghi"], "9 options, but there are only"),
        (["--image", tmp_path / "no.png", "--question", "What?"], "no image"),
        (["--image", picture, "--question", "What?", "--logits", tmp_path / "no" / "l"], "no folder"),
        (["--image", picture, "--question", "What?", "--logits", tmp_path], "is a folder: name a file in it"),
        (["--image", picture, "--question", "What?", "--max-new-tokens", "0"], "at least 1, not 0"),
        (["--image", picture, "--question", "What?", "--quesiton", "x"], "quesiton"),
        (["--image", picture, "--question", "What?", "--ckpt_path", tmp_path / "no.ckpt"], "no checkpoint"),
        (["--data.test_size=4", "--item", "eurosat/test/99"], "no test item 'eurosat/test/99'; did you mean"),
    ):
        capsys.readouterr()
        assert predict("--backbone", checkpoints / "host", *argv) == 2
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1, lines
        assert expected in lines[0]


def test_help_tells_of_both_kinds(capsys: Any) -> None:
    with pytest.raises(SystemExit):
        predict("--help")
    text = capsys.readouterr().out
    assert text.startswith(parser().format_help())
    assert "placeholder -200" in " ".join(text.split())
    assert "--trainer.max_steps" in text


def test_one_picture_is_pruned_as_a_run_would(checkpoints: Path, picture: Path, tmp_path: Path, capsys: Any) -> None:
    vlm = load_vlm(VlmSpec(str(checkpoints / "host")))
    facts = {"base": "host", "codebook_hash": vlm.codebook_hash, "method": "craft"}
    counts = torch.arange(64)
    write_encoder(tmp_path / "encoder", dict(vlm.tower.used_parameters()), **facts, token_prior=counts)
    asked = ["--backbone", checkpoints / "host", "--image", picture, "--question", "What is shown?"]
    asked += ["--prune.enabled=true", "--prune.keep=0.5", "--logits", tmp_path / "l.safetensors"]
    assert predict(*asked, "--encoder", tmp_path / "encoder") == 0
    with safe_open(tmp_path / "l.safetensors", "pt") as file:
        assert file.metadata()["visual_positions"] == "10"  # 8 of 16, and the two around them
    batch = prompt_batch(vlm, VqaExample("x", Image.open(picture), "What is shown?", "A"))
    with torch.no_grad():
        visual = prune(vlm.encode(batch.pixel_values), 0.5, counts, PruneRule(), ("x",))
        expected = vlm.prompt_logits(visual, batch)[0]
    torch.testing.assert_close(load_file(tmp_path / "l.safetensors")["logits"], expected)
    capsys.readouterr()
    assert predict(*asked) == 2
    assert "takes an --encoder with its prior, or --prune.prior FILE" in capsys.readouterr().err
