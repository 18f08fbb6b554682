"""``import craft_lightning``: what a notebook has, and that it is the same as what the command line does."""

from __future__ import annotations

import ast
import json
import os
import pydoc
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import lightning
import numpy as np
import pytest
import torch
from huggingface_hub import ModelCard
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

import craft_lightning as cl
from craft_lightning import __main__ as entry
from craft_lightning.benchmark import scheduler
from craft_lightning.benchmark.estimate import TableProgress
from craft_lightning.benchmark.plan import Plan
from craft_lightning.checkpoints import encoder as encoders
from craft_lightning.checkpoints.load import load_vlm
from craft_lightning.cli.run import build_cli

ROOT = Path(__file__).resolve().parent.parent
SMOKE = str(ROOT / "experiments" / "smoke.yaml")
DATA = {"batch_size": 8, "train_size": 32, "val_size": 8, "test_size": 8}


def test_importing_it_loads_no_torch() -> None:
    code = "import sys, craft_lightning as c\nassert 'Craft' in dir(c)\nprint('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True).stdout == "False\n"


def test_static_checkers_see_the_same_names() -> None:
    tree = ast.parse((ROOT / "craft_lightning" / "__init__.pyi").read_text())
    told = {a.asname: n.module for n in tree.body if isinstance(n, ast.ImportFrom) for a in n.names}
    assert {"Craft", "VlmSpec", "VqaDataModule", "compare", "run_table"} <= told.keys()
    assert all(getattr(cl, name) is getattr(import_module(str(place)), str(name)) for name, place in told.items())
    assert all(callable(getattr(cl, str(name))) for name in told)
    with pytest.raises(AttributeError, match="no attribute 'Crafts'"):
        cl.Crafts  # noqa: B018


def test_help_is_a_page_that_names_everything() -> None:
    page = pydoc.render_doc(cl, renderer=pydoc.plaintext)
    assert all(name in page for name in cl._PLACES)
    assert page.count("\n") < 120


def test_the_script_of_the_readme(tmp_path: Path) -> None:
    (script,) = re.findall(r"## From Python\n.*?```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert len(script.splitlines()) <= 25
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-W", "ignore", "-c", script]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    compared, reply, shape = done.stdout.splitlines()[-3:]
    assert re.search(
        r"^\d+\.\d\d% -> .* of 32 items, .* points .*; \d+ gained, \d+ lost \(McNemar p .+\): [a-z ]+$", compared
    )
    assert re.fullmatch(r"[A-H]  .+", reply)
    assert shape == "torch.Size([1, 64, 4])"
    left = {path.name for path in (tmp_path / "runs" / "python").iterdir()}
    assert {"encoder", "result.json", "predictions.jsonl", "items.jsonl", "before", "after"} <= left


# -- a plain Trainer --------------------------------------------------------------------------------------------------


def train(checkpoint: Path, folder: Path, **more: Any) -> tuple[lightning.Trainer, cl.Craft, cl.VqaDataModule]:
    """What ``fit --config experiments/smoke.yaml`` does, in a notebook's words."""
    lightning.seed_everything(0)
    spec = cl.VlmSpec(str(checkpoint))
    steps = {"max_steps": 4, "val_check_interval": 4, "check_val_every_n_epoch": None, "num_sanity_val_steps": 0}
    quiet = {"enable_progress_bar": False, "enable_model_summary": False, "log_every_n_steps": 1, "logger": False}
    trainer = lightning.Trainer(default_root_dir=folder, accelerator="cpu", devices=1, **steps, **quiet, **more)
    model, data = cl.Craft(backbone=spec), cl.VqaDataModule(spec, "eurosat", **DATA)
    trainer.fit(model, data)
    return trainer, model, data


@pytest.fixture(scope="module")
def runs(checkpoints: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The same training twice: ``cli`` by the command line, ``python`` by a plain Trainer, tested in its folder."""
    root = tmp_path_factory.mktemp("runs")
    settings = [f"--data.{name}={value}" for name, value in DATA.items()]
    where = [f"--model.backbone.name={checkpoints / 'small'}", f"--trainer.default_root_dir={root / 'cli'}"]
    build_cli(["fit", "--config", SMOKE, *where, *settings, "--trainer.enable_progress_bar=false"])
    trainer, model, data = train(checkpoints / "small", root / "python")
    trainer.test(model, data, verbose=False)
    return {"root": root, "trainer": trainer, "model": model, "data": data}


def result(folder: Path, name: str = "result.json") -> Any:
    return json.loads((folder / name).read_text())


def test_it_leaves_what_the_command_line_leaves(runs: Any) -> None:
    one, other = runs["root"] / "cli", runs["root"] / "python"
    for name in ("encoder.safetensors", "token_prior.safetensors", "config.json", "README.md"):
        assert (one / "encoder" / name).read_bytes() == (other / "encoder" / name).read_bytes(), name
    for name in ("predictions.jsonl", "items.jsonl"):
        assert (one / name).read_bytes() == (other / name).read_bytes(), name
    mine, theirs = result(other), result(one)
    same = ("verb", "method", "settings", "seed", "metrics", "rows", "steps", "trained", "codebook_hash", "data")
    assert {k: mine[k] for k in same} == {k: theirs[k] for k in same}
    assert mine.keys() == theirs.keys()
    assert mine["config_hash"] is None, "there is no config"
    assert mine["metrics"]["train/loss"] > 0


def test_a_test_in_the_same_folder_leaves_the_training_alone(runs: Any) -> None:
    folder = runs["root"] / "python"
    assert result(folder)["verb"] == "fit"
    assert result(folder, "result.test.json")["verb"] == "test"
    assert len((folder / "predictions.test.jsonl").read_text().splitlines()) == DATA["test_size"]


def test_no_run_writes_over_another(runs: Any, checkpoints: Path) -> None:
    before = (runs["root"] / "python" / "result.json").read_bytes()
    with pytest.raises(cl.CraftError, match=r"holds a run \(result\.json\); give the Trainer another"):
        train(checkpoints / "small", runs["root"] / "python")
    another = lightning.Trainer(default_root_dir=runs["root"] / "python", accelerator="cpu", logger=False)
    with pytest.raises(cl.CraftError, match=r"holds an evaluation \(result\.test\.json\); give the Trainer another"):
        another.test(runs["model"], runs["data"], verbose=False)
    assert (runs["root"] / "python" / "result.json").read_bytes() == before


def test_a_trainer_may_test_fit_and_test_again(checkpoints: Path, tmp_path: Path) -> None:
    trainer, model, data = train(checkpoints / "small", tmp_path)
    first = [trainer.test(model, data, verbose=False) for _ in range(2)]
    assert first[0] == first[1]
    trainer.fit_loop.epoch_loop.max_steps = 6
    trainer.fit(model, data)
    assert result(tmp_path)["steps"] == 6


def test_every_callback_is_there_once(runs: Any) -> None:
    kinds = [type(callback).__name__ for callback in runs["trainer"].callbacks]
    assert {"RunBanner", "LastValidation", "CodesChanged", "EncoderExport", "ResultWriter", "HparamsTab"} <= {*kinds}
    assert len(kinds) == len(set(kinds))


def test_a_rehearsal_leaves_nothing(checkpoints: Path, tmp_path: Path) -> None:
    train(checkpoints / "small", tmp_path / "run", fast_dev_run=True)
    assert not (tmp_path / "run").exists()


# -- a model ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def photo(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (40, 50, 3), dtype=np.uint8)).save(path)
    return path


def test_ask_replies_as_test_does(runs: Any, checkpoints: Path) -> None:
    """Prompt, reader and decoding: the texts are those that the stored test holds, item by item."""
    model = cl.VisionLanguageModel.from_pretrained(checkpoints / "small", runs["root"] / "python" / "encoder")
    stored = [json.loads(x) for x in (runs["root"] / "python" / "predictions.test.jsonl").read_text().splitlines()]
    items = runs["data"].examples("test")
    replies = [model.ask(item.image, item.question, item.options) for item in items]
    assert [r.text for r in replies] == [row["prediction"] for row in stored]
    assert str(replies[0]) == replies[0].text  # it names no option
    answers = [item.options["ABCDEFGH".index(item.answer)] for item in items]
    likely = [reply.likeliest == answer for reply, answer in zip(replies, answers, strict=True)]
    assert likely == [row["letter_correct"] for row in stored]
    fresh = cl.VisionLanguageModel(runs["model"].vlm)  # what the Trainer has just trained is the same model
    assert [fresh.ask(item.image, item.question, item.options) for item in items] == replies


def test_a_reply_names_its_option_by_the_rule_of_exact_match(checkpoints: Path, photo: Path, monkeypatch: Any) -> None:
    model = cl.VisionLanguageModel.from_pretrained(checkpoints / "host")
    logits = torch.zeros(1, model.vlm.language_model.config.vocab_size)
    logits[0, model.vlm.letter_ids()["A"]] = 1.0
    for text, option in ((" b ", "river"), ("B.", None), ("C", None)):
        monkeypatch.setattr(model.vlm, "reply", lambda *_, text=text: ([text], logits))
        reply = model.ask(photo, "Which?", ["forest", "river"])
        assert reply == cl.Reply(text, option, "forest")
        assert str(reply) == ("b  river" if option else text)
    assert model.ask(photo, "Which?") == cl.Reply("C")


def test_ask_replies_as_the_verb_does(checkpoints: Path, photo: Path, capsys: Any) -> None:
    argv = ["predict", "--checkpoint", str(checkpoints / "host"), "--image", str(photo), "--question", "What is it?"]
    assert entry.main([*argv, "--max_new_tokens=3"]) == 0
    said = capsys.readouterr().out.removesuffix("\n")
    model = cl.VisionLanguageModel.from_pretrained(checkpoints / "host")
    assert model.ask(str(photo), "What is it?", max_new_tokens=3).text == said
    assert model.ask(Image.open(photo), "What is it?", max_new_tokens=3).text == said


@pytest.mark.parametrize(
    ("asked", "told"),
    [
        ({"image": "gone.png", "question": "x"}, "no image gone.png"),
        ({"question": " "}, "a question needs a text"),
        ({"question": "x", "options": ["one"]}, "at least two choices"),
        ({"question": "x", "options": "one"}, "at least two choices"),
        ({"question": "x", "options": ["a", "b", "a"]}, "option 'a' is given more than once"),
        ({"question": "x", "image": np.zeros((4, 4, 3), np.uint8)}, "not ndarray; PIL.Image.fromarray makes one"),
        ({"question": "x", "options": list("abcdefghi")}, "9 options, but there are only the letters"),
    ],
)
def test_mistakes_are_one_line(asked: dict[str, Any], told: str, checkpoints: Path, photo: Path) -> None:
    model = cl.VisionLanguageModel.from_pretrained(checkpoints / "host")
    with pytest.raises(cl.CraftError, match=told):
        model.ask(**{"image": photo, **asked})


@pytest.mark.parametrize(
    ("given", "told"), [([], "no images given"), (np.zeros((4, 4, 3), np.uint8), "not ndarray"), (None, "not NoneType")]
)
def test_only_images_are_tokenized(given: Any, told: str, checkpoints: Path) -> None:
    with pytest.raises(cl.CraftError, match=told):
        cl.VisualTokenizer.from_pretrained(checkpoints / "host").tokenize(given)


def test_a_backbone_may_be_a_name(checkpoints: Path) -> None:
    name = str(checkpoints / "host")
    data: Any = cl.VqaDataModule(name)
    model = cl.Craft(backbone=name)
    assert model.backbone == model.hparams["backbone"] == data.backbone == data.hparams["backbone"] == cl.VlmSpec(name)
    with pytest.raises(cl.CraftError, match="a backbone is a VlmSpec or a name, not int"):
        cl.Craft(backbone=3)


def test_the_seed_of_the_data_is_lightnings(checkpoints: Path, monkeypatch: Any) -> None:
    monkeypatch.delenv("PL_GLOBAL_SEED", raising=False)
    assert cl.VqaDataModule().seed == 0
    lightning.seed_everything(1)
    spec = cl.VlmSpec(str(checkpoints / "host"))
    found, asked, other = (cl.VqaDataModule(spec, **DATA, **more) for more in ({}, {"seed": 1}, {"seed": 0}))
    assert found.seed == found.hparams["seed"] == 1
    orders = []
    for data in (found, asked, other):
        data.setup("fit")
        orders.append([key for batch in data.train_dataloader() for key in batch.keys])
    assert orders[0] == orders[1] != orders[2]


def test_tokens_are_those_of_the_verb(runs: Any, checkpoints: Path, photo: Path, tmp_path: Path) -> None:
    encoder, out = runs["root"] / "python" / "encoder", tmp_path / "t.safetensors"
    argv = ["--checkpoint", checkpoints / "host", "--encoder", encoder, "--input", photo, "--output", out, "--keep=0.5"]
    assert entry.main(["tokenize", *map(str, argv)]) == 0
    tokenizer = cl.VisualTokenizer.from_pretrained(checkpoints / "host", encoder)
    found, stored = tokenizer.tokenize([photo, Image.open(photo)], keep=0.5, batch_size=1), load_file(out)
    assert found.keys() == stored.keys() == {"codes", "features", "quantized", "kept"}
    assert all(torch.equal(found[name][i : i + 1], stored[name]) for name in found for i in range(2))
    tower = tokenizer.tower
    levels, width = tower.quantizer.levels, tower.width
    assert found["codes"].shape == (2, tower.num_tokens, levels)
    assert found["features"].shape == found["quantized"].shape == (2, tower.num_tokens, width)
    words = tower.quantizer.decode(found["codes"].long())
    assert torch.allclose(words, found["quantized"], atol=1e-5)  # gradients pass straight through, which rounds
    whole = cl.VisionLanguageModel.from_pretrained(checkpoints / "host", encoder, attention="eager")
    assert torch.equal(whole.tokenize(photo.parent)["codes"], stored["codes"])


def test_a_continuous_model_has_no_tokens(checkpoints: Path, photo: Path) -> None:
    with pytest.raises(cl.CraftError, match="continuous"):
        cl.VisualTokenizer.from_pretrained(checkpoints / "continuous")
    with pytest.raises(cl.CraftError, match="continuous"):
        cl.VisionLanguageModel.from_pretrained(checkpoints / "continuous").tokenize(photo)


# -- an adapted encoder -----------------------------------------------------------------------------------------------


def test_a_saved_encoder_is_the_same_encoder(runs: Any, tmp_path: Path) -> None:
    folder = runs["root"] / "python" / "encoder"
    cl.AdaptedEncoder.from_pretrained(folder).save_pretrained(tmp_path / "copy")
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert {path.name: path.read_bytes() for path in (tmp_path / "copy").iterdir()} == files
    assert files.keys() == {"encoder.safetensors", "token_prior.safetensors", "config.json", "README.md"}
    with safe_open(folder / "encoder.safetensors", "pt") as file:
        assert file.metadata() == {"format": "pt"}


def test_the_card_says_what_the_run_was(runs: Any, checkpoints: Path) -> None:
    folder = runs["root"] / "python" / "encoder"
    card, facts = ModelCard.load(folder / "README.md"), result(folder, "config.json")
    assert card.data.library_name == "craft_lightning"
    assert card.data.pipeline_tag == "image-text-to-text"
    assert "arxiv:2602.19449" in card.data.tags
    (score,) = card.data.eval_results
    assert (score.dataset_type, score.dataset_name) == ("craft-drawn-eurosat", "EuroSAT, drawn")
    assert score.dataset_args == {"items": 8}
    found = result(runs["root"] / "python")["metrics"]["val/accuracy"]
    assert (score.metric_type, score.metric_value, score.dataset_split) == (
        "exact_match",
        round(found, 4),
        "validation",
    )
    for said in (
        facts["codebook_hash"],
        "craft",
        "| data | drawn EuroSAT from twin (32 train, 8 val",
        "on drawn EuroSAT",
        "| val/accuracy (at the last step, 8 items) |",
        f"| library | craft_lightning {cl.__version__} |",
        "predict --backbone ANOTHER_MODEL_OF_THIS_CODEBOOK",
        "| steps | 4 |",
        "| seed | 0 |",
    ):
        assert said in card.text
    assert str(checkpoints / "small") in card.text


@pytest.mark.parametrize(
    ("base", "named", "host"),
    [
        ("vila-u-7b-256", "mit-han-lab/vila-u-7b-256", "ANOTHER_MODEL_OF_THIS_CODEBOOK"),
        ("pocket-vila-u", None, "pocket-qwen2-xs"),
        ("pocket-qwen2-xs", None, "pocket-vila-u"),
        ("qwen2-0.5b", None, "vila-u-7b-256"),
    ],
)
def test_the_card_links_a_base_that_the_hub_has(base: str, named: str | None, host: str, tmp_path: Path) -> None:
    state = {"weight": torch.zeros(1)}
    run = {"dataset": "eurosat", "title": "EuroSAT", "source": "hub"}
    encoders.write_encoder(tmp_path / "r", state, base=base, codebook_hash="0" * 64, method="craft", run=run)
    assert "on EuroSAT\n" in ModelCard.load(tmp_path / "r" / "README.md").text
    encoders.write_encoder(tmp_path / "e", state, base=base, codebook_hash="0" * 64, method="craft")
    card = ModelCard.load(tmp_path / "e" / "README.md")
    assert card.data.base_model == named
    assert card.data.eval_results is None
    assert f"predict --backbone {host} " in card.text
    assert card.data.license == ("apache-2.0" if base.startswith("pocket") else "other")


def test_an_encoder_is_pushed_when_asked_and_read_from_the_hub(runs: Any, monkeypatch: Any, tmp_path: Path) -> None:
    pushed: dict[str, Any] = {}

    class Hub:
        def __init__(self, token: str | None = None) -> None: ...

        def create_repo(self, repo_id: str, **more: Any) -> Any:
            return type("Repository", (), {"repo_id": repo_id})

        def upload_folder(self, repo_id: str, folder_path: Path, **more: Any) -> str:
            pushed[repo_id] = {path.name: path.read_bytes() for path in Path(folder_path).iterdir()}
            return "url"

    monkeypatch.setattr("huggingface_hub.hub_mixin.HfApi", Hub)
    folder = runs["root"] / "python" / "encoder"
    encoder = cl.AdaptedEncoder.from_pretrained(folder)
    encoder.save_pretrained(tmp_path / "kept")
    assert not pushed
    encoder.push_to_hub("me/mine")
    assert pushed == {"me/mine": {path.name: path.read_bytes() for path in folder.iterdir()}}
    asked: dict[str, Any] = {}

    def fetched(name: str, **more: Any) -> str:
        asked.update(name=name, **more)
        return str(folder)

    monkeypatch.setattr(encoders, "snapshot_download", fetched)
    found: dict[str, Tensor] = cl.AdaptedEncoder.from_pretrained("me/mine", revision="v1").state
    assert all(torch.equal(value, encoder.state[name]) for name, value in found.items())
    assert asked == {"name": "me/mine", "revision": "v1", "allow_patterns": ["*.safetensors", "config.json"]}


def test_no_encoder_is_one_line(tmp_path: Path, monkeypatch: Any) -> None:
    def offline(name: str, **more: Any) -> str:
        raise OSError("no network\nand more")

    monkeypatch.setattr(encoders, "snapshot_download", offline)
    with pytest.raises(
        cl.CraftError, match=r"^no adapted encoder me/mine: no folder here, and from the hub: no network$"
    ):
        cl.AdaptedEncoder.from_pretrained("me/mine")
    for name, told in (("nope", "in nope: no such folder"), (tmp_path, "did you mean .*encoder.$")):
        (tmp_path / "encoder").mkdir(exist_ok=True)
        (tmp_path / "encoder" / "encoder.safetensors").touch()
        with pytest.raises(cl.CraftError, match=told):
            cl.AdaptedEncoder.from_pretrained(name)


def test_every_way_to_name_an_encoder_takes_a_hub_id(runs: Any, checkpoints: Path, monkeypatch: Any) -> None:
    folder = runs["root"] / "python" / "encoder"
    monkeypatch.setattr(encoders, "snapshot_download", lambda name, **_: {"me/mine": str(folder)}[name])
    state = load_file(folder / "encoder.safetensors")
    spec = cl.VlmSpec(str(checkpoints / "host"), encoder="me/mine")
    whole = cl.VisionLanguageModel.from_pretrained(spec.name, "me/mine").vlm.tower
    for tower in (load_vlm(spec).tower, whole, cl.VisualTokenizer.from_pretrained(spec.name, "me/mine").tower):
        assert all(torch.equal(p.cpu(), state[name]) for name, p in tower.used_parameters())


# -- results ----------------------------------------------------------------------------------------------------------


def test_a_table_is_a_frame(tmp_path: Path, monkeypatch: Any) -> None:
    ran: list[str] = []

    def run_plan(plan: Plan, workers: int, view: Any) -> TableProgress:
        ran.extend(job.name for job in plan.jobs)
        return TableProgress(total=len(plan.jobs), workers=workers)

    monkeypatch.setattr(scheduler, "run_plan", run_plan)
    frame = cl.run_table("table1", only="zero_shot", limit=1, jobs=1, runs=tmp_path)
    assert ran
    assert all("zero_shot" in name for name in ran)
    assert {"row", "surrogate", "backbone", "column", "mean", "std", "gain"} <= {*frame.columns}
    assert frame["mean"].isna().all()
    monkeypatch.setattr(scheduler, "run_plan", lambda *_: TableProgress(total=1, workers=1, failed={"x": "no"}))
    with pytest.raises(cl.CraftError, match="1 jobs failed: python -m craft_lightning table status table1"):
        cl.run_table("table1", limit=1, runs=tmp_path)
