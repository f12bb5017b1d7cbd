"""A stack: the k layers of one size and kind, and what a method trains for them."""

import hashlib
from collections.abc import Callable, Sequence
from typing import Literal, Self

import torch
from torch import Tensor, nn

from opt_runner.errors import UserError, listed
from opt_runner.layers import Layer
from opt_runner.methods.base import Method, Tensors
from opt_runner.methods.kernels.shards import is_sharded, whole, write
from opt_runner.methods.rotation import Rotation
from opt_runner.methods.weights import Weights, draws_for, held, start_weight
from opt_runner.optimizers.inspection import with_inner
from opt_runner.transfer import send

_NOT_FROM_ZERO = (torch.optim.NAdam, torch.optim.Rprop, torch.optim.ASGD)
_Versions = tuple[tuple[int, int], ...]
Draw = Callable[[Layer, Tensor, torch.Generator], Tensors]
# Of the largest entry of W, in float32.
_ROUNDING = 1e-5
# A state: the seed, a hash of the layers' names, and the name of the method, cut or filled.
_HASH_BYTES = 8
_NAME_BYTES = 48


class Stack(nn.Module):
    """The tensors of k layers, each (k, ...), and the way from the layers' weights to W and back.

    trained: those of the method's `init`, by name. fixed: those of its `draw`, by name.
    empty: whether they have no values yet, for example after `to_empty`.

    The stack has a seed of its own. Draws in training depend on that seed and on the time of the
    draw alone, so a resumed training draws the same as an uncut one.
    """

    def __init__(
        self,
        network: nn.Module,
        layers: Sequence[Layer],
        method: Method,
        generator: torch.Generator | None = None,
        weights: Weights = "given",
    ) -> None:
        super().__init__()
        self.empty = False
        self.weights = weights
        self._network = (network,)  # in a tuple, as it is no part of the stack
        self.layers = tuple(layers)
        self.method = method
        W = layers[0].matrix(self.parameter(layers[0]))
        self._copies = method.copies(W)
        self._versions: tuple[_Versions, _Versions] | None = None  # of W and what trains
        self.trained = nn.ParameterDict()
        self.fixed = nn.Module()
        self.seed = 0
        if method.has_tensors:
            self.seed = int(torch.randint(2**62, (), generator=generator, device="cpu"))
            for name, tensor in self._draw(0, method.draw).items():
                self.fixed.register_buffer(name, tensor)
            for name, tensor in self._init(generator).items():
                self.trained[name] = nn.Parameter(tensor)

    def reset_parameters(self) -> None:
        """Start W and all tensors anew, once the network's own parameters have their values.

        Modules that were made on the meta device need it after `to_empty`.
        Raises UserError for a layer whose W is zero.
        """
        if not self.method.has_tensors:
            return
        self.empty = False
        for layer in self.layers:
            if not start_weight(self._network[0], layer, self.method, self.weights, None):
                raise UserError(
                    f"layer {layer.name!r} is zero, so that no rotation moves it: leave it out, "
                    f"exclude=[{layer.name!r}]"
                )
        self.restart(0, self.method.draw)
        if self.weights == "pretrained":
            self.keep_given()

    def get_extra_state(self) -> Tensor:
        """Return the state as one tensor of a fixed size, as safetensors and DCP want it."""
        name = type(self.method).__name__.encode()[:_NAME_BYTES].ljust(_NAME_BYTES)
        state = self.seed.to_bytes(8, "little") + self._hash_of_layers() + name
        return torch.frombuffer(bytearray(state), dtype=torch.uint8)

    def set_extra_state(self, state: Tensor) -> None:
        """Take the seed; raise UserError for the state of another method or of other layers."""
        content = bytes(state.tolist())
        name = content[8 + _HASH_BYTES :].decode(errors="replace").rstrip()
        here = type(self.method).__name__
        if name != here[:_NAME_BYTES]:
            raise UserError(f"the state is of {name}, this is {here}")
        if content[8 : 8 + _HASH_BYTES] != self._hash_of_layers():
            raise UserError(
                f"the state is of other layers than {listed(self.names)}: make OPT with the same "
                "include, exclude, types and max_d"
            )
        self.seed = int.from_bytes(content[:8], "little")
        self.empty = False

    def _hash_of_layers(self) -> bytes:
        return hashlib.sha256(", ".join(self.names).encode()).digest()[:_HASH_BYTES]

    @property
    def names(self) -> list[str]:
        return [layer.name for layer in self.layers]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        """Apply as any module does, but let `half` and `bfloat16` leave the tensors in float32."""

        def at_least_float32(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            self.empty |= tensor.is_meta and not moved.is_meta
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
        """Return all of the method's tensors by name, each (k, ...).

        Those that train are whole and at least float32, also where FSDP has made them smaller.
        """
        trained = {name: _wide(whole(tensor)) for name, tensor in self.trained.items()}
        return {**trained, **dict(self.fixed.named_buffers())}

    def own(self) -> list[Tensor]:
        """Return the parameters that the method trains, W among them where it trains."""
        trains = self.method.trains_weight
        weights = [self.parameter(layer) for layer in self.layers] if trains else []
        return [*self.trained.values(), *weights]

    def parameter(self, layer: Layer) -> Tensor:
        """Return the network's parameter that holds the layer's W."""
        return held(self._network[0], layer.parameter)

    def W(self) -> Tensor:
        """Return W (k, d, n), at least float32; it has a gradient where W trains."""
        Ws = [layer.matrix(whole(self.parameter(layer))) for layer in self.layers]
        W = _wide(torch.stack(Ws))
        return W if self.method.trains_weight else W.detach()

    def check_weight(self, when: Literal["anew", "after a step", ""] = "") -> None:
        """Raise UserError if W was written to, and not what trains, which holds a copy of it.

        As `network.load_state_dict` does. A load of OPT's state and DDP write to both.
        when: `anew` accepts W as it is. After a step, which writes to what trains alone, W must be
        as it was.
        """
        if not self._copies or torch.compiler.is_compiling():
            return
        Ws = [self.parameter(layer) for layer in self.layers]
        trained = list(self.trained.values())
        if any(tensor.is_inference() or is_sharded(tensor) for tensor in (*Ws, *trained)):
            return
        now = (_versions(Ws), _versions(trained))
        before = self._versions or now
        written = before[0] != now[0] and when != "anew"
        if written and (when == "after a step" or before[1] == now[1]):
            raise UserError(
                f"the weights of {listed(self.names)} were written to after OPT took the network, "
                f"and {type(self.method).__name__} trains a copy of them: load weights before "
                "OPT(network, ...), or a state of OPT by opt.load_state_dict"
            )
        self._versions = now

    def as_weights(self, V: Tensor) -> list[tuple[Layer, Tensor]]:
        """Return each layer with its part of a parameter, of V (k, d, n)."""
        expected = (len(self.layers), self.layers[0].d, self.layers[0].n)
        if V.shape != expected:
            raise UserError(
                f"{type(self.method).__name__}.weight gives V of shape {tuple(V.shape)}, expected "
                f"(layers, d, n) = {expected}"
            )
        return [(layer, layer.weight(v)) for layer, v in zip(self.layers, V, strict=True)]

    def V(self) -> Tensor:
        """Return the effective weights (k, d, n) of this stack alone."""
        return self.method.weights([self.W()], [self.tensors])[0]

    def generator(self, number: int) -> torch.Generator:
        """Return the source of random numbers for a round, the same one in every process."""
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
        if isinstance(self.method, Rotation) and not self.method.replaces_W:
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
            parameter = self.parameter(layer)
            full = whole(parameter)
            layer.part(full).copy_(weight)
            if is_sharded(parameter):
                write(parameter, full)

    @torch.no_grad()
    def restart(self, number: int, draw: Draw | None = None) -> None:
        """Draw tensors anew and start all that train again, with what `generator(number)` gives.

        draw: the method's `redraw`, unless another one is given.
        """
        for name, tensor in self._draw(number, draw or self.method.redraw).items():
            self.fixed.get_buffer(name).copy_(tensor)
        for name, tensor in self._init(self.generator(number)).items():
            write(self.trained[name], tensor)

    @torch.no_grad()
    def clear_momentum(self, optimizer: torch.optim.Optimizer) -> None:
        """Set what the optimizer keeps for the tensors that train to zero, where it is.

        Not removed: a compiled step would go on with the former tensors, and a distributed
        checkpoint wants a state for every parameter. But some start from other values.
        """
        for one in with_inner(optimizer):
            for parameter in self.trained.values():
                if isinstance(one, _NOT_FROM_ZERO):
                    one.state.pop(parameter, None)
                for value in one.state.get(parameter, {}).values():
                    if isinstance(value, Tensor):
                        value.zero_()

    @torch.no_grad()
    def _draw(self, number: int, draw: Draw) -> dict[str, Tensor]:
        generator, Ws = self.generator(number), self.W()
        with draws_for(Ws):
            drawn = [draw(layer, W, generator) for layer, W in zip(self.layers, Ws, strict=True)]
            return _stacked(drawn, like=Ws)

    @torch.no_grad()
    def _init(self, generator: torch.Generator | None) -> dict[str, Tensor]:
        fixed, Ws = dict(self.fixed.named_buffers()), self.W()
        with draws_for(Ws):
            started = [
                self.method.init(
                    layer, W, generator, **{name: tensor[i] for name, tensor in fixed.items()}
                )
                for i, (layer, W) in enumerate(zip(self.layers, Ws, strict=True))
            ]
            return _stacked(started, like=Ws)


def _versions(tensors: Sequence[Tensor]) -> _Versions:
    """Return what tells whether one of the tensors was replaced or written to."""
    return tuple((id(tensor), tensor._version) for tensor in tensors)


def _wide(tensor: Tensor) -> Tensor:
    return tensor.to(torch.promote_types(tensor.dtype, torch.float32))


def _equal(V: Tensor, W: Tensor) -> bool:
    return bool((V - W).abs().max() <= _ROUNDING * W.abs().max())


def _stacked(of_layers: Sequence[Tensors], like: Tensor) -> dict[str, Tensor]:
    stacks = {name: torch.stack([tensors[name] for tensors in of_layers]) for name in of_layers[0]}
    return {
        name: send(stack.to(like.dtype) if stack.is_floating_point() else stack, like.device)
        for name, stack in stacks.items()
    }
