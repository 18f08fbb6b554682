"""Versions of Python and of the libraries that numbers depend on; imports none of them."""

from __future__ import annotations

import platform
from importlib.metadata import version

PACKAGES = (
    *("torch", "torchvision", "lightning", "transformers", "tokenizers", "peft", "timm", "torchmetrics"),
    *("datasets", "numpy", "pillow"),
)


def versions() -> dict[str, str]:
    """By name; what follows a ``+`` (the build of torch for a device) is part of it."""
    return {"python": platform.python_version(), **{name: version(name) for name in PACKAGES}}
