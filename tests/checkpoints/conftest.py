"""The two tiny checkpoints of the tests of models."""

from tests.models.conftest import checkpoints, pixels, vlm

__all__ = ["checkpoints", "pixels", "vlm"]
