"""Random small checkpoints that every test may load, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from tiny import write_tiny

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
