"""The programs of ``benchmarks/``: what they count is right, and they run."""

from __future__ import annotations

import importlib.util
import json
import os
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import timing
from craft_lightning.checkpoints.load import load_vlm
from craft_lightning.io import write_json
from craft_lightning.models.vlm_spec import VlmSpec

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
    section = program("table4").prefill_section([found, paper])
    assert section.rows[0][1] == "10 items of ten twins, one at a time"
    assert section.rows[-1][4] == "0.840"
    assert section.paper == (False, False, True)


def test_trainings_take_turns_and_the_paper_stands_beside_them(monkeypatch: pytest.MonkeyPatch) -> None:
    bench = program("table4")
    own, small = ("CRAFT", bench.OWN), ("CRAFT", "pocket-qwen2-xs")
    monkeypatch.setattr(bench, "TRAININGS", {who: bench.TRAININGS[who] for who in (small, bench.LORA)})
    found = bench.trainings(2, 2, 2)
    assert [len(turn) for cost in found.values() for turn in cost.turns] == [2] * 4
    craft, lora = (found[who] for who in (small, bench.LORA))
    model = load_vlm(VlmSpec("pocket-qwen2-xs"))
    weights = sum(p.nbytes for p in model.parameters()) / 2**20
    tower = sum(p.nbytes for p in model.tower.parameters()) / 2**20
    assert craft.mib > weights + 2 * tower, "weights, the optimiser's two moments of what trains"
    assert lora.mib > sum(p.nbytes for p in load_vlm(VlmSpec("pocket-vila")).parameters()) / 2**20
    rows = bench.training_section(found).rows
    assert [row[:2] for row in rows] == [small[::-1], bench.LORA[::-1]]
    assert [row[4] for row in rows] == ["0.39", "1.00"], "10,678 and 27,725 of 27,725 MiB"
    assert [row[3] for row in rows] == [f"{craft.mib / lora.mib:.2f}", "1.00"]

    def costs(mib: float, *turns: float) -> Any:
        return bench.Cost(mib, [[seconds] for seconds in turns])

    prefill = bench.Measured("7B", (320.0, 269.0), (4.0, 3.0), (2.0, 1.5))
    whole = {small: costs(1, 1, 2), own: costs(2, 3, 4), bench.LORA: costs(3, 3, 3)}
    assert [v.word for v in bench.verdicts(whole, [prefill])] == ["holds", "holds"]
    whole[bench.LORA] = costs(3, 1.5, 3)
    slower = bench.Measured("7B", (320.0, 269.0), (4.0, 3.0), (2.0, 2.5))
    assert [v.word for v in bench.verdicts(whole, [slower])] == ["does not hold"] * 2
    assert "0.50 of the memory, 0.43 of the time" in bench.verdicts(whole, [slower])[0].detail


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
    assert 0.0 <= found[False].inside < found[False].seconds


def test_the_page_on_performance_holds_the_stored_results() -> None:
    bench = program("all")
    text = bench.PAGE.read_text(encoding="utf-8")
    results = json.loads(bench.RESULTS.read_text(encoding="utf-8"))
    assert bench.page(text, bench.block(results)) == text
    assert list(results) == list(bench.PROGRAMS)
    assert {row["goal"] for found in results.values() for row in found["rows"]} == {1, 2, 3, 5, 6, 7, 10}
    told = " ".join(row["figure"] for row in results["training_step"]["rows"])
    assert all(method in told for method in ("CRAFT", "Projector FT", "LLM-LoRA"))
    assert not any(found.get("quick") for found in results.values()), "a trial of small sizes is no result"


def test_questions_that_share_an_image_are_timed_beside_copies() -> None:
    """It ends in an error where replies or losses differ."""
    found = program("shared_images").rows(True)
    assert [row.least for row in found] == [3.0, 2.5]
    assert all(min(row.theirs, row.ours) > 0.0 for row in found)


def test_reading_by_processes_is_timed_beside_one() -> None:
    """It ends in an error where codes differ."""
    found = program("pixels").rows(True)
    assert [row.least for row in found] == [1.7] * 3
    assert all(min(row.theirs, row.ours) > 0.0 for row in found)


def test_trials_leave_results_alone_and_failures_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bench, results, page, named = program("all"), *(tmp_path / name for name in ("results.json", "page.md", "named"))
    found = {"where": "here", "seconds": 1.0, "rows": []}
    monkeypatch.setattr(bench, "RESULTS", results)
    monkeypatch.setattr(bench, "PAGE", page)
    monkeypatch.setattr(bench, "measure", lambda name, flags: None if name == "growth" else found)
    page.write_text("\n".join(bench.MARKS))
    assert bench.main(["--only", "startup", "--quick"]) == 0
    assert bench.main(["--quick", "--output", str(named)]) == 1
    assert not results.exists()
    assert page.read_text() == "\n".join(bench.MARKS)
    assert list(json.loads(named.read_text())) == [
        "quantizer",
        "training_step",
        "evaluation",
        "startup",
        "shared_images",
        "small_weights",
    ]
    assert bench.main([]) == 1
    assert "Without a result: growth." in page.read_text()
    monkeypatch.setattr(bench, "measure", lambda name, flags: found)
    assert bench.main(["--only", "growth"]) == 0
    assert list(json.loads(results.read_text())) == list(bench.PROGRAMS)
    assert "Without a result" not in page.read_text()


def test_a_row_says_whether_its_goal_is_met() -> None:
    row = timing.Row(1, "Search", "cdist", 4.0, 2.0, "ms", most=0.5)
    assert (row.ratio, row.met) == (0.5, True)
    assert replace(row, most=0.4).met is False
    assert replace(row, most=None, least=2.0).line() == "| 1 | Search | cdist | 4 ms | 2 ms | 2.00 | ≥ 2 | yes |"
    assert replace(row, most=None).met is None


def test_memory_counts_what_is_held_at_a_time() -> None:
    with timing.memory() as peak:
        first = torch.zeros(3000)
        kept = first.clone()
        del first
    assert (peak.bytes, peak.kept) == (24000, kept.nbytes)


def test_runs_take_turns() -> None:
    told: list[str] = []
    timing.alternate([lambda: told.append("a"), lambda: told.append("b")], rounds=2, warm_up=1)
    assert "".join(told) == "abbaab"


def test_the_quantiser_is_compared_with_peers_that_agree() -> None:
    bench = program("quantizer")
    found = bench.measured(bench.Shape("small", 40, 32, 512), 1, None)
    assert [row.against for row in found[1:3]] == ["vector-quantize-pytorch", "cdist + argmin"]
    rows, quantizer = bench.made(bench.Shape("small", 40, 32, 512))
    codes = quantizer.encode(rows).codes
    assert bench.agreement(rows, quantizer, codes) == 1.0
    codes[3, 1] = (codes[3, 1] + 1) % 512
    with pytest.raises(AssertionError, match="level 1"):
        bench.agreement(rows, quantizer, codes)


def test_both_loops_of_a_training_end_in_the_same_weights(checkpoints: Path) -> None:
    found = program("training_step").measured("small", str(checkpoints / "host"), 4, 4)
    assert [row.unit for row in found] == ["ms", "ms", "ms", "MiB", "MiB"]
    assert found[2].theirs > 0, "a step has products"
    assert found[4].ours < found[4].theirs, "training the whole model needs more"


def test_replies_are_those_of_transformers(checkpoints: Path) -> None:
    *_, differ = program("evaluation").measured(str(checkpoints / "host"), "eurosat", 4, 4, (1.0, 0.8), 1)
    assert (differ.ours, differ.theirs) == (0, 8)


def test_growth_is_the_slope_of_logarithms() -> None:
    bench = program("growth")
    assert bench.slope([1, 2, 4], [3, 12, 48]) == pytest.approx(2.0)
    grown = bench.of_language("tokens", [(32, 8, 1), (32, 16, 1)], 1)
    assert 1.0 < grown.slopes[0] < 1.1


def test_where_the_time_of_a_table_went(tmp_path: Path) -> None:
    for number in range(2):
        folder = tmp_path / f"node{number}"
        spent = {"training": 2.0, "evaluation": 1.0, "processor": 3.5}
        write_json(folder / "started.json", {"key": "k"})
        write_json(folder / "job.json", {"seconds": 4.0, "spent": spent})
        os.utime(folder / "started.json", (100.0, 100.0 + 4 * number))
        os.utime(folder / "job.json", (100.0, 104.0 + 4 * number))
    found = program("table").spent(tmp_path, workers=1)
    assert (found.clock, found.inside, found.outside) == (8.0, 8.0, pytest.approx(0.25))
    assert "| **outside of training and evaluation** (goal: below 10 %) | | **25.0%** |" in found.report()
