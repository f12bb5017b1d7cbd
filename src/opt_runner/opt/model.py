"""OPT for any network: a method makes effective weights, the network runs on them."""

import copy
import inspect
from collections.abc import Iterator, Sequence
from typing import Any, cast

import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.func import functional_call

from opt_runner.errors import UserError, explain, nearest
from opt_runner.methods import METHODS, Method
from opt_runner.opt.layers import Layer, hidden_and_output, views
from opt_runner.opt.stack import Stack


class OPT(nn.Module):
    """`network` trained by Orthogonal Over-Parameterized Training: its layers use V = Q(R) W.

    The network is left as it is: the `weight`s of its layers hold W and are frozen, but where the
    method trains W; `stacks` own what the method trains beside, as R. W should be Gaussian,
    N(0, 2/d), for the paper's guarantee on the energy; any W may be used.

    network: a module whose linear and convolution layers (1, 2 or 3 dimensions) are to train so.
        It is used, not copied.
    method: a name (`standard gs hr ls cayley ogd or sopt`) with its options as keywords, or a
        `Method`.
    layers: names of the layers that the method covers. Default: every linear and convolution layer
        but the last one in module order, the classifier; that as well where the method says so.
    generator: draws what the method draws, as R; default: torch's global generator.

    Raises UserError for an unknown method, option or layer and where there is nothing to cover.
    """

    def __init__(
        self,
        network: nn.Module,
        method: str | Method = "cayley",
        *,
        layers: Sequence[str] | None = None,
        generator: torch.Generator | None = None,
        **options: Any,
    ) -> None:
        super().__init__()
        self.network = network
        self.method = _build_method(method, options)
        output = None
        if layers is None:
            layers, output = hidden_and_output(network)
        self.hidden = views(network, layers)
        covered = self.hidden
        if self.method.output_layer and output is not None:
            covered = views(network, layers, output)
        self.steps = 0
        self.stacks = nn.ModuleList()
        self._last_V: list[Tensor] | None = None
        self._start_weights(covered, generator)
        self._add_stacks(covered, generator)

    @property
    def layers(self) -> list[str]:
        """Names of the layers that the method covers, the classifier left out."""
        return [layer.name for layer in self.hidden]

    @torch.no_grad()
    def _start_weights(self, layers: Sequence[Layer], generator: torch.Generator | None) -> None:
        for layer in layers:
            weight = self.network.get_parameter(layer.parameter)
            W = layer.matrix(weight)
            started = self.method.initial_weight(layer, W, generator)
            if started is not W:
                weight.copy_(layer.weight(started, like=weight))
            if not self.method.trains_weight:
                weight.requires_grad_(False)

    def _add_stacks(self, layers: Sequence[Layer], generator: torch.Generator | None) -> None:
        if not self.method.has_tensors and not self.method.has_penalty:
            return
        alike: dict[Any, list[Layer]] = {}
        for layer in layers:
            key = (layer.d, layer.n, self.method.kind(layer))
            alike.setdefault(key, []).append(layer)
        for of_stack in alike.values():
            self.stacks.append(Stack(self.network, of_stack, self.method, generator))

    def _stacks(self) -> Iterator[Stack]:
        return cast(Iterator[Stack], iter(self.stacks))

    def get_extra_state(self) -> dict[str, int]:
        return {"steps": self.steps}

    def set_extra_state(self, state: dict[str, int]) -> None:
        self.steps = state["steps"]

    def __getstate__(self) -> dict[str, Any]:
        # Of a forward pass that was: such tensors can be neither copied nor pickled.
        return {**self.__dict__, "_last_V": None}

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """The network's output on the effective weights."""
        return functional_call(self.network, self.effective_weights(), args, kwargs)

    def effective_weights(self) -> dict[str, Tensor]:
        """{parameter name: V} of the layers whose V is not W, in W's precision also under autocast.

        Under bfloat16 autocast Q^T Q - I would be 4e-3 and more, and decompositions have no such
        kernels.
        """
        if not self.method.has_tensors:
            return {}
        effective: dict[str, Tensor] = {}
        Vs = self._Vs()
        for stack, V in zip(self._stacks(), Vs, strict=True):
            effective |= stack.as_weights(V)
        if self.method.has_penalty and torch.is_grad_enabled():
            self._last_V = Vs
        return effective

    def _Vs(self) -> list[Tensor]:
        """V (k, d, n) of each stack."""
        stacks = list(self._stacks())
        if not self.method.has_tensors:
            return [stack.W() for stack in stacks]
        device = stacks[0].parameter(stacks[0].layers[0]).device.type
        with torch.autocast(device, enabled=False):
            return self.method.weights(
                [stack.W() for stack in stacks], [stack.tensors for stack in stacks]
            )

    def penalty(self) -> Tensor:
        """What the method adds to the loss: a scalar, 0 for most.

        It uses the V of the forward pass before it, once: call it after `opt(x)`, as a step does.
        """
        zero = torch.zeros((), device=next(self.parameters()).device)
        if not self.method.has_penalty:
            return zero
        Vs, self._last_V = self._last_V or self._Vs(), None
        with torch.autocast(zero.device.type, enabled=False):
            terms = [
                self.method.penalty(stack.layers[0], stack.W(), V, **stack.tensors)
                for stack, V in zip(self._stacks(), Vs, strict=True)
            ]
        given = [term for term in terms if term is not None]
        return torch.stack(given).sum() if given else zero

    def optimizer(
        self,
        lr: float,
        momentum: float = 0.9,
        weight_decay: float = 5e-4,
        nesterov: bool = False,
    ) -> torch.optim.Optimizer:
        """One optimizer for all that trains, right for the method; the defaults are the paper's.

        `weight_decay` is the L2 coefficient of everything that trains, as the method scales it.
        Parameter groups may hold `milestone_factor`: see `Method.optimizer_options`.
        """
        trained: dict[str | None, list[nn.Parameter]] = {
            None: [p for p in self.network.parameters() if p.requires_grad]
        }
        for stack in self._stacks():
            for name, parameter in stack.trained.items():
                trained.setdefault(name, []).append(parameter)
        groups = [
            {"params": parameters, **self.method.optimizer_options(name, lr, weight_decay)}
            for name, parameters in trained.items()
            if parameters
        ]
        optimizer = self.method.optimizer_class(groups, lr=lr, momentum=momentum, nesterov=nesterov)
        if self.method.acts_after_step:
            optimizer.register_step_post_hook(lambda optimizer, *_: self._after_step(optimizer))
        return optimizer

    def _after_step(self, optimizer: torch.optim.Optimizer) -> None:
        self.steps += 1
        self.method.after_step(list(self._stacks()), self.steps, optimizer)

    @torch.no_grad()
    def neurons(self) -> dict[str, Tensor]:
        """{layer name: V (d, n)} of the hidden layers, neurons as columns."""
        effective = self.effective_weights()
        return {
            layer.name: layer.matrix(
                effective.get(layer.parameter, self.network.get_parameter(layer.parameter))
            )
            for layer in self.hidden
        }

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """What the method measures, the largest over layers: see `Method.measure`."""
        found: dict[str, list[Tensor]] = {}
        for stack, V in zip(self._stacks(), self._Vs(), strict=True):
            for name, of_layers in self.method.measure(stack.W(), V, **stack.tensors).items():
                found.setdefault(name, []).append(of_layers.max())
        return {name: float(torch.stack(values).max()) for name, values in found.items()}

    def orthogonality_error(self) -> float | None:
        """Largest entry of |Q^T Q - I| over layers; None where there is no Q."""
        return self.measure().get("orthogonality_error")


def merge(opt: OPT) -> nn.Module:
    """A plain copy of the network that holds the effective weights: no trace of OPT is left."""
    effective = opt.effective_weights()
    plain = copy.deepcopy(opt.network)
    with torch.no_grad():
        for name, V in effective.items():
            plain.get_parameter(name).copy_(V).requires_grad_(True)
    return plain


def _build_method(method: str | Method, options: dict[str, Any]) -> Method:
    if isinstance(method, Method):
        if options:
            raise UserError(f"options {sorted(options)} go to a method's name, not to an object")
        return method
    if method not in METHODS:
        hint = nearest(method, METHODS)
        raise UserError(f"unknown method {method!r}{hint}; the methods are {', '.join(METHODS)}")
    cls = METHODS[method]
    try:
        return cls(**options)
    except ValidationError as error:
        raise UserError(explain(error, method, inspect.signature(cls).parameters)) from error
