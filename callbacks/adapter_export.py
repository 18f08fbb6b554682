"""Writes the adapted LangBridge as one folder at the end of training."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from lightning.pytorch import Callback, LightningModule, Trainer

from callbacks.encoder_export import training
from craft_lightning.checkpoints.adapter import write_adapter
from craft_lightning.checkpoints.load import tower_facts
from craft_lightning.models.langbridge import LangBridge
from craft_lightning.models.sharding import whole


class AdapterExport(Callback):
    """``adapter/`` in the run folder, for any language model behind the same tower: ``--adapter FOLDER``.

    It is written where the adapter alone has moved: in front of another language model it is then all that was trained.
    Behind an adapted encoder it is not: it would be at home there alone, and its folder names the tower as it was.
    """

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        module: Any = pl_module
        adapter = module.vlm.projector
        moved = {name for name, parameter in module.vlm.named_parameters() if parameter.requires_grad}
        if not isinstance(adapter, LangBridge) or module.vlm.encoder_facts is not None:
            return
        if not moved or any(not name.startswith("projector.") for name in moved):
            return
        state = {name: whole(value.detach()) for name, value in adapter.state_dict().items()}
        if trainer.is_global_zero:
            facts = {"base": module.backbone.name, "method": module.name, "run": training(trainer, module)}
            folder = Path(trainer.default_root_dir) / "adapter"
            write_adapter(folder, adapter, state, **tower_facts(module.vlm.tower), **facts)
