"""What an evaluation asks, decodes, counts and stores."""

from typing import Any


def lmms_eval_manifest() -> Any:
    """The name and the class of :mod:`.lmms_eval`, as lmms-eval's entry points ask for them."""
    from lmms_eval.models.registry_v2 import ModelManifest

    return ModelManifest("craft_lightning", simple_class_path=f"{__name__}.lmms_eval.LmmsEvalModel")
