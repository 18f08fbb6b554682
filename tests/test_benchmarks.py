"""The programs of ``benchmarks/``: what they count is right, and they run."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from craft_lightning.models.loading import load_vlm
from craft_lightning.models.spec import VlmSpec

ROOT = Path(__file__).resolve().parent.parent


def program(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"benchmark_{name}", ROOT / "benchmarks" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("backbone", ["host", "small"])
def test_the_flops_are_those_of_every_matrix(checkpoints: Path, backbone: str) -> None:
    bench = program("pruning")
    model = load_vlm(VlmSpec(str(checkpoints / backbone))).language_model
    shape = bench.shape_of(model.config)
    matrices = {name: p.numel() for name, p in model.named_parameters() if p.ndim == 2 and "embed_tokens" not in name}
    assert shape.parameters == sum(matrices.values())
    assert shape.prefill_flops(10) == 20 * shape.parameters + 400 * model.config.num_hidden_layers * shape.width
    assert bench.LLAMA_2_7B.parameters == 6_607_077_376  # 6,738,415,616 without the input embedding and the norms


def test_pruning_is_measured_on_both_models(checkpoints: Path) -> None:
    bench = program("pruning")
    tiny = bench.Shape(layers=8, width=64, mlp=128, heads=4, kv_heads=4, vocabulary=512)
    paper: Any = bench.paper_shape(tiny, layers=1, text=8, rounds=1, warm_up=0)
    assert paper.positions == (256 + 8, 205 + 8)
    assert paper.flops[1] < paper.flops[0]
    assert len(paper.seconds) == 2, "how long they are is a matter of the machine"
    found: Any = bench.pocket(str(checkpoints / "host"), items=1, batch_size=1, rounds=1, warm_up=0)
    assert found.positions[0] - found.positions[1] == 3  # 13 of 16 tokens
    text = bench.report([found.row(), paper.row()], 1.0)
    assert "10 items of ten twins, one at a time" in text
    assert "0.840" in text


def test_the_page_on_strategies_holds_what_the_program_prints() -> None:
    page = (ROOT / "docs" / "strategies.md").read_text(encoding="utf-8")
    for name, block in program("strategies").report().items():
        assert f"<!-- {name}:begin -->\n{block}\n<!-- {name}:end -->" in page


def test_the_page_on_scale_holds_what_the_program_prints() -> None:
    page = (ROOT / "docs" / "scale.md").read_text(encoding="utf-8")
    for name, block in program("scale").report().items():
        assert f"<!-- {name}:begin -->\n{block}\n<!-- {name}:end -->" in page


def test_the_cost_of_watching_is_measured_on_a_fit(checkpoints: Path, tmp_path: Path) -> None:
    few = [f"--model.backbone.name={checkpoints / 'host'}", "--data.train_size=24", "--data.eval_batch_size=4"]
    found = {watched: program("ste_check").fit(tmp_path, 2, watched, *few) for watched in (False, True)}
    assert 0.0 < found[True].inside < found[True].seconds
    assert found[False].inside < 0.2 * found[True].inside
