"""Random small checkpoints that every test may load, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tiny import write_tiny, write_tiny_tower

torch.set_num_threads(1)  # small tensors: more threads only wait for each other


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``host`` (Llama), ``small`` (Qwen2 on the host's tower), ``other`` (another codebook), ``continuous``."""
    root = tmp_path_factory.mktemp("checkpoints")
    write_tiny(root / "host")
    (root / "small").mkdir()
    write_tiny(root / "small", llm="qwen2", width=32, tower="../host/vision_tower")
    write_tiny(root / "other", seed=1)
    write_tiny(root / "continuous", continuous=True)
    return root


@pytest.fixture(scope="session")
def bridged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """``bridged`` (Llama-shaped, with a LangBridge of 50 words) and ``receiver`` (Qwen2-shaped, narrower, with an MLP)
    on one continuous tower."""
    root = tmp_path_factory.mktemp("models")
    write_tiny_tower(root / "tower")
    write_tiny(root / "bridged", tower="../tower", continuous=True, words=50)
    write_tiny(root / "receiver", llm="qwen2", width=32, tower="../tower", continuous=True, seed=3)
    return root
