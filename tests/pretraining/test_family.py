"""A whole family, two steps a stage: built from a config, written, resumed, loaded and measured."""

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers.models.qwen2.modeling_qwen2 import Qwen2DecoderLayer

from craft_lightning.checkpoints.load import load_tower, load_vlm
from craft_lightning.checkpoints.vila_u import load_text_tower
from craft_lightning.cli import surrogate as verb
from craft_lightning.errors import CraftError
from craft_lightning.models.vlm_spec import VlmSpec
from craft_lightning.pretraining import family as build
from craft_lightning.pretraining import family_report as report
from craft_lightning.pretraining.plans import FamilyPlan, read_plan
from data_modules.twins import TWINS

PLAN = """
output: {output}
work: {work}
seed: 0
pictures_per_twin: 40
tower:
  vocabulary: 600
  pictures_per_twin: 20
  shape: {{width: 32, layers: 3, heads: 2, mlp: 64, patch_size: 16, codes: 8, levels: 2, quantize_from: 0}}
  loop: {{steps: 2, batch_size: 20}}
  placeless: {{steps: 1, batch_size: 20}}
stages:
  vocabulary: 900
  text: {{steps: 2, batch_size: 2}}
  match: {{steps: 2, batch_size: 2}}
  phases: {{primer: 1, few: 1, names: 1, match_primer: 1, match_few: 1}}
  projector: {{steps: 2, batch_size: 2}}
  joint: {{steps: 2, batch_size: 2}}
  questions: {{steps: 2, batch_size: 2}}
language:
  - name: small
    shape: {{style: qwen2, width: 32, layers: 2, heads: 2, kv_heads: 1, mlp: 64}}
  - name: twin
    like: small
    continuous: true
  - name: wide
    tokenizer: small
    seed: 3
    joint: {{steps: 1, batch_size: 2}}
    shape: {{style: qwen2, width: 48, layers: 2, heads: 2, kv_heads: 1, mlp: 64}}
"""


def write_plan(folder: Path, text: str = PLAN) -> Path:
    path = folder / "family.yaml"
    path.write_text(text.format(output=folder / "family", work=folder / "work"), encoding="utf-8")
    return path


def plan_of(path: Path) -> FamilyPlan:
    plan = read_plan(path)
    assert isinstance(plan, FamilyPlan)
    return plan


def test_a_family_is_built_once_and_loads(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    compiled = []
    monkeypatch.setattr(torch.nn.Module, "compile", lambda block, **kwargs: compiled.append((type(block), kwargs)))
    config = write_plan(tmp_path, f"compile: true{PLAN}")
    assert verb.main(["--config", str(config)]) == 0
    assert compiled == [(Qwen2DecoderLayer, {"dynamic": True})] * 6, "the blocks of three models"
    tower = load_tower(tmp_path / "family" / build.TOWER)
    assert tower.quantizer is not None
    assert (tower.quantizer.entries, tower.quantizer.levels) == (8, 2)
    small = load_vlm(VlmSpec(str(tmp_path / "family" / "small")))
    twin = load_vlm(VlmSpec(str(tmp_path / "family" / "twin")))
    assert small.codebook_hash == tower.quantizer.hash()
    assert twin.codebook_hash is None
    assert small.num_visual == 16 + 2
    wide = load_vlm(VlmSpec(str(tmp_path / "family" / "wide")))
    assert wide.codebook_hash == small.codebook_hash
    assert wide.tokenizer.get_vocab() == small.tokenizer.get_vocab()
    assert not (tmp_path / "work" / "wide" / "tokenizer").exists()
    for name, seed in (("small", 0), ("wide", 3)):
        for stage in ("text", "joint"):
            recipe = torch.load(tmp_path / "work" / name / f"{stage}.ckpt", weights_only=True)["recipe"]
            assert recipe["data"].startswith(f"seed {seed}, ")
    assert torch.isfinite(load_text_tower(tmp_path / "family" / "small").embed_texts(["a river"])).all()
    capsys.readouterr()
    assert verb.main(["--config", str(config)]) == 0
    assert capsys.readouterr().out.count("there already") == 4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (("layers: 3", "layerz: 3"), "no setting of tower.shape 'layerz'; did you mean 'layers'"),
        (("seed: 0", "sed: 0"), "no setting 'sed'; did you mean 'seed'.*; seed is missing$"),
        (("steps: 1, b", "stepz: 1, b"), "no setting of language.2.joint 'stepz'; did you mean 'steps'"),
        (("codes: 8", "codes: many"), "tower.shape.codes: .* valid integer.*got 'many'"),
        (("like: small", "like: small\n    shape: 3"), "language.1.shape: .*got 3"),
        (("- name: twin\n   ", "-"), "language.1.name: .*got None"),
        (("name: twin", "name: [1]"), r"language.1.name: .*got \[1\]"),
        (("stages:", "stages: 3\nstagez:"), "settings: .* valid dictionary, got 3"),
    ],
)
def test_a_wrong_setting_is_one_line(tmp_path: Path, change: tuple[str, str], message: str) -> None:
    with pytest.raises(CraftError, match=message):
        plan_of(write_plan(tmp_path, PLAN.replace(*change)))


def test_the_shipped_plan_is_read() -> None:
    plan = plan_of(Path(build.__file__).parents[2] / "experiments" / "surrogates" / "pocket.yaml")
    names = [part.name for part in plan.language]
    qwen = ["pocket-qwen2-xs", "pocket-qwen2.5-xs", "pocket-qwen2-s", "pocket-qwen2.5-m"]
    bridges = ["pocket-vila-langbridge", "pocket-qwen2-langbridge"]
    assert names == ["pocket-vila-u", "pocket-vila", *qwen, "pocket-qwen2-xs-again", *bridges, "pocket-smollm2"]
    plan = replace(plan, language=plan.language[:-1])  # of the last one: test_pretrained
    first, again = plan.language[2], plan.language[-3]
    assert replace(again, name=first.name, seed=0, tokenizer=None) == first
    assert plan.language[1].reader == "pocket-vila-u"
    assert plan.language[1].shape == plan.language[0].shape
    # A continuous twin learns as its model does: that they are compared is what it is for.
    learnt = [(part.text, part.match, part.projector, part.joint, part.questions, part.seed) for part in plan.language]
    assert learnt[0] == learnt[1]
    assert {part.joint for part in plan.language[2:-2]} == {first.joint}
    assert {(part.joint.steps, part.joint.lr) for part in plan.language[-2:]} == {(first.joint.steps // 3, 6e-4)}
    assert {part.tokenizer or part.reader for part in plan.language[2:-2]} == {"pocket-qwen2-xs"}
    # The adapter of the first of these is that of the second, which learns to read it in stage 2.
    assert [part.start_from for part in plan.language[-2:]] == ["pocket-vila", "pocket-qwen2-xs"]
    assert [part.adapter_of for part in plan.language[-2:]] == [None, bridges[0]]
    assert [part.langbridge is None for part in plan.language] == [True] * 7 + [False, True]


def test_a_model_may_differ_from_the_shared_stages(tmp_path: Path) -> None:
    small, _, wide = plan_of(write_plan(tmp_path)).language
    assert (small.joint.steps, wide.joint.steps) == (2, 1)
    assert small.text == wide.text


def test_the_report_measures_the_shipped_files_and_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    config = write_plan(tmp_path)
    verb.main(["--config", str(config)])
    monkeypatch.setattr(report, "TWINS", {name: TWINS[name] for name in ("eurosat", "vqa_rad")})
    monkeypatch.setattr(report, "_CODEBOOK_IMAGES", 5)
    capsys.readouterr()
    assert verb.main(["--config", str(config), "--report", str(tmp_path / "out/figures.json"), "--items", "4"]) == 0
    told = json.loads((tmp_path / "out/figures.json").read_text())
    assert set(told["models"]) == {str(tmp_path / "family" / name) for name in ("small", "twin", "wide")}
    weights = (tmp_path / "family" / "small").rglob("*.safetensors")
    small = told["models"][str(tmp_path / "family" / "small")]
    assert small["megabytes"] == pytest.approx(sum(f.stat().st_size for f in weights) / 1e6)
    assert small["studio"]["eurosat"]["items"] == 4
    assert small["studio"]["eurosat"]["kinds"] == {}
    kinds = small["studio"]["vqa_rad"]["kinds"]
    assert list(kinds) == report.question_kinds("vqa_rad", 4)
    assert sum(kinds.values()) / 4 == pytest.approx(small["studio"]["vqa_rad"]["exact_match"])
    codebook = told["tower"]["codebook"]
    quantizer = load_tower(tmp_path / "family" / build.TOWER).quantizer
    assert quantizer is not None
    assert codebook["hash"] == quantizer.hash()
    assert codebook["residual"][1] == pytest.approx(codebook["residual"][0] * (1 - codebook["cut"][0]))
    page = capsys.readouterr().out
    assert "| twin | `small` exact | justified | `twin` exact | justified | `wide` exact | justified |" in page
    assert page.count("| eurosat |") == 1
    assert page.count("| vqa_rad |") == 1 + 4


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["--again", "twin"], "--again needs --adapter and --output"),
        (["--again", "twin", "--adapter", "x", "--output", "o"], "the plan does not say how long: again: {steps"),
    ],
)
def test_a_stage_2_again_that_is_not_told_enough_is_one_line(flags: list[str], said: str, tmp_path: Path) -> None:
    with pytest.raises(CraftError, match=said):
        verb.main(["--config", str(write_plan(tmp_path)), *flags])


def test_a_finished_model_learns_to_read_another_adapter(bridged: Path, tmp_path: Path) -> None:
    """Resumed, it is the same, and costs the same."""
    for name in ("bridged", "receiver"):  # longer than a conversation
        shutil.copytree(bridged / name, tmp_path / "family" / name)
        config = tmp_path / "family" / name / "llm/config.json"
        config.write_text(json.dumps(json.loads(config.read_text()) | {"max_position_embeddings": 4096}))
    shutil.copytree(bridged / "tower", tmp_path / "family/tower")
    config = write_plan(tmp_path, PLAN + "again: {{steps: 9, batch_size: 32}}\n")
    given, out = tmp_path / "family/bridged", tmp_path / "out"
    call = ["--config", str(config), "--again", "receiver", "--adapter", str(given), "--output", str(out), "--trial"]
    assert verb.main(call) == 0
    before, after = (
        load_vlm(VlmSpec(str(tmp_path / "family/receiver"), adapter=str(given))),
        load_vlm(VlmSpec(str(out))),
    )
    told = json.loads((out / "result.json").read_text())
    parts = (before.projector, before.language_model)
    assert told["parameters"] == sum(p.numel() for part in parts for p in part.parameters())
    assert (told["steps"], told["model"], told["adapter"]) == (3, "receiver", str(given))
    assert after.projector.words == before.projector.words
    for one, other in ((before.projector, after.projector), (before.language_model, after.language_model)):
        assert not torch.equal(next(one.parameters()), next(other.parameters()))
    assert (after.tower.base_hash, after.conversation) == (before.tower.base_hash, before.conversation)
    shutil.rmtree(out / "model")
    assert verb.main(call) == 0
    again = load_vlm(VlmSpec(str(out)))
    assert all(torch.equal(x, y) for x, y in zip(after.parameters(), again.parameters(), strict=True))
    assert json.loads((out / "result.json").read_text()) == told
