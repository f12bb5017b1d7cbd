"""A GPU for machines without one: its tensors compute on the CPU, and keep the rules of a GPU.

They say that they are on another device, so the code takes the path that it takes on a GPU: stacks
of matrices whole, images on the device, checkpoints brought back. An operation that is given
tensors of both devices raises, as it does on a GPU, and so does, in `no_waits`, whatever would wait
for the device. What it cannot show: CUDA's kernels, their rounding, autocast, memory, speed.

A dispatch mode and a tensor class over PyTorch's device for backends written in Python.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode, return_and_correct_aliasing
from torch.utils._pytree import tree_leaves, tree_map

_NAME = "simulated"
_aten = torch.ops.aten
_INDEXING = (_aten.index.Tensor, _aten.index_put.default, _aten.index_put_.default)
# Their results, or whether they have any, are read on the CPU.
_READ = (
    _aten._local_scalar_dense.default,
    _aten._linalg_check_errors.default,
    _aten._linalg_eigh.default,
    _aten._linalg_svd.default,
    _aten.equal.default,
    _aten.masked_select.default,
    _aten.nonzero.default,
)


class Waits(RuntimeError):
    """The CPU would wait for the GPU."""


def available() -> bool:
    """Whether this PyTorch has devices written in Python."""
    return hasattr(backend_registration, "_setup_privateuseone_for_python_backend")


class SimulatedGpu(TorchDispatchMode):
    """While it is entered tensors can be made on `device` and brought there."""

    def __init__(self) -> None:
        super().__init__()
        if torch._C._get_privateuse1_backend_name() != _NAME:
            backend_registration._setup_privateuseone_for_python_backend(_NAME)
            torch.get_device_module(_NAME).get_amp_supported_dtype = lambda: [torch.bfloat16]
        self.device = torch.device(_NAME, 0)

    def __enter__(self) -> "SimulatedGpu":
        torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor(..., device) makes one, moves it
        # Autograd has no thread for a device that came after its first backward pass.
        self._threads = torch.autograd.set_multithreading_enabled(False)
        self._threads.__enter__()
        return super().__enter__()

    def __exit__(self, *raised: Any) -> None:
        super().__exit__(*raised)
        self._threads.__exit__(*raised)
        torch._C._set_only_lift_cpu_tensors(False)

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None):
        return _run(function, args, kwargs or {})

    @contextmanager
    def no_waits(self) -> Iterator[None]:
        _Tensor.waits = False
        try:
            yield
        finally:
            _Tensor.waits = True


class _Tensor(Tensor):
    """Says that it is on the GPU; `held`, on the CPU, has its numbers."""

    held: Tensor
    waits = True  # the CPU may wait for it

    @staticmethod
    def __new__(cls, held: Tensor) -> "_Tensor":
        tensor = Tensor._make_wrapper_subclass(
            cls,
            held.shape,
            strides=held.stride(),
            storage_offset=held.storage_offset(),
            dtype=held.dtype,
            device=torch.device(_NAME, 0),
        )
        tensor.held = held
        return tensor

    __torch_function__ = torch._C._disabled_torch_function_impl

    @classmethod
    def __torch_dispatch__(cls, function: Any, types: Any, args: Any = (), kwargs: Any = None):
        return _run(function, args, kwargs or {})

    def __reduce_ex__(self, protocol: Any) -> Any:
        """Saved as what torch.load gives with map_location="cpu"."""
        return self.held.__reduce_ex__(protocol)


def _run(function: Any, args: Any, kwargs: dict[str, Any]) -> Any:
    """One operation of PyTorch's, on the CPU, where it has to do with the GPU."""
    given = [leaf for leaf in tree_leaves((args, kwargs)) if isinstance(leaf, Tensor)]
    here = any(isinstance(tensor, _Tensor) for tensor in given)
    named = kwargs.get("device")
    to_gpu = here if named is None else torch.device(named).type == _NAME
    if not here and not to_gpu:
        return function(*args, **kwargs)
    _check(function, args, kwargs, given, to_gpu)
    args_, kwargs_ = tree_map(lambda x: x.held if isinstance(x, _Tensor) else x, (args, kwargs))
    if named is not None:
        kwargs_["device"] = torch.device("cpu")
    results = function(*args_, **kwargs_)
    if not to_gpu:
        return results
    results = tree_map(lambda x: _Tensor(x) if isinstance(x, Tensor) else x, results)
    if not here or function is _aten._to_copy.default:
        return results
    if function is _aten.copy_.default:
        return args[0]
    return return_and_correct_aliasing(function, args, kwargs, results)


def _check(
    function: Any, args: Any, kwargs: dict[str, Any], given: list[Tensor], to_gpu: bool
) -> None:
    """Raise where a GPU would."""
    on_gpu = [isinstance(tensor, _Tensor) for tensor in given]
    if function in (_aten.copy_.default, _aten._to_copy.default):
        crosses = not all(on_gpu) or not to_gpu
        waits = crosses and not (kwargs.get("non_blocking") or args[2:3] == (True,))
    elif function in _INDEXING:  # indices are brought there, those of a mask counted
        waits = not all(on_gpu) or any(
            isinstance(index, Tensor) and index.dtype == torch.bool for index in args[1]
        )
    else:
        waits = function in _READ
        # A number may be anywhere.
        cpus = [t for t, there in zip(given, on_gpu, strict=True) if not there and t.dim()]
        if cpus and any(on_gpu):
            raise RuntimeError(
                f"{function}: expected all tensors to be on the same device, found "
                f"{[tuple(tensor.shape) for tensor in cpus]} on the CPU"
            )
    if waits and not _Tensor.waits:
        raise Waits(f"{function} waits for the GPU")
