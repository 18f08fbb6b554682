"""Random small checkpoints that every test may load, and a browser."""

from __future__ import annotations

import importlib.util
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from craft_lightning.benchmark import cache_key, plan
from tiny import write_tiny, write_tiny_tower

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
WITHOUT = [
    name
    for name, there in (
        ("chromium", CHROMIUM),
        ("chromedriver", shutil.which("chromedriver")),
        ("the selenium package", importlib.util.find_spec("selenium")),
    )
    if not there
]

torch.set_num_threads(1)  # small tensors: more threads only wait for each other


@pytest.fixture(autouse=True, scope="module")
def _nothing_remembered() -> None:
    """Plans keep what they found out of files by their paths, and in another test's folder the same path is another
    file."""
    for kept in (*vars(cache_key).values(), *vars(plan).values()):
        if hasattr(kept, "cache_clear"):
            kept.cache_clear()


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


@pytest.fixture(scope="session")
def browser(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Any]:
    if WITHOUT:
        pytest.skip(f"no {' and no '.join(WITHOUT)} on this machine")
    from selenium import webdriver
    from selenium.webdriver.chrome.service import Service

    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-background-networking", "--window-size=1400,900"]
    for flag in [*flags, f"--user-data-dir={tmp_path_factory.mktemp('browser')}"]:
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    driver = webdriver.Chrome(options=options, service=Service(shutil.which("chromedriver")))
    yield driver
    driver.quit()
