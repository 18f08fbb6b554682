"""What is done block by block of the transformers: recomputing activations, and sharding weights over processes.

Blocks are found by the class that all of transformers' share; the blocks of a timm tower count as the rest.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, TypeVar

import torch
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import checkpoint
from transformers.modeling_layers import GradientCheckpointingLayer

from craft_lightning.errors import CraftError

Result = TypeVar("Result")


def blocks(module: nn.Module) -> Iterator[nn.Module]:
    """The transformer blocks of a module, of towers and language models alike."""
    return (m for m in module.modules() if isinstance(m, GradientCheckpointingLayer))


def recompute(module: nn.Module) -> None:
    """Let every block forget its activations and compute them again in the backward pass.

    transformers' own switch works in training mode only, and the language model that the gradient passes through is
    frozen, in eval mode.
    """

    def again(forward: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        if not torch.is_grad_enabled():
            return forward(*args, **kwargs)
        return checkpoint(forward, *args, use_reentrant=False, **kwargs)

    for block in blocks(module):
        block.forward = partial(again, block.forward)


def shard(module: nn.Module, mesh: DeviceMesh) -> None:
    """Shard the parameters of a module over the processes of a mesh, block by block (FSDP2).

    A block's parameters are whole while it runs, the others (embeddings, projector, a method's own) while the module's
    ``forward`` runs: whoever calls a part of it from outside does so through :func:`as_forward`. Raises CraftError: a
    parameter without dimensions, which cannot be cut.
    """
    for name, parameter in module.named_parameters():
        if parameter.ndim == 0:
            raise CraftError(f"{name} is a scalar, which cannot be sharded: give it the shape [1]")
    for block in blocks(module):
        fully_shard(block, mesh=mesh)
    fully_shard(module, mesh=mesh)


def sharded(module: nn.Module) -> bool:
    """True after :func:`shard`."""
    return isinstance(module, FSDPModule)


def as_forward(module: nn.Module, function: Callable[..., Result], *args: Any) -> Result:
    """``function(*args)``, run in place of the module's ``forward`` where its weights are sharded."""
    if not sharded(module):
        return function(*args)

    def inner(*inputs: Any) -> Result:
        del module.forward  # what runs inside may call the module's own
        return function(*inputs)

    module.forward = inner
    result: Result = module(*args)
    if isinstance(module, FSDPModule) and not torch.is_grad_enabled():
        module.reshard()  # else only a backward pass does, and whoever loads weights meanwhile writes into copies
    return result


def whole(tensor: Tensor) -> Tensor:
    """The tensor itself, or all of it gathered from the processes that share it (a call that all of them make)."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor
