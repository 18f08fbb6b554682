from pathlib import Path

import pytest
import torch

from craft_lightning.checkpoints.load import load_vlm
from craft_lightning.models.vlm import DiscreteVlm
from craft_lightning.models.vlm_spec import VlmSpec
from tiny import write_tiny


@pytest.fixture(scope="session")
def checkpoints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tiny checkpoints, ``llama`` and ``qwen2``; tests that change files copy them first."""
    folder = tmp_path_factory.mktemp("checkpoints")
    write_tiny(folder / "llama", llm="llama")
    write_tiny(folder / "qwen2", llm="qwen2", width=32, image_wrap=False)
    return folder


@pytest.fixture(scope="session", params=["llama", "qwen2"])
def vlm(request: pytest.FixtureRequest, checkpoints: Path) -> DiscreteVlm:
    return load_vlm(VlmSpec(str(checkpoints / request.param)))


@pytest.fixture(scope="session")
def pixels() -> torch.Tensor:
    return torch.rand(3, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1
