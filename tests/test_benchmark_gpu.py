"""``benchmarks/gpu.py``, rehearsed on the CPU: what it writes, and that it keeps to its time."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

import gpu
import in_time
from craft_lightning.errors import CraftError
from timing import Row

SHORT = {name: share for name, (share, _) in gpu.PARTS.items() if name != "sharded"}
"""What shares a process with the tests: a process group is left to one of its own."""


@pytest.fixture(autouse=True)
def usual_kernels() -> Iterator[None]:
    """Training on from a checkpoint asks for deterministic ones, for the whole process."""
    yield
    torch.use_deterministic_algorithms(False)


def test_a_rehearsal_measures_every_part(tmp_path: Path) -> None:
    place, output = gpu.Place("cpu", tmp_path, quick=True), tmp_path / "gpu.json"

    def here(name: str, limit: float) -> Any:
        in_time.run(gpu.PARTS[name][1](place), tmp_path / f"{name}.json")
        return json.loads((tmp_path / f"{name}.json").read_text())

    text = in_time.measure(SHORT, gpu.BUDGET, here, gpu.ABSENT, output)
    found = json.loads(output.read_text())
    assert list(found["parts"]) == list(SHORT)
    assert found["parts"]["step"]["left_out"].startswith("memory:")
    assert [name for name, part in found["parts"].items() if part["left_out"]] == ["step"]
    assert "- VILA-U-7B in 4 bits: " in text
    rows = {row["figure"]: Row(**row) for part in found["parts"].values() for row in part["rows"]}
    assert len(text.splitlines()) > len(rows) > 15
    exact = [row for figure, row in rows.items() if row.most is not None and row.most < 1]
    assert len(exact) == 7, "codes of two towers twice, losses and replies, and the weights of a training that went on"
    assert all(row.ours == 0 < row.theirs for row in exact), "both devices are this one"
    beside = {row["against"] for row in found["parts"]["step"]["rows"]}
    assert {"bare loop", "our step", "tower, quantiser, language model"} < beside
    (bits,) = (row for figure, row in rows.items() if figure.endswith("differ in a bit"))
    assert (bits.ours, bits.theirs) == (0, 23_809)
    (arithmetic,) = (row for figure, row in rows.items() if figure.endswith("arithmetic"))
    assert arithmetic.ours < arithmetic.theirs


def test_a_part_is_a_process_that_ends_in_time(tmp_path: Path) -> None:
    command = [gpu.sys.executable, gpu.__file__, "--device", "cpu", "--quick", "--folder", str(tmp_path)]
    assert in_time.start(command, tmp_path, "sharded", 0.2) == {"rows": [], "left_out": "cut off after 0 s"}
    gpu.write_tiny(tmp_path / "model")
    found = in_time.start(command, tmp_path, "sharded", 300.0)
    assert found["left_out"] is None
    loss, _ = (Row(**row) for row in found["rows"])
    assert loss.ours < 1e-5 * loss.theirs


def test_a_part_that_fails_keeps_what_it_found(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    def part(error: Exception) -> Any:
        yield Row(7, "Found", "that", 2.0, 1.0, "ms")
        raise error

    for error, told in ((CraftError("too large"), "too large"), (ValueError("a\nb"), "ValueError: a")):
        in_time.run(part(error), tmp_path / "part.json")
        found = json.loads((tmp_path / "part.json").read_text())
        assert (found["left_out"], [row["figure"] for row in found["rows"]]) == (told, ["Found"])
    assert "Traceback" in capsys.readouterr().err


def test_what_no_time_is_left_for_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, given = iter((0.0, 0.0, 50.0, 50.0, 95.0, 95.0, 95.0)), list[tuple[str, float]]()
    monkeypatch.setattr(in_time, "time", SimpleNamespace(monotonic=lambda: next(clock)))

    def start(name: str, limit: float) -> Any:
        given.append((name, limit))
        return {"rows": [], "left_out": None}

    text = in_time.measure({"a": 50.0, "b": 70.0, "c": 10.0}, 100.0, start, {}, None)
    assert given == [("a", 50.0), ("b", 50.0)]
    assert "- c: no time was left" in text
    assert "- b" not in text


def test_without_a_gpu_it_says_so(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gpu.torch.cuda, "is_available", lambda: False)
    assert gpu.main([]) == 1
    assert "--device cpu --quick" in capsys.readouterr().err


def test_a_model_that_does_not_fit_is_left_out(checkpoints: Path, tmp_path: Path, monkeypatch: Any) -> None:
    (tmp_path / "model").symlink_to(checkpoints / "host")
    small = gpu.this_machine("cpu", 1, 1).__class__("cpu", memory=2 * gpu.GIB)
    monkeypatch.setattr(gpu, "this_machine", lambda *args: small)
    with pytest.raises(CraftError, match=r"does not fit: .* for 3 rows, 410 MiB may be planned for"):
        gpu.layout(gpu.Place("cpu", tmp_path), copies=20_000)
    assert gpu.layout(gpu.Place("cpu", tmp_path), copies=1)[2] == 24
