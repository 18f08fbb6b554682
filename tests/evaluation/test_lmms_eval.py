"""lmms-eval judges our models: its command finds the replies and the score of ``test``."""

from __future__ import annotations

import json
import os
import shlex
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from craft_lightning import __main__ as entry
from craft_lightning.checkpoints.encoder import write_encoder
from craft_lightning.checkpoints.load import load_tower
from craft_lightning.errors import CraftError
from craft_lightning.inference import VisionLanguageModel
from craft_lightning.models.vlm_spec import VlmSpec
from craft_lightning.text.prompts import message
from craft_lightning.types import VqaExample
from data_modules.datamodule import VqaDataModule

pytestmark = pytest.mark.skipif(
    find_spec("lmms_eval") is None, reason="lmms-eval is not installed: pip install --no-deps lmms-eval==0.7.3"
)

NAME = "pocket-qwen2-xs"
ROOT = Path(__file__).resolve().parents[2]
PAGE = (ROOT / "docs/lmms_eval.md").read_text(encoding="utf-8")


def block(kind: str) -> str:
    """The last block of code of a kind on the page about lmms-eval."""
    return PAGE.rpartition(f"```{kind}\n")[2].partition("```")[0]


@pytest.fixture(scope="module")
def items() -> list[VqaExample]:
    data = VqaDataModule(VlmSpec(NAME), dataset="eurosat", test_size=16)
    data.setup("test")
    return list(data.examples("test"))


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Other weights than the model's own, with a prior for pruning."""
    tower = load_tower(VlmSpec(NAME))
    assert tower.quantizer is not None
    random = torch.Generator().manual_seed(0)
    state = {n: p + 0.1 * p.std() * torch.randn(p.shape, generator=random) for n, p in tower.used_weights() if p.dim()}
    folder = tmp_path_factory.mktemp("encoder")
    prior = torch.arange(tower.quantizer.entries)
    write_encoder(folder, state, base=NAME, codebook_hash=tower.quantizer.hash(), method="craft", token_prior=prior)
    return folder


def made(arguments: str, **flags: Any) -> Any:
    """The model as lmms-eval makes it from ``--model_args`` and its other flags."""
    from lmms_eval.models import get_model

    return get_model("craft_lightning").create_from_arg_string(arguments, {"device": "cpu", **flags})


@pytest.fixture(scope="module")
def model(encoder: Path) -> Any:
    return made(f"backbone={NAME},encoder={encoder},keep=0.8", batch_size="1")


def requests(
    model: Any, items: Sequence[VqaExample], settings: Sequence[Any], visuals: Callable[[Any], Any] | None = None
) -> list[Any]:
    """A request an item, as tasks make them: prompt and generation settings."""
    from lmms_eval.api.instance import Instance

    model.task_dict["local"] = {"test": items}
    shown = visuals or (lambda document: [document.image])
    return [
        Instance(
            request_type="generate_until",
            arguments=(message(item), setting, shown, number, "local", "test"),
            idx=0,
            metadata={"task": "local", "doc_id": number, "repeats": 1},
        )
        for number, (item, setting) in enumerate(zip(items, settings, strict=True))
    ]


def test_the_command_gives_the_replies_and_the_score_of_test(
    encoder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Items, task and command are those of the page."""
    monkeypatch.chdir(tmp_path)
    exec(block("python"), {})
    Path("tasks").mkdir()
    Path("tasks/items.yaml").write_text(block("yaml"))
    program, *theirs = shlex.split(block("bash").replace("\\\n", "").replace("runs/mine/encoder", str(encoder)))
    assert program == "lmms-eval"
    offline = os.environ | {"HF_HOME": str(tmp_path / "hub"), "HF_HUB_OFFLINE": "1"}
    done = subprocess.run([sys.executable, "-m", "lmms_eval", *theirs], env=offline, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr

    ours = ["test", "--model=ZeroShot", f"--backbone={NAME}", f"--encoder={encoder}", "--data.dataset=eurosat"]
    ours += ["--data.test_size=16", "--config", str(ROOT / "experiments/callbacks/prune.yaml")]
    assert entry.main([*ours, "--prune.keep=0.8", "--prune.also=[]", "--trainer.default_root_dir=ours"]) == 0

    (samples,) = Path("runs/mine/lmms_eval").rglob("*samples_items.jsonl")
    found = [json.loads(line)["filtered_resps"][0] for line in samples.read_text().splitlines()]
    stored = [json.loads(line) for line in Path("ours/predictions.jsonl").read_text().splitlines()]
    assert found == [row["prediction"] for row in stored]
    (results,) = Path("runs/mine/lmms_eval").rglob("*results.json")
    score = json.loads(results.read_text())["results"]["items"]["exact_match,none"]
    assert score == json.loads(Path("ours/result.json").read_text())["metrics"]["test/exact_match"]
    assert 0 < score < 1


@pytest.mark.parametrize("batch_size", [1, 5])
def test_a_reply_is_what_a_model_says_when_asked(
    model: Any, encoder: Path, items: list[VqaExample], batch_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With every token kept, whatever the lengths and the batches."""
    monkeypatch.setattr(model, "keep", 1.0)
    monkeypatch.setattr(model, "batch_size", batch_size)
    lengths = [1, 1, 1, 3, 3, 5]
    asked = requests(model, items[:6], [{"max_new_tokens": length, "until": ["\n\n"]} for length in lengths])
    own = VisionLanguageModel.from_pretrained(NAME, encoder, device="cpu")
    assert model.generate_until(asked) == [
        own.ask(item.image, message(item), directive="", max_new_tokens=length).text
        for item, length in zip(items, lengths, strict=False)
    ]


def test_pruning_keeps_its_share(model: Any, items: list[VqaExample]) -> None:
    (one,) = requests(model, items[:1], [{}])
    read = model.read(model.batch([one]))
    assert read.tokens.shape[1] == round(0.8 * read.features.shape[1])


@pytest.mark.parametrize(
    ("visuals", "given"),
    [
        (lambda document: None, "nothing"),
        (lambda document: [document.image] * 2, "Image, Image"),
        (lambda document: ["film.mp4"], "str"),
    ],
)
def test_what_is_not_one_image_is_one_line(model: Any, items: list[VqaExample], visuals: Any, given: str) -> None:
    with pytest.raises(CraftError, match=f"^local, item 0: our models need exactly one image, not {given}$"):
        model.generate_until(requests(model, items[:1], [{}], visuals))


@pytest.mark.parametrize("settings", [{"do_sample": True, "temperature": 0.7}, {"num_beams": 3}])
def test_sampling_and_searching_are_refused(model: Any, items: list[VqaExample], settings: dict[str, Any]) -> None:
    with pytest.raises(CraftError, match="--gen_kwargs do_sample=False,num_beams=1"):
        model.generate_until(requests(model, items[:1], [settings]))


@pytest.mark.parametrize(
    ("kind", "line"),
    [("generate_until_multi_round", "a conversation of several rounds"), ("loglikelihood", "choices by likelihood")],
)
def test_other_kinds_of_tasks_are_refused(model: Any, items: list[VqaExample], kind: str, line: str) -> None:
    with pytest.raises(CraftError, match=f"^local: .*{line}"):
        getattr(model, kind)(requests(model, items[:1], [{}]))


@pytest.mark.parametrize(
    ("arguments", "flags", "line"),
    [
        (f"backbone={NAME},encodr=x", {}, "no model argument 'encodr'; did you mean 'encoder'?"),
        (f"backbone={NAME},dtype=float8", {}, "float8"),
        (f"backbone={NAME}", {"batch_size": "auto"}, "--batch_size auto: give a number"),
        ("backbone=pocket-qwen2-xl", {}, "did you mean 'pocket-qwen2-xs'?"),
    ],
)
def test_mistakes_are_one_line(arguments: str, flags: dict[str, Any], line: str) -> None:
    with pytest.raises(CraftError) as caught:
        made(arguments, **flags)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("until", "left"),
    [
        (["\n\n"], "red\nroof"),
        (["x", "roof"], "red\n"),
        ("d", "re"),
        (None, "red\nroof\n\nA"),
        ([""], "red\nroof\n\nA"),
    ],
)
def test_a_reply_ends_at_the_first_stop_text(until: Any, left: str) -> None:
    from craft_lightning.evaluation.lmms_eval import until_stop

    assert until_stop("red\nroof\n\nA", {"until": until}) == left
