"""A surrogate at paper scale in small: real layouts, the three published formats, two stages, resumed and loaded."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from lightning.fabric import Fabric
from safetensors.torch import load_file, save_file
from torch import Tensor

from craft_lightning.checkpoints.adapter import write_words
from craft_lightning.checkpoints.load import load_language_model, load_tower, load_vlm
from craft_lightning.cli import surrogate as verb
from craft_lightning.errors import CraftError
from craft_lightning.models.image_processing import preprocess, read_image
from craft_lightning.models.langbridge import LangBridge, token_texts
from craft_lightning.models.vlm import WRAP_TOKENS
from craft_lightning.models.vlm_spec import BACKBONES, VlmSpec
from craft_lightning.pretraining import paper_scale
from craft_lightning.pretraining.language_stage import (
    ConversationEncoder,
    Shown,
    TokenizedConversation,
    VisionLanguageStage,
    store_tokens,
)
from craft_lightning.pretraining.paper_scale import SurrogateBuilder, chat_tokenizer, passes_of
from craft_lightning.pretraining.plans import StagePlan, SurrogatePlan, parse, read_plan
from craft_lightning.pretraining.shards import Shards
from craft_lightning.text.prompts import PromptBuilder, collate_text
from craft_lightning.types import IGNORED_LABEL, IMAGE_TOKEN_ID, VqaBatch
from data_modules.sources.llava_conversations import PUBLISHED, Talks
from tests.pretraining.surrogate_kit import QWEN2_TEMPLATE, talk, write_language_model, write_rows, write_sets

EXPERIMENTS = Path(__file__).resolve().parents[2] / "experiments" / "surrogates"


@pytest.fixture(scope="module")
def place(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``llm/`` and ``data/``."""
    root = tmp_path_factory.mktemp("surrogate")
    write_language_model(root / "llm")
    write_sets(root / "data")
    return root


def settings(place: Path, checkpoints: Path, folder: Path, **more: Any) -> dict[str, Any]:
    stage = {"batch_size": 4, "rows": 2, "lr": 0.01, "save_every": 1}
    return {
        "name": "qwen2-0.5b",
        "language_model": str(place / "llm"),
        "tower": str(checkpoints / "host"),
        "data": str(place / "data"),
        "work": str(folder / "work"),
        "output": str(folder / "models"),
        "precision": "32-true",
        "projector": {"sets": ["cc3m"], "form": "caption", **stage},
        "joint": {"sets": ["sharegpt4v", "llava150k"], "form": "chat", **stage},
        **more,
    }


def builder(made: dict[str, Any], said: list[str] | None = None) -> SurrogateBuilder:
    log: Callable[[str], None] = (lambda line: None) if said is None else said.append
    return SurrogateBuilder(parse(SurrogatePlan, made), Fabric(accelerator="cpu", devices=1), log)


@pytest.fixture(scope="module")
def built(place: Path, checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[str]]:
    """A whole surrogate through the verb, and what it said."""
    folder = tmp_path_factory.mktemp("built")
    said: list[str] = []
    builder(settings(place, checkpoints, folder), said).build()
    return folder, said


def weights(folder: Path) -> dict[str, Tensor]:
    found = {}
    for part in ("llm", "mm_projector"):
        found |= {f"{part}.{k}": v for k, v in load_file(folder / part / "model.safetensors").items()}
    return found


def test_the_result_loads_and_answers(built: tuple[Path, list[str]], checkpoints: Path, place: Path) -> None:
    vlm = load_vlm(VlmSpec(str(built[0] / "models" / "qwen2-0.5b")))
    assert vlm.codebook_hash == load_tower(checkpoints / "host").quantizer.hash()  # type: ignore[union-attr]
    assert vlm.conversation == "chat_template"
    assert vlm.wrap_ids == tuple(vlm.tokenizer.convert_tokens_to_ids(list(WRAP_TOKENS)))
    assert vlm.tokenizer.eos_token == "<|im_end|>"
    prompt = PromptBuilder(vlm.tokenizer, "chat_template", lettered=False).encode_text("What do you see?", "")
    text = collate_text([prompt], vlm.tokenizer.pad_token_id, with_reply=False)
    none = torch.zeros(1, dtype=torch.long)
    batch = VqaBatch(
        torch.empty(1, 0), **text, label_ids=none, caption_ids=none, seen=none.bool(), answers=("",), keys=("",),
        option_counts=(0,),
    )  # fmt: skip
    (reply,) = vlm.generate(vlm.encode(torch.zeros(1, 3, 32, 32)), batch, 5)
    assert isinstance(reply, str)
    # Frozen parts are the host's, and the language model has moved in stage 2 only.
    before = load_language_model(place / "llm").state_dict()["model.layers.0.mlp.up_proj.weight"]
    assert not torch.equal(vlm.language_model.state_dict()["model.layers.0.mlp.up_proj.weight"], before)


def test_a_langbridge_and_a_model_that_takes_it_over(place: Path, checkpoints: Path, tmp_path: Path) -> None:
    """Stages 1 and 2 with an adapter of words; then stage 2 alone, from that adapter."""
    words = [*token_texts(chat_tokenizer(place / "llm"))][:60]
    write_words(tmp_path / "words.json", words)
    bridge = {"langbridge": {"words": 50, "hidden": 16, "file": str(tmp_path / "words.json")}}
    first = builder(settings(place, checkpoints, tmp_path, name="bridged", **bridge)).build()
    second = builder(settings(place, checkpoints, tmp_path, name="receiver", adapter_of="bridged")).build()
    assert (tmp_path / "work" / "bridged" / "projector.ckpt").is_file()
    assert not (tmp_path / "work" / "receiver" / "projector.ckpt").exists()
    assert "50 words" in torch.load(tmp_path / "work/bridged/joint.ckpt", weights_only=True)["recipe"]["data"]
    for folder in (first, second):
        vlm = load_vlm(VlmSpec(str(folder)))
        assert isinstance(vlm.projector, LangBridge)
        assert list(vlm.projector.words) == words[:50]
        assert load_file(folder / "mm_projector" / "model.safetensors").keys() == {*vlm.projector.state_dict()}
    begun = builder(settings(place, checkpoints, tmp_path, name="again", adapter_of=str(first))).model(
        load_tower(first)
    )
    before, after = (weights(folder) for folder in (first, second))
    for name, value in begun.projector.state_dict().items():
        assert torch.equal(value, before[f"mm_projector.{name}"].float())
        assert not torch.equal(after[f"mm_projector.{name}"], before[f"mm_projector.{name}"])


def test_a_langbridge_needs_its_words(place: Path, checkpoints: Path, tmp_path: Path) -> None:
    words = {"words": 50, "hidden": 16}
    with pytest.raises(CraftError, match=r"qwen2-0.5b: langbridge needs a file: .*craft_lightning vocabulary"):
        builder(settings(place, checkpoints, tmp_path, langbridge=words))
    write_words(file := tmp_path / "few.json", ["a", "b"])
    made = settings(place, checkpoints, tmp_path, langbridge=words | {"file": str(file)})
    with pytest.raises(CraftError, match=r"qwen2-0.5b: langbridge.words is 50, .* holds 2; .*vocabulary"):
        builder(made).build()


def test_the_first_stage_moves_the_projector_alone(built: tuple[Path, list[str]], place: Path) -> None:
    work = built[0] / "work" / "qwen2-0.5b"
    state = torch.load(work / "projector.ckpt", weights_only=True)["model"]
    before = load_language_model(place / "llm").state_dict()
    for name, value in before.items():
        found = state[f"model.language_model.{name}"]
        assert torch.equal(found[: len(value)], value), name
    first = torch.load(work / "joint.ckpt", weights_only=True)["model"]
    assert not torch.equal(first["model.projector.layers.0.weight"], state["model.projector.layers.0.weight"])


def test_what_was_said(built: tuple[Path, list[str]]) -> None:
    said = "\n".join(built[1])
    assert "LLaVA-CC3M-Pretrain-595K: 12 conversations of the 595,375 that were published, 12 images" in said
    assert "LLaVA-Instruct-150K: 12 conversations of the 157,712 that were published, 6 images" in said
    assert "stage projector: 12 rows, 3 steps, 2 passes a step" in said
    assert "stage joint: 24 rows, 6 steps, 2 passes a step" in said


def test_codes_are_computed_once_and_shared(
    built: tuple[Path, list[str]], place: Path, checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*args: Any) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(paper_scale, "codes_of", never)
    folder, _ = built
    other = settings(place, checkpoints, folder, name="qwen2.5-0.5b", output=str(folder / "others"))
    builder(other).build()  # another surrogate of the same host
    ours, theirs = (weights(folder / at) for at in ("models/qwen2-0.5b", "others/qwen2.5-0.5b"))
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    said: list[str] = []
    builder(settings(place, checkpoints, folder), said).build()
    assert said == [f"{folder / 'models' / 'qwen2-0.5b'}: there already"]


def test_stored_codes_are_the_towers(built: tuple[Path, list[str]], place: Path, checkpoints: Path) -> None:
    tower = load_tower(checkpoints / "host")
    made = builder(settings(place, checkpoints, built[0]))
    talks = Talks(place / "data", PUBLISHED["sharegpt4v"])
    codes = made.codes(talks, tower).column("codes")
    for row in (0, 5, 11):
        file = place / "data" / PUBLISHED["sharegpt4v"].images[0] / talks.names[row]
        wanted = tower.encode(preprocess(read_image(file), 32).unsqueeze(0)).codes
        assert wanted is not None
        assert torch.equal(codes[[row]].long(), wanted)


def test_a_resumed_run_is_the_uninterrupted_one(
    built: tuple[Path, list[str]], place: Path, checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, passes = paper_scale._pass, iter(range(100))

    def dying(*args: Any) -> Any:
        if next(passes) == 11:  # in the middle of a step of the second stage
            raise KeyboardInterrupt
        return real(*args)

    monkeypatch.setattr(paper_scale, "_pass", dying)
    made = settings(place, checkpoints, tmp_path)
    with pytest.raises(KeyboardInterrupt):
        builder(made).build()
    assert not (tmp_path / "models" / "qwen2-0.5b").exists()
    said: list[str] = []
    builder(made, said).build()
    assert any(line.startswith("joint: resumed at step 2 of 6") for line in said)
    whole, resumed = weights(built[0] / "models/qwen2-0.5b"), weights(tmp_path / "models/qwen2-0.5b")
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_stages_of_other_weights_are_refused(
    built: tuple[Path, list[str]], place: Path, checkpoints: Path, tmp_path: Path
) -> None:
    """Another host, another language model of the same shape, or another first stage, under one name."""
    shutil.copytree(built[0] / "work", tmp_path / "work")
    shutil.copytree(place / "llm", tmp_path / "llm")
    file = tmp_path / "llm" / "model.safetensors"
    held = load_file(file)
    held["model.layers.0.mlp.up_proj.weight"] += 1e-3
    save_file(held, file, {"format": "pt"})
    for change in ({"tower": str(checkpoints / "other")}, {"language_model": str(tmp_path / "llm")}):
        with pytest.raises(
            CraftError, match=r"projector\.ckpt was made with data '12 rows of cc3m \(\w+\) from weights"
        ):
            builder(settings(place, checkpoints, tmp_path, **change)).build()
    (tmp_path / "work" / "qwen2-0.5b" / "projector.ckpt").unlink()
    made = settings(place, checkpoints, tmp_path)
    made["projector"]["lr"] = 0.02
    with pytest.raises(CraftError, match=r"joint\.ckpt was made with data"):
        builder(made).build()


@pytest.mark.parametrize("rows", [4, 1])
def test_the_cut_into_passes_changes_nothing(
    built: tuple[Path, list[str]], place: Path, checkpoints: Path, tmp_path: Path, rows: int
) -> None:
    """Two rows a pass in the fixture: the step is the mean over its reply tokens, whatever their lengths."""
    made = settings(place, checkpoints, tmp_path)
    for stage in ("projector", "joint"):
        made[stage]["rows"] = rows
    builder(made).build()
    first, other = (
        torch.load(folder / "work/qwen2-0.5b/projector.ckpt", weights_only=True)["model"]
        for folder in (built[0], tmp_path)
    )
    for name, value in first.items():
        torch.testing.assert_close(other[name], value, atol=2e-5, rtol=2e-4, msg=name)


def test_the_loss_falls(place: Path, checkpoints: Path, tmp_path: Path) -> None:
    write_sets(tmp_path / "data", 120)
    made = settings(place, checkpoints, tmp_path, data=str(tmp_path / "data"))
    said: list[str] = []
    made["projector"]["sets"] = made["joint"]["sets"] = ["cc3m"]
    builder(made, said).build()
    found = [float(m[1]) for line in said if (m := re.search(r"reply (\d+\.\d+)", line))]
    assert len(found) == 2
    assert found[1] < 0.7 * found[0]


def test_a_damaged_shard_is_made_again(tmp_path: Path) -> None:
    made: list[range] = []

    def make(rows: range) -> dict[str, Tensor]:
        made.append(rows)
        return {"codes": torch.arange(rows.start, rows.stop)}

    shards = Shards(tmp_path, {"tower": "a"}, [f"{n}.jpg" for n in range(10)], size=4)
    assert shards.fill(make) == 3
    assert shards.fill(make) == 0
    content = shards.path(1).read_bytes()
    for broken in (content[: len(content) // 2], content[:-1] + bytes([content[-1] ^ 1])):
        shards.path(1).write_bytes(broken)
        made.clear()
        assert shards.fill(make) == 1
        assert made == [range(4, 8)]
    shards.path(2).unlink()
    assert shards.fill(make) == 1
    renamed = [*(f"{n}.jpg" for n in range(9)), "other.jpg"]
    assert Shards(tmp_path, {"tower": "a"}, renamed, size=4).fill(make) == 1
    assert Shards(tmp_path, {"tower": "b"}, renamed, size=4).fill(make) == 3
    assert not list(tmp_path.glob(".*"))


def test_names_that_are_no_text_are_inputs_like_others(tmp_path: Path) -> None:
    names = [os.fsdecode(b"caf\xe9.jpg"), "caf\ud83d.jpg", "café.jpg"]  # bytes on disk, half a character, a plain name
    shards = Shards(tmp_path, {}, names, size=2)
    assert shards.fill(lambda rows: {"n": torch.tensor(list(rows))}) == 2
    assert shards.fill(lambda rows: {}) == 0
    others = [Shards(tmp_path, {}, [names[k], *names[1:]], size=2).digest for k in range(3)]
    assert len(set(others)) == 3
    assert shards.digest == others[0]


def test_two_processes_share_the_files(tmp_path: Path) -> None:
    shards = Shards(tmp_path, {}, ["x"] * 10, size=4)
    made = [shards.fill(lambda rows: {"n": torch.tensor(list(rows))}, share, 2) for share in (0, 1)]
    assert made == [2, 1]
    assert shards.column("n").tolist() == list(range(10))


def test_broken_pictures_stop_it_or_are_left_out(place: Path, checkpoints: Path, tmp_path: Path) -> None:
    write_sets(tmp_path / "data")
    broken = tmp_path / "data" / PUBLISHED["cc3m"].images[0] / "GCC_train_000000003.jpg"
    whole = broken.read_bytes()
    broken.write_bytes(whole[:200])
    made = settings(place, checkpoints, tmp_path, data=str(tmp_path / "data"))
    with pytest.raises(CraftError, match=r"GCC_train_000000003\.jpg.*skip_broken: true"):
        builder(made).build()
    said: list[str] = []
    builder({**made, "skip_broken": True}, said).build()
    assert any(line.startswith("LLaVA-CC3M-Pretrain-595K: 1 images left out") for line in said)
    assert "stage projector: 11 rows, 2 steps, 2 passes a step" in said
    # Codes with a hole are told of again, and are none where no image may be left out.
    talks, tower = Talks(tmp_path / "data", PUBLISHED["cc3m"]), load_tower(checkpoints / "host")
    said.clear()
    builder({**made, "skip_broken": True}, said).codes(talks, tower)
    assert "LLaVA-CC3M-Pretrain-595K: 1 images left out, such as GCC_train_000000003.jpg" in said[-1]
    with pytest.raises(CraftError, match=r"GCC_train_000000003\.jpg"):
        builder(made).codes(talks, tower)
    broken.write_bytes(whole)
    assert builder(made).codes(talks, tower).column("kept").all()


def test_an_impossible_name_is_a_broken_picture(tmp_path: Path) -> None:
    root = write_sets(tmp_path)
    names = ("a\0b.jpg", "A" * 300)
    write_rows(root / PUBLISHED["cc3m"].file, [talk(i, name, "<image>", "red") for i, name in enumerate(names)])
    talks = Talks(root, PUBLISHED["cc3m"])
    for number, shown in enumerate((r"a\\x00b\.jpg", f"{'A' * 60}…")):
        with pytest.raises(CraftError, match=f"LLaVA-CC3M-Pretrain-595K: no such image: '{shown}' in"):
            talks.image(number)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"data": "nowhere"}, r"no file nowhere/LLaVA-CC3M.*hf download --repo-type dataset liuhaotian/LLaVA-CC3M"),
        ({"language_model": "Qwen/Qwen2-0.5B"}, "`hf download Qwen/Qwen2-0.5B`"),
        ({"tower": "vila-u-7b-256"}, "hf download mit-han-lab/vila-u-7b-256"),
        ({"towr": "x"}, "did you mean 'tower'"),
        ({"projector": {"sets": ["cc3n"], "form": "caption", "batch_size": 4, "rows": 2, "lr": 1}}, "mean 'cc3m'"),
        (
            {"projector": {"sets": ["cc3m"]}},
            r"(projector\.(batch_size|lr|form|rows) is missing(; |$)){4}",
        ),
    ],
)
def test_what_is_missing_is_one_line(
    place: Path,
    checkpoints: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: dict[str, Any],
    message: str,
) -> None:
    monkeypatch.setenv("CRAFT_MODELS", str(tmp_path / "none"))
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    path = tmp_path / "plan.yaml"
    path.write_text(yaml.safe_dump({**settings(place, checkpoints, tmp_path), **change}), encoding="utf-8")
    with pytest.raises(CraftError, match=message) as caught:
        verb.main(["--config", str(path), "--devices", "1"])
    assert "\n" not in str(caught.value)


def test_the_shipped_plans() -> None:
    for name, backbone in BACKBONES.items():
        if backbone.source == "models":
            plan = read_plan(EXPERIMENTS / f"{name}.yaml")
            assert isinstance(plan, SurrogatePlan)
            assert plan.name == name
            assert plan.language_model.lower() == f"qwen/{name}"
            assert (plan.projector.sets, plan.joint.sets) == (("cc3m",), ("sharegpt4v", "llava150k"))
            assert {plan.projector.lr, plan.joint.lr} == {1e-4}
            assert (plan.projector.warmup, plan.projector.weight_decay, plan.max_length) == (0.03, 0.0, 8192)
            assert [passes_of(stage, 8) for stage in (plan.projector, plan.joint)] == [4, 8]
    bridge, taker = (read_plan(EXPERIMENTS / f"{name}-langbridge.yaml") for name in ("qwen2-0.5b", "qwen2.5-3b"))
    assert isinstance(bridge, SurrogatePlan)
    assert isinstance(taker, SurrogatePlan)
    assert bridge.langbridge is not None
    assert (bridge.langbridge.words, bridge.langbridge.hidden, bridge.langbridge.combination) == (
        19200,
        5120,
        "softmax",
    )
    assert taker.adapter_of == bridge.name
    assert [stage.batch_size for stage in (bridge.projector, bridge.joint, taker.joint)] == [256, 128, 128]
    assert {stage.lr for stage in (bridge.projector, bridge.joint, taker.joint)} == {2e-5}
    with pytest.raises(CraftError, match="5 devices cannot share a batch of 512"):
        passes_of(StagePlan(sets=(), form="chat", batch_size=512, rows=8, lr=1e-4), 5)


def test_conversations_carry_a_loss_on_replies_alone(place: Path) -> None:
    tokenizer = chat_tokenizer(place / "llm")
    encoder = ConversationEncoder(tokenizer)
    row = encoder([("What?", "red"), ("Why?", "so")], True)
    text = tokenizer.decode([i for i in row.ids if i != IMAGE_TOKEN_ID])
    turns = [("user", "<image>\nWhat?"), ("assistant", "red"), ("user", "Why?"), ("assistant", "so")]
    said = [{"role": role, "content": content} for role, content in turns]
    wanted = tokenizer.apply_chat_template(said, tokenize=False, chat_template=QWEN2_TEMPLATE)
    assert text == wanted.replace("<image>", "").removesuffix("\n")
    assert text.count("You are a helpful assistant.") == 1
    learnt = tokenizer.decode([i for i in row.labels if i != IGNORED_LABEL])
    assert learnt == "red<|im_end|>so<|im_end|>"
    caption = encoder.caption("red")
    assert caption.ids[0] == IMAGE_TOKEN_ID
    assert tokenizer.decode(caption.ids[1:]) == "red<|im_end|>"
    assert caption.labels[1:] == caption.ids[1:]


def test_a_long_row_is_cut(place: Path, checkpoints: Path, tmp_path: Path) -> None:
    made = parse(SurrogatePlan, settings(place, checkpoints, tmp_path, max_length=40))
    whole = SurrogateBuilder(made, Fabric(accelerator="cpu", devices=1), lambda line: None)
    vlm = whole.model(load_tower(checkpoints / "host"))
    shards = whole.tokens(Talks(place / "data", PUBLISHED["llava150k"]), "chat", vlm)
    assert int(shards.column("lengths").max()) - 1 + vlm.num_visual == 40


def test_a_row_as_long_as_the_context_fits(place: Path, checkpoints: Path, tmp_path: Path) -> None:
    tower = load_tower(checkpoints / "host")
    vlm = builder(settings(place, checkpoints, tmp_path)).model(tower)
    longest = vlm.context - vlm.num_visual + 1
    assert longest % 32  # its batch is padded beyond the context, and cut again
    stage = VisionLanguageStage(vlm, store_tokens(tower, lambda rows: torch.zeros(1, 3, 32, 32), 1), False)
    row = TokenizedConversation([IMAGE_TOKEN_ID, *[5] * (longest - 1)], [IGNORED_LABEL, *[5] * (longest - 1)])
    assert stage(Shown([0], [row]))["reply"].isfinite()
    whole = stage(Shown([0], [row]))["reply"]
    row.write([7, 7], learnt=True)
    assert torch.equal(stage(Shown([0], [row]))["reply"], whole), "the end of a reply is cut"


def last_loss(text: str) -> float:
    return float(re.findall(r"joint: step 6/6  reply (\d+\.\d+)", text)[0])


@pytest.mark.parametrize("strategy", ["ddp", "fsdp2"])
def test_two_processes_build_the_same(
    built: tuple[Path, list[str]], place: Path, checkpoints: Path, tmp_path: Path, strategy: str
) -> None:
    plan = tmp_path / "plan.yaml"
    plan.write_text(yaml.safe_dump(settings(place, checkpoints, tmp_path, strategy=strategy)), encoding="utf-8")
    argv = [sys.executable, "-m", "craft_lightning", "surrogate", "--config", str(plan), "--devices", "2"]
    where = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(argv, cwd=EXPERIMENTS.parents[1], env=where, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "stage joint: 24 rows, 6 steps, 1 passes a step" in done.stdout
    assert last_loss(done.stdout) == pytest.approx(last_loss("\n".join(built[1])), abs=2e-3)
    for stage in ("projector", "joint"):
        alone, both = (
            torch.load(folder / f"work/qwen2-0.5b/{stage}.ckpt", weights_only=True)["model"]
            for folder in (built[0], tmp_path)
        )
        for name, value in alone.items():
            torch.testing.assert_close(both[name], value, atol=3e-4, rtol=2e-3, msg=f"{stage} {name}")
    assert load_vlm(VlmSpec(str(tmp_path / "models" / "qwen2-0.5b"))).codebook_hash
