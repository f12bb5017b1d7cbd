"""V in the place of W outside of a forward pass.

`torch.func.functional_call` puts V in the place of W for the forward pass alone. A network that
uses torch.utils.checkpoint calls its blocks once more in the backward pass. They would find W, and
gradients would be silently wrong. So V is in its place then as well.
"""

import weakref
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from types import FunctionType, ModuleType
from typing import Any

import torch
from torch import Tensor, nn

# Where a parameter is used: modules and the names that it has there.
Places = Mapping[str, list[tuple[nn.Module, str]]]


def places(network: nn.Module, names: set[str]) -> Places:
    """Return all places of each parameter; a shared one has several."""
    parameters = {id(network.get_parameter(name)): name for name in names}
    found: dict[str, list[tuple[nn.Module, str]]] = {name: [] for name in names}
    for module in network.modules():
        for attribute, parameter in module._parameters.items():
            if name := parameters.get(id(parameter)):
                found[name].append((module, attribute))
    return found


class Recompute:
    """Puts V in the place of W while a backward pass runs."""

    def __init__(self, places: Places, make: Callable[[], Mapping[str, Tensor]]) -> None:
        """Remember the places, and `make`, which gives V for another pass through the graph."""
        self.places = places
        self._make = make
        self._swap: weakref.ref[Swap] | None = None

    def swap(self) -> "Swap | None":
        """Return the swap of the backward pass that is running."""
        return self._swap() if self._swap else None

    def in_backward_of(self, output: Any, effective: dict[str, Tensor]) -> None:
        """Swap V in when the backward pass reaches the output, and out when it ends.

        V is taken out of `effective` then, so that nothing holds it longer than the graph does.
        """
        asks = {name: V.requires_grad for name, V in effective.items()}

        def check(_: object) -> None:
            # use_reentrant=True starts a pass for each block, and each would go through Q(R).
            swap = self.swap()
            if swap is not None and swap.task != torch._C._current_graph_task_id():
                _refuse()

        def begin(_: object) -> None:
            if self.swap() is not None:
                return  # another tensor of the output was first
            if effective:
                # V itself, of which an adjoint method (torchdiffeq) asks for the gradient.
                values = {**effective}
                for node in {V.grad_fn for V in values.values() if V.grad_fn is not None}:
                    node.register_prehook(check)
                effective.clear()
            else:  # another pass through the graph
                with torch.no_grad():
                    values = {name: _leaf(V, asks[name]) for name, V in self._make().items()}
            swap = Swap(self.places, values)
            self._swap = weakref.ref(swap)
            torch.autograd.Variable._execution_engine.queue_callback(swap.end)

        for tensor in tensors_in(output):
            if tensor.grad_fn is not None:  # not a parameter: its hooks would stay
                # Not a hook of the tensor: FSDP has one, which comes later and would put W back.
                tensor.grad_fn.register_prehook(begin)


class Swap:
    """V in the place of W until `end`.

    It ends as well when nothing refers to it: a backward pass that fails calls no callback.
    task: PyTorch's number of the backward pass, if one runs.
    """

    def __init__(self, places: Places, values: Mapping[str, Tensor]) -> None:
        self.values = values
        self.task = torch._C._current_graph_task_id()
        self._changed: list[tuple[nn.Module, str, nn.Parameter | None, Tensor]] = []
        for name, value in values.items():
            for module, attribute in places[name]:
                former = module._parameters[attribute]
                self._changed.append((module, attribute, former, value))
                module._parameters[attribute] = value  # type: ignore[assignment]

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Put W in its place for the context."""
        changed, self._changed = self._changed, []  # a context inside this one changes nothing
        for module, attribute, former, _ in changed:
            module._parameters[attribute] = former
        try:
            yield
        finally:
            self._changed = changed
            for module, attribute, _, value in changed:
                module._parameters[attribute] = value  # type: ignore[assignment]

    def end(self) -> None:
        while self._changed:
            module, attribute, former, value = self._changed.pop()
            # FSDP may have changed it since.
            if module._parameters[attribute] is value:
                module._parameters[attribute] = former

    __del__ = end


def _leaf(V: Tensor, asks: bool) -> Tensor:
    """Return V as another pass through the graph must see it: it asks for a gradient as before."""
    leaf = V.detach().requires_grad_(asks)
    if asks:
        leaf.register_hook(_refuse)  # type: ignore[no-untyped-call]
    return leaf


def _refuse(*_: object) -> None:
    raise RuntimeError(
        "a backward pass inside of another one goes through Q(R), and its gradients would be lost: "
        "OPT needs torch.utils.checkpoint(..., use_reentrant=False), or `backward` inside of "
        "`with opt.effective() as network:`"
    )


def tensors_in(output: Any) -> Iterator[Tensor]:
    """Yield the tensors of an output, through containers and objects of any depth."""
    seen: set[int] = set()
    waiting = [output]
    while waiting:
        value = waiting.pop()
        if isinstance(value, _LEAVES) or id(value) in seen:
            continue
        seen.add(id(value))
        if isinstance(value, Tensor):
            yield value
            continue
        if isinstance(value, Mapping):
            waiting += value.values()
        elif isinstance(value, list | tuple | set | frozenset | deque):
            waiting += value
        slots = (slot for cls in type(value).__mro__ for slot in getattr(cls, "__slots__", ()))
        waiting += [getattr(value, slot) for slot in slots if hasattr(value, slot)]
        waiting += getattr(value, "__dict__", {}).values()


# What holds no tensor of a graph, or far too many.
_LEAVES = (str, bytes, int, float, complex, type(None), type, nn.Module, FunctionType, ModuleType)
