"""Weights, gradients and optimiser state cut into as many parts as there are processes (FSDP2)."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from typing import Any

from lightning.pytorch.strategies import ModelParallelStrategy, Strategy, StrategyRegistry
from torch import Tensor
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer

from craft_lightning.models.sharding import as_forward, whole


class Sharded(ModelParallelStrategy):
    """Lightning's strategy for FSDP2 over all processes; ``strategy: fsdp2`` in configs.

    Each step runs as the method's ``forward``, which makes its weights whole. Checkpoints are those of every other
    strategy, one file of trained tensors and optimiser state in full, so that a run may go on with another one.
    """

    strategy_name = "fsdp2"

    def __init__(self, **options: Any) -> None:
        super().__init__(tensor_parallel_size=1, save_distributed_checkpoint=False, **options)

    @property
    def lightning_restore_optimizer(self) -> bool:
        """The checkpoint is read by Lightning, and cut here."""
        return True

    def setup_environment(self) -> None:
        """One mesh of all processes."""
        self._data_parallel_size = self.num_nodes * self.num_processes
        super().setup_environment()

    def training_step(self, *args: Any, **kwargs: Any) -> Any:
        return self._step("training_step", *args)

    def validation_step(self, *args: Any, **kwargs: Any) -> Any:
        return self._step("validation_step", *args)

    def test_step(self, *args: Any, **kwargs: Any) -> Any:
        return self._step("test_step", *args)

    def predict_step(self, *args: Any, **kwargs: Any) -> Any:
        return self._step("predict_step", *args)

    def _step(self, name: str, *args: Any) -> Any:
        module = self.lightning_module
        assert module is not None
        with self.precision_plugin.forward_context():
            return as_forward(module, getattr(module, name), *args)

    def lightning_module_state_dict(self) -> dict[str, Any]:
        """What a checkpoint holds: a frozen language model is not gathered in order to be dropped."""
        module: Any = self.lightning_module
        return {name: whole(tensor).cpu() for name, tensor in module.stored().items()}

    def optimizer_state(self, optimizer: Optimizer) -> dict[str, Any]:
        """As the optimiser of one process would write it."""
        state: dict[str, Any] = Strategy.optimizer_state(self, optimizer)
        parts = {index: _map(values, whole) for index, values in state["state"].items()}
        return {**state, "state": parts}

    def load_checkpoint(self, checkpoint_path: Any, weights_only: bool | None = None) -> dict[str, Any]:
        return Strategy.load_checkpoint(self, checkpoint_path, weights_only)

    def load_model_state_dict(self, checkpoint: Mapping[str, Any], strict: bool = True) -> None:
        """This process's part of each stored tensor (names and shapes are checked by then)."""
        module: Any = self.lightning_module
        stored = module.stored()
        for name, value in checkpoint["state_dict"].items():
            stored[name].copy_(_part(value, stored[name]))

    def load_optimizer_state_dict(self, checkpoint: Mapping[str, Any]) -> None:
        """This process's part of the state of each parameter."""
        for optimizer, state in zip(self.optimizers, checkpoint["optimizer_states"], strict=True):
            order = [parameter for group in optimizer.param_groups for parameter in group["params"]]
            stored = state["state"].items()
            parts = {index: _map(values, partial(_part, like=order[index])) for index, values in stored}
            optimizer.load_state_dict({**state, "state": parts})


def _map(values: Mapping[str, Any], function: Any) -> dict[str, Any]:
    return {name: function(v) if isinstance(v, Tensor) else v for name, v in values.items()}


def _part(value: Tensor, like: Tensor) -> Tensor:
    """A whole tensor, cut as a parameter of its shape is."""
    if not isinstance(like, DTensor) or value.shape != like.shape:
        return value
    value = value.to(like.device, like.dtype)
    return distribute_tensor(value, like.device_mesh, like.placements, src_data_rank=None)


def register() -> None:
    """Make the strategy known to Lightning by its name."""
    StrategyRegistry.register(Sharded.strategy_name, Sharded, description="FSDP2 over all processes", override=True)
