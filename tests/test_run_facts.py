"""What a run says of itself, on any system."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from craft_lightning import run_facts

CPU: Any = SimpleNamespace(strategy=SimpleNamespace(root_device=SimpleNamespace(type="cpu")))


def test_memory_is_the_system_s_or_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Linux says the peak since it was forgotten, other Unix systems that of the process, Windows neither."""
    assert run_facts.peak_memory(CPU) > 10**7
    monkeypatch.setattr(run_facts, "PROCESS", Path("/nowhere"))
    usage = SimpleNamespace(RUSAGE_SELF=0, getrusage=lambda who: SimpleNamespace(ru_maxrss=2**20))
    monkeypatch.setitem(sys.modules, "resource", usage)
    monkeypatch.setattr(sys, "platform", "linux")
    assert run_facts.peak_memory(CPU) == 2**30, "kilobytes"
    monkeypatch.setattr(sys, "platform", "darwin")
    assert run_facts.peak_memory(CPU) == 2**20, "bytes"
    monkeypatch.setitem(sys.modules, "resource", None)
    assert run_facts.peak_memory(CPU) == 0
