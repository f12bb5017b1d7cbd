"""Activation checkpointing with OPT: what is computed again in a backward pass is computed on V.

`torch.func.functional_call` puts V in the place of W for the forward pass alone. A network that
uses torch.utils.checkpoint calls its blocks once more in the backward pass; they would find W, and
gradients would be silently wrong. So V is in its place then as well.
"""

import weakref
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

# Where a parameter is used: modules and the names that it has there.
Places = Mapping[str, list[tuple[nn.Module, str]]]


def places(network: nn.Module, names: set[str]) -> Places:
    """Of each parameter all of its places, as one that is shared has several."""
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
        """make: gives V anew, for another backward pass through the same graph."""
        self._places = places
        self._make = make
        self._swap: weakref.ref[_Swap] | None = None

    def in_backward_of(self, output: Any, effective: dict[str, Tensor]) -> None:
        """From when a gradient of one of the output's tensors is known to the end of that pass.

        Takes V from `effective` and empties it then, so as not to hold it longer than the graph.
        """

        def begin(_: Tensor) -> None:
            if self._swap is not None and self._swap() is not None:
                return  # another tensor of the output was first
            if not effective:
                with torch.no_grad():
                    effective.update(self._make())
            values = {name: _leaf(V) for name, V in effective.items()}
            effective.clear()
            swap = _Swap(self._places, values)
            self._swap = weakref.ref(swap)
            torch.autograd.Variable._execution_engine.queue_callback(swap.end)

        for tensor in _tensors(output):
            if tensor.requires_grad:
                tensor.register_hook(begin)  # type: ignore[no-untyped-call]


class _Swap:
    """V in the place of W until `end`, or until the engine drops it: a backward pass that fails
    calls no callback."""

    def __init__(self, places: Places, values: Mapping[str, Tensor]) -> None:
        self._changed: list[tuple[nn.Module, str, nn.Parameter | None, Tensor]] = []
        for name, value in values.items():
            for module, attribute in places[name]:
                former = module._parameters[attribute]
                self._changed.append((module, attribute, former, value))
                module._parameters[attribute] = value  # type: ignore[assignment]

    def end(self) -> None:
        while self._changed:
            module, attribute, former, value = self._changed.pop()
            # FSDP may have changed it since.
            if module._parameters[attribute] is value:
                module._parameters[attribute] = former

    __del__ = end


def _leaf(V: Tensor) -> Tensor:
    """V as the second computation sees it: it must ask for a gradient, as the first did, and gets
    none, but with use_reentrant=True, where it would be lost."""
    leaf = V.detach().requires_grad_()
    leaf.register_hook(_refuse)  # type: ignore[no-untyped-call]
    return leaf


def _refuse(_: Tensor) -> None:
    raise RuntimeError(
        "OPT needs torch.utils.checkpoint(..., use_reentrant=False): with True the gradients of R "
        "would be lost"
    )


def _tensors(output: Any) -> Iterator[Tensor]:
    """Those of an output: of a tensor, of lists and dicts, of an object's attributes."""
    for leaf in tree_leaves(output):
        if isinstance(leaf, Tensor):
            yield leaf
        elif hasattr(leaf, "__dict__"):
            yield from (value for value in tree_leaves(vars(leaf)) if isinstance(value, Tensor))
