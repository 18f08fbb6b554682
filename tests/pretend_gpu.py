"""A GPU that is none: tensors compute on the CPU, say that they are on ``cuda:0``, and refuse what a GPU refuses.

CUDA refuses operations whose tensors are on different devices. This does, too, wherever Python calls torch, in our code
and in the libraries' alike: results are those of the CPU, so that they can be compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode
from torch.utils._device import _device_constructors
from torch.utils._pytree import tree_iter, tree_map_only

GPU = torch.device("cuda:0")
MOVES = (Tensor.copy_, Tensor.to, torch._has_compatible_shallow_copy_type)
CONSTRUCTORS = set(_device_constructors())
DEVICE: Any = Tensor.device.__get__  # type: ignore[attr-defined]
READS = (Tensor.numpy, Tensor.__array__)


class _OnGpu(Tensor):
    """Marks a tensor; whoever sees the mark outside of :func:`pretend_gpu` computes on the CPU as usual."""


def on_gpu(tensor: Tensor) -> bool:
    """Whether a tensor is where it should be."""
    return isinstance(tensor, _OnGpu)


@contextmanager
def pretend_gpu(default: bool = False) -> Iterator[torch.device]:
    """The device, while it is there. ``default``: tensors are made on it where nothing is said, as Lightning does while
    it builds a model."""
    torch.__future__.set_overwrite_module_params_on_conversion(True)  # a parameter that is moved is another tensor
    try:
        with _Pretend(default):
            yield GPU
    finally:
        torch.__future__.set_overwrite_module_params_on_conversion(False)


class _Pretend(TorchFunctionMode):
    def __init__(self, default: bool) -> None:
        super().__init__()
        self.default = default

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        tensors = [t for t in tree_iter((args, kwargs)) if isinstance(t, Tensor)]
        here = any(map(on_gpu, tensors))
        if not tensors and func not in CONSTRUCTORS:
            return func(*args, **kwargs)
        if func == DEVICE:
            return GPU if here else func(*args)
        if here and func in READS:
            raise TypeError("can't convert cuda:0 device type tensor to numpy")
        place = self._place(func, tensors, args, kwargs)
        if here and func not in MOVES:
            _check(func, tensors, args)
        args = [torch.device("cpu") if _is_device(a) else a for a in args]
        if _is_device(kwargs.get("device")):
            kwargs["device"] = torch.device("cpu")
        if here and func == Tensor.__deepcopy__:
            return _copied(*args)
        with torch._C.DisableTorchFunctionSubclass():
            found = func(*args, **kwargs)
        return tree_map_only(Tensor, lambda t: _marked(t, place), found)

    def _place(self, func: Any, tensors: list[Tensor], args: Any, kwargs: Any) -> bool:
        """Whether results are on the GPU."""
        if func == Tensor.cpu:
            return False
        if func == Tensor.copy_:
            return on_gpu(args[0])
        if asked := [a for a in (*args, kwargs.get("device")) if isinstance(a, torch.device) or _is_device(a)]:
            return torch.device(asked[0]).type == "cuda"
        if func == Tensor.to and len(args) > 1 and isinstance(args[1], Tensor):
            return on_gpu(args[1])
        return any(map(on_gpu, tensors)) if tensors else self.default and torch.get_default_device().type == "cpu"


def _is_device(value: Any) -> bool:
    if isinstance(value, torch.device):
        return value.type in ("cpu", "cuda")
    return isinstance(value, str) and value.partition(":")[0] in ("cpu", "cuda")


def _marked(tensor: Tensor, gpu: bool) -> Tensor:
    if gpu == on_gpu(tensor):
        return tensor
    return tensor.as_subclass(_OnGpu if gpu else Tensor)  # type: ignore[arg-type]


def _copied(tensor: Tensor, memo: dict[int, Any]) -> Tensor:
    """A deep copy, which torch makes of its own kinds of tensors alone."""
    if id(tensor) not in memo:
        copy = _marked(tensor.detach().clone(), True)
        memo[id(tensor)] = nn.Parameter(copy, tensor.requires_grad) if isinstance(tensor, nn.Parameter) else copy
    found: Tensor = memo[id(tensor)]
    return found


def _check(func: Any, tensors: list[Tensor], args: Any) -> None:
    """Refuse tensors of both devices; single numbers may be on the CPU, and so may the indices into a tensor."""
    if func == Tensor.__getitem__ and on_gpu(args[0]):
        return
    if any(not on_gpu(tensor) and tensor.dim() for tensor in tensors):
        raise RuntimeError(f"Expected all tensors to be on the same device: {getattr(func, '__name__', func)}")
