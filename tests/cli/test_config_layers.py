"""What stands on the command line and in its files: linked settings, second classes, values of the wrong type."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from craft_lightning.cli.config_layers import named_settings, read_layers, with_classes
from craft_lightning.cli.run import build_cli
from craft_lightning.errors import CraftError

ROOT = Path(__file__).resolve().parents[2]
SMOKE = str(ROOT / "experiments" / "smoke.yaml")


def parse(*argv: str) -> Any:
    return build_cli(["fit", "--config", SMOKE, *argv], run=False).config["fit"]


def refused(*argv: str) -> str:
    with pytest.raises(CraftError) as caught:
        parse(*argv)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def fragment(folder: Path, text: str, name: str = "f.yaml") -> str:
    path = folder / name
    path.write_text(text, encoding="utf-8")
    return str(path)


@pytest.mark.parametrize(
    ("text", "target", "source"),
    [
        ("data: {seed: 3}", "data.seed 3", "seed_everything, which is 0"),
        ("data: {backbone: {name: pocket-vila}}", "'pocket-vila'", "model.backbone.name, which is 'pocket-qwen2-xs'"),
        ("prune: {rule: {seed: 3}}", "prune.rule.seed 3", "seed_everything, which is 0"),
    ],
)
def test_a_value_that_a_link_would_overwrite_is_refused(text: str, target: str, source: str, tmp_path: Path) -> None:
    line = refused("--config", fragment(tmp_path, text))
    assert line.startswith(f"{tmp_path / 'f.yaml'} says ")
    assert f"{target}, but that follows {source}: set {source.split(',')[0]} instead" in line


@pytest.mark.parametrize("flags", [("--model", "ldifs"), ("--model=ldifs",), ("--model.class_path=ldifs",)])
def test_a_method_s_name_is_its_class(flags: tuple[str, ...]) -> None:
    base = str(ROOT / "experiments" / "base.yaml")
    config = build_cli(["fit", *flags, "--config", base, "--data.dataset=kvasir"], run=False).config["fit"]
    assert config.model.class_path == "craft_lightning.methods.ldifs.Ldifs"
    assert with_classes(["--model=nothing", "--data.dataset", "craft"]) == [
        "--model=nothing",
        "--data.dataset",
        "craft",
    ]


def test_flags_that_hold_a_part_are_read_too(tmp_path: Path) -> None:
    assert refused("--data={seed: 3}").startswith("--data says data.seed 3")
    assert refused("--data", fragment(tmp_path, "seed: 3")).startswith("--data says data.seed 3")


def test_the_same_value_twice_is_no_mistake(tmp_path: Path) -> None:
    told = ["--config", fragment(tmp_path, "data: {seed: 3, backbone: {dtype: float32}}")]
    assert parse(*told, "--seed_everything=3").data.seed == 3
    assert parse("--config", fragment(tmp_path, "data:\n  seed: ${seed_everything}")).data.seed == 0
    later = fragment(tmp_path, "data: {seed: 0}", "later.yaml")
    assert parse(*told, "--config", later).data.seed == 0


@pytest.mark.parametrize(
    "flags",
    [
        ("--model=ZeroShot",),
        ("--model", "ZeroShot"),
        ("--model.class_path", "craft_lightning.methods.zero_shot.ZeroShot"),
        ("--model={class_path: ZeroShot}",),
        ("--model", "FILE"),
    ],
)
def test_a_flag_cannot_change_the_class_of_a_file(flags: tuple[str, ...], tmp_path: Path) -> None:
    file = fragment(tmp_path, "class_path: ZeroShot")
    line = refused(*(flag.replace("FILE", file) for flag in flags))
    assert line.startswith(flags[0].partition("=")[0] + " names model ")
    assert f"but {SMOKE} names Craft, whose settings it would inherit" in line


def test_the_same_class_twice_is_no_mistake() -> None:
    assert parse("--model=Craft", "--model.optim.lr=0.5").model.init_args.optim.lr == 0.5


def test_settings_are_named_wherever_they_stand(tmp_path: Path) -> None:
    file = fragment(tmp_path, "model: {class_path: Craft, init_args: {lambda_sal: 2}}")
    flags = ["--trainer.precision", "32", "--overwrite=true", "--trainer.default_root_dir=2025-99-99", "--data.root={"]
    layers = read_layers(["fit", "--data={batch_size: 3}", "-c", file, *flags])
    assert named_settings(layers) == {
        *("data.batch_size", "data.root", "model.class_path", "model.lambda_sal", "overwrite"),
        *("trainer.precision", "trainer.default_root_dir"),
    }


@pytest.mark.parametrize("flags", [("--model.optim.clip=null",), ("--model.optim.clip", "null")])
def test_null_is_a_value_of_a_part_of_a_part(flags: tuple[str, ...]) -> None:
    assert parse().model.init_args.optim.clip == 1.0
    assert parse(*flags).model.init_args.optim.clip is None


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("model.optim.clip", "a number or null"),
        ("model.optim.lr", "a number"),
        ("model.optim.betas", "a list"),
        ("model.lambda_contrastive", "a number or null"),
        ("model.backbone.gradient_checkpointing", "true or false"),
        ("data.train_size", "a whole number or null"),
        ("data.look", "one of 'field', 'studio', 'grey'"),
        ("data.distractors", "one of 'nearest', 'random' or null"),
        ("prune.keep", "a number or null"),
        ("trainer.max_epochs", "a whole number or null"),
        ("seed_everything", "a whole number"),
    ],
)
def test_a_wrong_value_is_told_with_its_setting_and_what_fits(name: str, expected: str, tmp_path: Path) -> None:
    line = f"{name}: expected {expected}, got 'much'"
    assert refused(f"--{name}=much") == line
    if name.startswith("model.optim"):
        setting = name.rpartition(".")[2]
        text = f"model: {{init_args: {{optim: {{{setting}: much}}}}}}"
        assert refused("--config", fragment(tmp_path, text)) == line


def test_a_wrong_mapping_is_told_as_it_stands(tmp_path: Path) -> None:
    told = refused("--config", fragment(tmp_path, "data: {root: {a: b}}"))
    assert told == """data.root: expected text or null, got "{'a': 'b'}\""""
