"""A stack: the k layers of one size and kind, and what a method trains for them."""

from collections.abc import Callable, Sequence
from typing import Any, Self

import torch
from torch import Tensor, nn

from opt_runner.errors import UserError
from opt_runner.layers import Layer
from opt_runner.methods.base import Method, Tensors
from opt_runner.methods.rotation import Rotation
from opt_runner.transfer import send

Draw = Callable[[Layer, Tensor, torch.Generator], Tensors]
# Of the largest entry of W, in float32.
_ROUNDING = 1e-5


class Stack(nn.Module):
    """The tensors of k layers, each (k, ...), and the way from the layers' weights to W and back.

    trained: those of the method's `init`, by name. fixed: those of its `draw`, by name.

    The stack has a seed of its own: what is drawn in training depends on that and on when it is
    drawn, on nothing else, and so a resumed training draws what an uncut one draws.
    """

    def __init__(
        self,
        network: nn.Module,
        layers: Sequence[Layer],
        method: Method,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self._network = (network,)  # in a tuple, as it is no part of the stack
        self.layers = tuple(layers)
        self.method = method
        self.trained = nn.ParameterDict()
        self.fixed = nn.Module()
        self.seed = 0
        if method.has_tensors:
            self.seed = int(torch.randint(2**62, (), generator=generator, device="cpu"))
            for name, tensor in self._draw(0, method.draw).items():
                self.fixed.register_buffer(name, tensor)
            for name, tensor in self._init(generator).items():
                self.trained[name] = nn.Parameter(tensor)

    def get_extra_state(self) -> dict[str, Any]:
        return {"seed": self.seed, "method": type(self.method).__name__}

    def set_extra_state(self, state: dict[str, Any]) -> None:
        here = type(self.method).__name__
        if state.get("method", here) != here:
            raise UserError(f"the state is of {state['method']}, this is {here}")
        self.seed = state["seed"]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Apply `fn` as in any module, but keep tensors in float32 for `half` and `bfloat16`."""

        def at_least_float32(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            if not moved.is_floating_point():
                return moved
            wide = torch.promote_types(moved.dtype, torch.float32)
            return moved if moved.dtype == wide else tensor.to(moved.device, wide)

        super()._apply(at_least_float32, recurse)  # type: ignore[no-untyped-call]
        return self

    def extra_repr(self) -> str:
        return f"{len(self.layers)} x W {self.layers[0].d} x {self.layers[0].n}"

    @property
    def tensors(self) -> dict[str, Tensor]:
        """Return all tensors of the method by name, each (k, ...)."""
        return {**self.trained, **dict(self.fixed.named_buffers())}

    def parameter(self, layer: Layer) -> nn.Parameter:
        """Return the network's parameter that holds the layer's W."""
        return self._network[0].get_parameter(layer.parameter)

    def W(self) -> Tensor:
        """Return W (k, d, n), at least float32; it has a gradient if W trains."""
        trains = self.method.trains_weight
        weights = [self.parameter(layer) for layer in self.layers]
        Ws = torch.stack(
            [
                layer.matrix(weight if trains else weight.detach())
                for layer, weight in zip(self.layers, weights, strict=True)
            ]
        )
        return Ws.to(torch.promote_types(Ws.dtype, torch.float32))

    def as_weights(self, V: Tensor) -> list[tuple[Layer, Tensor]]:
        """Return each layer with its part of V (k, d, n), in the shape of the parameter."""
        return [(layer, layer.weight(v)) for layer, v in zip(self.layers, V, strict=True)]

    def V(self) -> Tensor:
        """Return the effective weights (k, d, n) of this stack alone."""
        return self.method.weights([self.W()], [self.tensors])[0]

    def generator(self, number: int) -> torch.Generator:
        """Return a generator of random numbers for this number, the same in every process."""
        seed = (self.seed + 0x9E3779B97F4A7C15 * number) % 2**63
        return torch.Generator().manual_seed(seed)

    @torch.no_grad()
    def merge(self) -> None:
        """Write V into W for good: the network computes the same once the tensors start again."""
        self._write(self.V())

    @torch.no_grad()
    def keep_given(self) -> None:
        """Change W so that V is the old W, if the method's tensors do not start at V = W.

        With a rotation W <- Q^T W: `hr`, whose det Q is (-1)^(d-1), has no Q = I for an even d.
        Raises UserError if this is impossible.
        """
        W = self.W()
        if W.is_meta or _equal(self.V(), W):
            return
        if isinstance(self.method, Rotation):
            eye = torch.eye(W.shape[-2]).to(W).expand(*W.shape[:-1], -1).contiguous()
            Q = self.method.weights([eye], [self.tensors])[0]
            self._write(Q.mT @ W)
            if _equal(self.V(), W):
                return
            self._write(W)
        name = type(self.method).__name__
        raise UserError(
            f"{name} cannot start from pretrained weights: V differs from W at its start "
            f"({self.layers[0].name}); give it a start where V = W, or take another method"
        )

    def _write(self, W: Tensor) -> None:
        for layer, weight in self.as_weights(W):
            layer.part(self.parameter(layer)).copy_(weight)

    @torch.no_grad()
    def restart(self, number: int) -> None:
        """Draw tensors anew and start all that train again, with what `generator(number)` gives."""
        for name, tensor in self._draw(number, self.method.redraw).items():
            self.fixed.get_buffer(name).copy_(tensor)
        for name, tensor in self._init(self.generator(number)).items():
            self.trained[name].copy_(tensor)

    @torch.no_grad()
    def _draw(self, number: int, draw: Draw) -> dict[str, Tensor]:
        generator, Ws = self.generator(number), self.W()
        return _stacked(
            [draw(layer, W, generator) for layer, W in zip(self.layers, Ws, strict=True)], like=Ws
        )

    @torch.no_grad()
    def _init(self, generator: torch.Generator | None) -> dict[str, Tensor]:
        fixed, Ws = dict(self.fixed.named_buffers()), self.W()
        return _stacked(
            [
                self.method.init(
                    layer, W, generator, **{name: tensor[i] for name, tensor in fixed.items()}
                )
                for i, (layer, W) in enumerate(zip(self.layers, Ws, strict=True))
            ],
            like=Ws,
        )


def _equal(V: Tensor, W: Tensor) -> bool:
    return bool((V - W).abs().max() <= _ROUNDING * W.abs().max())


def _stacked(of_layers: Sequence[Tensors], like: Tensor) -> dict[str, Tensor]:
    stacks = {name: torch.stack([tensors[name] for tensors in of_layers]) for name in of_layers[0]}
    return {
        name: send(stack.to(like.dtype) if stack.is_floating_point() else stack, like.device)
        for name, stack in stacks.items()
    }
